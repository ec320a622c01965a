"""NAS-Bench-101 (Ying et al., ICML 2019): 423,624 cells, each trained three times on CIFAR-10.

A cell is a directed acyclic graph of at most 7 vertices and 9 edges. Its adjacency matrix is upper triangular, with
`matrix[u][v] = 1` for an edge u -> v. The vertex labels are input, conv3x3-bn-relu, conv1x1-bn-relu, maxpool3x3 and
output. Vertices that are not on a path from input to output have no effect and are pruned. The key of a cell is the
benchmark's own isomorphism-invariant hash (section 2.4 of the paper):

    h0(v) = MD5(str((out-degree, in-degree, code)))        codes: input -1, output -2, then 0, 1, 2 in the order above
    h(v)  = MD5(sorted h of predecessors | sorted h of successors | h(v)), repeated once per vertex
    key   = MD5(str(sorted h))

The digests are hexadecimal strings, which are concatenated; | is a literal separator. Published numbers are means over
the three repeats after 108 epochs. NAS-Bench-1Shot1 defines its search spaces on these cells.

Shapes: keys, two (n,) uint64 (the high halves, sorted, and the low halves); accuracy (n, budgets, 3, 2) float32,
fractions by repeat and by split (validation, test), NaN if missing; params (n,) int32; seconds (n,) float32. The
files of the benchmark (0.5 to 2 GB) are not included in nasx; `nasx bench get nb101` downloads one of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import md5
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np

from nasx.benchmarks.base import Benchmark, Edges, Score
from nasx.benchmarks.store import cache_folder, stamp, unpack, unsound

FORM = "nasx nb101 table 1"
CELLS = 423_624
PROTOCOL = "nas-bench-101, 108 epochs, mean over 3 repeats"
OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
CODES = {"input": -1, "output": -2, **{name: code for code, name in enumerate(OPERATIONS)}}
MAX_VERTICES, MAX_EDGES = 7, 9
ABSENT = (
    "NAS-Bench-101 is missing: `nasx bench get nb101` downloads it (499 MB), and `nasx bench import nb101 FILE` "
    "imports nasbench_only108.tfrecord or nasbench_full.tfrecord (1.95 GB)"
)
Matrix = Sequence[Sequence[int]]
Graph = tuple[Matrix, Sequence[str]]


def prune(matrix: Matrix, labels: Sequence[str]) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]] | None:
    """Return the subgraph of the vertices on paths from the first to the last vertex; None if there is no such path.

    Raises ValueError if the matrix is not square and upper triangular, or if a label is unknown or misplaced.
    """
    n = len(labels)
    if n < 2 or len(matrix) != n or any(len(row) != n for row in matrix):
        raise ValueError(f"the matrix does not match {n} labels")
    if any(matrix[u][v] not in ((0, 1) if u < v else (0,)) for u in range(n) for v in range(n)):
        raise ValueError("the matrix is not upper triangular with entries 0 and 1")
    if labels[0] != "input" or labels[-1] != "output" or not set(labels[1:-1]) <= set(OPERATIONS):
        inner = " or ".join(OPERATIONS)
        raise ValueError(f"labels must be input, then only {inner}, then output; found {', '.join(labels)}")
    forward, backward = {0}, {n - 1}
    for v in range(1, n):  # vertices are in topological order
        if any(matrix[u][v] for u in forward):
            forward.add(v)
    for u in range(n - 2, -1, -1):
        if any(matrix[u][v] for v in backward):
            backward.add(u)
    kept = sorted(forward & backward)
    if 0 not in kept or n - 1 not in kept:
        return None
    return tuple(tuple(int(matrix[u][v]) for v in kept) for u in kept), tuple(labels[v] for v in kept)


def graph_hash(matrix: Matrix, labels: Sequence[str]) -> str:
    """Return the key of a (pruned) graph: 32 hexadecimal digits, equal for isomorphic graphs."""
    vertices = range(len(labels))
    before = [[u for u in vertices if matrix[u][v]] for v in vertices]
    after = [[w for w in vertices if matrix[v][w]] for v in vertices]
    names = [_digest(str((len(after[v]), len(before[v]), CODES[labels[v]]))) for v in vertices]
    for _ in vertices:
        names = [
            _digest(
                "|".join(
                    (
                        "".join(sorted(names[u] for u in before[v])),
                        "".join(sorted(names[w] for w in after[v])),
                        names[v],
                    )
                )
            )
            for v in vertices
        ]
    return _digest(str(sorted(names)))


_key = lru_cache(maxsize=1024)(graph_hash)  # computing a hash takes a hundred times as long as finding its row


def _digest(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


def graph_of(genotype: object) -> Graph | None:
    """Return the matrix and labels of a genotype; None if it has neither the attributes nor the text form of a graph.

    The attributes are `matrix` and `operations_list` or `ops`; the text form is the JSON
    ``{"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}``.
    """
    matrix = getattr(genotype, "matrix", None)
    labels = getattr(genotype, "operations_list", None) or getattr(genotype, "ops", None)
    if matrix is None or labels is None:
        try:
            content = json.loads(str(genotype))
            matrix, labels = content["matrix"], content.get("ops") or content["operations"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
    try:
        return tuple(tuple(int(x) for x in row) for row in matrix), tuple(str(label) for label in labels)
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True, eq=False)
class Table:
    """A NAS-Bench-101 table in memory (shapes: see the module docstring); `epochs` lists the training budgets."""

    about: dict[str, Any]
    epochs: tuple[int, ...]
    high: np.ndarray
    low: np.ndarray
    accuracy: np.ndarray
    params: np.ndarray
    seconds: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a table file. Raises UserError if it is missing, damaged, or not a NAS-Bench-101 table."""
        arrays, about = unpack(path, FORM)
        try:
            epochs = tuple(int(e) for e in about["epochs"])
            table = cls(about, epochs, *(arrays[name] for name in ("high", "low", "accuracy", "params", "seconds")))
            n = len(table.high)
            sound = (
                108 in epochs
                and table.high.dtype == table.low.dtype == np.uint64
                and table.high.shape == table.low.shape == table.params.shape == table.seconds.shape == (n,)
                and table.accuracy.shape == (n, len(epochs), 3, 2)
                and bool((table.high[1:] >= table.high[:-1]).all())
            )
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise unsound(path, "nb101")
        return table

    def row(self, key: str) -> int | None:
        """Return the row of the graph with the hash `key`; None if the table does not contain it."""
        high, low = int(key[:16], 16), int(key[16:], 16)
        at = int(self.high.searchsorted(np.uint64(high)))
        while at < len(self.high) and self.high[at] == high:  # several keys may have the same high half
            if self.low[at] == low:
                return at
            at += 1
        return None

    def repeats(self, row: int, epochs: int = 108) -> np.ndarray:
        """Return the accuracies of a graph in percent, (3, 2): one row per repeat, with validation and test."""
        percent: np.ndarray = np.multiply(self.accuracy[row, self.epochs.index(epochs)], 100.0, dtype=np.float64)
        return percent


@lru_cache(maxsize=2)
def _read(path: Path, stamp: tuple[int, int]) -> Table:
    return Table.read(path)


@dataclass(frozen=True, kw_only=True)
class Nb101(Benchmark):
    """NAS-Bench-101. `path` is a table file (None: the imported table). Without a table, all queries return None."""

    path: str | None = None

    def file(self) -> Path:
        """Return the path of the table, which may not exist."""
        return cache_folder() / "nb101.npz" if self.path is None else Path(self.path).expanduser()

    @cached_property
    def _table(self) -> Table | None:
        if self.path is None and not os.path.exists(self.file()):
            return None
        return _read(self.file(), stamp(self.file(), "nb101"))

    def table(self) -> Table | None:
        """Return the table; None if no table was imported. Raises UserError if `path` is missing or damaged."""
        return self._table

    @cached_property
    def _means(self) -> dict[str, np.ndarray]:
        """Mean accuracy of each graph over its repeats of 108 epochs, (n,) in percent, by split."""
        assert self._table is not None
        values = self._table.accuracy[:, self._table.epochs.index(108)].astype(np.float64)
        return dict(zip(("valid", "test"), np.nanmean(values, axis=1).T * 100.0))

    def query(self, genotype: object) -> Score | None:
        """Return the published results after 108 epochs.

        Returns None if there is no table, if `genotype` is not a graph, or if the graph is not in the benchmark (for
        example, without a path to the output, or with more than 7 vertices or 9 edges after pruning).
        """
        table, graph = self._table, graph_of(genotype)
        if table is None or graph is None:
            return None
        try:
            pruned = prune(*graph)
        except ValueError:
            return None
        if pruned is None or len(pruned[1]) > MAX_VERTICES or sum(map(sum, pruned[0])) > MAX_EDGES:
            return None
        row = table.row(_key(*pruned))
        return None if row is None else self._score(table, row)

    def _score(self, table: Table, row: int) -> Score:
        values: dict[str, float | None] = {}
        for split, column in zip(("valid", "test"), zip(*table.repeats(row).tolist())):
            known = [x for x in column if x == x]  # not NaN
            mean = sum(known) / len(known) if known else None
            values[split] = mean
            values[f"{split}_std"] = stdev(known, mean) if len(known) > 1 else None
            values[f"{split}_seeds"] = len(known) or None
        return Score(
            benchmark="nb101",
            protocol=PROTOCOL,
            source=table.about["source"],
            datasets={"cifar10": values},
            params=int(table.params[row]),
            train_s=float(table.seconds[row]),
        )

    def accuracies(self, dataset: str, split: str, edges: Edges = ()) -> np.ndarray:
        if self._table is None or self.dataset_key(dataset) is None:
            return np.empty(0)
        column = self._means[split]
        return np.asarray(column[~np.isnan(column)])

    def cells(self, edges: Edges = ()) -> int:
        return 0 if self._table is None else len(self._table.high)

    def dataset_key(self, name: str) -> str | None:
        return "cifar10" if super().dataset_key(name) == "cifar10" else None

    def missing(self) -> str | None:
        """Return a message that states how to get the table; None if the table exists."""
        return ABSENT if self._table is None else None

    def info(self) -> dict[str, object]:
        if self._table is None:
            return {"benchmark": "nb101", "file": str(self.file()), "cells": 0, "missing": ABSENT}
        shown = ("source", "version", "sha256", "license", "columns", "notes")
        return {
            "benchmark": "nb101",
            "file": str(self.file()),
            "cells": len(self._table.high),
            **{key: self._table.about.get(key) for key in shown},
            "missing": None,
        }
