"""GDAS: the sampler, its gradient against the reference with the same draws, temperature, order."""

from __future__ import annotations

from typing import Literal

import agree
import pytest
import torch
from agree import gumbel
from torch import Tensor

from nasx.core.bilevel import Search
from nasx.methods.darts import Darts
from nasx.methods.gdas import Gdas, hard

import toy
from reference import methods

GDAS = Gdas(inner=Darts(first="weights"))


@pytest.mark.parametrize("slope", ["all", "sampled", "others"])
def test_sampler_is_hard_forward_and_soft_backward(slope: Literal["all", "sampled", "others"]) -> None:
    """Of the entries that have a gradient at all; `others` has the value of none."""
    logits = toy.real([[0.3, -0.2, 0.1], [-0.4, 0.5, 0.2]]).requires_grad_()
    hot, soft = methods.gdas(logits.detach(), gumbel(5, {"a": logits})["a"], 0.5)
    drawn = hard(0.5, torch.Generator().manual_seed(5), slope)(logits)
    assert torch.equal(drawn.detach(), torch.zeros_like(hot) if slope == "others" else hot)
    weight = toy.real([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])
    (g,) = torch.autograd.grad((weight * drawn).sum(), logits)
    weight = weight * {"all": torch.ones_like(hot), "sampled": hot, "others": 1 - hot}[slope]
    expected = [(torch.diag(q) - torch.outer(q, q)) @ u / 0.5 for q, u in zip(soft, weight, strict=True)]
    torch.testing.assert_close(g, torch.stack(expected), rtol=1e-12, atol=1e-15)


def test_samples_follow_the_softmax() -> None:
    """By the Gumbel-max property, whatever the temperature: frequencies within four standard errors."""
    logits, n = toy.real([1.0, 0.0, -1.0]), 4000
    counts: Tensor = hard(7.0, torch.Generator().manual_seed(1), "all")(logits.expand(n, 3)).mean(0)
    p = torch.softmax(logits, -1)
    assert bool(((counts - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all())


def test_temperature_falls_linearly_by_epoch() -> None:
    search = toy.search(toy.Smooth())
    search.epochs = 5
    taus = []
    for search.epoch in range(5):
        taus.append(GDAS.tau(search))
    assert taus == pytest.approx([10.0, 7.525, 5.05, 2.575, 0.1])
    search.epoch, search.epochs = 0, 1
    assert GDAS.tau(search) == 10.0


@pytest.mark.parametrize("reading", ["released", "sampled", "straight_through"])
@pytest.mark.parametrize("space", [None, *agree.SPACES])
@pytest.mark.sample(6)
def test_step_equals_the_reference(
    space: str | None, reading: Literal["released", "sampled", "straight_through"]
) -> None:
    """Weights first, at a sample of the old architecture; then the architecture, at a sample of its own."""
    problem = toy.Smooth()
    search: Search = toy.search(problem, lr=0.1) if space is None else agree.real_search(space)
    train, val = (problem.batch(1), problem.batch(2)) if space is None else (agree.TRAIN, agree.VAL)
    names = {None: ["a"], "nb201": ["cell"], "darts": ["normal", "reduce"], "nb1shot1": ["ops"]}[space]
    cells = {k: x.shape[0] for k, x in search.problem.relax(search.a).items()}
    w, a = agree.copied(search.w), agree.copied(search.a)
    hard = {k: methods.gdas(a[k], noise, 10.0)[0] for k, noise in gumbel(train.seed, a).items()}
    mix = {k: x.expand(cells[k], *x.shape) for k, x in hard.items()}
    dw, _ = methods.single({"train": agree.mixed_loss(search.problem, train)}, w, mix, "same_batch")
    moved = {k: w[k] - search.lr * dw[k] for k in w}
    da = methods.gdas_gradient(
        agree.mixed_loss(search.problem, val),
        moved,
        a,
        gumbel(val.seed, a),
        10.0,
        cells,
        reading,
        names if reading == "released" else [],
    )
    Gdas(inner=Darts(first="weights"), gradient=reading).step(search, [train], val)
    assert agree.relative(search.w, moved) < 1e-12
    assert agree.relative({k: a[k] - x.detach() for k, x in search.a.items()}, da) < 1e-10
