"""Headline of a report, as sentences and cards: the runs, the best results, and their significance.

Settings are ranked only within a comparable set: the same kind of run, space, dataset, benchmark, protocol and recipe.
With several such sets, there is no overall best.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nasx.core import spelling
from nasx.core.plain import Row
from nasx.core.quantities import better_column, lookups, of_column
from nasx.results import random_baseline, table_columns

CONTEXTS = 3
"""Maximum number of comparable sets whose best setting is reported."""
COMPARABLE = ("kind", "space", "searched_on", "dataset", "benchmark", "protocol", "recipe", "reduced")
"""Columns that must have equal values for means to be comparable."""


class Best(NamedTuple):
    """The setting with the best mean in a set of comparable settings."""

    where: str
    """Description of the set; empty if it is the only one."""
    group: Row
    measure: str
    runs: int
    """Number of runs with this measure, over all settings in the set."""


def bests(groups: Sequence[Row]) -> tuple[list[Best], int]:
    """Return the best setting of each comparable set, and the number of omitted sets that consist of a single run.

    Settings are ranked by the measure that most of them have. A single run is not a mean, so sets of one run are
    omitted unless all sets have one run. Sets at the published size come first, then those with the most runs, then
    retrained networks.
    """
    contexts: dict[tuple[object, ...], list[Row]] = {}
    for g in groups:
        contexts.setdefault(tuple(g[k] for k in COMPARABLE), []).append(g)
    looked_up = lookups(k.removesuffix("_mean") for k in groups[0] if k.endswith("_mean"))
    found: list[tuple[tuple[object, ...], Best]] = []
    for key, own in contexts.items():
        names = ["test_accuracy", "test_perplexity"] if key[0] == "retrain" else looked_up
        counted = [(sum(g[f"{m}_n"] > 0 for g in own), m.endswith(".test"), -i, m) for i, m in enumerate(names)]
        if not counted or not max(counted)[0]:
            continue
        measure = max(counted)[3]
        sign = better_column(measure)
        best = max((g for g in own if g[f"{measure}_n"]), key=lambda g: sign * g[f"{measure}_mean"])
        found.append((key, Best("", best, measure, sum(int(g[f"{measure}_n"]) for g in own))))
    several = [item for item in found if item[1].runs > 1] or found
    several.sort(key=lambda item: (item[1].group["reduced"] is True, -item[1].runs, item[0][0] != "retrain"))
    differ = [i for i in range(len(COMPARABLE)) if len({other[i] for other, _ in several}) > 1]
    named = []
    for key, one in several:
        texts = [_described(COMPARABLE[i], key[i]) for i in differ]
        named.append(one._replace(where=", ".join(filter(None, texts))))
    return named, len(found) - len(several)


def _described(name: str, value: object) -> str:
    if name == "kind":
        return {"search": "benchmark accuracy", "retrain": "retrained"}.get(str(value), str(value))
    return ("reduced" if value else "") if name == "reduced" else table_columns.DATASETS.get(str(value), str(value))


def _called(best: Best, mean: str) -> str:
    """Label a best result, for example as `highest mean`, or as `single run` if it is the only run in its set."""
    return "single run" if best.runs == 1 else f"{mean} mean" if best.group["n"] > 1 else mean


def unit(measure: str) -> str:
    quantity = of_column(measure)
    return f" {quantity.unit.symbol}".rstrip() if quantity else ""


def sentences(groups: Sequence[Row], runs: Sequence[Row]) -> list[str]:
    """Return sentences about the runs, the best results, and their significance."""

    def several(column: str) -> str:
        found = sorted({str(g[column]) for g in groups if g[column]})
        return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")

    searches = sum(r["kind"] == "search" for r in runs)
    rest = len(runs) - searches
    counts = [spelling.counted(searches, "search", "searches")] if searches else []
    counts += [spelling.counted(rest, "retraining")] if rest else []
    said = [
        f"{' and '.join(counts)} in {spelling.counted(len(groups), 'setting')}: {several('method')} on "
        f"{several('space')}, dataset {several('dataset')}."
    ]
    found, single = bests(groups)
    for best in found[:CONTEXTS]:
        which = _called(best, "lowest" if better_column(best.measure) < 0 else "highest").capitalize()
        value = f"{table_columns.value(best.group, best.measure)}{unit(best.measure)}"
        where = f" ({best.where})" if best.where else ""
        measure = f"{words_of(best.measure)}, n = {best.group['n']}"
        said.append(f"{which}{where}: {best.group['label']} with {value} ({measure}).")
    if single:
        are = "s without comparable runs are" if single > 1 else " without comparable runs is"
        said.append(f"{single} run{are} listed in the tables.")
    if len(found) > CONTEXTS:
        said.append(f"{len(found) - CONTEXTS} more such means, which are not comparable, are listed in the tables.")
    ways = {way: [g["label"] for g in groups if g["versus"].startswith(way)] for way in ("better", "worse")}
    tested = sum(random_baseline.tested(g) for g in groups)
    if tested:
        verbs = {way: f"{'does' if len(found) == 1 else 'do'} {way}" for way, found in ways.items() if found}
        parts = [f"{', '.join(ways[way][:4])} {verb} than random search" for way, verb in verbs.items()]
        rest, it = tested - sum(map(len, ways.values())), "it" if parts else "random search"
        parts += [f"{rest} of {tested} settings do not differ significantly from {it}"] if rest else []
        said.append(f"{'; '.join(parts)} (Welch's t test over searches, 5 % level).")
    else:
        said.append(
            "No setting was compared with random search (method=random, at least two searches of each, with benchmark "
            "accuracies or the same retraining): the result of random search is unknown."
        )
    bad = sum(r["collapsed"] is True for r in runs)
    unsettled = sum(r["not_converged"] is True for r in runs)
    judged = sum(r["collapsed"] is not None for r in runs)
    if judged:
        ends = f"{unsettled or 'none'} had not converged at the end."
        said.append(f"{bad or 'None'} of {spelling.counted(judged, 'search', 'searches')} collapsed, {ends}")
    return said


def words_of(measure: str) -> str:
    """Format the name of a measure, for example `cifar10.valid` as `look-up, CIFAR-10 validation`."""
    dataset, _, part = measure.rpartition(".")
    if not dataset:
        return measure.replace("_", " ")
    return f"look-up, {table_columns.DATASETS.get(dataset, dataset)} {'validation' if part == 'valid' else part}"


def cards(groups: Sequence[Row], runs: Sequence[Row]) -> list[tuple[str, str, str]]:
    found, _ = bests(groups)
    seeds = len({r["seed"] for r in runs})
    hours = sum(r["cost_s"] for r in runs if r["cost_s"] == r["cost_s"])
    spent = table_columns.cost({"cost_s_mean": hours, "gpu": any(r["gpu"] for r in runs)})
    made = [("runs", str(len(runs)), f"{spelling.counted(len(groups), 'setting')}, {spelling.counted(seeds, 'seed')}")]
    if len(found) == 1:  # several sets have no overall best
        best = found[0]
        measure, value = f"{unit(best.measure)} {words_of(best.measure)}", table_columns.value(best.group, best.measure)
        made.append((f"{_called(best, 'best')} · {best.group['label']}", value, measure.strip()))
    judged = [r for r in runs if r["collapsed"] is not None]
    if judged:
        made.append(("collapsed", f"{sum(r['collapsed'] for r in judged)} of {len(judged)}", "searches"))
    return [*made, ("spent", spent.replace("-", "\u2011"), "wall time of all runs")]
