"""Interface of tabular benchmarks: published accuracies of trained architectures.

A query with a genotype returns a `Score`, or None if the benchmark does not contain the cell. Genotypes are read from
their text form (graphs also from two attributes, see nb101.py), so no space needs to be imported. Accuracies are in
percent, as in the benchmarks; accuracies measured by nasx are fractions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nasx.core.quantities import TITLES
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.spaces.base import Space

T = TypeVar("T")
DATASETS = tuple(TITLES)
EQUAL = 1e-9
"""Largest difference, in percentage points, between two means that are considered equal."""
Edges = tuple[tuple[str, ...], ...]
"""The operations allowed on each edge of a cell; empty if they are not restricted."""

# Names of datasets in nasx and in the benchmarks -> keys of `Score.datasets`.
_DATASET_NAMES = {
    "cifar10": "cifar10",
    "cifar10-valid": "cifar10",
    "cifar100": "cifar100",
    "imagenet16": "imagenet16",
    "imagenet16-120": "imagenet16",
    "imagenet16_120": "imagenet16",
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """The published results of one architecture.

    `datasets` maps each dataset of the benchmark (cifar10, cifar100, imagenet16) to ``valid`` and ``test`` (mean
    accuracy over seeds in percent, None if missing), ``valid_std`` and ``test_std`` (sample standard deviation over
    seeds, None for fewer than two seeds), and ``valid_seeds`` and ``test_seeds`` (number of runs in the mean, None if
    unknown). `params` and `flops` (multiply-adds, as counted by the benchmark) refer to the 10-class network. `train_s`
    is the duration of one training run on CIFAR-10 in seconds, and `latency` maps devices to the duration of one
    forward pass in milliseconds.
    """

    benchmark: str
    protocol: str
    source: str
    datasets: dict[str, dict[str, float | None]] = field(default_factory=dict)
    params: int | None = None
    flops: int | None = None
    train_s: float | None = None
    latency: dict[str, float | None] = field(default_factory=dict)

    def as_record(self) -> dict[str, object]:
        """Return the `lookup` object for result.json: plain JSON values, with accuracies rounded to four decimals."""
        record: dict[str, object] = {"benchmark": self.benchmark, "source": self.source, "protocol": self.protocol}
        for name, values in self.datasets.items():
            record[name] = {key: value if value is None else round(value, 4) for key, value in values.items()}
        record |= {"params": self.params, "flops": self.flops}
        if self.latency:
            record["latency"] = {name: ms if ms is None else round(ms, 6) for name, ms in self.latency.items()}
        return record | {"train_s": None if self.train_s is None else round(self.train_s, 1)}


class Benchmark(ABC):
    """Base class of tables of published results; subclasses are frozen, keyword-only dataclasses."""

    @abstractmethod
    def query(self, genotype: object) -> Score | None:
        """Return the published results of `genotype`; None if there is no table or it does not contain `genotype`."""

    def reference(self, dataset: str, edges: Edges = ()) -> dict[str, dict[str, float | None]]:
        """Return the optimum, median and mean accuracy of the cells, as ``{"valid": {...}, "test": {...}}``.

        Accuracies are in percent, None if unknown; the mean is the expected accuracy of a uniformly drawn architecture.
        The result is empty if there is no table for `dataset`. Benchmarks whose cells are not described by operations
        on edges ignore `edges`.
        """
        key = self.dataset_key(dataset)
        if key is None or not self.cells():
            return {}
        found = {split: self.accuracies(key, split, edges) for split in ("valid", "test")}
        return {split: _summary(values) for split, values in found.items()}

    def accuracies(self, dataset: str, split: str, edges: Edges = ()) -> np.ndarray:
        """Return the known accuracies of the cells that `edges` allows, (n,) in percent, in no particular order."""
        return np.empty(0)

    def better_than(self, score: Score, edges: Edges = ()) -> dict[str, dict[str, float]]:
        """Return the fraction of worse cells, in [0, 1], by dataset and split; unknown splits are omitted.

        The fraction is the probability that a uniformly drawn architecture is worse.
        """
        return self._compared(score, edges, lambda value, known: float((known < value - EQUAL).mean()))

    def rank(self, score: Score, edges: Edges = ()) -> dict[str, dict[str, int]]:
        """Return the rank (one plus the number of better cells) by dataset and split; unknown splits are omitted."""
        return self._compared(score, edges, lambda value, known: 1 + int((known > value + EQUAL).sum()))

    def _compared(
        self, score: Score, edges: Edges, compare: Callable[[float, np.ndarray], T]
    ) -> dict[str, dict[str, T]]:
        """Return `compare(accuracy of the cell, known accuracies of all cells)` by dataset and split."""
        found: dict[str, dict[str, T]] = {name: {} for name in score.datasets}
        for name, values in score.datasets.items():
            for split in ("valid", "test"):
                value, known = values.get(split), self.accuracies(name, split, edges)
                if value is not None and len(known):
                    found[name][split] = compare(value, known)
        return found

    def latencies(self, device: str) -> np.ndarray:
        """Return the latencies of all cells on a device, (cells,) in ms. Raises UserError if any of them is unknown."""
        raise UserError(f"budget.device={device}", "this benchmark has no latencies", "use benchmark=nb201")

    def cells(self, edges: Edges = ()) -> int:
        """Return the number of architectures that `reference` and `better_than` cover; 0 without a table."""
        return 0

    def references(self, edges: Edges = ()) -> dict[str, dict[str, dict[str, float | None]]]:
        """Return the result of `reference` for each dataset in the table."""
        found = {name: self.reference(name, edges) for name in DATASETS}
        return {name: values for name, values in found.items() if values}

    def ranked(self, score: Score | None, among: Space | Edges = ()) -> dict[str, object]:
        """Return a comparison of a cell with all cells that a space or its edges allow, for result.json.

        Keys: `reference`, `better_than`, `rank`, `below_optimum` (percentage points below the best cell), and `among`
        (the number of cells compared, the number of cells in the table and, if restricted, the operations on each
        edge; None without a table).
        """
        edges = among if isinstance(among, tuple) else among.allowed()
        cells, whole = self.cells(edges), self.cells()
        restricted = {"edges": [list(row) for row in edges]} if cells < whole else {}
        below = self._compared(score, edges, lambda value, known: round(float(known.max()) - value, 4)) if score else {}
        return {
            "reference": self.references(edges),
            "better_than": self.better_than(score, edges) if score else {},
            "rank": self.rank(score, edges) if score else {},
            "below_optimum": {name: values for name, values in below.items() if values},
            "among": {"cells": cells, "of": whole, **restricted} if whole else None,
        }

    @abstractmethod
    def info(self) -> dict[str, object]:
        """Return the table's source, checksum, columns and missing parts, as plain values."""

    def missing(self) -> str | None:
        """Return a message about the missing parts of the table and how to get them; None if it is complete."""
        return None

    def dataset_key(self, name: str) -> str | None:
        """Return the key in `Score.datasets` of a dataset, given its name in nasx or the benchmark; None if unknown."""
        return _DATASET_NAMES.get(name.lower())


def _summary(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {"optimum": None, "median": None, "mean": None}
    return {"optimum": float(values.max()), "median": float(np.median(values)), "mean": float(values.mean())}
