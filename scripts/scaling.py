"""Cost of a search by the number of cells, channels, images per batch, and seeds that take turns.

    uv run python scripts/scaling.py --space nb201 --quick
    uv run python scripts/scaling.py --space darts --json out.json

Each row changes one size of the base setting and gives the median seconds of one first-order step, its ratio to the
base, measured in turn with it in the same run, and the activations that autograd keeps. Seeds: seconds of one step of
each of k searches that take turns, over k times the base.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from benchmark import batches, both, build, pairs, saved_mb

from nasx.config.settings import EngineSettings
from nasx.methods.darts import Darts as Method
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import environment

BASE = {"nb201": {"layers": 5, "channels": 16, "batch": 64}, "darts": {"layers": 8, "channels": 16, "batch": 64}}
QUICK = {"nb201": {"layers": 1, "channels": 16, "batch": 16}, "darts": {"layers": 3, "channels": 16, "batch": 8}}
SPACES: dict[str, Callable[..., Any]] = {"nb201": Nb201, "darts": Darts}


def steps(name: str, size: dict[str, int], device: torch.device, seeds: int = 1) -> tuple[Callable[[], None], float]:
    """Return a first-order step of `seeds` searches that take turns, and the megabytes that autograd keeps for one."""
    method, data = Method(), batches(size["batch"], 32, device)
    space = SPACES[name](layers=size["layers"], channels=size["channels"])
    found = [build(space, False, device, EngineSettings()) for _ in range(seeds)]

    def run() -> None:
        for search in found:
            method.step(search, data[:1], data[2])

    return run, saved_mb(lambda: both(found[0], data[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=tuple(SPACES), default="nb201")
    parser.add_argument("--quick", action="store_true", help="a small base and fewer runs")
    parser.add_argument("--device", type=torch.device, default=environment.device("auto"))
    parser.add_argument("--json", help="write all figures to this file")
    args = parser.parse_args()
    with environment.prepared(args.device, threads=None, deterministic=False, seed=0):  # as in a run
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Measure, print and write all rows."""
    base, runs = (QUICK if args.quick else BASE)[args.space], 3 if args.quick else 7
    first, kept = steps(args.space, base, args.device)
    rows: list[dict[str, Any]] = []
    for key, value in base.items():
        for factor in (2, 3 if key == "layers" else 4):
            other, mb = steps(args.space, {**base, key: factor * value}, args.device)
            rows.append(
                {"what": f"{key} {value} to {factor * value}", "mb": mb, **pairs(other, first, runs, args.device)}
            )
    for seeds in (2, 4):
        other, mb = steps(args.space, base, args.device, seeds)
        timed = pairs(other, first, runs, args.device)
        rows.append(
            {
                "what": f"{seeds} seeds in turn, each",
                "mb": mb,
                **timed,
                "ratio": timed["ratio"] / seeds,
                "naive_s": timed["naive_s"] / seeds,
            }
        )
    hardware = environment.hardware(args.device)
    sizes = ", ".join(f"{key} {value}" for key, value in base.items())
    print(
        f"{args.space}: {sizes}; {hardware['name']}, {hardware['threads']} threads, torch {torch.__version__}, "
        f"commit {environment.commit()}, n={runs}\n"
    )
    print(f"| what | seconds per step | ratio to base | activations MB (base {kept:.0f}) |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['what']} | {row['naive_s']:.3g} | {row['ratio']:.2f} | {row['mb']:.0f} |")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            report = {"base": base, "hardware": hardware, "versions": environment.versions(), "rows": rows}
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
