"""Aggregate finished runs into one row per configuration: mean, sample standard deviation, and n.

    mean = (1/n) Σ x_i      std = sqrt(Σ (x_i − mean)² / (n − 1)),  NaN if n = 1

A row aggregates runs that differ only in the seed. Runs of different configurations, protocols, recipes or deviations
never share a row. A column states which values the ± is computed over: independent searches, retrainings of one
cell, or retrainings of several cells. Accuracies are in percent, `cost_s` is in seconds, and parameters are counts.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from nasx.benchmarks.base import Benchmark, Edges
from nasx.config import own_code
from nasx.core import spelling
from nasx.core.plain import Row
from nasx.core.quantities import lookups, measures
from nasx.errors import UserError
from nasx.results import random_baseline
from nasx.results.collect import rows_of
from nasx.results.significance import moments

KEYS = [
    "kind", "method", "space", "searched_on", "dataset", "protocol", "search", "recipe", "retrain", "labels",
    "reduced", "best_of", "study",
]  # fmt: skip
"""Columns that separate rows, in addition to the configuration."""
CARRIED = ("overrides", "family", "folder", "experiment", "parent_overrides", "parent_folder")
"""Columns copied from the first run of a row."""
ORDER = ["kind", "space", "searched_on", "dataset", "protocol", "recipe", "cells", "reference", "method", "setting"]
"""Sort keys of the rows."""
CHOSEN = {"method", "space", "dataset", "search", "retrain"}
"""Overrides that have a column of their own."""


def summary(frame: pd.DataFrame, group: Sequence[str] = (), *, reference: bool = True) -> pd.DataFrame:
    """Return one row per configuration, with `<m>_mean`, `<m>_std` (NaN if n = 1) and `<m>_n` for each measure m.

    `frame` is a result of `collect`; `group` lists additional columns that separate rows. If `reference`, rows for a
    random cell and the optimal cell of the benchmark are added (column `reference`), one pair for each set of cells
    available to the searches (column `cells`: `64 cells`, or empty for the whole benchmark). `attrs["notes"]` contains
    notes for readers.
    """
    names = measures(map(str, frame.columns))
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows_of(frame):
        # The hash of a retraining depends on its search, so its configuration is identified by its overrides.
        configuration = row["overrides"] if row["parent"] else row["family"] or row["overrides"]
        key = (*(row[k] for k in KEYS), configuration, row["parent_family"], *(row[k] for k in group))
        groups.setdefault(key, []).append(row)
    notes = list(frame.attrs.get("notes", []))
    rows: list[dict[str, object]] = []
    for members in groups.values():
        first = members[0]
        row = {k: first[k] for k in [*KEYS, *CARRIED, *group]}
        row["n"], row["std_over"], row["reference"] = len(members), _std_over(members), ""
        row["folders"] = tuple(m["folder"] for m in members)
        row["device"] = " / ".join(sorted({m["device"] for m in members if m["device"]}))
        row["gpu"] = all(m["gpu"] for m in members)
        row["environments"] = sum(bool(m["environments"]) for m in members)
        row["mixed_code"] = ", ".join(own_code.mixed((*m["code"], *m["parent_code"]) for m in members))
        row["benchmark"], row["cells"] = first["benchmark"], ""
        row["edges"] = next((m["edges"] for m in members if m["edges"]), ())  # earlier versions did not record edges
        row["source"] = " / ".join(sorted({m["source"] for m in members if m["source"]}))
        for measure in names:
            row |= _statistics(measure, [m[measure] for m in members])
        seeds = [m["seed"] for m in members]
        if first["kind"] == "search" and len(set(seeds)) < len(seeds):
            twice = ", ".join(sorted({str(s) for s in seeds if seeds.count(s) > 1}))
            often = "occurs more than once among runs of one configuration (other code or settings?); n counts each"
            notes.append(f"{first['method']} on {first['space']}: seed {twice} {often}")
        rows.append(row)
    notes += random_baseline.compare_with_random(rows, list(groups.values()))
    table = pd.DataFrame(rows)
    if len(table):
        table["settings"] = _settings(rows)
        table["setting"] = [" ".join(lines) for lines in table["settings"]]
        if reference:
            table = _with_reference(table)
        table = table.sort_values(ORDER, kind="stable", ignore_index=True)
    table.attrs["notes"] = notes
    return table


def _std_over(members: Sequence[Mapping[str, object]]) -> str:
    if members[0]["std_over"]:
        return str(members[0]["std_over"])
    if members[0]["kind"] == "search":
        return "searches"
    cells = {m["genotype"] or m["parent"] for m in members}
    if len(cells) == 1:
        return "retrainings of one cell"
    return "searches, each retrained once" if len(cells) == len(members) else f"retrainings of {len(cells)} cells"


def _statistics(measure: str, values: Iterable[float]) -> dict[str, float]:
    """Return the mean, sample standard deviation and number of the values that are not NaN (summed by math.fsum)."""
    known = [x for x in values if not math.isnan(x)]
    mean, variance = moments(known)
    return {f"{measure}_mean": mean, f"{measure}_std": math.sqrt(variance), f"{measure}_n": len(known)}


def _settings(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the overrides of each row, with the first digits of the configuration hash if these are ambiguous."""
    names = [[(line.partition("=")[0].lstrip("+"), line) for line in row["overrides"]] for row in rows]
    texts = [tuple(line for name, line in own if name not in CHOSEN) for own in names]
    clashes: dict[tuple[object, ...], set[str]] = {}
    keys = [(*(row[k] for k in KEYS), text) for row, text in zip(rows, texts, strict=True)]
    for key, row in zip(keys, rows, strict=True):
        clashes.setdefault(key, set()).add(row["family"])
    digits = {
        key: next(n for n in (8, 16, 32, None) if len({family[:n] for family in found}) == len(found))
        for key, found in clashes.items()
    }
    return [
        (*text, f"[{row['family'][: digits[key]]}]") if len(clashes[key]) > 1 and row["family"] else text
        for key, row, text in zip(keys, rows, texts, strict=True)
    ]


def errors(table: pd.DataFrame) -> pd.DataFrame:
    """Replace test accuracies in the rows of `summary` with test errors (100 - accuracy)."""
    if "test_accuracy_mean" not in table:
        return table
    found = table.rename(columns=lambda name: str(name).replace("test_accuracy_", "test_error_"))
    found["test_error_mean"] = 100 - found["test_error_mean"]
    measured = found["test_error_n"].astype(bool)
    found["versus"] = found["versus"].map(random_baseline.of_error).where(measured, found["versus"])
    notes = table.attrs.get("notes", [])
    found.attrs["notes"] = [note.replace("test_accuracy", "test_error, lower is better") for note in notes]
    return found


def benchmark_reference(benchmark: str, dataset: str, edges: Edges = ()) -> dict[str, dict[str, float]]:
    """Return {"random": {"valid": …, "test": …}, "optimum": …} over a benchmark's cells, in percent; {} if unknown.

    `edges` restricts the cells, see `Benchmark.reference`.
    """
    try:
        found = _benchmark(benchmark).reference(dataset, edges)
    except (ImportError, AttributeError, UserError):
        return {}
    return {
        kind: {part: value for part, values in found.items() if (value := values.get(key)) is not None}
        for kind, key in (("random", "mean"), ("optimum", "optimum"))
    }


def _benchmark(name: str) -> Benchmark:
    """Return the benchmark `name` with default settings. Raises ImportError or AttributeError."""
    found: Benchmark = getattr(importlib.import_module(f"nasx.benchmarks.{name}"), name.capitalize())()
    return found


def _with_reference(table: pd.DataFrame) -> pd.DataFrame:
    """Append rows for a random cell and the optimal cell of each set of cells available to the searches."""
    means = [str(c).removesuffix("_mean") for c in table.columns if str(c).endswith("_mean")]
    datasets = list(dict.fromkeys(column.rpartition(".")[0] for column in lookups(means)))
    empty: dict[str, object] = {
        str(c): 0 if c.endswith("_n") else math.nan if c.endswith(("_mean", "_std")) else "" for c in table.columns
    }
    empty |= {"kind": "search", "n": 0, "reduced": False, "best_of": 0, "gpu": False, "labels": (), "overrides": ()}
    more = []
    searches = table[(table["kind"] == "search") & (table["benchmark"] != "")]
    sets = dict.fromkeys(zip(searches["space"], searches["benchmark"], searches["edges"], strict=True))
    for (space, benchmark, edges), cells in zip(sets, _cells(list(sets)), strict=True):
        values = {dataset: benchmark_reference(str(benchmark), dataset, edges) for dataset in datasets}
        for kind in ("random", "optimum"):
            own = {"space": space, "reference": kind, "benchmark": benchmark, "edges": edges, "cells": cells}
            scores = [
                (f"{dataset}.{part}_mean", value)
                for dataset, named in values.items()
                for part, value in named.get(kind, {}).items()
            ]
            if scores:
                more.append(empty | own | dict(scores))
    return pd.concat([table, pd.DataFrame(more)], ignore_index=True) if more else table


def _count(benchmark: str, edges: Edges) -> str:
    try:
        n = _benchmark(benchmark).cells(edges)
    except (ImportError, AttributeError, UserError):
        return ""  # the reference row has no values either
    return spelling.counted(n, "cell")


def _cells(sets: Sequence[tuple[str, str, Edges]]) -> list[str]:
    """Label each (space, benchmark, edges), for example `64 cells`, adding the operations if that is ambiguous.

    The label of a space with all cells of its benchmark is empty.
    """
    counts = [_count(benchmark, edges) if edges else "" for _, benchmark, edges in sets]
    places = [(space, benchmark, count) for (space, benchmark, _), count in zip(sets, counts, strict=True)]
    for i, (_, _, edges) in enumerate(sets):
        if edges and places.count(places[i]) > 1:
            counts[i] += f" of {', '.join(dict.fromkeys(name for row in edges for name in row))}"
    return counts
