"""A sweep of small searches on a cluster that loses jobs, compared bit for bit with the same sweep without a cluster.

    scripts/local_slurm.sh start DIR && export SLURM_CONF=DIR/slurm.conf
    NASX_DATA=DIR uv run python scripts/clusters.py slurm OUT
    NASX_DATA=DIR uv run python scripts/clusters.py ray OUT
    NASX_DATA=DIR uv run python scripts/clusters.py joblib OUT

slurm: when two jobs have written a checkpoint, a job in the partition `high` preempts one, and Slurm's warning of a
time limit (SIGUSR2, by scancel) is sent to another; both must be requeued. ray: two nodes with one CPU each on this
machine; when the job on the second has written a checkpoint, that node is killed. joblib: two processes.
Prints what happened as one JSON object; the exit code is 1 if a run differs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from methods_matrix import same, state

from nasx.tracking import checkpoints, records


def words(args: argparse.Namespace, out: Path) -> list[str]:
    """Return the words of the sweep: two methods, `seeds` seeds, tiny networks, one thread per job."""
    seeds = ",".join(map(str, range(args.seeds)))
    return [
        "nasx",
        "search",
        "--multirun",
        "method=darts,single",
        f"seed={seeds}",
        f"dataset={args.dataset}",
        "space=nb201",
        "space.layers=1",
        "space.channels=4",
        "search.batch=8",
        "search.epochs=2",
        f"search.updates_per_epoch={args.updates}",
        "search.evaluate_every=0",
        "search.evaluate_images=256",
        "checkpoint_s=4",
        "threads=1",
        "quiet=true",
        f"out={out}",
    ]


def begun(out: Path, updates: int) -> dict[Path, int]:
    """Return the unfinished runs with a checkpoint at or beyond `updates`, and the process that works on each."""
    found = {}
    for folder in map(Path, records.run_folders(out)):
        held = re.match(r"process (\d+) ", (folder / "lock").read_text()) if (folder / "lock").exists() else None
        saved = checkpoints.found(folder)
        if held and saved and int(saved[-1].stem) >= updates and records.finished(folder) is None:
            found[folder] = int(held[1])
    return found


def until(ready: Callable[[], Any], sweep: subprocess.Popen[str], seconds: float = 600) -> Any:
    """Return the first true result of `ready`; None if the sweep ends first or the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and sweep.poll() is None:
        if value := ready():
            return value
        time.sleep(0.2)
    return None


def started(command: list[str], log: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, text=True)


def told(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def slurm(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    extra = ["launch=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.partition=low"]
    sweep = started([*words(args, out), *extra], args.out / "slurm.log")
    until(lambda: len(begun(out, args.updates // 4)) >= 2, sweep)
    running = told("squeue", "-h", "-t", "R", "-o", "%i").split()
    preempting = told("sbatch", "--parsable", "-p", "high", "-c", "1", "-o", "/dev/null", "--wrap", "sleep 10").strip()
    until(lambda: "PD" in told("squeue", "-h", "-o", "%t", "-j", ",".join(running)).split(), sweep)
    left = told("squeue", "-h", "-t", "R", "-p", "low", "-o", "%i").split()
    if left:
        subprocess.run(["scancel", "--signal=USR2", left[-1]], check=False)  # fails if the job is gone
    code = sweep.wait()
    jobs = {
        found[1]: int(found[2])
        for text in told("scontrol", "show", "job", "-o").splitlines()
        if (found := re.search(r"JobId=(\d+).*Restarts=(\d+)", text)) and "Partition=low" in text
    }
    return {
        "exit": code,
        "jobs": len(jobs),
        "preempted by": preempting,
        "warned": left[-1:],
        "put back into the queue": sum(jobs.values()),
    }


def ray(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    [raylet] = [entry.process.pid for entry in second.all_processes["raylet"]]
    extra = [
        "launch=ray",
        f"hydra.launcher.ray.init.address={cluster.address!r}",
        "hydra.launcher.ray.remote.num_gpus=0",
    ]
    sweep = started([*words(args, out), *extra], args.out / "ray.log")

    def there() -> list[str]:
        parents = {folder: Path(f"/proc/{pid}/stat") for folder, pid in begun(out, args.updates // 4).items()}
        return [
            folder.name
            for folder, path in parents.items()
            if path.exists() and int(path.read_text().rpartition(")")[2].split()[1]) == raylet
        ]

    lost = until(there, sweep)
    cluster.remove_node(second, allow_graceful=False)
    code = sweep.wait()
    cluster.shutdown()
    return {"exit": code, "nodes": 2, "killed": 1, "runs on the killed node": lost}


def joblib(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    return {"exit": started([*words(args, out), "launch=joblib"], args.out / "joblib.log").wait(), "processes": 2}


def resumed(folder: Path) -> list[str]:
    """Return the updates at which a run was resumed, from its log."""
    return re.findall(r"resuming at update (\d+ of \d+)", (folder / "log.txt").read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cluster", choices=("slurm", "ray", "joblib"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=150, help="weight updates per epoch")
    parser.add_argument("--dataset", default="cifar10")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    args.out.mkdir(parents=True, exist_ok=True)
    plain, out = args.out / "plain", args.out / args.cluster
    began = time.monotonic()
    if started(words(args, plain), args.out / "plain.log").wait():
        print((args.out / "plain.log").read_text())
        return 1
    alone = time.monotonic() - began
    began = time.monotonic()
    told = {"slurm": slurm, "ray": ray, "joblib": joblib}[args.cluster](args, out)
    told["seconds"], told["seconds plainly"] = round(time.monotonic() - began), round(alone)
    folders = {Path(folder).name for folder in records.run_folders(plain)}
    told["runs"], told["compared"], told["differ"], told["resumed at"] = len(folders), 0, [], {}
    for name in sorted(folders | {Path(folder).name for folder in records.run_folders(out)}):
        try:
            one, two = state(plain / name), state(out / name)
        except OSError as error:
            told["differ"].append(f"{name}: {error}")
            continue
        told["compared"] += len(one)
        told["differ"] += [
            f"{name}: {k}" for k in one.keys() | two.keys() if k not in one or k not in two or not same(one[k], two[k])
        ]
        if places := resumed(out / name):
            told["resumed at"][name] = places
    print(json.dumps(told, indent=1))
    return int(bool(told["differ"] or told["exit"]))


if __name__ == "__main__":
    sys.exit(main())
