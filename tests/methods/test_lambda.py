"""Lambda-DARTS: the measures, the penalty by double backward, orders of the differences, schedule, outer objective."""

from __future__ import annotations

from typing import Any

import agree
import numpy as np
import pytest
import torch
from torch import Tensor

from nasx.core.bilevel import Search, Tree, detached, frozen, gradients
from nasx.methods.darts import Darts
from nasx.methods.lambda_ import Lambda

import toy
from reference import methods

KINDS = ["cosine", "signed"]
PAIRS = 3


def parts(search: Search, method: Lambda, batch: Any) -> tuple[Tensor, Tree, Tree, Tree]:
    """(value, Delta, mixture, weight gradient) at the search's point."""
    mix = detached(search.problem.relax(search.a), requires_grad=True)
    g_w, g_mix = gradients(search.problem.outcome(search.w, mix, batch).loss, search.w, mix)
    return *method.align(search, g_mix), mix, g_w


def penalty(search: Search, method: Lambda, batch: Any) -> Tree:
    _, delta, mix, g_w = parts(search, method, batch)
    return method.penalty(search, batch, mix, delta, g_w)


# ------------------------------------------------------------------------------------------------ closed forms
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_alignment(kind: str, split: bool) -> None:
    """T3; with `split` the cell is described by two names, which are concatenated. Delta is divided by C(L, 2)."""
    search = toy.search(toy.Alignment(split=split))
    method = Lambda(alignment=kind)  # type: ignore[arg-type]
    value, delta, _, _ = parts(search, method, toy.TRAIN)
    agree.near(value, toy.ALIGNMENT[kind], 1e-9)
    agree.near(PAIRS * toy.flat(delta).norm(), toy.ALIGNMENT[f"{kind}_norm"], 1e-9)
    agree.near(penalty(search, method, toy.TRAIN), toy.ALIGNMENT[f"{kind}_gradient"])


@pytest.mark.parametrize("difference", ["central", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_weight_move(kind: str, difference: str) -> None:
    """w-gradient = d L1 / dw - lambda_e d Lambda / dw, lambda_e = lambda e / (E - 1)."""
    problem = toy.Alignment()
    search = toy.search(problem)
    search.epoch, search.epochs = 2, 5
    Lambda(alignment=kind, strength=0.5, first="weights", difference=difference).step(  # type: ignore[arg-type]
        search, [toy.TRAIN], toy.VAL
    )
    plain = torch.einsum("p,lpw->w", toy.flat(problem.a0()), toy.M)
    agree.near(search.grads_w[0], plain - 0.25 * toy.real(toy.ALIGNMENT[f"{kind}_gradient"]))


@pytest.mark.parametrize("kind", KINDS)
def test_curved_loss_differences(kind: str) -> None:
    """T4: central equals double backward; each side errs linearly in eps0; the mean of the two sides is exact."""
    problem = toy.Alignment(curvature=0.05)  # larger curvature aligns all cells, and then nothing is left to differ
    search = toy.search(problem)
    _, exact = methods.alignment_gradient(
        agree.mixed_loss(problem, toy.TRAIN), search.w, agree.mixture(search), ("a",), kind == "signed"
    )
    radii, errors = [0.4, 0.2, 0.1, 0.05], []
    for radius in radii:
        central = penalty(search, Lambda(alignment=kind, eps0=radius), toy.TRAIN)  # type: ignore[arg-type]
        agree.near(central, toy.flat(exact), 1e-12)
        method = Lambda(alignment=kind, eps0=radius, difference="exact")  # type: ignore[arg-type]
        agree.near(penalty(search, method, toy.TRAIN), toy.flat(exact), 1e-12)
        method = Lambda(alignment=kind, eps0=radius, difference="one_sided")  # type: ignore[arg-type]
        sides = []
        for search.updates in (0, 1):
            sides.append(toy.flat(penalty(search, method, toy.TRAIN)))
        search.updates = 0
        agree.near((sides[0] + sides[1]) / 2, toy.flat(exact), 1e-12)
        errors.append(float((sides[0] - toy.flat(exact)).norm()))
    assert np.polyfit(np.log(radii), np.log(errors), 1)[0] == pytest.approx(1.0, abs=1e-6)
    assert errors[-1] > 1e-4, "each side does err"


@pytest.mark.parametrize("kind", KINDS)
def test_central_difference_converges_with_order_two(kind: str) -> None:
    """Where the loss is no polynomial of the mixture."""
    problem = toy.Smooth()
    search, batch = toy.search(problem), problem.batch(1)
    _, exact = methods.alignment_gradient(
        agree.mixed_loss(problem, batch), search.w, agree.mixture(search), ("a",), kind == "signed"
    )
    radii = [0.2, 0.1, 0.05, 0.025]
    errors = [
        agree.relative(penalty(search, Lambda(alignment=kind, eps0=r), batch), exact)  # type: ignore[arg-type]
        for r in radii
    ]
    assert np.polyfit(np.log(radii), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.05)


# ---------------------------------------------------------------------------------------------------- real nets
@pytest.mark.parametrize("space", agree.SPACES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.sample(4)
def test_real_net_equals_double_backward(kind: str, space: str) -> None:
    search = agree.real_search(space)
    (group,) = search.problem.groups
    loss, mix = agree.mixed_loss(search.problem, agree.TRAIN), agree.mixture(search)
    value, exact = methods.alignment_gradient(loss, search.w, mix, group, kind == "signed")
    method = Lambda(alignment=kind, eps0=agree.RADIUS)  # type: ignore[arg-type]
    with frozen(search.w), frozen(search.a):
        got_value, delta, _, _ = parts(search, method, agree.TRAIN)
        got = penalty(search, method, agree.TRAIN)
        doubled = penalty(search, Lambda(alignment=kind, difference="exact"), agree.TRAIN)  # type: ignore[arg-type]
    assert agree.relative(doubled, exact) < 1e-10, "whatever eps0 is"
    assert float(got_value) == pytest.approx(float(value), abs=1e-13)
    expected = methods.perturbation(methods.layer_gradients(loss, search.w, mix, group).detach(), kind == "signed")
    pairs = len(expected) * (len(expected) - 1) / 2
    flat = torch.cat([delta[k].flatten(1) for k in group], 1)
    torch.testing.assert_close(flat, expected / pairs, rtol=1e-10, atol=1e-14)
    assert all(not x.any() for k, x in delta.items() if k not in group), "other cells are not perturbed"
    assert agree.relative(got, exact) < 1e-5


def test_reduction_cells_are_left_alone_and_a_cell_s_names_are_joined() -> None:
    assert agree.SPACES["darts"].groups == (("normal",),)
    assert len(agree.SPACES["nb1shot1"].groups) == 1
    assert len(agree.SPACES["nb1shot1"].groups[0]) > 1


def test_step_equals_the_reference_on_the_real_net() -> None:
    search = agree.real_search("nb201")
    search.epoch, search.epochs = 4, 5
    w, a = agree.copied(search.w), agree.copied(search.a)
    da = methods.darts1(agree.loss(search.problem, agree.VAL), w, a)
    a = {k: a[k] - da[k] for k in a}
    mix = {k: x.detach() for k, x in search.problem.relax(a).items()}
    dw = methods.aligned_weight_gradient(
        agree.mixed_loss(search.problem, agree.TRAIN), w, mix, search.problem.groups[0], 0.125
    )
    logged = Lambda(eps0=agree.RADIUS).step(search, [agree.TRAIN], agree.VAL)
    assert agree.relative(search.a, a) < 1e-12
    assert agree.relative({k: (w[k] - x.detach()) / search.lr for k, x in search.w.items()}, dw) < 1e-6
    assert set(logged) == {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "alignment"}


# ----------------------------------------------------------------------------------------------------- options
def test_schedule() -> None:
    search = toy.search(toy.Alignment())
    search.epochs = 5
    method, constant = Lambda(strength=0.5), Lambda(strength=0.5, schedule="constant")
    for search.epoch, expected in enumerate([0.0, 0.125, 0.25, 0.375, 0.5]):
        assert method.coefficient(search) == expected
        assert constant.coefficient(search) == 0.5
    search.epoch, search.epochs = 0, 1
    assert method.coefficient(search) == 0.0


@pytest.mark.parametrize("difference", ["central", "one_sided", "exact"])
def test_a_step_of_strength_zero_is_darts_and_costs_as_much(difference: str) -> None:
    problem = toy.Watched(toy.Smooth())
    search, twin = toy.search(problem), toy.search(toy.Smooth())
    batches = [toy.Smooth().batch(seed) for seed in (1, 2)]
    Lambda(difference=difference).step(search, [batches[0]], batches[1])  # type: ignore[arg-type]
    Darts().step(twin, [batches[0]], batches[1])
    assert agree.same(search.a, twin.a)
    assert agree.relative(search.w, twin.w) < 1e-14  # one joint backward pass sums in another order
    assert problem.seeds == [2, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("difference", ["central", "exact"])
@pytest.mark.parametrize("activate", [None, torch.sigmoid])
def test_outer_objective(kind: str, difference: str, activate: Any) -> None:
    """d / da of L2 - lambda Lambda(L2) by double backward, through the activation; the weights move plainly."""
    problem = toy.Smooth() if activate is None else toy.Smooth(activation=activate)
    search, train, val = toy.search(problem), problem.batch(1), problem.batch(2)
    search.epoch, search.epochs = 1, 2
    a = agree.copied(search.a)
    leaf = {k: x.requires_grad_() for k, x in agree.copied(a).items()}
    mix = problem.relax(leaf)
    value = problem.value(problem.w0(), mix, val)
    (g,) = torch.autograd.grad(value, mix["a"], create_graph=True)
    total = value - 0.25 * methods.alignment(g.flatten(1), kind == "signed")
    expected = {"a": torch.autograd.grad(total, leaf["a"])[0]}
    method = Lambda(
        alignment=kind,
        strength=0.25,
        target="outer",
        eps0=1e-4,  # type: ignore[arg-type]
        difference=difference,
    )  # type: ignore[arg-type]
    moved = {k: a[k] - expected[k] for k in a}
    dw = methods.single({"train": agree.loss(problem, train)}, search.w, moved, "same_batch")
    method.step(search, [train], val)
    assert agree.relative(toy.unflat(search.grads_a[0], a), expected) < 1e-7
    assert agree.relative(toy.unflat(search.grads_w[0], search.w), dw[0]) < 1e-6


def test_one_cell_has_nothing_to_align() -> None:
    problem = toy.Smooth(cells=1)
    search = toy.search(problem)
    search.epoch, search.epochs = 1, 2
    logged = Lambda().step(search, [problem.batch(1)], problem.batch(2))
    assert float(logged["alignment"]) == 0.0
    assert all(bool(x.isfinite().all()) for x in search.w.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_without_gradient_is_not_nan(kind: str) -> None:
    search = toy.search(toy.Alignment())
    g = {"a": toy.real([[1.0, 2.0, 0, -1.0], [0.0] * 4, [0.5, 0, 1.0, 1.0]]).reshape(3, 1, 4)}
    value, delta = Lambda(alignment=kind).align(search, g)  # type: ignore[arg-type]
    assert bool(value.isfinite())
    assert bool(delta["a"].isfinite().all())
