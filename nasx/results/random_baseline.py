"""What a table's rows say of their searches, beside random search: how many collapsed, and whether chance would do.

    verdicts  of n searches, how many collapsed, have a warning, or had not settled (by their records' verdicts)
    versus    mean minus that of the random runs, with Welch's p over searches (significance.py)

The random runs of a row are those of method `random` with one draw a seed, on the same space and data set, by the same
benchmark or the same retraining, reduced or not; of several configurations of them the one with most runs. Their search
protocol does not matter: random search trains nothing. Retrainings of one search count as one value, their mean. A cell
that was chosen among several, and a single one, are not tested: no number of retrainings makes them a method. Measured
is the look-up on the row's own data set, else on the first that all runs have, test before validation; of retrained
networks the test accuracy, or the test perplexity of language models.

Shapes: rows and members are parallel lists: a row of `summary`, and the rows of `collect` that it gathers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from nasx.core.quantities import better_column, lookups
from nasx.results.differences import configuration
from nasx.results.significance import Difference, by_search, p_text, welch

RANDOM = "random"
SAME = ("kind", "space", "searched_on", "dataset", "benchmark", "recipe", "retrain")
UNTESTED = {"one cell": "retrainings of a single cell", "chosen cell": "retrainings of the best of several cells"}
"""What `versus` says of rows that are no sample of searches -> what that means."""
Members = Sequence[Mapping[str, Any]]


def judge(rows: Sequence[MutableMapping[str, Any]], members: Sequence[Members]) -> list[str]:
    """Set `verdicts`, `versus` (text) and `versus_p` of each row; returns the notes that explain them."""
    pairs = list(zip(rows, members, strict=True))
    pools: dict[tuple[Any, ...], Members] = {}
    for row, own in pairs:
        if row["method"] != RANDOM or row["best_of"] or _chosen(own[0]):
            continue
        key = _alike(row, own[0])
        if len(own) > len(pools.get(key, ())):
            pools[key] = own
    measures, untested = set(), set()
    for row, own in pairs:
        row["verdicts"], row["versus"], row["versus_p"] = verdicts(own), "", math.nan
        pool = pools.get(_alike(row, own[0])) if pools else None
        if pool is None or row["method"] == RANDOM:
            continue
        name, found = against(own, pool)
        if name and (row["best_of"] or (len(own) > 1 and len(by_search(own, name)) == 1)):
            row["versus"] = "chosen cell" if row["best_of"] else "one cell"
            untested.add(row["versus"])
        elif name:
            row["versus"] = versus(found, name)
            if found is not None:
                row["versus_p"] = found.p
                measures.add(name)
    names = ", ".join(f"{name}, lower is better" if better_column(name) < 0 else name for name in sorted(measures))
    notes = [
        f"against random: mean minus that of random search on the same space and data set ({names}); better or"
        " worse where p < 0.05 by Welch's t test over searches (of several retrainings of one their mean), not"
        " corrected for the number of rows; unclear: these runs do not tell it from random search"
    ]
    return [
        *(notes if measures else []),
        *(
            f"against random, {word}: not tested, {UNTESTED[word]} tell nothing of a method"
            for word in sorted(untested)
        ),
    ]


def _alike(row: Mapping[str, Any], run: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row shares with the random runs that it may be set beside; `run` is one of its own."""
    same = tuple(row[k] for k in SAME)
    if row["kind"] == "search":  # a benchmark's answer is the same for the cell of a short search
        return same
    held = [f"{key}={value}" for key, value in configuration(run["folder"]).items() if key.startswith("retrain.")]
    given = [text.lstrip("+") for text in run["overrides"]]
    held = held or [text for text in given if text.startswith("retrain.")]
    return (*same, row["reduced"], *sorted(held), *(text for text in given if text.startswith("dataset.")))


def _chosen(run: Mapping[str, Any]) -> bool:
    """Whether this random run is the best of several draws: by its configuration, else by its command line."""
    given = dict(text.lstrip("+").partition("=")[::2] for text in (*run["overrides"], *run["parent_overrides"]))
    held = (configuration(folder).get("method.samples") for folder in (run["parent_folder"], run["folder"]) if folder)
    return next((value for value in held if value), given.get("method.samples", "1")) != "1"


def against(own: Members, pool: Members) -> tuple[str, Difference | None]:
    """The measure that both have (empty where there is none), and the difference of `own` from `pool` over searches
    (None where a side has fewer than two)."""
    both = [*own, *pool]
    name = retrained([m["test_accuracy"] for m in both])
    if own[0]["kind"] == "search":
        known = [column for column in lookups(own[0]) if not any(math.isnan(m[column]) for m in both)]
        if not known:
            return "", None
        name = ranking(known, {own[0]["dataset"]})
    one, other = by_search(pool, name), by_search(own, name)
    return (name, welch(one, other)) if one and other else ("", None)


def ranking(lookups: Sequence[str], own: Collection[str]) -> str:
    """The look-up to rank searches by: on one of their `own` data sets, else on the first; test before validation."""
    first = next((k for k in lookups if k.rpartition(".")[0] in own), lookups[0]).rpartition(".")[0]
    return f"{first}.test" if f"{first}.test" in lookups else f"{first}.valid"


def retrained(accuracies: Iterable[float]) -> str:
    """The measure of retrained networks with these test accuracies: language models have none."""
    return "test_perplexity" if all(map(math.isnan, accuracies)) else "test_accuracy"


def versus(found: Difference | None, measure: str) -> str:
    """`better: +4.21 (p = 0.013)`, `unclear: +0.30 (p = 0.71)`; `n < 2` where nothing can be tested."""
    if found is None:
        return "n < 2"
    way = ("better" if (found.mean > 0) != (better_column(measure) < 0) else "worse") if found.found else "unclear"
    return f"{way}: {found.mean:+.2f} ({p_text(found.p)})".replace("-", "−")


def tested(row: Mapping[str, Any]) -> bool:
    """Whether a row was set beside random search by the test."""
    return not math.isnan(row["versus_p"])


def of_error(text: str) -> str:
    """What `versus` says of an accuracy, said of the error 100 - accuracy: the same words, the other sign."""
    return text.translate(str.maketrans("+−", "−+"))


def verdicts(members: Members) -> str:
    """`2 of 4 collapsed, 1 with a warning, 3 not settled`; empty where no record has a verdict."""
    judged = [m for m in members if m.get("collapsed") is not None]
    if not judged:
        return ""
    count = {name: sum(bool(m.get(name)) for m in judged) for name in ("collapsed", "warning", "not_converged")}
    said = [f"{count['collapsed'] or 'none'} of {len(judged)} collapsed"]
    said += [
        f"{count[name]} {words}"
        for name, words in (("warning", "with a warning"), ("not_converged", "not settled"))
        if count[name]
    ]
    return ", ".join(said)
