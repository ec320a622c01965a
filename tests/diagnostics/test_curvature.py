"""The dominant eigenvalue equals that of the full Hessian, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nasx.core.bilevel import Tree, detached
from nasx.diagnostics import curvature
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

import small
import toy
from reference import diagnostics

SPACES = {
    "nb201": Nb201(layers=1, channels=2),
    "nb1shot1": Nb1Shot1(variant=1, channels=2, layers=3),
    "s2": Darts(layers=3, channels=2, operations=("skip_connect", "sep_conv_3x3")),
}


def slow_loss(search, batch):
    return lambda a: search.problem.outcome(detached(search.w), search.problem.relax(a), batch).loss


@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_eigenvalue_of_a_curved_toy_equals_the_full_hessian(decay: float) -> None:
    problem = toy.Smooth()
    a, w, batch = problem.a0(), problem.w0(), problem.batch(0)
    expected = diagnostics.top_eigenvalue(lambda x: problem.value(w, problem.relax(x), batch), a, decay)
    for dense, solver in ((64, "dense"), (0, "lanczos")):
        found = curvature.eigenvalue(problem, w, a, batch, weight_decay=decay, dense=dense)
        assert found.solver == solver
        assert found.value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.sample(1)
def test_eigenvalue_of_a_supernet_equals_the_full_hessian(name: str) -> None:
    search = small.search(SPACES[name])
    batch = small.batch(1, n=3, size=8)
    expected = diagnostics.top_eigenvalue(slow_loss(search, batch), detached(search.a), 1e-3)
    found = curvature.eigenvalue(search.problem, search.w, search.a, batch, weight_decay=1e-3)
    assert found == (pytest.approx(expected, rel=1e-9), "dense", 1 + sum(x.numel() for x in search.a.values()))
    lanczos = curvature.eigenvalue(search.problem, search.w, search.a, batch, weight_decay=1e-3, dense=0)
    assert lanczos.solver == "lanczos"
    assert lanczos.value == pytest.approx(expected, rel=1e-9)


def test_lanczos_takes_the_largest_not_the_strongest_eigenvalue() -> None:
    gen = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(90, 90, generator=gen, dtype=torch.float64))
    values = torch.linspace(-9, 2, 90, dtype=torch.float64)
    h = q @ torch.diag(values) @ q.T
    calls = []

    def product(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return h @ v

    assert curvature.lanczos(product, 90, h) == pytest.approx(2.0, abs=1e-9)
    assert curvature.lanczos(lambda v: v, 2, h) is None


def test_eigenvalue_of_a_loss_that_is_linear_in_the_architecture_is_the_decay() -> None:
    problem = toy.Counterexample()
    found = curvature.eigenvalue(problem, problem.w0(), problem.a0(), toy.TRAIN, weight_decay=0.25)
    assert found.value == 0.25


def test_where_lanczos_does_not_converge_the_whole_hessian_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "lanczos", lambda *_: None)
    problem = toy.Quadratic()
    found = curvature.eigenvalue(problem, problem.w0(), problem.a0(), toy.VAL, dense=0)
    assert found.value == pytest.approx(toy.RHO, abs=1e-14)
    assert found.solver == "dense"


def test_a_hessian_that_is_not_finite_is_not_an_error() -> None:
    class Broken(toy.Quadratic):
        def value(self, w: Tree, mix: Tree, batch) -> torch.Tensor:
            return (mix["a"] * float("nan")).square().sum()

    problem = Broken()
    for dense in (0, 64):
        found = curvature.eigenvalue(problem, problem.w0(), problem.a0(), toy.VAL, dense=dense)
        assert np.isnan(found.value)
    assert curvature.curvature(problem, problem.w0(), problem.a0(), toy.VAL)["eigenvalue"] is None
    assert curvature.lanczos(lambda v: v * float("nan"), 5, torch.zeros(5, dtype=torch.float64)) is None
