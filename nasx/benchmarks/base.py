"""What a tabular benchmark is: published accuracies of architectures that somebody else trained.

A benchmark is asked with a genotype and answers with a `Score`, or with None where it does not hold the cell. It knows
a genotype by its text form (or, for graphs, by the two attributes that describe a graph) and imports no space.
Accuracies are in percent, as the benchmarks publish them; accuracies that nasx measures itself are fractions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nasx.spaces.base import Space

DATASETS = ("cifar10", "cifar100", "imagenet16")
EQUAL = 1e-9
"""Percent points by which equal means may differ."""
Edges = tuple[tuple[str, ...], ...]
"""The operations that each edge of a cell may have, where a space does not have them all; empty: all cells."""

# Names under which data sets are known elsewhere -> key of `Score.datasets`.
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
    """What a benchmark publishes for one architecture.

    `datasets` maps cifar10, cifar100, imagenet16 (those that the benchmark has) to ``valid`` and ``test`` (mean over
    seeds, percent, None where the table lacks it), ``valid_std`` and ``test_std`` (sample standard deviation over
    seeds, None below two seeds) and ``valid_seeds``, ``test_seeds`` (how many runs the mean is over, None if unknown).
    `params` and `flops` (multiply-adds, as the benchmark counts them) are those of the 10-class network, `train_s` the
    seconds of one training on CIFAR-10, `latency` the milliseconds of one forward pass by device (None: not known).
    """

    benchmark: str
    protocol: str
    source: str
    datasets: dict[str, dict[str, float | None]] = field(default_factory=dict)
    params: int | None = None
    flops: int | None = None
    train_s: float | None = None
    latency: dict[str, float | None] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """The `lookup` object of a run's result.json: plain JSON values, accuracies rounded to 1e-4 percent."""
        record: dict[str, Any] = {"benchmark": self.benchmark, "source": self.source, "protocol": self.protocol}
        for name, values in self.datasets.items():
            record[name] = {key: value if value is None else round(value, 4) for key, value in values.items()}
        record |= {"params": self.params, "flops": self.flops}
        if self.latency:
            record["latency"] = {name: ms if ms is None else round(ms, 6) for name, ms in self.latency.items()}
        return record | {"train_s": None if self.train_s is None else round(self.train_s, 1)}


class Benchmark(ABC):
    """A table of published results; concrete benchmarks are frozen keyword-only dataclasses."""

    @abstractmethod
    def query(self, genotype: object) -> Score | None:
        """The published results of `genotype`, or None where the table does not hold it (or there is no table)."""

    @abstractmethod
    def reference(self, dataset: str, edges: Edges = ()) -> dict[str, dict[str, float | None]]:
        """Over the table's cells, ``{"valid": {...}, "test": {...}}`` with optimum, median, mean (percent or None).

        `mean` is the expectation of an architecture drawn uniformly. Empty where there is no table for `dataset`.
        A benchmark that cannot tell cells by the operations of their edges takes all, whatever `edges` says.
        """

    def accuracies(self, dataset: str, split: str, edges: Edges = ()) -> np.ndarray:
        """The known accuracies of the cells that `reference` is over, in percent, in any order; empty if unknown."""
        return np.empty(0)

    def better_than(self, score: Score, edges: Edges = ()) -> dict[str, dict[str, float]]:
        """The share of the cells that are worse, in [0, 1], by data set and split; {} if unknown.

        It is the chance that an architecture drawn uniformly is worse.
        """
        found: dict[str, dict[str, float]] = {name: {} for name in score.datasets}
        for name, split, value, known in self._placed(score, edges):
            found[name][split] = float((known < value - EQUAL).mean())
        return found

    def rank(self, score: Score, edges: Edges = ()) -> dict[str, dict[str, int]]:
        """One more than the number of cells that are better, by data set and split: 1 is the best; {} if unknown."""
        found: dict[str, dict[str, int]] = {name: {} for name in score.datasets}
        for name, split, value, known in self._placed(score, edges):
            found[name][split] = 1 + int((known > value + EQUAL).sum())
        return found

    def _placed(self, score: Score, edges: Edges) -> Iterator[tuple[str, str, float, np.ndarray]]:
        """Data set, split, the cell's accuracy, and those of all cells, wherever both are known."""
        for name, values in score.datasets.items():
            for split in ("valid", "test"):
                value, known = values.get(split), self.accuracies(name, split, edges)
                if value is not None and len(known):
                    yield name, split, value, known

    def cells(self, edges: Edges = ()) -> int:
        """How many architectures `reference` and `better_than` are over; 0 without a table."""
        return 0

    def references(self, edges: Edges = ()) -> dict[str, dict[str, dict[str, float | None]]]:
        """`reference` of every data set that the table answers for."""
        found = {name: self.reference(name, edges) for name in DATASETS}
        return {name: values for name, values in found.items() if values}

    def ranked(self, score: Score | None, among: Space | Edges = ()) -> dict[str, Any]:
        """What a run's result.json says of a cell's rank among those of a space (or of these edges).

        `reference`, `better_than`, `rank`, `below_optimum` (percent points that the best cell has more), and `among`:
        of how many cells, and of how many the table has; the edges' operations where these are fewer.
        """
        edges = among if isinstance(among, tuple) else among.allowed()
        cells, whole = self.cells(edges), self.cells()
        restricted = {"edges": [list(row) for row in edges]} if cells < whole else {}
        found: dict[str, Any] = {
            "reference": self.references(edges),
            "better_than": {},
            "rank": {},
            "below_optimum": {},
            "among": {"cells": cells, "of": whole, **restricted} if whole else None,
        }
        if score is not None:
            found |= {"better_than": self.better_than(score, edges), "rank": self.rank(score, edges)}
            for name, split, value, known in self._placed(score, edges):
                found["below_optimum"].setdefault(name, {})[split] = round(float(known.max()) - value, 4)
        return found

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Where the table comes from, its checksum, what each column means, and what is missing: plain values."""

    def missing(self) -> str | None:
        """What the table lacks and how to get it, else None."""
        return None

    def dataset_key(self, name: str) -> str | None:
        """The key in `Score.datasets` of a data set's name as nasx or the benchmark spells it, None if unknown."""
        return _DATASET_NAMES.get(name.lower())
