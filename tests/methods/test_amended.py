"""Amended-DARTS: closed forms, the sign, the explicit product, and the counterexample to the paper's claim."""

from __future__ import annotations

import agree
import numpy as np
import pytest

from nasx.core.bilevel import frozen
from nasx.methods.amended import Amended

import toy
from reference import methods


@pytest.mark.parametrize(("eta", "expected"), toy.SCALAR["amended"].items())
def test_scalar(eta: float, expected: float) -> None:
    agree.near(Amended(eta=eta).hypergradient(toy.search(toy.Scalar()), toy.TRAIN, toy.VAL)[0], expected)


def test_scalar_sign() -> None:
    """Eq. 15's plus sign would give -2.52; and the paper's eta = 0.1 is still uphill where the exact value is +1.4."""
    g = float(toy.flat(Amended().hypergradient(toy.search(toy.Scalar()), toy.TRAIN, toy.VAL)[0]))
    direct = toy.SCALAR["darts1"]
    assert 2 * direct - g == pytest.approx(toy.SCALAR["amended_wrong_sign"][0.1], abs=1e-8)
    assert g < 0 < toy.SCALAR["exact"]


@pytest.mark.parametrize("eta", [0.1, 0.12, 0.13, 0.25])
def test_scalar_search_descends_only_above_one_eighth(eta: float) -> None:
    """Inner problem solved exactly, outer steps of length 0.1: a is multiplied by 1 - 0.1 (16 eta - 2) each time."""
    search = toy.search(toy.Scalar(), a_lr=0.1)
    for _ in range(20):
        search.w["w"].detach().copy_(search.a["a"].detach().reshape(1))
        search.descend_a(Amended(eta=eta).hypergradient(search, toy.TRAIN, toy.VAL)[0])
    assert float(search.a["a"].detach()) == pytest.approx(0.7 * (1 - 0.1 * (16 * eta - 2)) ** 20, rel=1e-6)
    assert (abs(float(search.a["a"].detach())) < 0.7) == (eta > 1 / 8)


@pytest.mark.parametrize("point", ["w0", "w_star"])
def test_quadratic(point: str) -> None:
    problem = toy.Quadratic()
    search = toy.search(problem, w=getattr(problem, point)())
    agree.near(Amended(eta=0.1).hypergradient(search, toy.TRAIN, toy.VAL)[0], toy.QUADRATIC["amended"][point])


def test_the_amended_term_may_oppose_the_exact_one() -> None:
    """T6: H = diag(1, 10), M = [1 1], v = (1, -0.3); eta = 1 / lambda_max."""
    problem = toy.Counterexample()
    term = toy.flat(Amended(eta=0.1).hypergradient(toy.search(problem), toy.TRAIN, toy.VAL)[0])
    agree.near(term, 0.1 * toy.COUNTEREXAMPLE["amended_term_over_eta"])
    exact = methods.hypergradient_dense(
        agree.loss(problem, toy.TRAIN), agree.loss(problem, toy.VAL), problem.w0(), problem.a0()
    )
    assert exact == pytest.approx(toy.COUNTEREXAMPLE["exact_term"], abs=1e-8)
    assert float(term) * float(exact[0]) < 0


def test_smooth_problem_equals_the_explicit_matrices_with_order_two() -> None:
    problem = toy.Smooth()
    search, train, val = toy.search(problem), problem.batch(1), problem.batch(2)
    dense = methods.amended_dense(agree.loss(problem, train), agree.loss(problem, val), search.w, search.a, 1.0)
    expected = toy.unflat(toy.real(dense.tolist()), search.a)
    radii = [0.4, 0.2, 0.1, 0.05]
    errors = [agree.relative(Amended(eta=1.0, radius=r).hypergradient(search, train, val)[0], expected) for r in radii]
    assert np.polyfit(np.log(radii), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.1)
    assert agree.relative(Amended(eta=1.0, radius=1e-4).hypergradient(search, train, val)[0], expected) < 1e-7


@pytest.mark.parametrize("space", agree.SPACES)
def test_real_net_equals_the_explicit_product(space: str) -> None:
    search = agree.real_search(space)
    expected = methods.amended(
        agree.loss(search.problem, agree.TRAIN), agree.loss(search.problem, agree.VAL), search.w, search.a, 0.1
    )
    with frozen(search.w), frozen(search.a):
        got = Amended(radius=agree.RADIUS).hypergradient(search, agree.TRAIN, agree.VAL)[0]
    assert agree.relative(got, expected) < 1e-5


def test_step_moves_the_architecture_then_the_weights() -> None:
    problem = toy.Smooth()
    search, twin = toy.search(problem), toy.search(problem)
    train, val = problem.batch(1), problem.batch(2)
    Amended().step(search, [train], val)
    twin.descend_a(Amended().hypergradient(twin, train, val)[0])
    twin.update_w(train)
    assert agree.same(search.w, twin.w)
    assert agree.same(search.a, twin.a)
