"""DARTS_V2 retrained on real CIFAR-10 by nasx, by independent code, and next to two random cells of its size.

    NASX_DATA=DIR uv run python scripts/retraining.py OUT [--seeds 0,1,2] [--jobs 2] [--fast] [layers=5 channels=8 ...]

DIR contains cifar-10-batches-bin. All networks follow the recipe of DARTS (cutout, drop-path, auxiliary head, cosine).
tests/reference/retraining.py, the independent network and loop, uses nothing from nasx and draws other random numbers,
so the accuracies for one seed are not equal; means over seeds are compared with Welch's test. The random cells are the
first two draws from the space (seeds 0, 1, ...) whose number of parameters differs by at most 10 % from that of
DARTS_V2.

--fast uses channels_last in both codes. Every run has one thread; `--jobs` runs execute at a time. Runs that are
already in OUT are not repeated, and a killed run of nasx resumes. The table is written to OUT/table.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from pathlib import Path

import torch
from kills import Command

from nasx.results.significance import moments, p_text, welch
from nasx.spaces.darts.space import Darts
from nasx.tracking import lineage, records

SIZE = {"layers": 4, "channels": 8, "epochs": 4, "batch": 32, "updates": 100}
REFERENCE = Path(__file__).resolve().parent.parent / "tests" / "reference" / "retraining.py"
CELL, TOLERANCE = "DARTS_V2", 0.1


def parameters(genotype: str, size: dict[str, int]) -> int:
    """Count the parameters of a network without its auxiliary head."""
    space = Darts()
    network = space.network(space.parse(genotype), 10, layers=size["layers"], channels=size["channels"])
    return sum(p.numel() for p in network.parameters())


def random_cells(size: dict[str, int], count: int = 2) -> dict[str, str]:
    """Return the first random cells with about as many parameters as DARTS_V2, by name."""
    most, found = parameters(CELL, size), dict[str, str]()
    for seed in range(1000):
        text = str(Darts().sample(torch.Generator().manual_seed(seed)))
        if abs(parameters(text, size) / most - 1) <= TOLERANCE:
            found[f"random cell (draw {seed})"] = text
        if len(found) == count:
            return found
    sys.exit(f"1,000 random cells hold fewer than {count} of about {most:,} parameters: set more layers or channels")


def ours(out: Path, name: str, genotype: str, seed: int, size: dict[str, int], fast: bool) -> float:
    """Return the test accuracy of `nasx retrain` in percent."""
    words = [
        "retrain",
        "space=darts",
        lineage.override("genotype", genotype),
        f"seed={seed}",
        f"out={out}",
        f"name={name}",
        "retrain.evaluate_every=0",
        "device=cpu",
        "threads=1",
        "quiet=true",
        *(f"retrain.{'updates_per_epoch' if key == 'updates' else key}={n}" for key, n in size.items()),
        *(["retrain.channels_last=true"] if fast else []),
    ]
    print("nasx", *words, flush=True)
    code, said = Command(words).end()
    if code:
        raise RuntimeError(said)
    return 100 * float((records.finished(out / name) or {})["test_accuracy"])


def reference(out: Path, seed: int, size: dict[str, int], fast: bool) -> float:
    """Return the test accuracy of the independent network and loop in percent."""
    kept = out / f"reference-{seed}.txt"
    if not kept.exists():
        words = [
            str(REFERENCE),
            str(Path(os.environ["NASX_DATA"]) / "cifar-10-batches-bin"),
            f"seed={seed}",
            *(f"{key}={n}" for key, n in size.items()),
            f"channels_last={int(fast)}",
        ]
        print("python", *words, flush=True)
        found = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=True)
        kept.write_text(found.stdout)
    return 100 * float(kept.read_text().split()[-1])


def table(seeds: Sequence[int], groups: dict[str, list[float]], sizes: dict[str, int]) -> str:
    """Return a row for each group, and its difference from DARTS_V2 trained by nasx."""
    lines = [
        "| network | parameters | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean ± std | n |",
        "|---|--:|" + "--:|" * (len(seeds) + 2),
    ]
    differences = list[str]()
    for name, values in groups.items():
        mean, variance = moments(values)
        cells = " | ".join(f"{x:.2f}" for x in values)
        lines.append(f"| {name} | {sizes[name]:,} | {cells} | {mean:.2f} ± {sqrt(variance):.2f} | {len(values)} |")
        found = welch(values, groups["DARTS_V2, nasx"])
        if name != "DARTS_V2, nasx" and found is not None:
            interval = f"95 % interval {found.low:+.2f} to {found.high:+.2f}, {p_text(found.p)}"
            differences.append(f"- DARTS_V2 by nasx minus {name}: {found.mean:+.2f}, {interval}")
    return "\n".join([*lines, "", *differences])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("size", nargs="*", help=f"name=value of {', '.join(SIZE)}")
    parser.add_argument("--seeds", default="0,1,2", help="two or more")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--fast", action="store_true")
    args = parser.parse_intermixed_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    size = SIZE | {key: int(n) for key, n in (word.split("=") for word in args.size)}
    seeds = [int(seed) for seed in args.seeds.split(",")]
    cells = {"DARTS_V2, nasx": CELL, **random_cells(size)}
    (out / "cells.txt").write_text("".join(f"{name}: {cell}\n" for name, cell in cells.items()))
    with ThreadPoolExecutor(args.jobs) as pool:
        found = {
            (name, seed): pool.submit(reference, out, seed, size, args.fast)
            if name.endswith("code")
            else pool.submit(ours, out, f"cell{list(cells).index(name)}-{seed}", cells[name], seed, size, args.fast)
            for seed in seeds
            for name in ["DARTS_V2, independent code", *cells]
        }
        groups = dict[str, list[float]]()
        for (name, seed), run in found.items():
            groups.setdefault(name, []).append(run.result())
            print(f"{name}, seed {seed}: {groups[name][-1]:.2f} %", flush=True)
    sizes = {name: parameters(cells.get(name, CELL), size) for name in groups}
    text = table(seeds, groups, sizes)
    (out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
