"""A study (`nasx study`): searches, selection among their cells, and retrainings for the reported results.

    searches      k searches with seeds s, s + 1, ..., s + k - 1 and the settings in `vary` (k = 0: a given cell)
    ranking       short: train each cell for a few epochs on the search's split and select by validation accuracy (text:
                  validation perplexity)
                  full: train each cell with the full recipe and select by accuracy on the test set, as published
    retrainings   each kept cell with m consecutive seeds, starting at s, or after rank=full at s + 1

Each step is an ordinary run in its usual folder, named after its identity. The same command therefore resumes an
interrupted study, and steps that any command has already finished are not repeated. To use several machines, run
`nasx search --multirun seed=...` first. Ties are resolved in favor of the lowest seed.

The study reports the mean and the sample standard deviation of the retrainings' test accuracies (text: perplexities).
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from nasx.config import commands, identity, instantiate, own_code
from nasx.config import overrides as config_overrides
from nasx.config.job_info import JobInfo
from nasx.core import metrics
from nasx.core.plain import Config, Result
from nasx.core.spelling import counted
from nasx.errors import cleaned
from nasx.jobs import retrain as jobs_retrain
from nasx.jobs import search as jobs_search
from nasx.report.run_summary import Screen
from nasx.tracking import environment, lineage, records, run_folder
from nasx.tracking.progress import duration

if TYPE_CHECKING:
    from nasx.config.settings import StudySettings

log = logging.getLogger("nasx")
STUDY_KEYS = frozenset({"study", "seed", "name", "from", "genotype"})
"""Keys of a study that its steps do not inherit."""


def study(cfg: Config, info: JobInfo) -> Result:
    """Run all unfinished steps of a study, and return its record."""
    folder = Path(cfg["out"]) / identity.run_name(cfg, info.choices, "study")
    extra = {"kind": "study", "choices": dict(info.choices), "identity": identity.identity(cfg, "study")}
    with run_folder.Run(folder, identity.identifying(cfg, "study"), extra) as held:
        result = records.finished(folder)
        if result is None:
            try:
                result = Study(cfg, info, folder.name).result()
            except Exception as error:
                held.fail(error)
                raise
            result = held.finish(result)
    show(result, folder)
    return result


class Study:
    """One study: its settings and the records of its steps."""

    def __init__(self, cfg: Config, info: JobInfo, name: str) -> None:
        self.plan: StudySettings = instantiate.build(cfg["study"])
        self.recipe = instantiate.build(cfg["retrain"])
        self.metric = metrics.OF[self.recipe.data]
        self.cfg, self.info, self.name, self.started = cfg, info, name, records.now()
        self.steps: dict[str, Result] = {}

    def result(self) -> Result:
        """Run all steps and return the record."""
        plan, seed = self.plan, self.cfg["seed"]
        found = [self.searched(i) for i in range(plan.searches)]
        ranking = [self.ranked(search) for search in found] if plan.rank != "none" else []
        kept: list[Result | None] = list(found) or [None]
        if ranking:
            kept = [found[max(range(len(found)), key=lambda i: self.metric.sign * ranking[i][self.metric.name])]]
        first = seed + (plan.rank == "full")
        done = [self.retrained(search, first + i) for search in kept for i in range(plan.retrains)]
        scores = [retrain[f"test_{self.metric.name}"] for retrain in done]
        return {
            **records.head("study", self.name, self.cfg, self.info, self.started, study=plan.study),
            "searches": [search["name"] for search in found],
            "rank": plan.rank,
            "ranking": ranking,
            "kept": [search["name"] for search in kept if search],
            "retrains": [retrain["name"] for retrain in done],
            f"test_{self.metric.name}": statistics.fmean(scores),
            "n": len(scores),
            "std_over": std_over(plan),
            "test_std": statistics.stdev(scores) if len(scores) > 1 else None,
            "wall_s": round(sum(step["wall_s"] for step in self.steps.values()), 3),
            "versions": environment.versions(),
            "commit": environment.commit(),
        }

    def searched(self, i: int) -> Result:
        """Run search i, with its values of the varied settings, if it is unfinished; return its record."""
        own = {key: values[i] for key, values in self.plan.vary.items()}
        words = [f"search.{key}={config_overrides.format_value(value)}" for key, value in own.items()]
        return self.step(
            "search", self.cfg["seed"] + i, words, **({"search": {**self.cfg["search"], **own}} if own else {})
        )

    def ranked(self, search: Result) -> Result:
        """Return the name of the training run that ranks a search's cell, and the run's metric."""
        name, full = self.metric.name, self.plan.rank == "full"
        changed = {} if full else {"epochs": self.plan.rank_epochs}
        if not full and not self.recipe.validated:
            changed["held_out"] = True
        done = self.retrained(search, self.cfg["seed"], **changed)
        return {"run": done["name"], name: done[f"{'test' if full else 'valid'}_{name}"]}

    def retrained(self, search: Result | None, seed: int, **changed: object) -> Result:
        """Retrain a search's cell (None: the given cell) with `changed` settings, if unfinished; return the record."""
        given = (
            {key: self.cfg[key] for key in ("from", "genotype") if self.cfg[key]}
            if search is None
            else {"from": str(Path(self.cfg["out"]) / search["name"])}
        )
        words = [lineage.override(key, value) if key == "from" else f"{key}={value}" for key, value in given.items()]
        words += [f"retrain.{key}={config_overrides.format_value(value)}" for key, value in changed.items()]
        budget = {} if search is None else identity.NO_BUDGET
        return self.step("retrain", seed, words, **given, **budget, retrain={**self.cfg["retrain"], **changed})

    def step(self, kind: str, seed: int, words: Sequence[str] = (), **changed: object) -> Result:
        """Run a step if it is unfinished or damaged; return its record. `words` are the overrides for `changed`."""
        cfg = {**self.cfg, "seed": seed, "from": None, "genotype": None, "name": None, **changed}
        del cfg["study"]
        drop = {*STUDY_KEYS, *commands.COMMANDS[kind].unread, *(identity.NO_BUDGET if "budget" in changed else ())}
        overrides = [text for text in self.info.overrides if config_overrides.first_part(text) not in drop]
        overrides += [*words, f"seed={seed}"]
        choices = {key: value for key, value in self.info.choices.items() if key != "study"}
        info = replace(self.info, choices=choices).of(kind, overrides)
        name = identity.run_name(cfg, choices, kind)
        done = records.finished(Path(cfg["out"]) / name)
        if done is None or records.broken(Path(cfg["out"]) / name, done):
            if not cfg["quiet"]:
                print(f"\n{self.name}: {info.command}", flush=True)
            done = (jobs_search.search_in_process if kind == "search" else jobs_retrain.retrain)(cfg, info)
        elif edited := own_code.changed_since(done, own_code.recorded(identity.identifying(cfg, kind))):
            log.warning("%s: %s", name, edited)
        self.steps[name] = done
        return done


def std_over(plan: StudySettings) -> str:
    """Describe the runs over which the standard deviation is computed."""
    if not plan.searches or (plan.searches == 1 < plan.retrains and plan.rank == "none"):
        return "retrainings of one cell"
    if plan.rank != "none":
        return f"retrainings of the best of {plan.searches} cells" + (" by test accuracy" * (plan.rank == "full"))
    return "searches, each retrained once" if plan.retrains == 1 else f"retrainings of {plan.searches} cells"


def show(result: Result, folder: Path) -> None:
    """Print the summary of a study."""
    result, screen = cleaned(result), Screen()
    screen.unwrapped(Text.assemble("\n", (result["name"], "bold"), f"  finished {result['finished']}"))
    metric = metrics.PERPLEXITY if "test_perplexity" in result else metrics.ACCURACY
    on = {
        "short": "held-out training images" if metric is metrics.ACCURACY else "the validation text",
        "full": "the test set",
    }.get(result["rank"], "")
    for i, name in enumerate(result["searches"]):
        score = f"  {metric.text(result['ranking'][i][metric.name])} on {on}" if result["ranking"] else ""
        kept = "  kept" if result["ranking"] and name in result["kept"] else ""
        screen.say(f"search {name}{score}{kept}", indent=2)
    deviation = "" if result["test_std"] is None else f" ± {metric.scale * result['test_std']:.2f}"
    mean = f"{metric.scale * result[f'test_{metric.name}']:.2f}{deviation} {metric.unit}".rstrip()
    screen.say(f"test {metric.name} {mean} (n = {result['n']}, {result['std_over']})", indent=2)
    screen.say(
        f"cost: {duration(result['wall_s'])} in {counted(len(result['searches']), 'search', 'searches')} and "
        f"{counted(len({*result['retrains'], *(r['run'] for r in result['ranking'])}), 'retraining')}",
        indent=2,
    )
