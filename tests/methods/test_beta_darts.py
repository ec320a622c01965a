"""beta-DARTS: the penalty's gradient in closed form, its schedule, and the gradients it is added to."""

from __future__ import annotations

import agree
import pytest
import torch

from nasx.methods.beta_darts import BetaDarts
from nasx.methods.darts import Darts
from nasx.methods.tse import Tse

import toy

BETA = BetaDarts(inner=Darts())


def test_weight_grows_linearly_by_epoch() -> None:
    search = toy.search(toy.Smooth())
    for search.epochs in (50, 100):
        for search.epoch in (0, 1, 49):
            assert BETA.weight(search) == pytest.approx(0.5 * search.epoch)


def test_step_is_darts_plus_the_softmax() -> None:
    """d/da mean over edges of log sum exp a = softmax(a) / edges; DARTS' own gradient is the known one."""
    search = toy.search(toy.Quadratic())
    search.epoch, search.epochs = 30, 100
    before = toy.flat(search.a)
    BETA.step(search, [toy.TRAIN], toy.VAL)
    softmax = torch.softmax(before, 0)
    agree.near(before - toy.flat(search.a), toy.real(toy.QUADRATIC["darts1"]["w0"]) + 15 * softmax, 1e-9)


def test_penalty_is_the_derivative_of_the_mean_smooth_maximum() -> None:
    search = toy.search(toy.Smooth())
    search.epoch, search.epochs = 50, 100
    leaf = search.a["a"].detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(25.0 * torch.logsumexp(leaf, -1).mean(), leaf)
    w, val = agree.copied(search.w), toy.Smooth().batch(2)
    plain = agree.copied(search.a)
    twin = toy.search(toy.Smooth())
    for each, method in ((search, BETA), (twin, Darts())):
        method.step(each, [toy.Smooth().batch(1)], val)
    torch.testing.assert_close(twin.a["a"].detach() - search.a["a"].detach(), expected, rtol=1e-10, atol=1e-12)
    assert not agree.same(plain, search.a)
    assert w.keys() == search.w.keys()


def test_frozen_architectures_are_not_pulled_and_any_method_can_be_inside() -> None:
    search = toy.search(toy.Smooth())
    search.epoch, search.epochs, search.warming = 50, 100, True
    a = agree.copied(search.a)
    BETA.step(search, [toy.Smooth().batch(1)], toy.Smooth().batch(2))
    assert agree.same(a, search.a)
    search.warming = False
    twin = toy.search(toy.Smooth())
    batches = [toy.Smooth().batch(seed) for seed in (1, 2)]
    for each, method in ((search, BetaDarts(inner=Tse(T=2))), (twin, Tse(T=2))):
        with torch.no_grad():
            for k, x in each.w.items():
                x.copy_(toy.Smooth().w0()[k])
        method.step(each, batches, toy.Smooth().batch(3))
    pulled = 25 * torch.softmax(a["a"], -1) / 2
    torch.testing.assert_close(twin.a["a"].detach() - search.a["a"].detach(), pulled, rtol=1e-10, atol=1e-12)
