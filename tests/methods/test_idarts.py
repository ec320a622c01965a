"""iDARTS: closed forms, the truncated series by a direct solve, real inner steps, the released code's leak."""

from __future__ import annotations

import itertools
from typing import Any

import agree
import pytest
import torch

from nasx.core.bilevel import Search, Tree, frozen
from nasx.methods.darts import Darts
from nasx.methods.idarts import IDarts

import toy
from reference import methods

Q = toy.QUADRATIC
PRODUCTS = ["released", "exact", "difference"]


def hypergradient(search: Search, products: str, **settings: Any) -> Tree:
    method = IDarts(products=products, **settings)  # type: ignore[arg-type]
    return method.hypergradient(search, toy.TRAIN, toy.VAL)[0]


# ------------------------------------------------------------------------------------------------ closed forms
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize(("setting", "expected"), toy.SCALAR["idarts"].items())
def test_scalar(products: str, setting: tuple[float, int], expected: float) -> None:
    gamma, terms = setting
    agree.near(hypergradient(toy.search(toy.Scalar()), products, gamma=gamma, K=terms), expected)


def test_scalar_series_reaches_the_exact_hypergradient() -> None:
    agree.near(hypergradient(toy.search(toy.Scalar()), "exact", gamma=0.25, K=50), toy.SCALAR["exact"])


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize(("terms", "expected"), Q["idarts"].items())
def test_quadratic_at_the_minimizer(products: str, terms: int, expected: list[float]) -> None:
    problem = toy.Quadratic()
    agree.near(hypergradient(toy.search(problem, w=problem.w_star()), products, gamma=0.1, K=terms), expected)


@pytest.mark.parametrize("products", PRODUCTS)
def test_gamma_is_the_weights_learning_rate_by_default(products: str) -> None:
    agree.near(hypergradient(toy.search(toy.Quadratic(), lr=0.1), products, K=2), Q["idarts_w0"])


@pytest.mark.parametrize("products", PRODUCTS)
def test_step_moves_the_weights_then_the_architecture(products: str) -> None:
    """T = 5 real gradient steps of length 0.1 (as released: none), then one along the implicit gradient."""
    problem = toy.Quadratic()
    search = toy.search(problem, lr=0.1)
    IDarts(T=5, K=2, products=products).step(search, [toy.train(i) for i in range(5)], toy.VAL)  # type: ignore[arg-type]
    agree.near(search.w, Q["w_after_5"])
    agree.near(search.grads_a[0], Q["idarts_after_5"])
    agree.near(search.a, toy.flat(problem.a0()) - toy.real(Q["idarts_after_5"]))


def test_one_term_is_the_correction_of_second_order_darts_where_the_training_gradient_vanishes() -> None:
    """K = 0 equals DARTS-2's correction at the current weights."""
    problem = toy.Quadratic()
    search = toy.search(problem, w=problem.w_star(), lr=0.1)
    expected = Darts(order=2).hypergradient(search, toy.TRAIN, toy.VAL)[0]
    agree.near(hypergradient(search, "exact", K=0), toy.flat(expected), 1e-12)


def test_the_series_converges_geometrically() -> None:
    """The error falls by the factor 1 - gamma mu a term, mu the smallest eigenvalue of H."""
    problem = toy.Quadratic()
    search = toy.search(problem, w=problem.w_star())
    exact = toy.real(
        methods.hypergradient_dense(
            agree.loss(problem, toy.TRAIN), agree.loss(problem, toy.VAL), problem.w_star(), problem.a0()
        ).tolist()
    )
    errors = [float((toy.flat(hypergradient(search, "exact", gamma=0.1, K=k)) - exact).norm()) for k in (60, 80)]
    mu = float(torch.linalg.eigvalsh(toy.A)[0])
    assert (errors[1] / errors[0]) ** (1 / 20) == pytest.approx(1 - 0.1 * mu, rel=1e-4)


# --------------------------------------------------------------------------------------- second implementation
@pytest.mark.parametrize("terms", [0, 1, 3])
def test_smooth_problem_equals_the_direct_solve(terms: int) -> None:
    """H^-1 (I - (I - gamma H)^(K + 1)) v with H and M written out."""
    problem = toy.Smooth(noise=0.1)
    search, train, val = toy.search(problem, lr=0.1), problem.batch(1), problem.batch(2)
    dense = methods.idarts_dense(agree.loss(problem, train), agree.loss(problem, val), search.w, search.a, 0.1, terms)
    expected = toy.unflat(toy.real(dense.tolist()), search.a)
    got = IDarts(K=terms, products="exact").hypergradient(search, train, val)[0]
    assert agree.relative(got, expected) < 1e-9
    for products in ("difference", "released"):
        probing = IDarts(K=terms, products=products, radius=1e-4)  # type: ignore[arg-type]
        assert agree.relative(probing.hypergradient(search, train, val)[0], expected) < 1e-7


@pytest.mark.parametrize("space", agree.SPACES)
@pytest.mark.sample(1)
def test_real_net_equals_the_explicit_truncated_series(space: str) -> None:
    search = agree.real_search(space)
    expected = methods.idarts(
        agree.loss(search.problem, agree.TRAIN), agree.loss(search.problem, agree.VAL), search.w, search.a, search.lr, 2
    )
    with frozen(search.w), frozen(search.a):
        exact = IDarts(K=2, products="exact").hypergradient(search, agree.TRAIN, agree.VAL)[0]
        # the probe of `released` is as many times as long as s is longer than v: 30, 800 and 8
        probed = [
            IDarts(K=2, products=products, radius=radius).hypergradient(  # type: ignore[arg-type]
                search, agree.TRAIN, agree.VAL
            )[0]
            for products, radius in (("difference", agree.RADIUS), ("released", agree.RADIUS / 1000))
        ]
    assert agree.relative(exact, expected) < 1e-10
    assert all(agree.relative(each, exact) < 1e-5 for each in probed)


def test_step_equals_the_reference_on_the_real_net() -> None:
    search = agree.real_search("nb201", lr=0.01)
    batches = [agree.small.batch(seed, size=8) for seed in (3, 4, 5)]
    losses = [agree.loss(search.problem, batch) for batch in batches]
    w, a = agree.copied(search.w), agree.copied(search.a)
    moved = methods.tse(losses, w, a, lr=0.01).w
    g = methods.idarts(losses[-1], agree.loss(search.problem, agree.VAL), moved, a, 0.01, 2)
    IDarts(T=3, K=2).step(search, batches, agree.VAL)
    assert agree.relative(search.w, moved) < 1e-12
    assert agree.relative({k: a[k] - search.a[k].detach() for k in a}, g) < 1e-9


# -------------------------------------------------------------------------------------------------------- leak
def test_release_leak_is_labelled_and_off() -> None:
    assert IDarts.reproduces_faults == ("release_leak",)
    assert not IDarts().release_leak


@pytest.mark.parametrize("products", PRODUCTS)
def test_release_leak_moves_the_weights_by_the_wrong_restore_alone(products: str) -> None:
    """As the released notebook: no SGD step on any of the T batches, and a net move of -R (s - v), R = 0.01 / ||v||."""
    problem = toy.Smooth()
    search, val = toy.search(problem, lr=0.1, momentum=0.9), problem.batch(9)
    batches = [problem.batch(seed) for seed in range(4)]
    w, a = agree.copied(search.w), agree.copied(search.a)
    last, second = agree.loss(problem, batches[-1]), agree.loss(problem, val)
    v = methods.both(second, w, a)[1]
    u, s = v, v
    for _ in range(2):
        product = methods.hessian_product(last, w, a, u)
        u = {k: u[k] - 0.1 * product[k] for k in u}
        s = {k: s[k] + u[k] for k in s}
    scale = 0.01 / toy.flat(v).norm()
    logged = IDarts(K=2, products=products, release_leak=True).step(search, batches, val)  # type: ignore[arg-type]
    expected = {k: -scale * (s[k] - v[k]) for k in s}
    tolerance = 1e-4 if products == "difference" else 1e-10  # the products in s themselves are differences
    assert agree.relative({k: search.w[k].detach() - w[k] for k in w}, expected) < tolerance
    assert not search.grads_w, "no weight gradient is descended"
    assert not any("momentum_buffer" in search.w_opt.state[x] for x in search.w.values())
    assert len(search.grads_a) == 1
    assert set(logged) == {"val_loss", "val_accuracy"}


def test_release_leak_lowers_the_validation_loss() -> None:
    """The move is down the validation loss: to first order -R v.(s - v), and s - v = K v + O(gamma)."""
    problem = toy.Smooth()
    search, val = toy.search(problem, lr=0.1, a_lr=1e-12), problem.batch(9)
    losses = [
        float(IDarts(T=1, K=2, release_leak=True).step(search, [problem.batch(1)], val)["val_loss"]) for _ in range(50)
    ]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
