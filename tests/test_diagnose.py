"""Each diagnostic that costs a pass equals its slow definition in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nasx import diagnose, stop
from nasx.bilevel import Tree, detached
from nasx.spaces.base import Space
from nasx.spaces.darts import Darts
from nasx.spaces.nb1shot1 import Nb1Shot1
from nasx.spaces.nb201 import Nb201

import small
import toy
from reference import diagnostics

SPACES = {"nb201": Nb201(layers=1, channels=2), "nb1shot1": Nb1Shot1(variant=1, channels=2, layers=3),
          "darts": Darts(layers=3, channels=2, operations=("skip_connect", "sep_conv_3x3"))}


def slow_loss(search, batch):
    return lambda a: search.problem.outcome(detached(search.w), search.problem.relax(a), batch).loss


# ----------------------------------------------------------------------------------------------------- eigenvalue
@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_eigenvalue_of_a_curved_toy_equals_the_full_hessian(decay: float) -> None:
    problem = toy.Smooth()
    a, w, batch = problem.a0(), problem.w0(), problem.batch(0)
    expected = diagnostics.top_eigenvalue(lambda x: problem.value(w, problem.relax(x), batch), a, decay)
    for dense, solver in ((64, "dense"), (0, "lanczos")):
        found = diagnose.eigenvalue(problem, w, a, batch, weight_decay=decay, dense=dense)
        assert found.solver == solver
        assert found.value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["nb201", "nb1shot1"])
def test_eigenvalue_of_a_supernet_equals_the_full_hessian(name: str) -> None:
    search = small.search(SPACES[name])
    batch = small.batch(1, n=3, size=8)
    expected = diagnostics.top_eigenvalue(slow_loss(search, batch), detached(search.a), 1e-3)
    found = diagnose.eigenvalue(search.problem, search.w, search.a, batch, weight_decay=1e-3)
    assert found == (pytest.approx(expected, rel=1e-9), "dense", 1 + sum(x.numel() for x in search.a.values()))
    lanczos = diagnose.eigenvalue(search.problem, search.w, search.a, batch, weight_decay=1e-3, dense=0)
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

    assert diagnose.lanczos(product, 90, h) == pytest.approx(2.0, abs=1e-9)
    assert diagnose.lanczos(lambda v: v, 2, h) is None


def test_eigenvalue_of_a_loss_that_is_linear_in_the_architecture_is_the_decay() -> None:
    problem = toy.Counterexample()
    found = diagnose.eigenvalue(problem, problem.w0(), problem.a0(), toy.TRAIN, weight_decay=0.25)
    assert found.value == 0.25


def test_where_lanczos_does_not_converge_the_whole_hessian_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "lanczos", lambda *_: None)
    problem = toy.Quadratic()
    found = diagnose.eigenvalue(problem, problem.w0(), problem.a0(), toy.VAL, dense=0)
    assert found.value == pytest.approx(toy.RHO, abs=1e-14)
    assert found.solver == "dense"


# --------------------------------------------------------------------------------------------------------- layers
@pytest.mark.parametrize("signed", [False, True])
def test_alignment_equals_the_definition_and_the_papers_example(signed: bool) -> None:
    problem = toy.Alignment()
    g = diagnose.look(problem, problem.w0(), problem.relax(problem.a0()), toy.TRAIN).mix
    expected = diagnostics.layer_alignment(list(g["a"]), signed)
    assert diagnose.alignment(g, problem.groups, signed=signed) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(-0.1092090616 if signed else -0.0385514178, abs=1e-10)


def test_alignment_joins_the_names_of_a_cell_and_needs_two_cells() -> None:
    problem = toy.Alignment(split=True)
    g = diagnose.look(problem, problem.w0(), problem.relax(problem.a0()), toy.TRAIN).mix
    assert diagnose.alignment(g, problem.groups) == pytest.approx(-0.0385514178, abs=1e-10)
    assert diagnose.alignment({"a": torch.ones(1, 2, 3)}, (("a",),)) is None


@pytest.mark.parametrize("name", SPACES)
def test_operator_gradients_are_those_of_each_cells_own_copy(name: str) -> None:
    search = small.search(SPACES[name])
    batch, mix = small.batch(2, n=3, size=8), small.mixture(SPACES[name])
    g = diagnose.look(search.problem, search.w, mix, batch).mix
    first = next(iter(mix))

    def loss(value: float, at: tuple[int, ...]) -> float:
        moved = {k: x.detach().clone() for k, x in mix.items()}
        moved[first][at] += value
        return float(search.problem.outcome(detached(search.w), moved, batch).loss.detach())

    at = (0, 0, 1)
    assert float(g[first][at]) == pytest.approx((loss(1e-8, at) - loss(-1e-8, at)) / 2e-8, rel=1e-5, abs=1e-7)


# ---------------------------------------------------------------------------------------------------------- nodes
def test_correlation_equals_the_double_sum() -> None:
    problem = toy.Correlation()
    mix = problem.relax(problem.a0())
    parts = [(problem.residual(problem.w0(), mix, b), b.x) for b in (problem.val(), problem.train())]
    expected = diagnostics.gradient_correlation(*parts[0], *parts[1])
    assert diagnose.correlation(*parts[0], *parts[1]) == pytest.approx(expected, rel=1e-13)
    by_weights = [torch.autograd.grad(problem.value({"W": w}, mix, b), w)[0] for b in (problem.val(), problem.train())
                  for w in [problem.w0()["W"].requires_grad_()]]
    assert expected == pytest.approx(float((by_weights[0] * by_weights[1]).sum()) / 6, rel=1e-13)


def test_a_look_sees_node_values_and_each_samples_slope() -> None:
    search = small.search(SPACES["nb201"])
    batch = small.batch(3, n=3, size=8)
    mix = detached(search.problem.relax(search.a))
    net = search.problem.supernet
    seen = diagnose.look(search.problem, search.w, mix, batch, list(net.cells))
    assert [len(cell) for cell in seen.values] == [3, 3, 3]
    before = torch.clone(seen.values[2][2])

    gen = torch.Generator().manual_seed(0)
    direction = torch.randn(3, 8, 2, 2, generator=gen, dtype=torch.float64)
    found = []
    for eps in (1e-6, -1e-6):
        hook = net.cells[2].register_forward_hook(lambda _, __, out, eps=eps: [*out[:-1], out[-1] + eps * direction])
        found.append(float(search.problem.outcome(detached(search.w), mix, batch).loss.detach()))
        hook.remove()
    slope = float((seen.slopes[2][2] * direction.flatten(1)).sum()) / 3
    assert slope == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-6)
    assert torch.equal(before, seen.values[2][2])


def test_node_cosine_compares_cells_of_one_shape() -> None:
    gen = torch.Generator().manual_seed(0)
    slopes = [[torch.randn(4, size, generator=gen, dtype=torch.float64) for _ in range(2)] for size in (6, 6, 6, 3)]
    expected = [diagnostics.layer_alignment([slopes[i][j] for i in range(3)]) for j in range(2)]
    assert diagnose.node_cosine(slopes) == [pytest.approx(sum(expected) / 2, rel=1e-12)]


# ----------------------------------------------------------------------------------------------------------- rows
class Fixed:
    """A stream of one position."""

    def __init__(self, first: int) -> None:
        self.position, self.first = 0, first

    def at(self, i: int):
        return small.batch(self.first + i, n=2, size=8)


def watch(space: Space, every: int, rule: object) -> tuple[diagnose.Watch, Tree]:
    search = small.search(space)
    made = diagnose.Watch(search, space, search.problem.supernet, Fixed(0), Fixed(10), every=every, epochs=4,
                          weight_decay=1e-3, stop=rule)
    return made, detached(search.problem.relax(search.a))


@pytest.mark.parametrize("name", SPACES)
def test_a_row_with_everything(name: str) -> None:
    space = SPACES[name]
    made, mix = watch(space, 1, stop.NoStop())
    w = {k: x.detach().clone() for k, x in made.search.w.items()}
    genotype = str(space.discretize(mix))
    row = made.entries(1, mix, genotype)
    assert row["change"] == row["moved"] == 0
    cost = row["diagnostics"]
    assert cost["forward"] == made.search.problem.passes == 3
    assert cost["batch_norm"] == "train"
    assert row["correlation"].keys() == {"first", "middle", "last"}
    assert np.array(row["operator_gradients"][next(iter(mix))]).shape == mix[next(iter(mix))].shape
    assert all(torch.equal(x, w[k]) for k, x in made.search.w.items())
    batches = [small.batch(0, n=2, size=8), small.batch(10, n=2, size=8)]
    g = [diagnose.look(made.search.problem, made.search.w, mix, b).mix for b in batches]
    names = space.groups[0]
    for part, tree in zip(("train", "val"), g, strict=True):
        layers = [torch.cat([tree[n][i].flatten() for n in names]) for i in range(len(tree[names[0]]))]
        if len(layers) > 1:
            assert row[f"alignment_{part}"] == pytest.approx(diagnostics.layer_alignment(layers), rel=1e-10)
        else:
            assert row[f"alignment_{part}"] is None


def test_off_there_is_no_pass_and_what_is_free_is_there() -> None:
    made, mix = watch(SPACES["nb201"], 0, stop.NoStop())
    row = made.entries(1, mix, str(SPACES["nb201"].discretize(mix)))
    assert made.search.problem.passes == 0
    assert row.keys() == {"mix", "entropy", "saturation", "change", "moved", "cells", "none_weight"}
    assert made.cost() is None


@pytest.mark.parametrize(("every", "due"), [(0, []), (1, [1, 2, 3, 4]), (2, [1, 3, 4]), (9, [1, 4])])
def test_epochs_that_are_due(every: int, due: list[int]) -> None:
    made, _ = watch(SPACES["nb201"], every, stop.NoStop())
    assert [epoch for epoch in range(1, 5) if made.due(epoch)] == due


def test_the_stop_rule_alone_costs_its_eigenvalue() -> None:
    made, mix = watch(SPACES["nb201"], 0, stop.EigenvalueStop(every=2))
    text = str(SPACES["nb201"].discretize(mix))
    rows = [made.entries(epoch, mix, text) for epoch in (1, 2, 3)]
    assert ["eigenvalue" in row for row in rows] == [True, False, True]
    made.rows = rows
    assert made.cost()["forward"] == made.search.problem.passes == 2
    assert all(one.keys() >= other.keys() for one, other in itertools.pairwise(rows[:2]))


def test_a_hessian_that_is_not_finite_is_no_fault() -> None:
    class Broken(toy.Quadratic):
        def value(self, w: Tree, mix: Tree, batch) -> torch.Tensor:
            return (mix["a"] * float("nan")).square().sum()

    problem = Broken()
    for dense in (0, 64):
        found = diagnose.eigenvalue(problem, problem.w0(), problem.a0(), toy.VAL, dense=dense)
        assert np.isnan(found.value)
    assert diagnose.curvature(problem, problem.w0(), problem.a0(), toy.VAL)["eigenvalue"] is None
    assert diagnose.lanczos(lambda v: v * float("nan"), 5, torch.zeros(5, dtype=torch.float64)) is None
