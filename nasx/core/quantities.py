"""The table of all numbers that a run records.

Tables, charts, comparisons, `objective=` and the summary of a run read `QUANTITIES`: a number added here appears in all
of them. This module does not import torch.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16": "ImageNet16-120"}
"""Dataset of a tabular benchmark -> its title."""


class Unit(NamedTuple):
    """A unit: its symbol in text, the label of an axis, and the range of its values."""

    symbol: str
    axis: str
    low: float = -math.inf
    high: float = math.inf


PERCENT = Unit("%", "accuracy (%)", 0.0, 100.0)
POINTS = Unit("points", "percentage points", 0.0, 100.0)
NATS = Unit("nats", "cross-entropy (nats)", 0.0)
ENTROPY = Unit("nats", "nats per edge", 0.0)
PERPLEXITY = Unit("", "perplexity", 1.0)
COSINE = Unit("", "mean cosine", -1.0, 1.0)
NUMBER = Unit("", "number", 0.0)
WEIGHT = Unit("", "mean weight", 0.0, 1.0)
DISTANCE = Unit("", "L1 distance", 0.0)
RATIO = Unit("", "ratio", 0.0)
REAL = Unit("", "value")
SECONDS = Unit("s", "seconds", 0.0)
MILLISECONDS = Unit("ms", "milliseconds", 0.0)
MEGABYTES = Unit("MB", "megabytes", 0.0)


class Quantity(NamedTuple):
    """A recorded number: its key, its display format, and the outputs that show it."""

    name: str
    """Dotted key in result.json or in a row of metrics.jsonl. A * matches one level: a dataset of the benchmark, or a
    device."""
    title: str
    """Title of its chart, and of the comparison."""
    unit: Unit = NUMBER
    kinds: tuple[str, ...] = ()
    """The files that contain it: result.json of a search, retrain or study, or metrics.jsonl (epoch)."""
    needs: tuple[str, ...] = ()
    """Facts of a configuration required to record it: images or text, trained, looked_up, tested, held_out
    (nasx.config.objectives)."""
    better: int = 0
    """+1 if higher is better, -1 if lower is better, 0 if neither."""
    scale: float = 1.0
    """Factor from the recorded number to `unit`."""
    column: str = ""
    """Its column in tables, with the * of `name`; empty: no column."""
    head: str = ""
    """Heading of that column in a printed table; empty: CSV only."""
    digits: int = 2
    """Digits after the point in a printed table."""
    printed: float = 1.0
    """Factor from `unit` to the unit of the heading."""
    chart: str = ""
    """Section of the report that draws it over the epochs: training or inside; empty: none."""
    panel: str = ""
    """Panel of search.svg that draws it; empty: none."""
    label: str = ""
    """Label of its line in that panel."""

    @property
    def measured(self) -> bool:
        """Whether the quantity is an accuracy or a perplexity measured by nasx on the dataset of the run."""
        return self.unit in (PERCENT, PERPLEXITY) and "*" not in self.name

    def place(self, column: str) -> str:
        """Return the text that the * of the quantity's column matches in `column`."""
        before, _, after = self.column.partition("*")
        return column.removeprefix(before).removesuffix(after) if "*" in self.column else ""

    def text(self, value: float) -> str:
        """Format a recorded number for display: `94.21 %`, `58.10`."""
        return f"{self.scale * value:.{self.digits}f} {self.unit.symbol}".rstrip()

    def read(self, tree: Mapping[str, object]) -> Iterator[tuple[str, float]]:
        """Yield (match of *, number in `unit`) from a record or a row; NaN for null.

        Yields nothing for missing keys. Raises ValueError or TypeError for a value that is not a number.
        """
        head, star, tail = self.name.partition("*")
        if not star:
            yield "", self.scale * number(value_at(tree, self.name))
            return
        held = value_at(tree, head.rstrip("."))
        for place, child in held.items() if isinstance(held, Mapping) else ():
            inner = child if not tail else child.get(tail[1:], _ABSENT) if isinstance(child, Mapping) else _ABSENT
            if inner is not _ABSENT and re.fullmatch(r"[\w.-]+", place):
                yield place, self.scale * number(inner)


_ABSENT = object()
_UNITS = {name.lower(): unit for name, unit in vars().items() if isinstance(unit, Unit)}


def _read() -> Iterator[Quantity]:
    with Path(__file__).with_name("quantities.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield Quantity(
                row["name"],
                row["title"],
                _UNITS[row["unit"]],
                tuple(row["kinds"].split()),
                tuple(row["needs"].split()),
                int(row["better"]),
                float(row["scale"]),
                row["column"],
                row["head"],
                int(row["digits"]),
                float(row["printed"]),
                row["chart"],
                row["panel"],
                row["label"],
            )


QUANTITIES = tuple(_read())
"""Every number that a run measures (quantities.csv); settings, and statistics of a benchmark, are not included.

`found.*` and `cosine.*` are computed from a row when it is read (nasx.report.curves.derived). The costs of a cell that
a benchmark looks up are not objectives, since not every benchmark has them.
"""


def value_at(tree: object, name: str) -> Any:
    """Return the value at a dotted key; None if there is none."""
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def number(value: object) -> float:
    """Convert a recorded number to float; NaN for null, true and false. Raises ValueError or TypeError for others."""
    return math.nan if value is None or isinstance(value, bool) else float(value)  # type: ignore[arg-type]


def recorded(
    kinds: Collection[str], facts: Collection[str], answers: Iterable[str] = (), devices: Iterable[str] = ()
) -> Iterator[Quantity]:
    """Yield the quantities in the result.json of runs of these kinds with these facts.

    `answers` are the datasets and splits (cifar10.valid) of the benchmark, `devices` the devices with latencies.
    """
    answers = list(answers)
    for quantity in QUANTITIES:
        if set(kinds).intersection(quantity.kinds) and set(quantity.needs).issubset(facts):
            head, star, tail = quantity.name.partition("*")
            places = [place.removesuffix(tail) for place in answers if place.endswith(tail)] if tail else devices
            yield from (quantity._replace(name=head + place + tail) for place in (places if star else [""]))


def better(name: str) -> int:
    """Return +1 if higher is better for a recorded number, -1 if lower is, 0 if neither or unknown."""
    return next((q.better for q in QUANTITIES if fnmatchcase(name, q.name)), 0)


@lru_cache(maxsize=1024)
def of_column(column: str) -> Quantity | None:
    """Return the quantity of a table column; None if the column is not a quantity."""
    return next((q for q in QUANTITIES if q.column and fnmatchcase(column, q.column)), None)


def better_column(column: str) -> int:
    """Return `better` for the quantity of a table column."""
    quantity = of_column(column)
    return quantity.better if quantity else 0


def per_epoch(name: str) -> Quantity:
    """Return the quantity with the key `name` in metrics.jsonl. Raises KeyError if there is none."""
    for quantity in QUANTITIES:
        if "epoch" in quantity.kinds and fnmatchcase(name, quantity.name):
            return quantity._replace(name=name)
    raise KeyError(name)


def columns() -> list[str]:
    """Return the columns of numbers that every table has."""
    return list(dict.fromkeys(q.column for q in QUANTITIES if q.column and "*" not in q.column))


def measures(names: Iterable[str]) -> list[str]:
    """Return the given columns that are in `QUANTITIES`, the columns of every table first."""
    fixed, known = columns(), [name for name in names if of_column(name)]
    return [name for name in fixed if name in known] + [name for name in known if name not in fixed]


def lookups(names: Iterable[str]) -> list[str]:
    """Return the given columns that are benchmark accuracies, such as `cifar10.valid`."""
    return [name for name in names if (q := of_column(name)) and q.name.startswith("lookup.") and q.unit is PERCENT]
