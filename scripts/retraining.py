"""DARTS_V2 retrained small on real CIFAR-10 by nasx and by the plain network and loop of the tests: the same accuracy?

    NASX_DATA=DIR uv run python scripts/retraining.py OUT --seeds 0,1,2

DIR holds cifar-10-batches-bin. Both follow the recipe of DARTS (cutout, drop-path, auxiliary head), from other code:
tests/reference/retraining.py uses nothing of nasx and draws other random numbers, so one seed's accuracies are not
equal; the means over seeds are compared by Welch's test. One process at a time, on one thread. What is finished in OUT
is not repeated; a run of nasx that was killed goes on. The table is printed and written to OUT/table.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from math import sqrt
from pathlib import Path

from kills import Command

from nasx.results.significance import moments, p_text, welch
from nasx.tracking import records

SIZE = {"layers": 4, "channels": 8, "epochs": 4, "batch": 32, "updates": 100}
REFERENCE = Path(__file__).resolve().parent.parent / "tests" / "reference" / "retraining.py"


def ours(out: Path, seed: int) -> float:
    """The test accuracy of nasx retrain in percent."""
    words = [
        "retrain",
        "space=darts",
        "genotype=DARTS_V2",
        f"seed={seed}",
        f"out={out}",
        f"name=nasx-{seed}",
        "retrain.evaluate_every=0",
        "device=cpu",
        "threads=1",
        "quiet=true",
        *(f"retrain.{'updates_per_epoch' if name == 'updates' else name}={n}" for name, n in SIZE.items()),
    ]
    print("nasx", *words, flush=True)
    code, said = Command(words).end()
    if code:
        sys.exit(said)
    return 100 * float((records.finished(out / f"nasx-{seed}") or {})["test_accuracy"])


def plain(out: Path, seed: int) -> float:
    """That of the reference."""
    kept = out / f"plain-{seed}.txt"
    if not kept.exists():
        words = [
            str(REFERENCE),
            str(Path(os.environ["NASX_DATA"]) / "cifar-10-batches-bin"),
            f"seed={seed}",
            *(f"{name}={n}" for name, n in SIZE.items()),
        ]
        print("python", *words, flush=True)
        found = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=True)
        kept.write_text(found.stdout)
    return 100 * float(kept.read_text().split()[-1])


def table(seeds: list[int], groups: dict[str, list[float]]) -> str:
    """One row a group, and the difference of the two."""
    lines = [
        "| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean ± std | n |",
        "|---|" + "---|" * (len(seeds) + 2),
    ]
    for name, values in groups.items():
        mean, variance = moments(values)
        lines.append(
            f"| {name} | "
            + " | ".join(f"{x:.2f}" for x in values)
            + f" | {mean:.2f} ± {sqrt(variance):.2f} | {len(values)} |"
        )
    found = welch(*groups.values())
    assert found is not None
    return "\n".join(
        [
            *lines,
            "",
            f"Difference {found.mean:+.2f}, 95 % interval {found.low:+.2f} to {found.high:+.2f}, {p_text(found.p)}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2", help="two or more")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    seeds, groups = [int(seed) for seed in args.seeds.split(",")], dict[str, list[float]]()
    for seed in seeds:
        for name, run in (("reference", plain), ("nasx", ours)):
            groups.setdefault(name, []).append(run(args.out, seed))
            print(f"{name} seed {seed}: {groups[name][-1]:.2f} %", flush=True)
    text = table(seeds, groups)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
