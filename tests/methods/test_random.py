"""Random search: draws from the space, keeps the best by the benchmark, trains nothing."""

from __future__ import annotations

import dataclasses
import itertools

import agree
import pytest
import torch

from nasx.core.bilevel import Method, Tree
from nasx.methods.naswot import Naswot
from nasx.methods.random import Random
from nasx.methods.random_ws import RandomWs

import toy


def draws(problem: toy.Toy, seed: int, n: int) -> list[Tree]:
    gen = torch.Generator().manual_seed(seed)
    return [problem.sample(gen) for _ in range(n)]


def test_one_draw_is_the_first_and_needs_no_table() -> None:
    problem = toy.Smooth()
    (first,) = draws(problem, 7, 1)
    got = Random().select(toy.search(problem), toy.selection(7))
    assert agree.same(got, first)


def test_best_of_several_by_the_table() -> None:
    problem = toy.Smooth()
    all_draws, asked = draws(problem, 7, 6), []
    scores = [50.0, 70.0, 60.0, 70.0, 90.0, 10.0]

    def score(mix: Tree) -> float:
        asked.append(mix)
        return scores[len(asked) - 1]

    got = Random(samples=6).select(toy.search(problem), toy.selection(7, score))
    assert all(agree.same(x, y) for x, y in zip(asked, all_draws, strict=True))
    assert agree.same(got, all_draws[4])


def test_without_a_table_the_first_of_several_is_kept() -> None:
    problem = toy.Smooth()
    got = Random(samples=6).select(toy.search(problem), toy.selection(7))
    assert agree.same(got, draws(problem, 7, 1)[0])


def test_trains_nothing() -> None:
    assert not Random.trains
    with pytest.raises(NotImplementedError):
        Random().step(toy.search(toy.Smooth()), [toy.TRAIN], toy.VAL)


@pytest.mark.parametrize("name", agree.SPACES)
def test_draws_are_architectures_of_the_space(name: str) -> None:
    """A drawn mixture is one-hot where it is not zero, and discretizes to itself."""
    space, search = agree.SPACES[name], agree.real_search(name)
    for seed in range(3):
        mix = Random().select(search, toy.selection(seed))
        assert all(bool(((x == 0) | (x == 1)).all()) for x in mix.values())
        genotype = space.discretize(mix)
        again = space.encode(genotype)
        assert all(torch.equal(again[k].double(), mix[k]) for k in mix)


class Asked(Exception):
    """A signal has asked for an end."""


@pytest.mark.parametrize(
    "method",
    [Random(samples=100), RandomWs(samples=100), Naswot(candidates=100)],
    ids=lambda method: type(method).__name__,
)
def test_a_signal_ends_the_draws(method: Method) -> None:
    problem, ticks = toy.Smooth(), iter(range(3))

    def tick() -> None:
        if next(ticks, None) is None:
            raise Asked

    selection = dataclasses.replace(
        toy.selection(7, lambda mix: 50.0),
        tick=tick,
        next_batch=lambda: problem.batch(1),
        val=itertools.repeat(problem.batch(2)),
    )
    with pytest.raises(Asked):
        method.select(toy.search(problem), selection)
