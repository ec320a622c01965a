"""SNAS: the concrete sample, its temperature, and a simultaneous step at it."""

from __future__ import annotations

import agree
import pytest
import torch
from agree import gumbel

from nasx.methods.single import Single
from nasx.methods.snas import Snas, concrete

import toy
from reference import methods

SNAS = Snas(inner=Single(activation="softmax", initial=None))


def test_temperature_falls_linearly_by_epoch() -> None:
    search = toy.search(toy.Smooth())
    search.epochs = 100
    for search.epoch, tau in ((0, 10.0), (50, 5.5), (99, 1.09)):
        assert SNAS.tau(search) == pytest.approx(tau)


def test_samples_become_one_hot_with_the_softmax_as_frequencies() -> None:
    """As the temperature falls to zero, by the Gumbel-max property: within four standard errors of 4,000."""
    logits, n = toy.real([1.0, 0.0, -1.0]), 4000
    x = concrete(1e-3, torch.Generator().manual_seed(1))(logits.expand(n, 3))
    assert float(((x > 0.99) | (x < 0.01)).double().mean()) > 0.99
    p = torch.softmax(logits, -1)
    assert bool(((x.mean(0) - p).abs() < 4 * (p * (1 - p) / n).sqrt() + 1e-3).all())


def test_step_moves_both_from_one_loss_at_one_sample() -> None:
    problem = toy.Smooth()
    search, train = toy.search(problem, lr=0.1), problem.batch(1)
    search.epoch, search.epochs = 2, 4
    noise = gumbel(train.seed, problem.a0())["a"]

    def loss(w: toy.Tree, a: toy.Tree) -> torch.Tensor:
        soft = torch.softmax((torch.log_softmax(a["a"], -1) + noise) / 5.5, -1)
        return problem.value(w, {"a": soft.expand(2, 2, 3)}, train)

    dw, da = methods.single({"train": loss}, problem.w0(), problem.a0(), "same_batch")
    SNAS.step(search, [train], problem.batch(2))
    assert agree.relative(toy.unflat(search.grads_w[0], dw), dw) < 1e-12
    assert agree.relative(toy.unflat(search.grads_a[0], da), da) < 1e-12
