"""Random search with weight sharing: single-path weight steps, selection by shared weights."""

from __future__ import annotations

import itertools

import agree
import pytest
import torch

from nasx.core.bilevel import Search
from nasx.methods.random_ws import RandomWs

import small
import toy
from reference import methods


@pytest.mark.parametrize("space", [None, "nb201", "darts", "nb1shot1"])
def test_step_is_one_weight_step_on_a_drawn_path(space: str | None) -> None:
    problem = toy.Smooth()
    search: Search = toy.search(problem, lr=0.1) if space is None else agree.real_search(space)
    train, val = (problem.batch(1), problem.batch(2)) if space is None else (agree.TRAIN, agree.VAL)
    mix = search.problem.sample(torch.Generator().manual_seed(train.seed))
    w, a = agree.copied(search.w), agree.copied(search.a)
    dw, _ = methods.single({"train": agree.mixed_loss(search.problem, train)}, w, mix, "same_batch")
    RandomWs().step(search, [train], val)
    assert agree.relative(search.w, {k: w[k] - search.lr * dw[k] for k in w}) < 1e-12
    assert agree.same(search.a, a)


def test_batches_draw_different_paths() -> None:
    problem = agree.real_search("nb201").problem
    paths = {str(problem.sample(torch.Generator().manual_seed(seed))) for seed in range(20)}
    assert len(paths) > 15


def test_choice_is_the_most_accurate_draw_each_on_the_next_batch() -> None:
    search = agree.real_search("nb201")
    batches = [small.batch(seed, n=16, size=8) for seed in range(8)]
    gen = torch.Generator().manual_seed(3)
    draws = [search.problem.sample(gen) for _ in batches]
    with torch.no_grad():
        accuracies = [
            float(search.problem.outcome(search.w, mix, batch).accuracy)
            for mix, batch in zip(draws, batches, strict=True)
        ]
    assert len(set(accuracies)) > 1
    best = draws[accuracies.index(max(accuracies))]  # the first of equals
    got = RandomWs(samples=8).select(search, toy.selection(3, val=itertools.cycle(batches)))
    assert agree.same(got, best)


def test_choice_does_not_ask_the_table() -> None:
    def score(mix: object) -> float:
        raise AssertionError("the table was asked")

    problem = toy.Smooth()
    val = itertools.cycle([problem.batch(1)])
    RandomWs(samples=2).select(toy.search(problem), toy.selection(0, score, val=val))
