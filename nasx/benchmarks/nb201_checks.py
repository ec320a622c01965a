"""Checks that imported columns are results of NAS-Bench-201.

Validation accuracies are compared with the embedded ones, which exist for every cell. Test accuracies are not embedded;
they must correlate with the validation accuracies of the same cells. Shuffled rows, accuracies on another dataset, and
accuracies after fewer epochs do not correlate strongly enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nasx.benchmarks.base import DATASETS
from nasx.benchmarks.columns import IMAGES, Table, name_of
from nasx.benchmarks.nb201 import EMBEDDED
from nasx.core.quantities import TITLES
from nasx.errors import UserError

CORRELATION, DISTANCE, ENOUGH = 0.98, 6.0, 1000
"""Test accuracies are checked if at least `ENOUGH` cells have one. Their correlation with the embedded validation
accuracies must be at least `CORRELATION`, and their means may differ by at most `DISTANCE` percentage points. In the
public tables, the correlations are 0.995, 0.999 and 0.998 for CIFAR-10, CIFAR-100 and ImageNet16-120, and the means
differ by 3.4, 0.1 and -0.2. The correlation is at least 0.993 for single seeds, but at most 0.968 for columns of
another dataset and at most 0.952 for columns after 12 epochs."""


def consistent(path: Path, table: Table, budgets: Iterable[int]) -> None:
    """Raise UserError if a column of means differs from the means over the per-seed columns, whatever their sources."""
    for dataset, split in IMAGES:
        for epochs in sorted(set(budgets)):
            stated = table.columns.get(name_of(dataset, split, epochs, "mean"))
            if stated is None or not (columns := table.per_seed(dataset, split, epochs)):
                continue
            # Public tables differ by a few images for some seeds; mixed-up rows differ by whole percentage points.
            seeds = np.stack(list(columns.values()), 1)
            known = ~np.isnan(seeds).all(1) & stated.present
            if (abs(np.nanmean(seeds[known], 1) - stated.values[known]) > 0.2).any():
                raise UserError(
                    str(path),
                    f"the mean {dataset} {split} accuracies are not the means over the seeds",
                    "the columns or rows of this file are mixed up",
                )


def agreement(path: Path, table: Table, remedy: str) -> str:
    """Return a text that states how well the accuracies in `table` agree with the embedded validation accuracies.

    Raises UserError, with `path` as its location, if the table is from another benchmark or its rows are shuffled.
    """
    known, equal, compared = Table.read(EMBEDDED), 0, 0
    said = []
    for dataset in DATASETS:
        ours = np.stack(list(known.per_seed(dataset, "valid").values()), 1)
        theirs = table.per_seed(dataset, "valid")
        mean = known.statistics(dataset, "valid")[:, 0]
        if theirs:
            # A run may match any seed of the cell, because sources may order the repeats differently.
            for column_ in theirs.values():
                equal += int((abs(column_[:, None] - ours) < 1e-6).any(1).sum())
                compared += int((~np.isnan(column_)).sum())
        else:
            stated = table.statistics(dataset, "valid")[:, 0]
            equal += int((abs(stated - mean) < 0.01).sum())
            compared += int((~np.isnan(stated)).sum())
        tested = table.statistics(dataset, "test")[:, 0]
        both = ~np.isnan(tested) & ~np.isnan(mean)
        if both.sum() < ENOUGH:
            continue
        with np.errstate(invalid="ignore"):  # a constant column
            correlation = float(np.corrcoef(tested[both], mean[both])[0, 1])
        apart = float((tested[both] - mean[both]).mean())
        if not (correlation >= CORRELATION and abs(apart) <= DISTANCE):
            raise UserError(
                str(path),
                f"its {TITLES[dataset]} test accuracies after 200 epochs do not match the validation "
                f"accuracies of NAS-Bench-201 (correlation {correlation:.3f}, mean difference {apart:+.1f})",
                f"the columns or rows are mixed up, or the accuracies were measured after fewer epochs; {remedy}",
            )
        said.append(f"{TITLES[dataset]} test and validation accuracies have a correlation of {correlation:.4f}")
    if compared and equal < compared / 2:
        raise UserError(
            str(path),
            f"only {equal} of its {compared} validation accuracies after 200 epochs equal those of NAS-Bench-201",
            remedy,
        )
    if compared:
        said.insert(0, f"{equal} of {compared} validation accuracies after 200 epochs equal the embedded ones")
    return "; ".join(said) or "nothing to compare"
