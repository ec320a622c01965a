"""Time tables and reports of many runs: python scripts/report_speed.py [RUNS] [EPOCHS].

Writes RUNS synthetic searches (default 2,000, of 50 epochs each) with nasx.tracking.run_folder to a temporary folder:
40 settings with 50 seeds each. Then times `nasx table` and `nasx report` in their own processes, three times each.
Prints wall seconds, CPU seconds (which depend less on other work on the machine) and the size of the page.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nasx.tracking import run_folder

METHODS = ("darts", "random", "gdas", "idarts", "lambda", "pc_darts", "sdarts", "single")
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def write(root: Path, number: int, epochs: int) -> None:
    """Write one finished search with its rows and its record."""
    draw = random.Random(number)
    setting, seed = divmod(number, 50)
    method, lr = METHODS[setting % len(METHODS)], 0.01 * (1 + setting // len(METHODS))
    choices = {"method": method, "space": "nb201", "dataset": "cifar10", "search": "nb201_v1"}
    identity = {"seed": seed, "search": {"lr": lr, "epochs": epochs}, "method": {"name": method}}
    with run_folder.Run(
        root / f"{method}-s{seed}-{number:08x}", identity, {"kind": "search", "choices": choices}
    ) as run:
        lookup = {"benchmark": "nb201", "source": "synthetic", "cifar10": {"valid": draw.gauss(88, 2), "test": None}}
        ops = [draw.choice(OPERATIONS) for _ in range(6)]
        genotype = f"|{ops[0]}~0|+|{ops[1]}~0|{ops[2]}~1|+|{ops[3]}~0|{ops[4]}~1|{ops[5]}~2|"
        for epoch in range(1, epochs + 1):
            run.append(
                {
                    "epoch": epoch,
                    "train_loss": draw.random() + 2 / epoch,
                    "train_accuracy": draw.random(),
                    "valid_accuracy": draw.random(),
                    "eigenvalue": draw.random(),
                    "genotype": genotype,
                    "lookup": lookup,
                    "entropy": draw.random(),
                    "mix": {"cell": [[draw.random() / 2.5 for _ in OPERATIONS] for _ in range(6)]},
                }
            )
        run.finish(
            {
                "kind": "search",
                "name": run.folder.name,
                "status": "finished",
                "choices": choices,
                "seed": seed,
                "identity": f"{number:08x}",
                "family": f"{setting:08x}",
                "overrides": [f"search.lr={lr:g}"],
                "protocol": "nb201-v1",
                "genotype": genotype,
                "lookup": lookup,
                "wall_s": 100 * draw.random(),
                "supernet": {"valid_accuracy": 0.5},
                "peak_mb": 900,
                "updates": 50,
                "passes": 100,
                "hardware": {"device": "cpu", "name": "synthetic"},
                "versions": {"nasx": "0"},
                "verdict": {"collapsed": draw.random() < 0.1, "not_converged": draw.random() < 0.3},
            }
        )


def processor() -> float:
    """Return the CPU seconds of the processes started here, including those of the system on their behalf."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    count, epochs = (int(text) for text in [*sys.argv[1:], *["2000", "50"][len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        for number in range(count):
            write(root, number, epochs)
        page = Path(folder) / "report.html"
        for words in (["table", f"out={root}"], ["report", str(root), f"out={page}"]) * 3:
            began, spent = time.perf_counter(), processor()
            subprocess.run([sys.executable, "-m", "nasx", *words], check=True, stdout=subprocess.DEVNULL)
            wall, cpu = time.perf_counter() - began, processor() - spent
            print(f"nasx {words[0]}: {wall:.2f} s, {cpu:.2f} s of CPU time, for {count} runs of {epochs} epochs")
        print(f"page: {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
