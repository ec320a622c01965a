"""Table of all numbers that a run records.

Tables, charts, comparisons, `objective=` and run summaries read `QUANTITIES`: a number added here appears in all of
them. This module does not import torch.
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
    """A unit: its symbol in text, its axis label, and the range of its values."""

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
    """Title of its chart and of its comparison."""
    unit: Unit = NUMBER
    kinds: tuple[str, ...] = ()
    """The files that contain it: the result.json of a search, retrain or study, or metrics.jsonl (epoch)."""
    needs: tuple[str, ...] = ()
    """Conditions on the configuration under which it is recorded: images or text, trained, looked_up, tested, held_out,
    budgeted (nasx.config.objectives)."""
    better: int = 0
    """+1 if higher is better, -1 if lower is better, 0 if neither."""
    scale: float = 1.0
    """Factor from the recorded number to `unit`."""
    column: str = ""
    """Its column in tables, with a * if `name` has one; empty: no column."""
    head: str = ""
    """Heading of that column in a printed table; empty: CSV only."""
    digits: int = 2
    """Digits after the decimal point in a printed table."""
    printed: float = 1.0
    """Factor from `unit` to the unit of the heading."""
    chart: str = ""
    """Section of the report that plots it against epochs: training or inside; empty: none."""
    panel: str = ""
    """Panel of search.svg that plots it; empty: none."""
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
        """Yield (text that * matches, number in `unit`) from a record or a row; NaN for null.

        A missing key yields NaN, or nothing if `name` has a *. Raises ValueError or TypeError for other values.
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
"""All numbers that a run measures (quantities.csv), without settings and statistics of benchmarks.

`found.*` and `cosine.*` are computed from a row when it is read (nasx.report.curves.derived). The costs that a
benchmark gives for a cell are not objectives, because not every benchmark has them.
"""


def value_at(tree: object, name: str) -> Any:
    """Return the value at a dotted key; None if the key is missing."""
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def number(value: object) -> float:
    """Convert a recorded number to float; NaN for null, true and false. Raises ValueError or TypeError otherwise."""
    return math.nan if value is None or isinstance(value, bool) else float(value)  # type: ignore[arg-type]


def recorded(
    kinds: Collection[str], facts: Collection[str], answers: Iterable[str] = (), devices: Iterable[str] = ()
) -> Iterator[Quantity]:
    """Yield the quantities that runs of these `kinds`, with these `facts`, record in result.json.

    `answers` are the benchmark's datasets and splits (cifar10.valid), `devices` the devices with known latencies.
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
    """Return +1 if higher is better in a table column, -1 if lower is, 0 if neither or unknown."""
    quantity = of_column(column)
    return quantity.better if quantity else 0


def per_epoch(name: str) -> Quantity:
    """Return the quantity with the key `name` in metrics.jsonl. Raises KeyError if there is none."""
    for quantity in QUANTITIES:
        if "epoch" in quantity.kinds and fnmatchcase(name, quantity.name):
            return quantity._replace(name=name)
    raise KeyError(name)


def columns() -> list[str]:
    """Return the numeric columns that every table has."""
    return list(dict.fromkeys(q.column for q in QUANTITIES if q.column and "*" not in q.column))


def measures(names: Iterable[str]) -> list[str]:
    """Return the given columns that are in `QUANTITIES`; those that every table has come first."""
    fixed, known = columns(), [name for name in names if of_column(name)]
    return [name for name in fixed if name in known] + [name for name in known if name not in fixed]


def lookups(names: Iterable[str]) -> list[str]:
    """Return the given columns that are benchmark accuracies, such as `cifar10.valid`."""
    return [name for name in names if (q := of_column(name)) and q.name.startswith("lookup.") and q.unit is PERCENT]
