"""What a table's rows say of their searches, beside random search: how many collapsed, and whether chance would do.

    verdicts  of n searches, how many collapsed, have a warning, or had not settled (by their records' verdicts)
    versus    mean minus that of the random runs, with Welch's p over seeds (significance.py)

The random runs of a row are those of method `random` with one draw a seed, on the same space and data set, by the same
benchmark or retraining recipe; of several configurations of them the one with most runs. Their search protocol does
not matter: random search trains nothing. Measured is the look-up on the row's own data set, else on the first that all
runs have, test before validation; of retrained networks the test accuracy, or the test perplexity of language models.

Shapes: rows and members are parallel lists: a row of `summary`, and the rows of `collect` that it gathers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from nasx.results.significance import Difference, p_text, welch

RANDOM = "random"
SAME = ("kind", "space", "searched_on", "dataset", "benchmark", "recipe")
Members = Sequence[Mapping[str, Any]]


def judge(rows: Sequence[MutableMapping[str, Any]], members: Sequence[Members]) -> list[str]:
    """Set `verdicts`, `versus` (text) and `versus_p` of each row; returns the notes that explain them."""
    pairs = list(zip(rows, members, strict=True))
    pools: dict[tuple[Any, ...], Members] = {}
    for row, own in pairs:
        key = tuple(row[k] for k in SAME)
        if row["method"] == RANDOM and not row["best_of"] and not _chosen(own) and len(own) > len(pools.get(key, ())):
            pools[key] = own
    measures = set()
    for row, own in pairs:
        row["verdicts"], row["versus"], row["versus_p"] = verdicts(own), "", math.nan
        pool = pools.get(tuple(row[k] for k in SAME))
        if pool is None or row["method"] == RANDOM:
            continue
        name, found = against(own, pool)
        row["versus"] = versus(found)
        if found is not None:
            row["versus_p"] = found.p
            measures.add(name)
    names = ", ".join(f"{name}, lower is better" if "perplexity" in name else name for name in sorted(measures))
    return [f"against random: mean minus that of random search on the same space and data set ({names}); above or below"
            " where p < 0.05 by Welch's t test over runs, not corrected for the number of rows; unclear: these runs do"
            " not tell it from random search"] if measures else []


def _chosen(members: Members) -> bool:
    """Whether these random runs are the best of several draws."""
    return any(text.partition("=")[0] == "method.samples" for text in members[0]["overrides"])


def against(own: Members, pool: Members) -> tuple[str, Difference | None]:
    """The measure that both have, and the difference of `own` from `pool` (None where a side has fewer than two)."""
    both = [*own, *pool]
    name = retrained([m["test_accuracy"] for m in both])
    if own[0]["kind"] == "search":
        lookups = [k for k in own[0] if k.endswith((".test", ".valid")) and not any(math.isnan(m[k]) for m in both)]
        if not lookups:
            return "", None
        name = ranking(lookups, {own[0]["dataset"]})
    one, other = ([m[name] for m in side if not math.isnan(m[name])] for side in (pool, own))
    return name, welch(one, other)


def ranking(lookups: Sequence[str], own: Collection[str]) -> str:
    """The look-up to rank searches by: on one of their `own` data sets, else on the first; test before validation."""
    first = next((k for k in lookups if k.rpartition(".")[0] in own), lookups[0]).rpartition(".")[0]
    return f"{first}.test" if f"{first}.test" in lookups else f"{first}.valid"


def retrained(accuracies: Iterable[float]) -> str:
    """The measure of retrained networks with these test accuracies: language models have none."""
    return "test_perplexity" if all(map(math.isnan, accuracies)) else "test_accuracy"


def versus(found: Difference | None) -> str:
    """`above: +4.21 (p = 0.013)`, `unclear: +0.30 (p = 0.71)`; `n < 2` where nothing can be tested."""
    if found is None:
        return "n < 2"
    way = ("above" if found.mean > 0 else "below") if found.found else "unclear"
    return f"{way}: {found.mean:+.2f} ({p_text(found.p)})".replace("-", "−")


def verdicts(members: Members) -> str:
    """`2 of 4 collapsed, 1 with a warning, 3 not settled`; empty where no record has a verdict."""
    judged = [m for m in members if m.get("collapsed") is not None]
    if not judged:
        return ""
    count = {name: sum(bool(m.get(name)) for m in judged) for name in ("collapsed", "doubtful", "moving")}
    said = [f"{count['collapsed'] or 'none'} of {len(judged)} collapsed"]
    said += [f"{count[name]} {words}" for name, words in (("doubtful", "with a warning"), ("moving", "not settled"))
             if count[name]]
    return ", ".join(said)
