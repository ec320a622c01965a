"""The verdict on all cells of NAS-Bench-201, and the accuracies of these cells: python scripts/verdict_cells.py.

For each reason to call a cell collapsed: the number of cells to which it applies, their median validation accuracy on
CIFAR-10, and how many of them lie below the median of all cells (and below the mean, which a random cell has on
average). Deterministic.
"""

from __future__ import annotations

import itertools

import numpy as np

from nasx.benchmarks.nb201 import Nb201
from nasx.diagnostics.verdict import verdict
from nasx.spaces.nb201.genotype import OPERATIONS, Nb201Genotype

REASONS = ("skip connections (more than half)", "lies on a path", "no path leads")


def main() -> None:
    benchmark, values, said = Nb201(), [], []
    for operations in itertools.product(OPERATIONS, repeat=6):
        genotype = Nb201Genotype(operations)
        score = benchmark.query(genotype)
        assert score is not None
        values.append(score.datasets["cifar10"]["valid"])
        said.append(verdict([], {"genotype": str(genotype)})["reasons"])
    accuracy = np.array(values, dtype=float)
    median, mean = np.median(accuracy), accuracy.mean()
    print(f"all {len(accuracy)} cells: median {median:.2f}, mean {mean:.2f}")
    held = {reason: np.array([any(reason in text for text in reasons) for reasons in said]) for reason in REASONS}
    collapsed = np.array([bool(reasons) for reasons in said])
    for name, own in {**held, "any of them": collapsed, "none of them": ~collapsed}.items():
        found = accuracy[own]
        below = [
            f"below the {word} {100 * (found < x).mean():.1f} %" for word, x in (("median", median), ("mean", mean))
        ]
        print(f"{name:36} {own.sum():6} cells, median {np.median(found):.2f}, {', '.join(below)}")


if __name__ == "__main__":
    main()
