"""Compare the rows of a table with random search, and count the verdicts of their searches.

    verdicts  number of searches that collapsed, have a warning, or did not converge, according to their records
    versus    mean minus the mean of the random runs, with the p value of Welch's t test over searches (significance.py)

The random runs of a row have the method `random` with one draw per seed, the same space and dataset, and the same
benchmark or the same retraining settings. If several configurations qualify, the one with the most runs is used. Their
search protocol is irrelevant, because random search trains nothing. Retrainings of one search count as one value, their
mean. A single cell, or a cell chosen among several, is not tested, because retrainings of one cell are not a sample of
the method. The measure is the benchmark accuracy on the dataset of the row, or else on the first dataset that all runs
have, test before validation. For retrained networks it is the test accuracy, or the test perplexity of language models.

Shapes: `rows` and `members` are parallel: each row of `summary`, and the rows of `collect` that it aggregates.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from nasx.core.plain import Row
from nasx.core.quantities import better_column, lookups
from nasx.results.differences import configuration
from nasx.results.significance import Difference, by_search, p_text, welch

RANDOM = "random"
SAME = ("kind", "space", "searched_on", "dataset", "benchmark", "recipe", "retrain")
UNTESTED = {"one cell": "retrainings of a single cell", "chosen cell": "retrainings of the best of several cells"}
"""Values of `versus` for rows that are not a sample of searches -> explanation."""
Members = Sequence[Row]


def compare_with_random(rows: Sequence[dict[str, object]], members: Sequence[Members]) -> list[str]:
    """Set `verdicts`, `versus` (texts) and `versus_p` in each row; return the notes that explain them."""
    pairs = list(zip(rows, members, strict=True))
    pools: dict[tuple[object, ...], Members] = {}
    for row, own in pairs:
        if row["method"] != RANDOM or row["best_of"] or _chosen(own[0]):
            continue
        key = _key(row, own[0])
        if len(own) > len(pools.get(key, ())):
            pools[key] = own
    measures, untested = set[str](), set[str]()
    for row, own in pairs:
        row["verdicts"], row["versus"], row["versus_p"] = verdicts(own), "", math.nan
        pool = pools.get(_key(row, own[0])) if pools else None
        if pool is None or row["method"] == RANDOM:
            continue
        name, found = against(own, pool)
        if name and (row["best_of"] or (len(own) > 1 and len(by_search(own, name)) == 1)):
            row["versus"] = word = "chosen cell" if row["best_of"] else "one cell"
            untested.add(word)
        elif name:
            row["versus"] = versus(found, name)
            if found is not None:
                row["versus_p"] = found.p
                measures.add(name)
    names = ", ".join(f"{name}, lower is better" if better_column(name) < 0 else name for name in sorted(measures))
    notes = [
        f"against random: mean minus that of random search on the same space and dataset ({names}); better or"
        " worse if p < 0.05 by Welch's t test over searches (mean over the retrainings of one search), not"
        " corrected for the number of rows; unclear: no significant difference from random search"
    ] * bool(measures)
    why = "are not a sample of the method"
    return notes + [f"against random, {word}: not tested, {UNTESTED[word]} {why}" for word in sorted(untested)]


def _key(row: Mapping[str, object], run: Row) -> tuple[object, ...]:
    """Return the key that a row shares with comparable random runs; `run` is one of its runs."""
    same = tuple(row[k] for k in SAME)
    if row["kind"] == "search":  # a benchmark accuracy does not depend on the length of the search
        return same
    held = [f"{key}={value}" for key, value in configuration(run["folder"]).items() if key.startswith("retrain.")]
    given = [text.lstrip("+") for text in run["overrides"]]
    held = held or [text for text in given if text.startswith("retrain.")]
    return (*same, row["reduced"], *sorted(held), *(text for text in given if text.startswith("dataset.")))


def _chosen(run: Row) -> bool:
    """Return whether a random run is the best of several draws, by its configuration or else its command line."""
    given = dict(text.lstrip("+").partition("=")[::2] for text in (*run["overrides"], *run["parent_overrides"]))
    held = (configuration(folder).get("method.samples") for folder in (run["parent_folder"], run["folder"]) if folder)
    return next((value for value in held if value), given.get("method.samples", "1")) != "1"


def against(own: Members, pool: Members) -> tuple[str, Difference | None]:
    """Return the common measure (empty if there is none) and the difference `own` - `pool`, tested over searches.

    The difference is None if either side has fewer than two searches.
    """
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
    """Return the column of `lookups` that ranks searches: on a dataset in `own`, else the first; test if available."""
    first = next((k for k in lookups if k.rpartition(".")[0] in own), lookups[0]).rpartition(".")[0]
    return f"{first}.test" if f"{first}.test" in lookups else f"{first}.valid"


def retrained(accuracies: Iterable[float]) -> str:
    """Return the measure of retrained networks: test accuracy, or test perplexity if all accuracies are NaN."""
    return "test_perplexity" if all(map(math.isnan, accuracies)) else "test_accuracy"


def versus(found: Difference | None, measure: str) -> str:
    """Format a difference as `better: +4.21 (p = 0.013)` or `unclear: +0.30 (p = 0.71)`; None as `n < 2`."""
    if found is None:
        return "n < 2"
    way = ("better" if (found.mean > 0) != (better_column(measure) < 0) else "worse") if found.found else "unclear"
    return f"{way}: {found.mean:+.2f} ({p_text(found.p)})".replace("-", "−")


def tested(row: Row) -> bool:
    """Return whether a row was tested against random search."""
    return not math.isnan(row["versus_p"])


def of_error(text: str) -> str:
    """Convert a `versus` text for an accuracy to one for the error (100 - accuracy) by reversing the sign."""
    return text.translate(str.maketrans("+−", "−+"))


def verdicts(members: Members) -> str:
    """Count verdicts as `2 of 4 collapsed, 1 with a warning, 3 not converged`; empty if no record has a verdict."""
    judged = [m for m in members if m.get("collapsed") is not None]
    if not judged:
        return ""
    collapsed, warned, unsettled = (
        sum(bool(m.get(name)) for m in judged) for name in ("collapsed", "warning", "not_converged")
    )
    said = [f"{collapsed or 'none'} of {len(judged)} collapsed"]
    said += [f"{warned} with a warning"] * bool(warned) + [f"{unsettled} not converged"] * bool(unsettled)
    return ", ".join(said)
