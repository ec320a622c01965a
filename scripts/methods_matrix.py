"""Every method on every space, small, on real CIFAR-10: run it, kill -9 it in the middle, resume it, compare the bits.

    NASX_DATA=DIR uv run python scripts/methods_matrix.py OUT --spaces nb201,darts --jobs 2

For each pair one search runs through, and a second one of the same configuration in another folder is killed at a
random moment (seeded) and started again with the same command. Weights, architecture, optimizer states and metrics
(times apart) of the last checkpoints must be equal bit for bit. A table is printed and written to OUT/matrix.md; pairs
found equal before are not repeated.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

from nasx import checkpoints, records
from nasx.config import conf_dir

SMALL = {"nb201": ["space.layers=1", "space.channels=4"], "nb1shot1": ["space.layers=3", "space.channels=4"],
         "darts": ["space.layers=3", "space.channels=4"]}
PARTIAL = {"pc_darts": ["space.channels=8"]}


def family(space: str) -> str:
    """Which of the small sizes a space takes, from the class that its YAML names."""
    target = yaml.safe_load((conf_dir() / "space" / f"{space}.yaml").read_text(encoding="utf-8"))["_target_"]
    return target.rsplit(".", 2)[1]


def command(method: str, space: str, args: argparse.Namespace, out: Path) -> list[str]:
    """One search: small, one thread, a checkpoint every few seconds."""
    return [sys.executable, "-m", "nasx", "search", f"method={method}", f"space={space}", "dataset=cifar10",
            f"out={out}", "name=run", "device=cpu", "threads=1", "quiet=true", f"checkpoint_s={args.checkpoint_s}",
            f"search.epochs={args.epochs}",
            f"search.updates_per_epoch={args.updates}", f"search.batch={args.batch}", "search.evaluate_every=0",
            "search.evaluate_images=256",
            *SMALL[family(space)], *PARTIAL.get(method, []), *(["method.T=20"] if method == "tse" else [])]


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if type(value) is dict:
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}")
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):
            yield from flat(item, f"{name}.{i}")
    else:
        yield name, value


def state(folder: Path) -> dict[str, Any]:
    """The last checkpoint and the metrics of a run, flat, without what a clock says."""
    newest = sorted((folder / "checkpoints").glob("*.ckpt"))[-1:]  # none where nothing is trained
    saved: dict[str, Any] = {"genotype": (folder / "genotype.txt").read_text(encoding="utf-8")}
    for path in newest:
        saved |= torch.load(io.BytesIO(path.read_bytes()[len(checkpoints.MAGIC) + 65:]), weights_only=True)
    rows = records.read_rows(folder)
    for row in rows:
        for key in [k for k in row if k.endswith("_s")]:
            row.pop(key)
    return dict(flat({"state": {k: v for k, v in saved.items() if k not in ("elapsed_s", "started")}, "rows": rows}))


def same(x: Any, y: Any) -> bool:
    return bool(torch.equal(x, y)) if isinstance(x, torch.Tensor) else x == y


def killed(words: list[str], out: Path, delay: float, env: dict[str, str]) -> bool:
    """Start the search, wait for a new checkpoint and `delay` seconds, and kill -9 it; False where it had ended."""
    job = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, start_new_session=True)
    checkpoints = out / "run" / "checkpoints"
    before = set(checkpoints.glob("*.ckpt"))
    while job.poll() is None and not set(checkpoints.glob("*.ckpt")) - before:
        time.sleep(0.05)
    time.sleep(delay)
    ended = job.poll() is not None
    if not ended:
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    return not ended


def check(method: str, space: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run through; kill and resume; compare."""
    base = args.out / f"{method}-{space}"
    shutil.rmtree(base, ignore_errors=True)  # what an interrupted or failed check has left, maybe of another version
    draw = random.Random(f"{args.seed}-{method}-{space}")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    through = subprocess.run(command(method, space, args, base / "through"), capture_output=True, text=True, env=env)
    whole = time.monotonic() - began
    if through.returncode:
        return {"method": method, "space": space, "outcome": "failed: " + through.stderr.strip()[-300:]}
    kills, words = 0, command(method, space, args, base / "killed")
    for attempt in range(4 * args.kills):  # a short run may end before its moment: again, sooner, from nothing
        kills += killed(words, base / "killed", draw.random() * 0.3 * whole / 2**attempt, env)
        if kills == args.kills or method == "random":
            break
        if not kills:
            shutil.rmtree(base / "killed", ignore_errors=True)
    last = subprocess.run(words, capture_output=True, text=True, env=env)
    if last.returncode:
        return {"method": method, "space": space, "outcome": "resume failed: " + last.stderr.strip()[-300:]}
    one, two = state(base / "through" / "run"), state(base / "killed" / "run")
    differ = sorted(k for k in one.keys() | two.keys() if k not in one or k not in two or not same(one[k], two[k]))
    result = records.finished(base / "through" / "run") or {}
    return {"method": method, "space": space, "updates": result.get("updates"), "passes": result.get("passes"),
            "seconds": round(whole, 1), "kills": kills, "compared": len(one),
            "outcome": "equal" if not differ else f"differs: {', '.join(differ[:4])}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", default=",".join(sorted(p.stem for p in (conf_dir() / "method").glob("*.yaml"))))
    parser.add_argument("--spaces", default="nb201,darts", help="comma-separated, or all")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--updates", type=int, default=100, help="weight updates in an epoch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--checkpoint-s", type=float, default=4, help="seconds between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    args = parser.parse_args()
    if args.spaces == "all":
        args.spaces = ",".join(sorted(p.stem for p in (conf_dir() / "space").glob("*.yaml")))
    pairs = [(m, s) for s in args.spaces.split(",") for m in args.methods.split(",")
             if m != "pc_darts" or family(s) == "darts"]
    args.out.mkdir(parents=True, exist_ok=True)
    done = args.out / "rows.jsonl"
    rows = [json.loads(line) for line in done.read_text(encoding="utf-8").splitlines()] if done.exists() else []
    known = {(r["method"], r["space"]) for r in rows if r["outcome"] == "equal"}
    rows = [r for r in rows if (r["method"], r["space"]) in known]
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda pair: check(*pair, args), [pair for pair in pairs if pair not in known]):
            rows.append(row)
            print(json.dumps(row), flush=True)
            done.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    said = " ".join(["scripts/methods_matrix.py", *sys.argv[1:]])
    lines = [f"`{said}`", "", "| method | space | weight updates | passes | seconds | kill -9 | values compared | "
             "resumed run |", "|---|---|---|---|---|---|---|---|"]
    lines += [f"| {r['method']} | {r['space']} | {r.get('updates')} | {r.get('passes')} | {r.get('seconds')} | "
              f"{r.get('kills')} | {r.get('compared')} | {r['outcome']} |" for r in rows]
    (args.out / "matrix.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    bad = [r for r in rows if r["outcome"] != "equal"]
    print(f"{len(rows) - len(bad)} of {len(rows)} equal")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
