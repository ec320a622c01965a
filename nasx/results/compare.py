"""Compare two groups of finished runs: the difference of their means, its uncertainty, and the differing settings.

See nasx/cli/compare.py for the syntax of groups, the statistical test, and the comparisons that raise an error.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from nasx.config import own_code
from nasx.core.plain import Row
from nasx.core.quantities import lookups, measures, of_column
from nasx.core.spelling import counted, suggest
from nasx.errors import UserError
from nasx.results import conditions as results_conditions
from nasx.results import differences, random_baseline
from nasx.results.collect import collect, mark, rows_of
from nasx.results.significance import LEVEL, Difference, by_search, moments, p_text, welch

SAME = {"kind": "command", "protocol": "protocol", "recipe": "recipe", "benchmark": "benchmark"}
"""Columns that must have a single value over both groups -> their names in error messages."""
RETRAININGS = "retrainings"
"""Name of the compared values if each group consists of retrainings of one cell."""


def written(word: str) -> str:
    """Return the conditions of a group as a user writes them: key=value, separated by commas."""
    return ",".join(part.replace(":", "=", 1) for part in word.split(","))


def _condition(word: str) -> bool:
    """Return whether an argument starts like a condition: a name followed by `=` or `:`."""
    return re.match(r"[a-z_]\w*(\.\w+)*[=:]", word) is not None


def group(word: str, runs: str, read: Callable[[str], pd.DataFrame] = collect) -> pd.DataFrame:
    """Return the finished runs selected by an argument: a folder, a glob, or conditions on the runs below `runs`.

    Raises UserError if there are none.
    """
    path = os.path.expanduser(word)
    conditions = word.split(",")
    if not os.path.exists(path) and all(map(_condition, conditions)):
        frame = read(runs)
        found = frame
        for condition in conditions:
            found = results_conditions.pick(found, condition, "")
        if found.empty:
            fault = f"matches no finished run ({counted(len(frame), 'run')} below {runs})"
            other = "set another folder with runs=FOLDER"
            remedy = results_conditions.remedy(frame, conditions) if len(frame) else other
            raise UserError(written(word), fault, remedy)
        return found.drop_duplicates("folder")  # a run may belong to two studies
    if not os.path.exists(path) and not glob.glob(path):
        remedy = "for example nasx compare method=darts method=random"
        raise UserError(word, "is neither a folder of runs nor a condition", remedy)
    found = read(path).drop_duplicates("folder")
    if found.empty:
        fault = f"contains no finished run ({'; '.join(found.attrs['notes']) or 'it is empty'})"
        raise UserError(word, fault, "use a folder of runs, or conditions such as method=darts")
    return found


def text(names: Sequence[str], groups: Sequence[pd.DataFrame], metric: str = "auto") -> str:
    """Return the comparison of two groups as text. Raises UserError if they cannot be compared."""
    both = _joined(names, groups)
    metric = choose(both) if metric == "auto" else metric
    known = measures(map(str, both.columns))
    quantity = of_column(metric) if metric in known else None
    if quantity is None:
        raise UserError(f"metric={metric}", "is not a metric of these runs", suggest(metric, known))
    if quantity.measured:
        _check_single_value(both, names, "dataset", "dataset")
    groups = [frame if metric in frame else frame.assign(**{metric: math.nan}) for frame in groups]
    values, counted = _values(names, groups, metric)
    found = welch(*values)
    assert found is not None  # _values raises an error for smaller groups
    unit = quantity.unit.symbol
    lines = [line for name, frame in zip(names, groups, strict=True) for line in _configurations_warning(name, frame)]
    lines.append(f"{metric}{f' ({unit})' if unit else ''}")
    width = max(map(len, names)) + 2
    for letter, name, own, frame in zip("AB", names, values, groups, strict=True):
        mean, variance = moments(own)
        runs = frame[metric].notna().sum()
        detail = f" searches ({runs} runs, each search's mean is one value)" if len(own) < runs else ""
        spread = f"{number(mean)} ± {number(math.sqrt(variance))}"
        lines.append(f"  {letter}  {name.ljust(width)}{spread}   n = {len(own)}{detail}")
    lines += ["", sentence(found, unit, counted)]
    if counted == RETRAININGS:
        note = "note: each group consists of retrainings of one cell: the comparison is of these cells, not of methods"
        lines.append(note)
    for name, frame in zip(names, groups, strict=True):
        if best := sorted({int(k) for k in frame["best_of"] if k}):
            of = f"{' or '.join(map(str, best))} searches, which is not a mean over searches"
            lines.append(f"note: {name} contains cells chosen as the best of {of}")
        if mixed := own_code.mixed((*row["code"], *row["parent_code"]) for row in rows_of(frame)):
            lines.append(f"note: {name} contains runs of different versions of {', '.join(mixed)} (mixed code)")
    lines += ["", *_configurations(groups)]
    return "\n".join(lines)


def _configurations_warning(name: str, frame: pd.DataFrame) -> Iterator[str]:
    """Yield a warning if a group has several configurations, with a condition that selects one of them."""
    families = [list(own["folder"]) for _, own in frame.groupby("family")]
    if len(families) < 2:
        return
    found = differences.rows(families)
    differ = ", ".join(f"{row.key} ({', '.join(dict.fromkeys(row.values))})" for row in found[:3])
    more = f" and {len(found) - 3} other settings" if len(found) > 3 else ""
    one = f"{name},{found[0].key}={found[0].values[0]}" if found else ""
    remedy = f"; to compare one of them, add a condition, for example {one}" * bool(one)
    yield (
        f"warning: {name} contains runs of {len(families)} configurations, and its mean is over all of them"
        f"{f'. They differ in {differ}{more}' * bool(found)}{remedy}"
    )


def _joined(names: Sequence[str], groups: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return both groups as one frame. Raises one UserError with all reasons why they cannot be compared."""
    faults = []
    one, other = (dict(pair for row in rows_of(frame) for pair in _marks(row)) for frame in groups)
    twice = sorted({one[mark] for mark in one.keys() & other.keys()})
    if twice:
        shared = f"share {counted(len(twice), 'run')} ({', '.join(twice[:3])}{', …' * (len(twice) > 3)})"
        faults.append(UserError(" and ".join(names), shared, "use groups with no runs in common"))
    both = pd.concat([frame.assign(side=name) for name, frame in zip(names, groups, strict=True)], ignore_index=True)
    for column, word in SAME.items():
        try:
            _check_single_value(both, names, column, word)
        except UserError as fault:
            faults.append(fault)
    if faults:
        raise UserError.join(faults)
    return both


def _marks(row: Row) -> Iterator[tuple[object, str]]:
    """Yield (key, folder name) pairs that identify a run: its real path, and the `mark` that its copies share."""
    place = os.path.realpath(row["folder"])
    yield place, os.path.basename(place)
    if row["identity"]:
        yield mark(row), os.path.basename(place)


def _check_single_value(both: pd.DataFrame, names: Sequence[str], column: str, word: str) -> None:
    """Raise UserError if `column` has several non-empty values."""
    found = sorted({str(value) for value in both[column] if value})
    if len(found) > 1:
        sides = {name: list(map(str, both[both["side"] == name][column])) for name in names}
        detail = "; ".join(f"{name}: {', '.join(sorted(set(own)))}" for name, own in sides.items())
        commonest = max(found, key=lambda value: min(own.count(value) for own in sides.values()))
        fault = f"contain runs with different {word}s ({detail})"
        remedy = f"restrict both groups to one of them, for example with {column}={commonest}"
        raise UserError(" and ".join(names), fault, remedy)


def choose(both: pd.DataFrame) -> str:
    """Return the metric to compare: test accuracy or perplexity of retrainings, or benchmark accuracy of searches.

    The benchmark accuracy is on the dataset of the searches, or else on the first dataset for which all searches have
    one, test before validation. Raises UserError if there is none.
    """
    if both["kind"].iloc[0] == "retrain":
        return random_baseline.retrained(both["test_accuracy"])
    found = [column for column in lookups(map(str, both.columns)) if both[column].notna().all()]
    if not found:
        known = both[list(lookups(map(str, both.columns)))].notna().any(axis=1)
        lacking = [os.path.basename(folder) for folder in both[~known]["folder"]]
        if known.any() and lacking:
            fault = f"{len(lacking)} of {len(both)} searches have no benchmark accuracy ({', '.join(lacking[:3])})"
            raise UserError("nasx compare", fault, "exclude them with a condition, for example space=nb201")
        fault = (
            "these searches have no benchmark accuracy in common, and the supernet's accuracy cannot be used to rank "
            "methods"
        )
        raise UserError("nasx compare", fault, "retrain their cells, or set another metric, such as metric=cost_s")
    return random_baseline.ranking(found, set(both["dataset"]))


def _values(names: Sequence[str], groups: Sequence[pd.DataFrame], metric: str) -> tuple[list[list[float]], str]:
    """Return the values of each group, one per search, and the name of the values.

    If each group consists of retrainings of one cell, there is one value per retraining. Raises UserError if a group
    has fewer than two values.
    """
    found = [by_search(rows_of(frame), metric) for frame in groups]
    known = [int(frame[metric].notna().sum()) for frame in groups]
    if all(len(own) == 1 < n for own, n in zip(found, known, strict=True)):
        return [[float(x) for x in frame[metric].dropna()] for frame in groups], RETRAININGS
    for name, frame, own, n in zip(names, groups, found, known, strict=True):
        if len(own) < 2:
            has = f"has {counted(len(frame), 'run')}"
            missing = f", {n} of them with {metric}" if n < len(frame) else " of only one search" if n > 1 else ""
            fault = f"{has}{missing}: a standard deviation needs at least two"
            raise UserError(name, fault, "run more seeds, for example --multirun seed=0,1,2,3")
    return found, "searches"


def number(x: float) -> str:
    """Format a number with two decimals, or without decimals if it is at least 10,000."""
    return f"{x:,.0f}" if abs(x) >= 1e4 else f"{x:.2f}"


def sentence(found: Difference, unit: str, counted: str = "searches") -> str:
    """Describe the difference B - A, its confidence interval and its significance; `counted` names the values."""
    of = {"%": " points"}.get(unit, f" {unit}" if unit else "")
    way = "above" if found.mean > 0 else "below"
    first = f"B is {number(abs(found.mean))}{of} {way} A" if found.mean else "B and A have the same mean"
    detail = (
        f"{LEVEL:.0%} interval of B - A: {_signed(found.low)} to {_signed(found.high)}; "
        f"{p_text(found.p)} (Welch's t test, {found.n_a} and {found.n_b} {counted})"
    ).replace("95%", "95 %")
    if math.isinf(found.df):
        last = "Neither group has any spread: the values are not random, and a test does not apply."
    elif found.found:
        last = "A difference this large is unlikely to be chance."
    else:
        last = f"The difference is not significant over these {counted}: the interval contains zero."
    return f"{first}; {detail}.\n{last}"


def _signed(x: float) -> str:
    return f"{'+' if x > 0 else ''}{number(x)}".replace("-", "−")


def _configurations(groups: Sequence[pd.DataFrame]) -> list[str]:
    unread = [sum(not differences.configuration(folder) for folder in frame["folder"]) for frame in groups]
    pairs = zip("AB", unread, groups, strict=True)
    lacking = [
        f"{letter}: config.yaml of {n} of {counted(len(frame), 'run')} cannot be read"
        for letter, n, frame in pairs
        if n
    ]
    if any(n == len(frame) for n, frame in zip(unread, groups, strict=True)):
        return [f"configurations: differing settings are unknown ({'; '.join(lacking)})"]
    but = f" ({'; '.join(lacking)})" if lacking else ""
    rows = [("", "A", "B"), *((row.key, *row.values) for row in differences.rows([list(f["folder"]) for f in groups]))]
    if len(rows) == 1:
        return [f"configurations: no setting differs except the seed{but}"]
    keys, left = (max(len(row[i]) for row in rows) + 2 for i in (0, 1))
    return [f"settings that differ{but}", *(f"  {row[0].ljust(keys)}{row[1].ljust(left)}{row[2]}" for row in rows)]
