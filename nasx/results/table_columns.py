"""Format the rows of `summary` as sheets: searches with and without benchmark accuracies, and retrained networks.

Headings, digits and units of the columns are in core/quantities.csv. A note warns if a sheet contains several protocols
or recipes; texts that are the same in all rows move to the caption.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd

from nasx.core.plain import Row
from nasx.core.quantities import TITLES, of_column
from nasx.results.aggregate import errors
from nasx.results.collect import rows_of
from nasx.results.table_formats import Sheet
from nasx.tracking import lineage

DATASETS = {**TITLES, "imagenet": "ImageNet", "svhn": "SVHN", "ptb": "PTB", "digits": "digits"}
UNITS = {"days": 86400.0, "hours": 3600.0, "min": 60.0, "s": 1.0}
"""Unit of time -> its length in seconds, longest first."""
NO_TEST = "n/a: `nasx bench get nb201-test` downloads test accuracies, {} then adds them to finished runs"


class Measure(NamedTuple):
    """A column of numbers: heading, measure of `summary`, and number format."""

    head: str
    name: str
    digits: int = 2
    scale: float = 1.0
    missing: str = ""


def measure_of(column: str) -> Measure:
    """Return the Measure of a column of `summary`. Raises KeyError if the column is not a quantity."""
    quantity = of_column(column)
    if quantity is None:
        raise KeyError(column)
    place = quantity.place(column)
    return Measure(quantity.head.replace("*", DATASETS.get(place, place)), column, quantity.digits, quantity.printed)


def value(row: Row, measure: str, digits: int = 2, scale: float = 1.0, missing: str = "") -> str:
    """Format a mean as `91.55 ± 0.12`, or return `missing` if it is unknown.

    The ± is omitted if n = 1; n is appended if it differs from the n of the row.
    """
    mean, std, n = row.get(f"{measure}_mean", math.nan), row.get(f"{measure}_std", math.nan), row.get(f"{measure}_n", 0)
    if mean is None or math.isnan(mean):
        return missing
    text = f"{mean * scale:.{digits}f}" + ("" if std is None or math.isnan(std) else f" ± {std * scale:.{digits}f}")
    return text + (f" (n={int(n)})" if n and not math.isnan(n) and n != row.get("n") else "")


def cost(row: Row) -> str:
    """Format the mean wall time in s, min, hours or days (GPU-s, ... on a GPU); empty if it is unknown.

    The unit is the largest one in which the time is at least 1, or seconds if there is none.
    """
    seconds = row.get("cost_s_mean", math.nan)
    if seconds is None or math.isnan(seconds):
        return ""
    unit, scale = next(((unit, size) for unit, size in UNITS.items() if seconds >= size), ("s", 1.0))
    unit = f"GPU-{unit}" if row.get("gpu") else f"{unit} on CPU"
    return f"{value(row, 'cost_s', 2 if scale > 60 else 1, 1 / scale)} {unit}"


def seconds(text: str) -> float | None:
    """Convert text returned by `cost` to seconds, for sorting; return None for any other text."""
    units = "|".join(UNITS)
    found = re.fullmatch(rf"([\d.]+)[^A-Z]*?(?:GPU-({units})|({units}) on CPU)", text)
    return float(found[1]) * UNITS[found[2] or found[3]] if found else None


def name(row: Mapping[str, object]) -> str:
    """Format the method of a row, marking reference rows and best-of-k rows."""
    if row.get("reference"):
        of = f" of {row['cells']}" if row["cells"] else ""
        random = f"random cell{of or ' (benchmark mean)'}"
        return random if row["reference"] == "random" else f"optimum{of} (of each column)"
    return str(row["method"] or "–") + (f" ({chosen(row)})" if chosen(row) else "")


def chosen(row: Row) -> str:
    """Describe how a row's cell was chosen among several, for example `best of 4`; empty if it was not chosen."""
    if not row.get("best_of"):
        return ""
    on_test = str(row["std_over"]).endswith("by test accuracy")
    return f"best of {int(row['best_of'])}" + ", chosen on the test set" * on_test


def marks(row: Row) -> str:
    """List the marks of a row: enabled deviations, `reduced`, `several environments` and `mixed code`."""
    own = {"reduced": row["reduced"] is True} | {"several environments": row.get("environments")}
    own |= {"mixed code": row.get("mixed_code")}
    return ", ".join([*row["labels"], *(text for text, holds in own.items() if holds)])


ABOUT = ("against random", "verdict", "device")
"""Text columns that follow the number columns."""


def _text(column: str, row: Row) -> str:
    return "" if column == "dataset" and row["kind"] != "retrain" else str(row[column])


def distinct(rows: Sequence[Row]) -> tuple[str, list[str]]:
    """Return the overrides common to all rows, and the additional overrides of each row."""
    shared = [line for line in rows[0]["settings"] if all(line in row["settings"] for row in rows)] if rows else []
    return " ".join(shared), [" ".join(line for line in row["settings"] if line not in shared) for row in rows]


def sheets(table: pd.DataFrame, *, error: bool = False, group: Sequence[str] = ()) -> list[Sheet]:
    """Format the rows of `summary` as sheets: searches with and without benchmark accuracies, and retrained networks.

    `group` lists additional columns of `collect` that split rows; they are shown. If `error`, test errors replace test
    accuracies.
    """
    made = []
    table = errors(table) if error else table
    rows = rows_of(table)
    searches, retrained = ([row for row in rows if row["kind"] == kind] for kind in ("search", "retrain"))
    looked_up = [row for row in searches if row["benchmark"]]
    plain = [row for row in searches if not row["benchmark"]]
    budgeted = [measure_of("budget.ratio")] if any(value(row, "budget.ratio") for row in rows) else []
    if looked_up:
        datasets = [c.removesuffix(".valid_mean") for c in table.columns if c.endswith(".valid_mean")]
        accuracies = [
            measure_of(f"{d}.{part}")
            for d in datasets
            for part in ("valid", "test")
            if any(value(row, f"{d}.valid") for row in looked_up)
        ]
        benches = ", ".join(sorted({str(row["benchmark"]) for row in looked_up}))
        what = "accuracy in %, valid: validation; both means over the table's seeds"
        measures = [*accuracies, *budgeted]
        made.append(_made(f"Searches, looked up in {benches}", looked_up, measures, what, group, missing="n/a"))
        own = [row for row in looked_up if not row["reference"]]
        standing = [measure for measure in _standing(table, datasets) if any(value(row, measure.name) for row in own)]
        if standing:
            what = (
                "rank among the cells of the space, 1 is the best; below the optimum in percentage points; latency in "
                "ms of one forward pass"
            )
            made.append(_made(f"Ranks of these cells in {benches}", own, standing, what, group, priced=False))
    ranks = "it does not rank methods: retrain the cells to do so"
    tested = Measure("test error", "test_error") if error else measure_of("test_accuracy")
    for title, own, measures, what in (
        (
            "Searches without a benchmark accuracy",
            [row for row in plain if not row["supernet_perplexity_n"]],
            [measure_of("supernet_valid"), *budgeted],
            f"accuracy of the supernet in %; {ranks}",
        ),
        (
            "Searches on text",
            [row for row in plain if row["supernet_perplexity_n"]],
            [measure_of("supernet_perplexity")],
            f"perplexity of the supernet; {ranks}",
        ),
        (
            "Retrained networks",
            [row for row in retrained if not row["test_perplexity_n"]],
            [tested],
            f"test {'error' if error else 'accuracy'} of the last epoch in %",
        ),
        (
            "Retrained language models",
            [row for row in retrained if row["test_perplexity_n"]],
            [measure_of("valid_perplexity"), measure_of("test_perplexity")],
            "perplexity of the weights that are best on the validation text",
        ),
    ):
        if own:
            made.append(_made(title, own, measures, what, group))
    return made


def _standing(table: pd.DataFrame, datasets: Sequence[str]) -> list[Measure]:
    """Return the measures of a cell's ranks, differences from the optimum, and costs in its benchmark."""
    places = itertools.product(datasets, ("valid", "test"), ("rank", "below"))
    found = [measure_of(f"{dataset}.{part}_{what}") for dataset, part, what in places]
    means = [column.removesuffix("_mean") for column in table.columns if column.endswith("_mean")]
    devices = [column for column in means if column.startswith("latency.")]
    if not any(measure.name + "_mean" in table.columns for measure in found) and not devices:
        return []  # recorded by earlier versions
    return [*found, *map(measure_of, ["macs", *devices])]


def _made(
    title: str,
    rows: Sequence[Row],
    measures: Sequence[Measure],
    what: str,
    group: Sequence[str],
    missing: str = "–",
    priced: bool = True,
) -> Sheet:
    """Return a sheet; text columns with a single value move to the caption, except method and protocol.

    A sheet that is not `priced` follows a sheet with the same rows, and does not repeat the cost, the columns in
    `ABOUT`, and the notes.
    """
    columns = {
        "space": "space",
        "searched on": "searched_on",
        "trained on": "dataset",
        "protocol": "protocol",
        "study": "study",
        "recipe": "recipe",
        "setting": "setting",
        "against random": "versus",
        "verdict": "verdicts",
        "device": "device",
    }
    words: list[tuple[str, Callable[[Row], str]]] = [
        ("method", name),
        *((head, partial(_text, column)) for head, column in columns.items()),
    ]
    words.insert(8, ("marks", marks))
    heads = {head.replace(" ", "_") for head, _ in words} | {"dataset", "labels"}  # shown separately
    words[8:8] = [(column.replace("_", " "), partial(_text, column)) for column in group if column not in heads]
    words = words if priced else [(head, text) for head, text in words if head not in ABOUT]
    own = [row for row in rows if not row["reference"]]
    shared, settings = distinct(own)
    own = [{**row, "setting": setting} for row, setting in zip(own, settings, strict=True)]
    rows = own + [row for row in rows if row["reference"]]
    kept, constant = [], [f"set {shared}"] if shared else []
    for head, text in words:
        values = {text(row) for row in own}
        if head in ("method", "protocol") or len(values) > 1:
            kept.append((head, text))
        elif "".join(values):
            constant.append(f"{head} {values.pop()}")
    kept = [(head, text) for head, text in kept if any(map(text, rows))]
    at = next((i for i, (head, _) in enumerate(kept) if head in ABOUT), len(kept))
    measures = [*measures, measure_of("params")._replace(missing="–")]
    numbers: list[tuple[str, Callable[[Row], str]]] = [("n", lambda r: str(r["n"]) if r["n"] else "")]
    numbers += [
        (m.head, partial(value, measure=m.name, digits=m.digits, scale=m.scale, missing=m.missing or missing))
        for m in measures
    ]
    numbers += [("cost", lambda r: cost(r) or "–")] if priced else []
    shown = [*kept[:at], *numbers, *kept[at:]]
    over = sorted({str(row["std_over"]) for row in own if row["n"] > 1})
    head = f"Mean ± sample standard deviation over {' or '.join(over)} (n of them)"
    caption = f"{head if over else 'Single runs (n = 1), so no ±'}; {what}."
    caption += f" All rows: {'; '.join(constant)}." if constant else ""
    notes = []
    if len(over) > 1:
        meanings = sorted({f"{name(r)}: {r['std_over']}" for r in own if r["n"] > 1})
        notes.append(f"the ± has a different meaning in some rows: {'; '.join(meanings)}")
    for column in ("protocol", "recipe"):
        several = sorted({str(row[column]) for row in own if row[column]})
        if len(several) > 1:
            notes.append(f"rows differ in {column} ({', '.join(several)}): compare within one {column} only")
    if any(row["reduced"] is True for row in own):
        notes.append(
            "reduced: smaller than the protocol (fewer epochs, cells, channels or pixels); not a published setting"
        )
    if any(row["environments"] for row in own):
        notes.append(
            "several environments: runs that were resumed with other threads, versions or devices; the "
            "results are not bit-identical to those of a single environment"
        )
    if mixed := sorted({row["mixed_code"] for row in own if row["mixed_code"]}):
        notes.append(
            f"mixed code: runs of a row, or starts of one run, with different versions of {', '.join(mixed)}; "
            "delete the runs of the old code, or give the runs of the new code another name=..."
        )
    if any(row["best_of"] for row in own):
        notes.append("best of k: the best of k searches by a retraining of each, not a mean over searches")
    if any("test set" in chosen(row) for row in own):
        notes.append("chosen on the test set: the cell was chosen by its test accuracy, which is therefore optimistic")
    if any(" / " in str(row["device"]) for row in own):
        notes.append("cost is a mean over different devices if a row lists several")
    if any(each.name.endswith(".test") and not value(row, each.name) for row in rows for each in measures):
        roots = sorted({os.path.dirname(folder) for row in own for folder in row.get("folders") or ()})
        notes.append(NO_TEST.format(" and ".join(f"`{lineage.fill_command(root)}`" for root in roots)))
    left = frozenset(i for i, (head, _) in enumerate(shown) if head in dict(words))
    cells = tuple(tuple(f(row) for _, f in shown) for row in rows)
    rules = frozenset({len(own)} if len(own) < len(rows) else ())
    return Sheet(title, tuple(head for head, _ in shown), cells, caption, tuple(notes) if priced else (), rules, left)
