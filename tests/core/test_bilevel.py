"""The primitives of all methods: the directional derivative, and updates without side effects."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nasx.core import bilevel
from nasx.core.bilevel import Batch, Search, Tree, directional, gradient
from nasx.errors import UserError

import toy

SMOOTH = toy.Smooth()
BATCH = SMOOTH.batch(1)


def weight_gradient(w: Tree) -> Tree:
    return gradient(SMOOTH.value(w, SMOOTH.relax(SMOOTH.a0()), BATCH), w)


def tree(seed: int) -> Tree:
    gen = torch.Generator().manual_seed(seed)
    return {k: torch.randn(x.shape, generator=gen, dtype=torch.float64) for k, x in SMOOTH.w0().items()}


def exact_hessian_product(v: Tree) -> Tree:
    w = bilevel.detached(SMOOTH.w0(), requires_grad=True)
    g = gradient(SMOOTH.value(w, SMOOTH.relax(SMOOTH.a0()), BATCH), w, create=True)
    return gradient(bilevel.dot(g, v), w)


def error(got: Tree, expected: Tree) -> float:
    return float(torch.linalg.vector_norm(toy.flat(got) - toy.flat(expected)))


# ------------------------------------------------------------------------------------------------- directional
def test_directional_converges_with_order_two() -> None:
    v = tree(5)
    expected = exact_hessian_product(v)
    lengths = [0.04, 0.02, 0.01, 0.005]
    errors = [error(directional(weight_gradient, SMOOTH.w0(), v, eps=eps), expected) for eps in lengths]
    slope = np.polyfit(np.log(lengths), np.log(errors), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.05)


def test_directional_radius_is_the_global_norm_of_the_move() -> None:
    v = tree(5)
    seen: list[Tree] = []

    def spy(x: Tree) -> Tree:
        seen.append(x)
        return weight_gradient(x)

    directional(spy, SMOOTH.w0(), v, radius=0.03)
    plus, minus = (toy.flat(x) - toy.flat(SMOOTH.w0()) for x in seen)
    assert float(plus.norm()) == pytest.approx(0.03, rel=1e-12)
    torch.testing.assert_close(plus, -minus, rtol=0, atol=1e-15)
    torch.testing.assert_close(plus / 0.03, toy.flat(v) / toy.flat(v).norm(), rtol=0, atol=1e-13)


def test_directional_does_not_depend_on_the_direction_s_length_but_linearly() -> None:
    v = tree(5)
    once = directional(weight_gradient, SMOOTH.w0(), v)
    scaled = directional(weight_gradient, SMOOTH.w0(), {k: 1e3 * x for k, x in v.items()})
    torch.testing.assert_close(toy.flat(scaled), 1e3 * toy.flat(once), rtol=1e-9, atol=0)


@pytest.mark.parametrize("radius", [1.0, 0.01])
def test_directional_is_exact_on_quadratics(radius: float) -> None:
    problem = toy.Quadratic()
    v = toy.unflat(toy.real([0.3, -2.0]), problem.w0())

    def g(w: Tree) -> Tree:
        return gradient(problem.value(w, problem.relax(problem.a0()), toy.TRAIN), w)

    got = toy.flat(directional(g, problem.w0(), v, radius=radius))
    torch.testing.assert_close(got, toy.A @ toy.flat(v), rtol=0, atol=1e-12)


def test_directional_may_lead_elsewhere() -> None:
    """Its value has the tree of `g`, here that of the architecture: the mixed product M v = -B'v."""
    problem = toy.Quadratic()
    a = bilevel.detached(problem.a0(), requires_grad=True)
    v = toy.unflat(toy.real([0.3, -2.0]), problem.w0())
    got = directional(lambda w: gradient(problem.value(w, problem.relax(a), toy.TRAIN), a), problem.w0(), v)
    assert got.keys() == a.keys()
    torch.testing.assert_close(toy.flat(got), -toy.B.T @ toy.flat(v), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_direction_gives_zeros(dtype: torch.dtype) -> None:
    w = {k: x.to(dtype) for k, x in SMOOTH.w0().items()}
    mix = {k: x.to(dtype) for k, x in SMOOTH.relax(SMOOTH.a0()).items()}
    batch = Batch(BATCH.x.to(dtype), BATCH.y, BATCH.seed)
    zero = {k: torch.zeros_like(x) for k, x in w.items()}
    got = directional(lambda x: gradient(SMOOTH.value(x, mix, batch), x), w, zero)
    assert all(torch.equal(got[k], zero[k]) for k in zero)


def test_directional_leaves_the_point_alone() -> None:
    search = toy.search(SMOOTH)
    with bilevel.frozen(search.w), bilevel.frozen(search.a):
        directional(lambda w: search.grad_w(w, SMOOTH.relax(search.a), BATCH), search.w, tree(5))
        directional(lambda w: search.grad_a(w, BATCH), search.w, tree(5))
        search.virtual_step(tree(5))
        search.loss(search.w, search.a, BATCH)
    assert all(x.grad is None for x in [*search.w.values(), *search.a.values()])


# ------------------------------------------------------------------------------------------------------- trees
def test_gradient_is_zero_where_there_is_no_dependence() -> None:
    x: Tree = {"used": toy.real([2.0]).requires_grad_(), "idle": toy.real([1.0, 1.0]).requires_grad_()}
    got = gradient(x["used"].square().sum(), x)
    assert torch.equal(got["used"], toy.real([4.0]))
    assert torch.equal(got["idle"], torch.zeros(2, dtype=torch.float64))


def test_gradients_of_two_trees_are_those_of_each() -> None:
    w, a = (bilevel.detached(x, requires_grad=True) for x in (SMOOTH.w0(), SMOOTH.a0()))
    both = bilevel.gradients(SMOOTH.value(w, SMOOTH.relax(a), BATCH), w, a)
    for got, leaves in zip(both, (w, a), strict=True):
        expected = gradient(SMOOTH.value(w, SMOOTH.relax(a), BATCH), leaves)
        assert got.keys() == expected.keys()
        assert torch.equal(toy.flat(got), toy.flat(expected))


def test_tree_algebra() -> None:
    x, y = tree(1), tree(2)
    torch.testing.assert_close(bilevel.norm(x), toy.flat(x).norm(), rtol=1e-14, atol=0)
    torch.testing.assert_close(bilevel.dot(x, y), toy.flat(x) @ toy.flat(y), rtol=1e-13, atol=0)
    assert torch.equal(toy.flat(bilevel.combine(x, y, 0.5)), toy.flat(x) + 0.5 * toy.flat(y))
    moved = bilevel.shift(x, y, -2.0)
    assert torch.equal(toy.flat(moved), toy.flat(x) - 2.0 * toy.flat(y))
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in moved.values())


def test_trees_are_matched_by_name_not_by_order() -> None:
    x, y = tree(1), tree(2)
    turned = dict(reversed(list(y.items())))
    assert torch.equal(toy.flat(bilevel.shift(x, turned, 1.0)), toy.flat(bilevel.shift(x, y, 1.0)))
    assert torch.equal(toy.flat(bilevel.combine(x, turned, 1.0)), toy.flat(bilevel.combine(x, y, 1.0)))
    assert torch.equal(bilevel.dot(x, turned), bilevel.dot(x, y))


def test_frozen_names_what_moved() -> None:
    moving = {"still": toy.real([1.0]), "moved": toy.real([1.0])}
    with pytest.raises(AssertionError, match="moved: \\['moved'\\]"), bilevel.frozen(moving):
        moving["moved"].add_(1.0)


# ------------------------------------------------------------------------------------------------------- moves
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "decay": {"weight_decay": 0.03},
    "both": {"momentum": 0.9, "weight_decay": 0.03},
}


@pytest.mark.parametrize("steps_before", [0, 1, 3])
@pytest.mark.parametrize("setting", SETTINGS)
def test_peek_equals_descend(setting: str, steps_before: int) -> None:
    """With no buffer yet (first step) and with one."""
    search = toy.search(SMOOTH, lr=0.2, **SETTINGS[setting])
    for seed in range(steps_before):
        search.update_w(SMOOTH.batch(seed))
    g = weight_gradient(search.w)
    peeked = search.virtual_step(g)
    search.descend_w(g)
    torch.testing.assert_close(toy.flat(peeked), toy.flat(search.w), rtol=0, atol=1e-15)
    assert all(x.is_leaf and x.requires_grad for x in peeked.values())
    assert all(peeked[k].data_ptr() != search.w[k].data_ptr() for k in peeked)


def test_a_virtual_step_with_a_given_buffer_is_the_closed_form() -> None:
    problem, q = toy.Quadratic(), toy.QUADRATIC
    buffer = toy.unflat(toy.real(q["buffer"]), problem.w0())
    search = toy.search(problem, lr=0.1, momentum=q["momentum"], weight_decay=q["weight_decay"], buffer=buffer)
    g = search.grad_w(search.w, search.problem.relax(search.a), toy.TRAIN)
    expected = toy.flat(problem.w0()) - 0.1 * (
        0.9 * toy.real(q["buffer"]) + toy.real(q["single_w"]) + 0.01 * toy.flat(problem.w0())
    )
    torch.testing.assert_close(toy.flat(search.virtual_step(g)), expected, rtol=0, atol=1e-15)


def test_peek_does_not_clip() -> None:
    search = toy.search(toy.Quadratic(), clip=1e-3)
    g = toy.unflat(toy.real([3.0, 4.0]), search.w)
    torch.testing.assert_close(toy.flat(search.virtual_step(g)), toy.real([0.5 - 0.3, 0.25 - 0.4]), rtol=0, atol=1e-15)


def test_peek_under_nesterov_takes_the_heavy_ball_step() -> None:
    heavy, nesterov = (toy.search(SMOOTH, momentum=0.9, nesterov=flag) for flag in (False, True))
    saved = None
    for search in (heavy, nesterov):
        search.update_w(BATCH)
        saved = saved or heavy.save_w()
        search.restore_w(saved)
    g = tree(5)
    assert torch.equal(toy.flat(heavy.virtual_step(g)), toy.flat(nesterov.virtual_step(g)))


def test_clip_bounds_the_weight_gradient_by_its_global_norm() -> None:
    search = toy.search(toy.Quadratic(), lr=1.0, clip=0.5)
    search.descend_w(toy.unflat(toy.real([3.0, 4.0]), search.w))  # norm 5, over two leaves
    torch.testing.assert_close(toy.flat(search.w), toy.real([0.5 - 0.3, 0.25 - 0.4]), rtol=0, atol=1e-6)


def test_clip_leaves_small_gradients_alone() -> None:
    search = toy.search(toy.Quadratic(), lr=1.0, clip=5.0)
    search.descend_w(toy.unflat(toy.real([0.3, 0.4]), search.w))
    torch.testing.assert_close(toy.flat(search.w), toy.real([0.2, -0.15]), rtol=0, atol=1e-15)


def test_clip_never_bounds_the_architecture_gradient() -> None:
    search = toy.search(toy.Quadratic(), clip=1e-3)
    search.descend_a(toy.unflat(toy.real([30.0, 40.0]), search.a))
    torch.testing.assert_close(toy.flat(search.a), toy.real([0.3 - 30.0, -0.2 - 40.0]), rtol=0, atol=1e-13)


Move = Callable[[Search], object]
MOVES: dict[str, Move] = {
    "update_w": lambda s: s.update_w(BATCH),
    "descend_w": lambda s: s.descend_w(tree(5)),
}


@pytest.mark.parametrize("move", MOVES)
def test_weight_moves_leave_the_architecture(move: str) -> None:
    search = toy.search(SMOOTH)
    before = toy.flat(search.w).clone()
    with bilevel.frozen(search.a):
        MOVES[move](search)
    assert not torch.equal(toy.flat(search.w), before)
    assert all(x.grad is None for x in [*search.w.values(), *search.a.values()])


def test_architecture_moves_leave_the_weights() -> None:
    search = toy.search(SMOOTH, adam=True, a_lr=0.01)
    before = toy.flat(search.a).clone()
    with bilevel.frozen(search.w):
        search.update_a(BATCH)
    # Adam's first step has length a_lr in every entry with a gradient
    torch.testing.assert_close(
        (toy.flat(search.a) - before).abs(), torch.full((6,), 0.01, dtype=torch.float64), rtol=0, atol=1e-6
    )
    assert all(x.grad is None for x in [*search.w.values(), *search.a.values()])


def test_updates_are_the_gradients_at_the_point() -> None:
    search = toy.search(toy.Quadratic())
    search.update_a(toy.VAL)
    search.a["a"].data.copy_(search.problem.a0()["a"])  # type: ignore[attr-defined]
    search.update_w(toy.TRAIN)
    torch.testing.assert_close(search.grads_a[0], toy.real(toy.QUADRATIC["darts1"]["w0"]), rtol=0, atol=1e-15)
    torch.testing.assert_close(search.grads_w[0], toy.real(toy.QUADRATIC["single_w"]), rtol=0, atol=1e-15)


def test_update_w_takes_a_given_mixture() -> None:
    search = toy.search(toy.Quadratic())
    mix = {"a": toy.real([[[1.0, 2.0]]])}
    search.update_w(toy.TRAIN, mix)
    expected = toy.A @ toy.flat(search.problem.w0()) - toy.B @ toy.real([1.0, 2.0])  # type: ignore[attr-defined]
    torch.testing.assert_close(search.grads_w[0], expected, rtol=0, atol=1e-15)


def test_warming_holds_the_architecture_and_its_optimizer() -> None:
    search = toy.search(SMOOTH, adam=True)
    search.warming = True
    with bilevel.frozen(search.a):
        search.update_a(BATCH)
        search.descend_a({k: torch.ones_like(x) for k, x in search.a.items()})
    assert not search.a_opt.state


@pytest.mark.parametrize("broken", ["empty", "other", "none", "tensor"])
@pytest.mark.parametrize("which", ["a", "w"])
def test_a_gradient_that_lacks_a_leaf(which: str, broken: str) -> None:
    made = toy.search(SMOOTH)
    search = Search(SMOOTH, made.w, made.a, made.w_opt, made.a_opt)
    name = next(iter(getattr(search, which)))
    g: Any = {"empty": {}, "other": {"x": torch.ones(())}, "none": {name: None}, "tensor": torch.ones(())}[broken]
    with pytest.raises(
        UserError, match=rf"^search\.descend_{which}: its gradient has no tensor for {name}.*; pass the result of"
    ):
        getattr(search, f"descend_{which}")(g)


def test_a_rate_scales_one_step_and_is_gone_after_it() -> None:
    search = toy.search(toy.Quadratic(), lr=1.0, weight_decay=0.1)
    g = toy.unflat(toy.real([3.0, 4.0]), search.w)
    expected = toy.real([0.5, 0.25]) - 0.2 * (toy.real([3.0, 4.0]) + 0.1 * toy.real([0.5, 0.25]))
    torch.testing.assert_close(toy.flat(search.virtual_step(g, 0.2)), expected, rtol=0, atol=1e-15)
    search.descend_w(g, 0.2)
    torch.testing.assert_close(toy.flat(search.w), expected, rtol=0, atol=1e-15)
    assert search.lr == 1.0
    assert search.lr_of(toy.TRAIN._replace(rate=0.25)) == 0.25


def test_lr_follows_the_optimizer() -> None:
    search = toy.search(SMOOTH, lr=0.2)
    search.w_opt.param_groups[0]["lr"] = 0.125
    assert search.lr == 0.125


# --------------------------------------------------------------------------------------------------- snapshots
def buffers(search: Search) -> list[Tensor | None]:
    state = search.w_opt.state
    return [state[x].get("momentum_buffer") if x in state else None for x in search.w.values()]


def same(x: Tensor | None, y: Tensor | None) -> bool:
    return x is y if x is None or y is None else torch.equal(x, y)


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_restore_is_exact_and_the_future_repeats(momentum: float, steps_before: int) -> None:
    search = toy.search(SMOOTH, momentum=momentum, weight_decay=0.01)
    for seed in range(steps_before):
        search.update_w(SMOOTH.batch(seed))
    saved, before = search.save_w(), toy.flat(search.w).clone()
    for seed in (10, 11):
        search.update_w(SMOOTH.batch(seed))
    after, later = toy.flat(search.w).clone(), copy.deepcopy(buffers(search))
    search.restore_w(saved)
    assert torch.equal(toy.flat(search.w), before)
    for seed in (10, 11):
        search.update_w(SMOOTH.batch(seed))
    assert torch.equal(toy.flat(search.w), after)
    assert all(map(same, buffers(search), later))


def test_snapshot_is_a_copy() -> None:
    search = toy.search(SMOOTH, momentum=0.9)
    search.update_w(BATCH)
    saved = search.save_w()
    copies = copy.deepcopy(saved)
    search.update_w(BATCH)
    assert all(map(torch.equal, saved.w, copies.w))
    assert all(map(same, saved.buffers, copies.buffers))
    assert not any(map(same, saved.buffers, buffers(search)))


def test_restore_without_momentum_keeps_the_buffers() -> None:
    search = toy.search(SMOOTH, momentum=0.9)
    search.update_w(BATCH)
    saved = search.save_w()
    search.update_w(SMOOTH.batch(2))
    later = copy.deepcopy(buffers(search))
    search.restore_w(saved, momentum=False)
    assert all(map(torch.equal, search.w.values(), saved.w))
    assert all(map(same, buffers(search), later))
    assert not any(map(same, buffers(search), saved.buffers))


def test_user_errors_join() -> None:
    faults = [UserError("search.epochs=0", "must be positive", "use 1 or more"), UserError("x", "unknown")]
    assert str(UserError.join(faults)) == "search.epochs=0: must be positive; use 1 or more\nx: unknown"
    assert UserError.join(faults[:1]) is faults[0]
