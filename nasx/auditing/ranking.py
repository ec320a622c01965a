"""Audit of a method by a short search on NAS-Bench-201: its ranking of cells, its result and its verdict.

    tau       Kendall's tau-b between one-shot accuracies (with the supernet's weights) and benchmark accuracies, after
              every epoch over the same random cells
    regret    how far the validation accuracy of the found cell is below that of the best cell of the benchmark, and
              its distance from the mean over all cells
    collapse  the verdict on the search (diagnostics.verdict)

There are no thresholds: a one-minute search on digits shows whether a method works at all, not how good it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping

import numpy as np

from nasx.auditing.findings import Finding
from nasx.benchmarks.isomorphism import CELLS, cell_text
from nasx.benchmarks.nb201 import Nb201
from nasx.benchmarks.ranking import kendall_tau
from nasx.config.job_info import JobInfo
from nasx.core.plain import Config
from nasx.searcher.job import SearchJob
from nasx.tracking.session import session

CELLS_RANKED = 60
"""Number of ranked cells (chosen by nasx: the standard error of tau for unrelated scores is then 0.09)."""
IMAGES = 128
"""Number of validation images on which a one-shot accuracy is measured."""


class RankedJob(SearchJob):
    """A search that adds the tau of its supernet to its metrics rows."""

    def row(self, means: dict[str, float]) -> dict[str, object]:
        return {**super().row(means), "tau": self.tau()}

    def tau(self) -> float | None:
        """Return Kendall's tau-b of the current supernet; None if all one-shot accuracies are equal."""
        codes = np.random.default_rng(self.ctx.config["seed"]).choice(CELLS, CELLS_RANKED, replace=False)
        genotypes = [self.space.parse(cell_text(int(code))) for code in codes]
        known = [answer.datasets["cifar10"]["valid"] for answer in map(self.benchmark.query, genotypes) if answer]
        index = self.a_index[:IMAGES]
        scores = []
        for genotype in genotypes:
            batches = self.data.ordered("train", index, batch=IMAGES)
            scores.append(self.problem.evaluate(self.search.w, self.problem.encode(genotype), batches)["accuracy"])
        found = kendall_tau(np.array(scores), np.array(known))
        return found if found == found else None


def audit(cfg: Config, choices: Mapping[str, str], seeds: int) -> list[Finding]:
    """Run `seeds` searches, with consecutive seeds from the configuration's seed on, and return their findings."""
    found: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="nasx-audit-") as folder:
        for seed in range(cfg["seed"], cfg["seed"] + seeds):
            found += searched({**cfg, "seed": seed, "out": folder, "name": f"s{seed}", "quiet": True}, choices)
    return found


def searched(cfg: Mapping[str, object], choices: Mapping[str, str]) -> Iterator[Finding]:
    """Run one search in a temporary folder and yield its findings."""
    which = f"seed {cfg['seed']}"
    with session(cfg, JobInfo(choices=choices, command="nasx audit")) as ctx:
        record, rows = RankedJob(ctx).run(), ctx.run.rows()
    taus = [row["tau"] for row in rows]
    if taus:
        shown = ", ".join("-" if tau is None else f"{tau:.2f}" for tau in taus)
        yield Finding("tau", "note", f"{which}: {shown} after each epoch", {"seed": cfg["seed"], "tau": taus})
    accuracies = Nb201().accuracies("cifar10", "valid")
    own = float(record["lookup"]["cifar10"]["valid"])
    best, mean = float(accuracies.max()), float(accuracies.mean())
    text = f"{which}: {best - own:.2f} points below the optimum, {own - mean:+.2f} relative to the mean cell"
    values = {"seed": cfg["seed"], "genotype": record["genotype"], "accuracy": own, "optimum": best, "mean": mean}
    yield Finding("regret", "note", f"{text} (CIFAR-10 validation, {own:.2f} %)", values)
    text, values = f"{which}: {record['verdict']['text']}", {"seed": cfg["seed"], **record["verdict"]}
    yield Finding("collapse", "note", text, values, "docs/diagnostics.md")
