"""The common part of zero-cost methods: draws, the best by score, record, resume, and whole runs."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agree
import pytest
import search_jobs
import torch
from hydra.types import RunMode
from scipy.stats import kendalltau
from torch import nn

from nasx.cli import preflight
from nasx.config import check, rules
from nasx.core.bilevel import Batch, Selection, Tree
from nasx.errors import UserError
from nasx.jobs import search as jobs_search
from nasx.methods.random import Random
from nasx.methods.snip import Snip
from nasx.methods.synflow import Synflow
from nasx.methods.zero_cost import Scored, ZeroCost, agreement, described
from nasx.tracking import environment

import toy


@dataclass(frozen=True, kw_only=True)
class Listed(ZeroCost):
    """Scores from a list, in the order of the calls."""

    values: tuple[float, ...] = ()
    seen: list[Any] = dataclasses.field(default_factory=list)

    def score(self, network: nn.Module, batch: Batch, gen: torch.Generator) -> float:
        self.seen.append((network, batch, gen.initial_seed()))
        return self.values[len(self.seen) - 1]


def selection(seed: int = 0, score: Callable[[Tree], float | None] = lambda mix: None, **more: Any) -> Selection:
    given = {"network": lambda mix, seed: (mix, seed), "text": str, "next_batch": lambda: toy.TRAIN, **more}
    return dataclasses.replace(toy.selection(seed, score), **given)


def test_the_best_of_those_that_random_search_draws_is_kept() -> None:
    problem, asked = toy.Smooth(), []
    Random(samples=5).select(toy.search(problem), toy.selection(7, lambda mix: asked.append(mix) or 1.0))
    method = Listed(candidates=5, values=(1.0, math.nan, 3.0, 3.0, -math.inf))
    got = method.select(toy.search(problem), selection(7))
    assert agree.same(got, asked[2]), "the first of equals, and what is not a number is the lowest"
    assert all(agree.same(mix, drawn) for ((mix, _), _, _), drawn in zip(method.seen, asked, strict=True))
    assert all(network[1] == seed and batch is toy.TRAIN for network, batch, seed in method.seen)
    assert len({seed for _, _, seed in method.seen}) == 5, "each has initial weights of its own"


def test_what_is_recorded() -> None:
    accuracies = iter((50.0, 70.0, 60.0, 70.0))
    last = selection(3, lambda mix: next(accuracies))
    Listed(candidates=4, values=(1.0, 4.0, 2.0, -math.inf)).select(toy.search(toy.Smooth()), last)
    notes = last.notes
    assert [row[1:] for row in notes["drawn"]] == [[1.0, 50.0], [4.0, 70.0], [2.0, 60.0], [None, 70.0]]
    assert notes["kendall_tau"] == pytest.approx(kendalltau([1, 4, 2, -9], [50, 70, 60, 70]).statistic)
    assert (notes["candidates"], notes["mean"]) == (4, pytest.approx(7 / 3))
    assert notes["quantiles"] == {"0.0": 1.0, "0.25": 1.5, "0.5": 2.0, "0.75": 3.0, "1.0": 4.0}
    assert notes["text"].startswith("scored 4 random architectures at initialization on one batch of 1 images: best 4")
    assert notes["seconds"] >= 0


def test_agreement_is_known_where_it_can_be() -> None:
    assert agreement([Scored("a", 1.0, None), Scored("b", 2.0, 3.0)]) is None
    assert agreement([Scored("a", 1.0, 2.0), Scored("b", 1.0, 3.0)]) is None, "all scores are equal"
    assert agreement([Scored("a", -math.inf, 2.0), Scored("b", 1.0, 3.0), Scored("c", 2.0, 4.0)]) == pytest.approx(1.0)
    none = described([Scored("a", -math.inf, None)] * 2, "without data")
    assert (none["mean"], set(none["quantiles"].values()), none["kendall_tau"]) == (None, {None}, None)
    assert "Kendall" not in none["text"]


def test_a_choice_goes_on_from_the_scores_that_it_has() -> None:
    whole, values = selection(5), (1.0, 5.0, 2.0, 4.0)
    expected = Listed(candidates=4, values=values).select(toy.search(toy.Smooth()), whole)
    rest, method = selection(5, decided=whole.decided[:3]), Listed(candidates=4, values=values[3:])
    assert agree.same(method.select(toy.search(toy.Smooth()), rest), expected)
    assert len(method.seen) == 1
    assert {k: v for k, v in rest.notes.items() if k != "seconds"} == {
        k: v for k, v in whole.notes.items() if k != "seconds"
    }


@pytest.mark.parametrize("name", agree.SPACES)
def test_networks_are_those_of_the_space_at_the_size_of_the_search(name: str) -> None:
    """Their weights come from the seed alone, and no generator of torch is moved."""
    search, space = agree.real_search(name), agree.SPACES[name]
    problem: Any = search.problem
    mix = problem.sample(torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    one, same, other = (problem.network(mix, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert agree.same(dict(one.named_parameters()), dict(same.named_parameters()))
    assert not agree.same(dict(one.named_parameters()), dict(other.named_parameters()))
    torch.manual_seed(5)
    genotype = space.discretize(mix)
    plain = space.network(genotype, 10, layers=space.layers, channels=space.channels)  # type: ignore[attr-defined]
    assert agree.same(dict(one.named_parameters()), dict(plain.double().named_parameters()))
    x = agree.TRAIN.x
    features = one.features(x)  # type: ignore[operator]
    expected = one.classifier(features.mean((2, 3)))  # type: ignore[operator]
    torch.testing.assert_close(one(x).main, expected, rtol=1e-12, atol=1e-12)


def test_the_score_in_the_documentation_works() -> None:
    text = (Path(__file__).parents[2] / "docs" / "methods" / "zero_cost.md").read_text(encoding="utf-8")
    spoken: dict[str, Any] = {"__name__": "spoken"}
    exec(text.split("```python\n")[1].split("```")[0], spoken)
    problem: Any = agree.real_search("nb201").problem
    last = selection(network=problem.network)
    spoken["Params"](candidates=8).select(toy.search(problem, w={"w": torch.ones(1)}, a={"a": torch.ones(1)}), last)
    gen = torch.Generator().manual_seed(0)
    sizes = [sum(x.numel() for x in problem.network(problem.sample(gen), 0).parameters()) for _ in range(8)]
    assert [score for _, score, _ in last.notes["drawn"]] == sizes


# ------------------------------------------------------------------------------------------------------ whole runs
WORDS = (
    "space=nb201",
    "space.layers=1",
    "space.channels=4",
    "dataset=digits",
    "dataset.size=16",
    "search.batch=8",
    "search.evaluate_images=32",
    "quiet=true",
    "device=cpu",
    "threads=1",
    "method.candidates=6",
)


def searched(method: str, out: Path, *words: str) -> dict[str, Any]:
    return search_jobs.search([f"method={method}", *WORDS, f"out={out}", "name=run", *words])


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_search, "pictures", lambda folder: None)


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    return {k: record[k] for k in ("genotype", "lookup", "updates", "verdict")} | {
        k: v for k, v in record["choice"].items() if k != "seconds"
    }


def test_a_run_takes_the_best_by_score_and_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = searched("naswot", tmp_path)
    choice, last = found["choice"], capsys.readouterr().out
    assert "choice: scored 6 random architectures at initialization on one batch of 8 images: best" in last
    assert "Kendall's tau to the benchmark's validation accuracies" in last
    genotypes, kept, accuracies = zip(*choice["drawn"], strict=True)
    scores = [-math.inf if score is None else score for score in kept]
    assert found["genotype"] == genotypes[scores.index(max(scores))]
    assert found["lookup"]["cifar10"]["valid"] == accuracies[scores.index(max(scores))]
    assert choice["kendall_tau"] == pytest.approx(kendalltau(scores, accuracies).statistic)
    assert (found["updates"], found["passes"]) == (0, 0)


@pytest.mark.parametrize("asked", [False, True], ids=["killed", "asked to stop"])
@pytest.mark.sample(1)
def test_a_run_resumes_with_the_scores_that_it_made(
    asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its fourth score, with a checkpoint due after each; or by a signal, with none due."""
    due = "checkpoint_s=1000" if asked else "checkpoint_s=1e-9"
    whole = searched("snip", tmp_path / "whole", due)
    score, calls = Snip.score, [0]

    def counted(self: Snip, *given: Any) -> float:
        calls[0] += 1
        if calls[0] == 3 and asked:
            os.kill(os.getpid(), signal.SIGTERM)
        if calls[0] == 4 and not asked:
            raise search_jobs.Killed
        return score(self, *given)

    monkeypatch.setattr(Snip, "score", counted)
    with pytest.raises(environment.StopRequested if asked else search_jobs.Killed):
        searched("snip", tmp_path / "broken", due)
    calls[0] = 10
    again = searched("snip", tmp_path / "broken", due)
    assert calls[0] == 10 + 3, "three of six were kept"
    assert comparable(again) == comparable(whole)


def test_scores_that_see_no_data_are_the_same_on_any_batch(tmp_path: Path) -> None:
    one, two = (searched("synflow", tmp_path / str(n), f"search.batch={n}") for n in (8, 16))
    assert one["choice"]["drawn"] == two["choice"]["drawn"]
    assert "at initialization without data: best" in one["choice"]["text"]
    assert not Synflow.sees


@pytest.mark.parametrize("method", ["synflow", "naswot", "snip", "grasp", "zen"])
def test_networks_of_text_are_refused_before_anything_is_built(method: str) -> None:
    words = ["space=darts_rnn", f"method={method}"]
    cfg, choices = preflight.resolved(preflight.make_loader().load_configuration("search", words, RunMode.RUN))
    inside = {**cfg, "method": {"_target_": "nasx.methods.darts_pt.DartsPt", "inner": cfg["method"]}}
    said = r"is for networks that take images, but those in this space take text"
    with pytest.raises(UserError, match=rf"method={method.capitalize()}: {said}"):
        check.check(cfg, choices, words)
    assert (
        [str(error) for error in rules._method_reads(inside, "search")]
        == [str(error) for error in rules._method_reads(cfg, "search")]
        != []
    )
