"""Checklist of fourteen best practices for architecture search research, filled in from the runs of a report.

Each item is `yes` (the runs follow the practice), `partly`, `missing` (they do not follow it), or `yours` (the runs
cannot show it, so the author must state it). The questions paraphrase the paper.

Source: Lindauer and Hutter, "Best practices for scientific research on neural architecture search", JMLR 21 (2020),
sections 2 to 4.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from nasx.config import own_code
from nasx.core import spelling
from nasx.core.files import load_yaml
from nasx.core.plain import Row
from nasx.results import random_baseline

ABLATED = ("method", "space", "dataset", "kind", "searched_on", "protocol", "recipe", "reduced")
"""Columns that have the same values in all settings of an ablation."""
STATES = {"yes": "yes", "partly": "partly", "missing": "missing", "yours": "for you to state"}
QUESTIONS = load_yaml(Path(__file__).with_name("questions.yaml").read_text(encoding="utf-8"))
Answer = tuple[str, str]
"""State of an item, and the evidence for it in the runs."""


class Item(NamedTuple):
    """A practice: its number in the paper, the question, the state, and the evidence in the runs."""

    number: int
    asks: str
    state: str
    says: str


def items(runs: Sequence[Row], groups: Sequence[Row], *, anytime: bool) -> list[Item]:
    """Return all fourteen items.

    `runs` are rows of `collect`, and `groups` are rows of `summary` without reference rows. `anytime` is whether the
    report has a curve of benchmark accuracy over time.
    """
    searches = [r for r in runs if r["kind"] == "search"]
    commits = _several(r["commit"] for r in runs)
    changed = any(c.endswith("+") for c in commits)
    looked = [r for r in searches if r["benchmark"]]
    trained = _several(label for r in runs if r["kind"] == "retrain" for label in r["code"])
    searched = _several(label for r in runs for label in (r["parent_code"] if r["kind"] == "retrain" else r["code"]))
    packages = _packages([*searched, *trained])
    release = "publish the commit" + " and its uncommitted changes" * changed
    release += f" and your own code ({packages})" * bool(packages) + " with the results"
    shown = ("yes", "the anytime curve above")
    tables = ", ".join(_several(r["benchmark"] for r in looked))
    used = f"{len(looked)} of {spelling.counted(len(searches), 'search', 'searches')}, in {tables}"
    answers = (
        _code(commits, changed, "nasx retrain, or the benchmark's own training", trained),
        _code(commits, changed, "nasx search", searched),
        ("yours", release),
        _benchmark(groups),
        _ablation(groups),
        _evaluation(groups),
        shown if anytime else ("missing", "no run has a benchmark accuracy for each epoch"),
        _random(groups),
        _repeated(groups),
        ("yes" if len(looked) == len(searches) else "partly", used)
        if looked
        else ("missing", "no search has a benchmark accuracy"),
        _confounders(runs),
        ("yours", "runs do not record earlier runs; differences from the published settings are listed above"),
        _time(runs, searches),
        _setup(runs),
    )
    return [Item(i, asks, *said) for i, (asks, said) in enumerate(zip(QUESTIONS, answers, strict=True), start=1)]


def _several(values: Iterable[object]) -> list[str]:
    return sorted({str(value) for value in values if value})


def _packages(labels: Iterable[str]) -> str:
    """Return the names of the packages with the user's own files, from `own_code.labels`, as comma-separated text."""
    return ", ".join(_several(label.rpartition(" ")[0].partition("/")[0].removesuffix(".py") for label in labels))


def _code(commits: Sequence[str], changed: bool, which: str, own: Sequence[str]) -> Answer:
    """Return the answer about the code described by `which`; `own` are the `own_code.labels` of the user's files."""
    if own:
        files = f"{', '.join(own[:3])}{', …' if len(own) > 3 else ''}"
        at = f"{which}, commit {', '.join(commits[:3])}" if commits else which
        return "yours", f"the code of {_packages(own)} is your own (SHA-256: {files}); the rest: {at}"
    if not commits:
        return "partly", f"{which}; these runs record no commit (an installed wheel): state the version"
    at = f"{which}, commit {', '.join(commits[:3])}{', …' if len(commits) > 3 else ''}"
    return ("partly", f"{at}; + marks uncommitted changes") if changed else ("yes", at)


def _benchmark(groups: Sequence[Row]) -> Answer:
    columns = {"spaces": "space", "datasets": "searched_on", "protocols": "protocol", "recipes": "recipe"}
    parts = {name: _several(g[column] for g in groups) for name, column in columns.items()}
    mixed = [f"{len(found)} {name} ({', '.join(found[:4])})" for name, found in parts.items() if len(found) > 1]
    if mixed:
        return "partly", f"{'; '.join(mixed)}: compare only within one of them"
    return "yes", ", ".join(found[0] for found in parts.values() if found)


def _ablation(groups: Sequence[Row]) -> Answer:
    settings: dict[tuple[object, ...], set[object]] = {}
    for g in groups:  # the configuration hash of a retraining depends on its search
        setting = (g["overrides"], g["parent_overrides"]) if g["kind"] == "retrain" else g["family"]
        settings.setdefault(tuple(g[k] for k in ABLATED), set()).add(setting)
    several = {key: len(own) for key, own in settings.items() if len(own) > 1 and key[0]}
    found = [f"{key[0]} on {key[1]}, {key[2]}: {spelling.counted(n, 'setting')}" for key, n in several.items()]
    return "yes" if found else "missing", "; ".join(found[:4]) or "each method has one setting"


def _evaluation(groups: Sequence[Row]) -> Answer:
    retrained = [g["recipe"] for g in groups if g["kind"] == "retrain" and not g["benchmark"]]
    ways = _several(f"query of {g['benchmark']}" for g in groups if g["benchmark"])
    ways += _several(f"retraining with {recipe}" for recipe in retrained)
    if not ways:
        return "missing", "no architecture has a benchmark accuracy or was retrained"
    return "yes" if len(ways) == 1 else "partly", "; ".join(ways)


def _random(groups: Sequence[Row]) -> Answer:
    pools = [g for g in groups if g["method"] == random_baseline.RANDOM]
    own = [g for g in groups if g["method"] != random_baseline.RANDOM and (g["benchmark"] or g["kind"] == "retrain")]
    tested = sum(random_baseline.tested(g) for g in own)
    if not pools:
        return "missing", "add method=random to the sweep: it costs nothing with a tabular benchmark"
    runs = len({folder for g in pools for folder in g["folders"]})
    says = f"{spelling.counted(runs, 'random run')}, compared with {tested} of {spelling.counted(len(own), 'setting')}"
    return "yes" if 0 < tested == len(own) else "partly", says


def _repeated(groups: Sequence[Row]) -> Answer:
    least, most = min(g["n"] for g in groups), max(g["n"] for g in groups)
    many = (
        f"{spelling.counted(least, 'run')} of each setting" if least == most else f"{least} to {most} runs of a setting"
    )
    return "yes" if least > 2 else "partly" if most > 1 else "missing", f"{many}; seeds below"


def _confounders(runs: Sequence[Row]) -> Answer:
    says = []
    for column, one in {"device": "device", "versions": "set of versions", "commit": "commit"}.items():
        found, unknown = _several(r[column] for r in runs), sum(not r[column] for r in runs)
        many = "sets of versions" if column == "versions" else f"{one}s"
        says += [f"{len(found)} {many}"] if len(found) > 1 else []
        says += [f"{unknown} of {spelling.counted(len(runs), 'run')} record no {one}"] if unknown else []
    codes = [(*r["code"], *r["parent_code"]) for r in runs]
    says += [f"different versions of {', '.join(files)}"] if (files := own_code.mixed(codes)) else []
    says += ["uncommitted changes (+)"] if any(r["commit"].endswith("+") for r in runs) else []
    fixed = "one device, one set of versions, one commit" + (" of nasx, one version of your own code" * any(codes))
    return "partly" if says else "yes", ", ".join(says) or fixed


def _time(runs: Sequence[Row], searches: Sequence[Row]) -> Answer:
    timed = sum(r["cost_s"] == r["cost_s"] for r in runs)
    if timed < len(runs):
        return "partly", f"{timed} of {spelling.counted(len(runs), 'run')} record their time"
    says = "wall time of every run below"
    if len(runs) > len(searches):
        return "yes", says
    if any(r["benchmark"] for r in searches):
        return "yes", f"{says}; the final training is the benchmark's, not ours"
    return "partly", f"{says}; nothing was retrained"


def _setup(runs: Sequence[Row]) -> Answer:
    there = {
        "configuration": [os.path.isfile(os.path.join(r["folder"], "config.yaml")) for r in runs],
        "seed": [r["seed"] is not None and r["seed"] == r["seed"] for r in runs],
        "versions": [bool(r["versions"]) for r in runs],
        "hardware": [bool(r["device"]) for r in runs],
    }
    incomplete = {name: found.count(False) for name, found in there.items() if not all(found)}
    lacking = [f"{n} of {spelling.counted(len(runs), 'run')} have no {name}" for name, n in incomplete.items()]
    if not lacking:
        return "yes", (
            "every run folder contains the resolved configuration, seed, versions and hardware; differences are above"
        )
    return "partly" if any(map(any, there.values())) else "missing", "; ".join(lacking)
