"""The table of all numbers that a run records.

Tables, charts, comparisons, `objective=` and the summary of a run read `QUANTITIES`: a number added here appears in all
of them. No torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
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
    """Its line in that panel."""

    @property
    def measured(self) -> bool:
        """Whether it is an accuracy or a perplexity measured by nasx on the dataset of the run."""
        return self.unit in (PERCENT, PERPLEXITY) and "*" not in self.name

    def place(self, column: str) -> str:
        """Return the text that the * of `column` matches in the name of a column."""
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
RUNS = ("search", "retrain")
ALL = (*RUNS, "study")
_FOUND = "Found operations"
_ALIGNED = "Layer alignment"


def _looked_up(part: str) -> list[Quantity]:
    """Return the quantities of a benchmark for the found cell, on one split of each dataset."""
    kinds, needs = ("search",), ("looked_up",)
    word = {"valid": "validation", "test": "test"}[part]
    return [
        Quantity(
            f"lookup.*.{part}", f"Found cell, * {word}", PERCENT, (*kinds, "epoch"), needs, 1,
            column=f"*.{part}", head=f"* {part}",
        ),
        Quantity(f"better_than.*.{part}", f"Share of worse cells, * {word}", WEIGHT, kinds, needs, 1),
        Quantity(
            f"rank.*.{part}", f"Rank, * {word}", NUMBER, kinds, needs, -1,
            column=f"*.{part}_rank", head=f"* {part} rank", digits=0,
        ),
        Quantity(
            f"below_optimum.*.{part}", f"Below the optimum, * {word}", POINTS, kinds, needs, -1,
            column=f"*.{part}_below", head=f"* {part} below optimum",
        ),
    ]  # fmt: skip


QUANTITIES = (
    # ------------------------------------------------------------------------------- results of searches
    Quantity(
        "supernet.valid_accuracy", "Supernet validation accuracy", PERCENT, ("search",), ("images", "trained"), 1, 100,
        column="supernet_valid", head="supernet valid",
    ),
    Quantity(
        "supernet.valid_perplexity", "Supernet validation perplexity", PERPLEXITY, ("search",), ("text", "trained"), -1,
        column="supernet_perplexity", head="supernet valid",
    ),
    Quantity("supernet.valid_loss", "Supernet validation loss", NATS, ("search",), ("trained",), -1),
    *_looked_up("valid"),
    *_looked_up("test"),
    Quantity(
        "lookup.latency.*", "Latency on *", MILLISECONDS, ("search",), ("looked_up",), -1,
        column="latency.*", head="* ms",
    ),
    Quantity("budget.cost", "Cost of the network found", NUMBER, ("search",), ("budgeted",), -1, column="budget.cost"),
    Quantity(
        "budget.ratio", "Cost of the network found / budget", NUMBER, ("search",), ("budgeted",), -1,
        column="budget.ratio", head="cost / budget",
    ),
    Quantity(
        "budget.nearest.cost", "Cost of the nearest network within the budget", NUMBER, ("search",), ("never",), -1,
        column="budget.nearest",
    ),
    Quantity("expected_cost", "Expected cost of the mixture", NUMBER, ("epoch",), chart="inside"),
    Quantity("supernet.params", "Parameters of the supernet", NUMBER, ("search",)),
    # ---------------------------------------------------------------------------- results of retrainings
    Quantity(
        "test_accuracy", "Test accuracy", PERCENT, ("retrain", "epoch"), ("images", "tested"), 1, 100,
        column="test_accuracy", head="test accuracy", chart="training",
    ),
    Quantity("test_accuracy", "Test accuracy", PERCENT, ("study",), ("images",), 1, 100),
    Quantity(
        "valid_accuracy", "Accuracy on the validation split", PERCENT, ("retrain", "epoch"), ("images", "held_out"), 1,
        100, chart="training",
    ),
    Quantity("best_test_accuracy", "Best test accuracy", PERCENT, ("retrain",), ("images", "tested"), 1, 100),
    Quantity("best_valid_accuracy", "Best held-out accuracy", PERCENT, ("retrain",), ("images", "held_out"), 1, 100),
    Quantity(
        "valid_perplexity", "Perplexity on the validation text", PERPLEXITY, ("retrain", "epoch"), ("text",), -1,
        column="valid_perplexity", head="valid perplexity", chart="training",
    ),
    Quantity(
        "test_perplexity", "Test perplexity", PERPLEXITY, ("retrain", "study"), ("text",), -1,
        column="test_perplexity", head="test perplexity",
    ),
    Quantity("test_loss", "Test loss", NATS, ("retrain", "epoch"), ("tested",), -1),
    Quantity("valid_loss", "Validation loss", NATS, ("retrain", "epoch"), ("held_out",), -1),
    Quantity("valid_loss", "Validation loss", NATS, ("retrain",), ("text",), -1),
    Quantity("params", "Parameters", NUMBER, ("retrain",), column="params", head="params (M)", printed=1e-6),
    Quantity("params", "Parameters", NUMBER, ("search",), ("looked_up",), column="params"),
    Quantity("params_with_auxiliary", "Parameters with the auxiliary head", NUMBER, ("retrain",)),
    Quantity(
        "macs", "Multiply-adds", NUMBER, ("retrain",),
        column="macs", head="mult-adds (M)", printed=1e-6,
    ),
    Quantity("items_per_s", "Items per second", NUMBER, ("retrain",), (), 1),
    # costs of a cell in a benchmark, which not every benchmark has, so these are not objectives
    Quantity("lookup.params", "Parameters", NUMBER, ("search",), ("never",), column="params"),
    Quantity("lookup.flops", "Multiply-adds", NUMBER, ("search",), ("never",), column="macs"),
    # ---------------------------------------------------------------------------------------------- cost
    Quantity("updates", "Weight updates", NUMBER, (*RUNS, "epoch"), column="updates", digits=0),
    Quantity("passes", "Forward and backward passes", NUMBER, RUNS, column="passes", digits=0),
    Quantity("wall_s", "Wall time", SECONDS, (*ALL, "epoch"), (), -1, column="cost_s"),
    Quantity("peak_mb", "Peak memory", MEGABYTES, RUNS, (), -1, column="peak_mb", digits=0),
    # ----------------------------------------------------------------------------------- over the epochs
    Quantity("train_loss", "Training loss", NATS, ("epoch",), chart="training"),
    Quantity("val_loss", "Loss on validation batches", NATS, ("epoch",), chart="training"),
    Quantity("train_accuracy", "Training accuracy", PERCENT, ("epoch",), scale=100, chart="training"),
    Quantity("val_accuracy", "Accuracy on validation batches", PERCENT, ("epoch",), scale=100),
    Quantity("train_perplexity", "Training perplexity", PERPLEXITY, ("epoch",), chart="training"),
    Quantity("val_perplexity", "Perplexity on validation batches", PERPLEXITY, ("epoch",)),
    Quantity(
        "eigenvalue", "Dominant eigenvalue of the Hessian", REAL, ("epoch",),
        chart="inside", panel="Hessian eigenvalue",
    ),
    Quantity(
        "alignment_train", "Layer alignment, training gradients", COSINE, ("epoch",),
        chart="inside", panel=_ALIGNED, label="training",
    ),
    Quantity(
        "alignment_val", "Layer alignment, validation gradients", COSINE, ("epoch",),
        chart="inside", panel=_ALIGNED, label="validation",
    ),
    Quantity("alignment", "Layer alignment of the training step", COSINE, ("epoch",)),
    Quantity("over_steps.alignment_val", "Layer alignment, mean over steps", COSINE, ("epoch",), chart="inside"),
    Quantity("cosine.node", "Similarity of node gradients between cells", COSINE, ("epoch",), chart="inside"),
    Quantity("cosine.output", "Similarity of convolution outputs between cells", COSINE, ("epoch",), chart="inside"),
    Quantity(
        "found.parametric", "Operations with weights", NUMBER, ("epoch",),
        chart="inside", panel=_FOUND, label="learned",
    ),
    Quantity(
        "found.skip", "Skip connections of the found cell", NUMBER, ("epoch",),
        chart="inside", panel=_FOUND, label="skip",
    ),
    Quantity("found.pool", "Pooling operations of the found cell", NUMBER, ("epoch",), panel=_FOUND, label="pooling"),
    Quantity("found.none", "Zero operations of the found cell", NUMBER, ("epoch",), panel=_FOUND, label="none"),
    Quantity(
        "entropy", "Entropy of the mixture", ENTROPY, ("epoch",), chart="inside", panel="Entropy of the mixture"
    ),
    Quantity(
        "probes.*.cosine", "Error bar of *, cosine", COSINE, ("epoch",), chart="inside", panel="Error bars, cosine"
    ),
    Quantity(
        "probes.*.difference", "Error bar of *, relative difference", RATIO, ("epoch",),
        chart="inside", panel="Error bars, relative difference",
    ),
    Quantity("probes.*.norm", "Error bar of *, relative length", RATIO, ("epoch",)),
    Quantity("probes.*.count", "Comparisons of *", NUMBER, ("epoch",)),
    Quantity("change", "Change of the mixture per epoch", DISTANCE, ("epoch",), chart="inside"),
    Quantity("none_weight", "Weight of none", WEIGHT, ("epoch",), chart="inside"),
    Quantity("saturation", "Saturation of the mixture", WEIGHT, ("epoch",)),
    Quantity("moved", "Edges that changed their operation", NUMBER, ("epoch",)),
    Quantity("lr", "Learning rate of the weights", REAL, ("epoch",)),
)  # fmt: skip
"""Every number that a run measures; settings, and statistics of a benchmark, are not included.

`found.*` and `cosine.*` are computed from a row when it is read (nasx.report.curves.derived).
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

    `answers` are the datasets and splits (cifar10.valid) of the benchmark, `devices` those with latencies in it.
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
    """Return `better` of a table column."""
    quantity = of_column(column)
    return quantity.better if quantity else 0


def per_epoch(name: str) -> Quantity:
    """Return the quantity with the key `name` in metrics.jsonl. Raises KeyError if there is none."""
    for quantity in QUANTITIES:
        if "epoch" in quantity.kinds and fnmatchcase(name, quantity.name):
            return quantity._replace(name=name)
    raise KeyError(name)


def columns() -> list[str]:
    """Return the number columns of every table."""
    return list(dict.fromkeys(q.column for q in QUANTITIES if q.column and "*" not in q.column))


def measures(names: Iterable[str]) -> list[str]:
    """Return those of these columns that are in `QUANTITIES`, the columns of every table first."""
    fixed, known = columns(), [name for name in names if of_column(name)]
    return [name for name in fixed if name in known] + [name for name in known if name not in fixed]


def lookups(names: Iterable[str]) -> list[str]:
    """Return those of these columns that are benchmark accuracies: `cifar10.valid`."""
    return [name for name in names if (q := of_column(name)) and q.name.startswith("lookup.") and q.unit is PERCENT]
