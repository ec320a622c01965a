"""The columns of a NAS-Bench-201 table: values for each of the 15,625 cells, and their origin.

    cifar10.valid.200.runs    number of correctly classified images after 200 epochs, one sub-column per seed
    cifar10.test.200.mean     accuracy after 200 epochs in percent, mean over seeds as stated by the source
    cifar10.seconds           duration of one training run in seconds
    latency.DEVICE            duration of one forward pass on a device in milliseconds

A table file is an .npz archive (store.py) with one member per column; its description states each column's meaning,
unit, source, version, sha256, license and date. An import adds columns and replaces those of the same name; all other
columns are kept (see `merged`). The row of a cell is the base-5 number whose digits are its six operations
(`isomorphism.cell_code`).

The accuracy of a single run is stored as the number of correctly classified images. The number of all images is known
(`IMAGES`), so 16-bit integers are exact.

Shapes: runs (15625, seeds) uint16, all others (15625,) float32 or float64. Unknown values are `MISSING` in runs and NaN
in all other columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from nasx.benchmarks.base import DATASETS
from nasx.benchmarks.isomorphism import CELLS
from nasx.benchmarks.store import Say, pack, unpack, unsound
from nasx.core.quantities import TITLES

FORM, FIRST_FORM = "nasx nb201 table 2", "nasx nb201 table 1"
MISSING = 65535
IMAGES = {
    ("cifar10", "valid"): 25000,
    ("cifar10", "test"): 10000,
    ("cifar100", "valid"): 5000,
    ("cifar100", "test"): 5000,
    ("imagenet16", "valid"): 3000,
    ("imagenet16", "test"): 3000,
}
NAMES = re.compile(
    r"(?P<dataset>cifar10|cifar100|imagenet16)\.(?:(?P<split>valid|test)\.(?P<epochs>[0-9]{1,4})\."
    r"(?P<what>runs|mean)|(?P<seconds>seconds))|latency\.(?P<device>[\w.-]{1,60})"
)
"""Pattern of valid column names."""
OFFICIAL = {("cifar10", "valid"): "cifar10-valid/x-valid", ("cifar10", "test"): "cifar10/ori-test"}
"""(dataset, split) -> name in the official files, if it differs from x-<split>."""


@dataclass(frozen=True, eq=False)
class Column:
    """The values of a column, (15625,) or, in runs, (15625, len(seeds)), and their origin."""

    values: np.ndarray
    meaning: str
    unit: str
    """The unit of the values: images, percent, seconds or milliseconds."""
    source: str
    seeds: tuple[int, ...] = ()
    version: str = ""
    sha256: str | dict[str, str] = ""
    """sha256 of the source file, or of each of its files."""
    license: str = ""
    date: str = ""
    """Date of the import (ISO 8601, UTC); empty for columns included in nasx."""

    @property
    def present(self) -> np.ndarray:
        """Mask of the known values: bool, with the shape of `values`."""
        return np.asarray(self.values != MISSING if self.values.dtype == np.uint16 else ~np.isnan(self.values))

    @property
    def known(self) -> int:
        """The number of known values."""
        return int(self.present.sum())

    def describe(self) -> str:
        """Return the meaning, seeds, source and date in one line."""
        seeds = f"; seeds {', '.join(map(str, self.seeds))}" if self.seeds else ""
        return f"{self.meaning}{seeds}; from {self.source}{f', {self.date}' if self.date else ''}"

    def described(self) -> dict[str, object]:
        """Return all fields except `values`, as plain values."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(self).items()
            if key != "values"
        }


def name_of(dataset: str, split: str, epochs: int, what: str) -> str:
    """Return the name of an accuracy column; `what` is runs or mean."""
    return f"{dataset}.{split}.{epochs}.{what}"


class Facts(TypedDict, total=False):
    """Optional fields of a `Column`, as keyword arguments of `column`."""

    meaning: str
    version: str
    sha256: str | dict[str, str]
    license: str
    date: str


def column(name: str, values: np.ndarray, source: str, seeds: tuple[int, ...] = (), **facts: Unpack[Facts]) -> Column:
    """Create a column, whose unit and default meaning follow from its name. Raises ValueError for an unknown name."""
    found = NAMES.fullmatch(name)
    if found is None:
        raise ValueError(f"there is no column {name}")
    dataset, split = found["dataset"] or "", found["split"] or ""
    title, after = TITLES.get(dataset, ""), f"after {found['epochs']} epochs"
    if found["what"] == "runs":
        origin = OFFICIAL.get((dataset, split), f"x-{split}")
        unit, meaning = "images", f"{title} {split} ({origin}), correct images of {IMAGES[dataset, split]} {after}, "
        meaning += f"one training for each seed; {MISSING} = not run"
    elif found["what"] == "mean":
        unit, meaning = "percent", f"{title} {split} accuracy in percent {after}, "
        meaning += "the mean over seeds given by the source; NaN = unknown"
    elif found["seconds"]:
        unit, meaning = "seconds", f"seconds of one 200-epoch training on {title} by the authors"
    else:
        unit, meaning = "milliseconds", f"milliseconds of one forward pass on {found['device']}"
    return replace(Column(values, meaning, unit, source, seeds), **facts)


@dataclass(frozen=True, eq=False)
class Table:
    """A NAS-Bench-201 table in memory: columns by name."""

    columns: dict[str, Column] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a table file. Raises UserError if it is missing, damaged, or not a NAS-Bench-201 table."""
        arrays, about = unpack(path, FORM, FIRST_FORM)
        try:
            held = (
                _first_form(arrays, about)
                if about["form"] == FIRST_FORM
                else {
                    name: Column(arrays.pop(name), **{**facts, "seeds": tuple(facts.get("seeds", ()))})
                    for name, facts in about["columns"].items()
                }
            )
            sound = all(_sound(name, each) for name, each in held.items()) and (about["form"] != FORM or not arrays)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            sound = False
        if not sound:
            raise unsound(path, "nb201")
        return cls(held)

    def packed(self) -> bytes:
        """Return the table as the bytes of a table file."""
        return pack(
            {name: each.values for name, each in self.columns.items()},
            {"form": FORM, "columns": {name: each.described() for name, each in self.columns.items()}},
        )

    def per_seed(self, dataset: str, split: str, epochs: int = 200) -> dict[int, np.ndarray]:
        """Return a dict from seeds to accuracies in percent, (15625,) float64; NaN for cells without a run."""
        held = self.columns.get(name_of(dataset, split, epochs, "runs"))
        if held is None:
            return {}
        percent = np.where(held.present, held.values * 100.0 / IMAGES[dataset, split], np.nan)
        return dict(zip(held.seeds, percent.T, strict=True))

    def statistics(self, dataset: str, split: str, epochs: int = 200) -> np.ndarray:
        """Return mean accuracy and sample standard deviation in percent, and number of seeds, (15625, 3).

        Unknown values are NaN. A mean stated by a source takes precedence over the mean of the runs (in some public
        tables, they differ by one image).
        """
        statistics = np.full((CELLS, 3), np.nan)
        held = self.columns.get(name_of(dataset, split, epochs, "runs"))
        if held is not None:
            counts, present = held.values.astype(np.float64), held.present
            n, scale = present.sum(1), 100.0 / IMAGES[dataset, split]
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = np.where(present, counts, 0.0).sum(1) / n
                spread = np.sqrt(np.where(present, (counts - mean[:, None]) ** 2, 0.0).sum(1) / (n - 1.0))
            statistics = np.stack(
                [mean * scale, np.where(n > 1, spread * scale, np.nan), np.where(n > 0, n, np.nan)], 1
            )
        stated = self.columns.get(name_of(dataset, split, epochs, "mean"))
        if stated is not None:
            statistics[:, 0] = np.where(stated.present, stated.values, statistics[:, 0])
        return statistics

    def seconds(self, dataset: str) -> np.ndarray:
        """Return the duration of one 200-epoch training run in seconds, (15625,); NaN if unknown."""
        held = self.columns.get(f"{dataset}.seconds")
        return np.full(CELLS, np.nan) if held is None else held.values


def _sound(name: str, each: Column) -> bool:
    """Return whether the values of a column match its name and description."""
    found, texts = NAMES.fullmatch(name), (each.meaning, each.unit, each.source, each.version, each.license, each.date)
    if (
        found is None
        or not all(isinstance(text, str) for text in texts)
        or not isinstance(each.sha256, str | dict)
        or not all(isinstance(seed, int) for seed in each.seeds)
    ):
        return False
    if found["what"] == "runs":
        return each.values.dtype == np.uint16 and each.values.shape == (CELLS, len(each.seeds))
    return each.values.dtype in (np.float32, np.float64) and each.values.shape == (CELLS,)


def _first_form(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> dict[str, Column]:
    """Return the columns of a file written by nasx 0.1.0, which all have the same source."""
    source = about["source"]
    facts: Facts = {
        "version": about.get("version") or "",
        "sha256": about.get("sha256") or "",
        "license": about.get("license") or "",
    }
    measures: dict[str, list[int]] = {}
    for i, (dataset, split, epochs, _) in enumerate(about["runs"]):
        measures.setdefault(name_of(dataset, split, epochs, "runs"), []).append(i)
    held = {
        name: column(name, arrays["counts"][:, i], source, seeds=tuple(int(about["runs"][k][3]) for k in i), **facts)
        for name, i in measures.items()
    }
    for i, (dataset, split, epochs) in enumerate(about["measures"]):
        name = name_of(dataset, split, epochs, "mean")
        held[name] = column(name, arrays["means"][:, i], source, **facts)
    for i, dataset in enumerate(DATASETS):
        name = f"{dataset}.seconds"
        held[name] = column(name, arrays["seconds"][:, i], source, **facts)
    return {name: each for name, each in held.items() if each.known}


def merged(old: Mapping[str, Column], new: Mapping[str, Column], say: Say) -> dict[str, Column]:
    """Merge two sets of columns: a new column replaces an old one of the same name, unless it has fewer known values.

    The values of two columns are never mixed, so each column has one source. An unchanged column keeps its date.
    """
    found = dict(old)
    for name, each in new.items():
        before = old.get(name)
        if before is not None and before.known > each.known:
            say(f"{name}: kept from {before.source}, which has {before.known:,} values instead of {each.known:,}")
        elif before is None or before.sha256 != each.sha256 or not np.array_equal(before.values, each.values):
            found[name] = each
    return found
