"""TSE-DARTS: the summed gradient, exact restoring, the second pass on the same batches, momentum."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import torch

from nasx.core.bilevel import Search, Tree, dot, frozen
from nasx.methods.tse import Tse

import toy
from reference import methods

T3 = [toy.train(i) for i in range(3)]


def buffers(search: Search) -> Tree | None:
    """The momentum buffers, None before the first step."""
    state = search.w_opt.state
    held = {k: state[x].get("momentum_buffer") for k, x in search.w.items() if x in state}
    return agree.copied(held) if held and all(b is not None for b in held.values()) else None


def test_quadratic_sum_and_exact_restoring() -> None:
    search = toy.search(toy.Quadratic(), lr=0.1)
    with frozen(search.w), frozen(search.a):
        total = Tse(T=3).unrolled(search, T3)
    agree.near(total, toy.QUADRATIC["tse_first_order"])


def test_quadratic_step() -> None:
    """The architecture moves once, by the sum; then the weights take T steps from where they were, at the new one."""
    problem = toy.Quadratic()
    search = toy.search(problem, lr=0.1)
    Tse(T=3).step(search, T3, toy.VAL)
    a = toy.flat(problem.a0()) - toy.real(toy.QUADRATIC["tse_first_order"])
    w = toy.flat(problem.w0())
    for _ in range(3):
        w = w - 0.1 * (toy.A @ w - toy.B @ a)
    agree.near(search.a, a)
    agree.near(search.w, w)
    assert len(search.grads_a) == 1


def test_the_dropped_term_is_the_difference_to_the_exact_gradient() -> None:
    problem = toy.Quadratic()
    exact = methods.tse_exact([agree.loss(problem, b) for b in T3], problem.w0(), problem.a0(), lr=0.1)
    agree.near(exact, toy.QUADRATIC["tse_exact"])
    total = Tse(T=3).unrolled(toy.search(problem, lr=0.1), T3)
    assert float((toy.flat(exact) - toy.flat(total)).norm()) > 0.1


SGD: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.02, "nesterov": True},
    {"momentum": 0.9, "clip": 0.1},
]


@pytest.mark.parametrize("buffered", [False, True])
@pytest.mark.parametrize("settings", SGD, ids=str)
def test_the_exact_gradient_is_that_through_every_step(settings: dict[str, Any], buffered: bool) -> None:
    """Eq. 13: against autograd through torch-like SGD, and against central differences of the sum of losses."""
    problem = toy.Smooth(noise=0.1)
    search = toy.search(problem, lr=0.3, **settings)
    if buffered and settings:
        search.update_w(problem.batch(8))
    batches = [problem.batch(seed) for seed in (1, 2, 3)]
    losses = [agree.loss(problem, batch) for batch in batches]
    w, held = agree.copied(search.w), buffers(search)
    with frozen(search.w), frozen(search.a):
        found = Tse(T=3, gradient="exact").exact(search, batches)
    exact = methods.tse_exact(losses, w, problem.a0(), held, lr=0.3, **settings)
    assert agree.relative(found, exact) < 1e-12
    v = {
        k: torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype) for k, x in search.a.items()
    }

    def summed(eps: float) -> float:
        a, at, own, total = {k: x.detach() + eps * v[k] for k, x in search.a.items()}, w, held, 0.0
        for loss in losses:
            at = methods.leaves(at)
            value = loss(at, a)
            at, own = methods.sgd(methods.plain(at), methods.plain(methods.grad(value, at)), own, lr=0.3, **settings)
            total += float(value.detach())
        return total

    quotient = (summed(1e-5) - summed(-1e-5)) / 2e-5
    assert float(dot(found, v)) == pytest.approx(quotient, rel=1e-7)


def test_the_exact_step_on_the_quadratic_problem() -> None:
    """The architecture moves by the closed form; the second pass is that of the first-order method."""
    problem = toy.Quadratic()
    search = toy.search(problem, lr=0.1)
    Tse(T=3, gradient="exact").step(search, T3, toy.VAL)
    agree.near(search.a, toy.flat(problem.a0()) - toy.real(toy.QUADRATIC["tse_exact"]))
    assert len(search.grads_w) == 3


@pytest.mark.parametrize("restore", [True, False])
@pytest.mark.parametrize("settings", SGD, ids=str)
def test_two_chunks_equal_the_reference(settings: dict[str, Any], restore: bool) -> None:
    """Weights, architecture and momentum after two outer steps, the second with filled buffers."""
    problem = toy.Smooth(noise=0.1)
    search = toy.search(problem, lr=0.3, **settings)
    w, a, held = problem.w0(), problem.a0(), None
    for chunk in ([1, 2, 3], [4, 5]):
        batches = [problem.batch(seed) for seed in chunk]
        losses = [agree.loss(problem, batch) for batch in batches]
        Tse(T=3, restore_momentum=restore).step(search, batches, problem.batch(9))
        w, a, held = methods.tse_step(
            losses, w, a, lambda a, g: {k: a[k] - g[k] for k in a}, held, restore, lr=0.3, **settings
        )
        assert agree.relative(search.w, w) < 1e-12
        assert agree.relative(search.a, a) < 1e-12
        mine = buffers(search)
        assert (mine is None) == (held is None)
        if mine is not None and held is not None:
            assert agree.relative(mine, held) < 1e-12


def test_restoring_momentum_matters() -> None:
    problem, ends = toy.Smooth(), []
    for restore in (True, False):
        search = toy.search(problem, lr=0.3, momentum=0.9)
        Tse(T=2, restore_momentum=restore).step(search, [problem.batch(1), problem.batch(2)], problem.batch(9))
        ends.append(toy.flat(search.w))
    assert float((ends[0] - ends[1]).norm()) > 1e-3


@pytest.mark.parametrize("space", agree.SPACES)
@pytest.mark.sample(1)
def test_real_net_equals_the_reference(space: str) -> None:
    search = agree.real_search(space, momentum=0.9)
    batches = [agree.small.batch(seed, size=8) for seed in (3, 4)]
    losses = [agree.loss(search.problem, batch) for batch in batches]
    w, a = agree.copied(search.w), agree.copied(search.a)
    w, a, held = methods.tse_step(losses, w, a, lambda a, g: {k: a[k] - g[k] for k in a}, lr=search.lr, momentum=0.9)
    Tse(T=2).step(search, batches, agree.VAL)
    mine = buffers(search)
    assert mine is not None
    assert held is not None
    for got, expected in ((search.w, w), (search.a, a), (mine, held)):
        assert agree.relative(got, expected) < 1e-10


def test_running_statistics_follow_the_kept_pass_only() -> None:
    watched = toy.Watched(toy.Quadratic())
    Tse(T=3).step(toy.search(watched), T3, toy.VAL)
    assert watched.seeds == [0, 1, 2, 0, 1, 2]
    assert watched.tracked == [False] * 3 + [True] * 3


def test_logged_loss_is_the_mean_of_the_kept_pass() -> None:
    problem = toy.Smooth()
    search = toy.search(problem)
    batches = [problem.batch(1), problem.batch(2)]
    twin = toy.search(problem)
    logged = Tse(T=2).step(search, batches, problem.batch(9))
    twin.descend_a(Tse(T=2).unrolled(twin, batches))
    losses = [twin.update_w(batch).loss.detach() for batch in batches]
    assert torch.equal(logged["train_loss"], torch.stack(losses).mean())
