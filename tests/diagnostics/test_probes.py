"""Error bars of a gradient: every method reports its finite differences and its series, without other changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import agree
import jobs
import pytest
import torch
import toy_steps
from variants import BUILT, TRAINING

from nasx.core import second_derivatives
from nasx.core.bilevel import Batch, Method, Search, SecondDerivative, Tree, detached
from nasx.data.segments import Segments
from nasx.diagnostics import recorder, stop
from nasx.diagnostics.probes import Probes
from nasx.methods.alternating import conjugate_gradients
from nasx.methods.amended import Amended
from nasx.methods.darts import Darts
from nasx.methods.idarts import CG_PRODUCTS, IDarts
from nasx.methods.lambda_ import Lambda
from nasx.report import curves
from nasx.searcher.problem import RelaxedProblem

import small
import toy
from reference import methods
from small import Fixed

TAKEN = {  # how many differences of which name a step takes; the others take none. Each is compared twice
    "darts order=2": {"Mv": 1},
    "darts clip": {"Mv": 1},
    "amended": {"Hv": 1, "MHv": 1},
    "idarts difference": {"Hu": 2, "Ms": 1},
    "idarts released": {"Ms": 1},
    "lambda": {"penalty": 1},
    "lambda signed": {"penalty": 1},
    "lambda one-sided": {"penalty": 1},
    "lambda outer": {"penalty": 1},
    "lambda_sdarts": {"penalty": 1},
    "sama": {"Mv": 1},
}


def watch(search: Search, probe_every: int) -> recorder.Watch:
    problem = search.problem
    assert isinstance(problem, RelaxedProblem)
    return recorder.Watch(
        search,
        problem.space,
        problem.supernet,
        Fixed(0),
        Fixed(10),
        small.protocol(epochs=4, probe_every=probe_every),
        stop.NoStop(),
    )


def searching(method: Method, space: str) -> Search:
    search = agree.real_search(space, momentum=0.9)
    assert isinstance(search.problem, RelaxedProblem)
    search.problem.activate = method.activate
    search.epoch, search.epochs = 1, 3
    return search


def entries(made: recorder.Watch, epoch: int = 1) -> dict[str, Any]:
    mix = detached(made.search.problem.relax(made.search.a))
    return made.entries(epoch, mix, str(made.search.problem.space.discretize(mix)))  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------- reports
@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.sample(4)
def test_every_difference_is_compared_and_no_bit_of_the_search_changes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Differences are counted where they are taken: a method cannot take one without a report."""
    method, counts = BUILT[name], [0]
    directional = second_derivatives.directional

    def counted(*given: Any, **more: Any) -> Tree:
        counts[0] += 1
        return directional(*given, **more)

    monkeypatch.setattr(second_derivatives, "directional", counted)
    ends = []
    for probe_every in (0, 1):
        search = searching(method, "nb201")
        made, counts[0] = watch(search, probe_every), 0
        step = made.over(method.step, method.step)
        for i in range(2):
            train = [small.batch(10 * i + k, n=2, size=8) for k in range(method.train_batches)]
            logged = step(search, train, small.batch(99 + i, n=2, size=8))
        ends.append((toy_steps.state(search), logged))
        row = entries(made)
        assert ("probes" in row) == bool(probe_every)
    assert all(torch.equal(x, y) for x, y in zip(ends[0][0], ends[1][0], strict=True))
    assert agree.same(ends[0][1], ends[1][1])
    expected = TAKEN.get(name, {})
    taken_names = {k: found["count"] for k, found in row["probes"].items()}
    series = {"g-2K": 2, "g-CG": 2} if isinstance(method, IDarts) else {}
    assert taken_names == series | {k + end: 2 * count for k, count in expected.items() for end in ("", "-half")}
    taken = sum(2 * count for count in expected.values())
    again = {"idarts difference": 2 * 5, "idarts released": 2}.get(name, 0)  # 2K products, and the mixed one
    assert counts[0] == (taken if name == "lambda one-sided" else 2 * taken + again)
    passes = 3 * taken, 4 * taken
    if series:  # twice the terms: K = 2; conjugate gradients: the most products that they may take
        forward, backward = {"exact": (1, 6), "released": (3, 7), "difference": (10, 10)}[method.products]
        passes = passes[0] + 2 * (forward + 1), passes[1] + 2 * (backward + CG_PRODUCTS + 2)
    if taken or series:
        assert (row["diagnostics"]["forward"], row["diagnostics"]["backward"]) == passes
    else:
        assert "diagnostics" not in row


def test_a_text_s_states_stay_where_they_are() -> None:
    """Batches of a text go on from one another: a comparison hands nothing on."""
    ends = []
    for probe_every in (0, 1):
        search = agree.real_search("darts_rnn")
        made = watch(search, probe_every)
        step = made.over(Darts(order=2).step, Darts(order=2).step)
        train, val = (Segments(torch.arange(400) % 10, batch=4, bptt=5, seed=1, name=part) for part in "wa")
        for _ in range(3):
            step(search, [next(train)], next(val))
        ends.append(toy_steps.state(search))
    assert all(torch.equal(x, y) for x, y in zip(*ends, strict=True))


# -------------------------------------------------------------------------------------------------------- values
def listening(search: Search, probes: Probes) -> Search:
    """The search with its comparisons taken in by `probes`."""
    return replace(search, probe=lambda name, found, better, passes: probes.add(name, found, better()))


def test_where_the_loss_is_quadratic_cosine_and_relative_norm_are_one() -> None:
    probes = Probes()
    search = listening(toy.search(toy.Quadratic(), lr=0.1), probes)
    Amended().hypergradient(search, toy.TRAIN, toy.VAL)
    Darts(order=2).hypergradient(search, toy.TRAIN, toy.VAL)
    found = probes.entries()
    assert set(found) == {name + end for name in ("Hv", "MHv", "Mv") for end in ("", "-half")}
    for one in found.values():
        assert one["cosine"] == pytest.approx(1, abs=1e-12)
        assert one["norm"] == pytest.approx(1, abs=1e-10)
        assert one["difference"] < 1e-10
        assert one["count"] == 1
    assert probes.entries() == {}, "the next epoch starts empty"


def test_half_the_radius_errs_a_quarter() -> None:
    """The error of a central difference is c r^2, so that the difference to half the radius is 3/4 of it."""
    problem, probes = toy.Smooth(), Probes()
    search = listening(toy.search(problem, lr=0.1), probes)
    Darts(order=2, radius=0.02).hypergradient(search, problem.batch(1), problem.batch(2))
    found = probes.entries()
    assert found["Mv-half"]["difference"] / found["Mv"]["difference"] == pytest.approx(0.75, rel=1e-3)


@pytest.mark.parametrize("products", ["exact", "released", "difference"])
def test_a_series_is_compared_with_twice_its_terms_and_with_the_solution(products: Any) -> None:
    """On the quadratic problem: the exact hypergradient is that of conjugate gradients, in as many steps as weights."""
    problem, probes = toy.Quadratic(), Probes()
    search = listening(toy.search(problem, w=problem.w_star(), lr=0.1), probes)
    g = toy.flat(IDarts(K=1, products=products).hypergradient(search, toy.TRAIN, toy.VAL).g)
    found = probes.entries()
    for name, expected in (("g-2K", toy.QUADRATIC["idarts"][2]), ("g-CG", toy.QUADRATIC["exact"])):
        e = toy.real(expected)
        assert found[name]["cosine"] == pytest.approx(float(g @ e / g.norm() / e.norm()), abs=1e-8)
        assert found[name]["difference"] == pytest.approx(float((g - e).norm() / e.norm()), abs=1e-8)


def test_conjugate_gradients_end_where_the_curvature_is_not_positive() -> None:
    H = torch.diag(toy.real([2.0, -1.0]))
    v = {"x": toy.real([1.0, 0.0])}
    product: Callable[[Tree], Tree] = lambda u: {"x": H @ u["x"]}  # noqa: E731
    assert torch.equal(conjugate_gradients(product, v, 5)["x"], toy.real([0.5, 0.0]))
    assert not conjugate_gradients(product, {"x": toy.real([0.0, 1.0])}, 5)["x"].any()


def heard(search: Search, work: Callable[[], Any]) -> dict[str, list[tuple[Tree, Tree]]]:
    """The differences that `work` takes and the same by double backward, by name."""
    found: dict[str, list[tuple[Tree, Tree]]] = {}
    search.probe = lambda name, value, better, passes: found.setdefault(name, []).append((value, better()))
    work()
    return found


@pytest.mark.parametrize("space", agree.SPACES)
def test_what_differences_are_compared_with_is_the_reference(space: str) -> None:
    """M v, H v, M H v and d Lambda / d w by double backward, each along the direction of the difference."""
    search = agree.real_search(space)
    search.epoch, search.epochs = 1, 2
    loss = agree.loss(search.problem, agree.TRAIN)
    v = methods.both(agree.loss(search.problem, agree.VAL), search.w, search.a)[1]
    found = heard(search, lambda: Amended(radius=0.01).hypergradient(search, agree.TRAIN, agree.VAL))
    assert agree.relative(found["Hv"][0][1], methods.hessian_product(loss, search.w, search.a, v)) < 1e-10
    hv = found["Hv"][0][0]
    assert agree.relative(found["MHv"][0][1], methods.mixed_product(loss, search.w, search.a, hv)) < 1e-10
    (group,) = search.problem.groups
    _, penalty = methods.alignment_gradient(
        agree.mixed_loss(search.problem, agree.TRAIN), search.w, agree.mixture(search), group
    )
    step = Lambda(strength=0.25, first="weights")
    found = heard(search, lambda: step.step(search, [agree.TRAIN], agree.VAL))
    assert agree.relative(found["penalty"][0][1], penalty) < 1e-10


def test_cosine_and_norm_are_those_of_the_two_vectors() -> None:
    probes = Probes()
    for found, exact in (([3.0, 0, 0], [1.0, 1, 0]), ([0.0, 0, 2], [0.0, 0, -4])):
        probes.add("x", *({"a": toy.real(x[:2]), "b": toy.real(x[2:])} for x in (found, exact)))
    assert probes.entries() == {
        "x": {
            "cosine": pytest.approx((0.5**0.5 - 1) / 2),
            "norm": pytest.approx((3 / 2**0.5 + 0.5) / 2),
            "difference": pytest.approx(((5 / 2) ** 0.5 + 1.5) / 2),
            "count": 2,
        }
    }


def test_an_exact_product_of_what_is_not_curved_is_zero() -> None:
    """A loss that is linear in the weights has no Hessian, and autograd no graph for it."""
    x = {"x": toy.real([1.0, 2.0])}
    flat = SecondDerivative(lambda x: 3 * x["x"].sum(), x)
    assert not flat.exact({"x": toy.real([1.0, 1.0])})["x"].any()
    assert not flat.central({"x": toy.real([1.0, 1.0])})["x"].any()


# ---------------------------------------------------------------------------------------------------------- when
def test_only_due_steps_are_compared_and_these_run_as_they_are_written() -> None:
    """Every third one from the first on; the other steps are what was handed in, for example replayed from a graph."""
    search = toy.search(toy.Watched(toy.Smooth()))
    made = recorder.Watch.__new__(recorder.Watch)
    made.running, made.probe_every, made.steps, made.taken, made.looked, made.probes = None, 3, 0, 0, None, Probes()
    ran: list[str] = []

    def step(kind: str) -> Callable[[Search, Any, Batch], dict[str, Any]]:
        return lambda search, train, val: (ran.append(kind), {})[1]

    watched = made.over(step("replayed"), step("eager"))
    for _ in range(7):
        watched(search, [toy.TRAIN], toy.VAL)
    assert ran == ["eager", "replayed", "replayed"] * 2 + ["eager"]
    assert search.probe is None, "the observer belongs to a view for one step"


def test_a_resumed_epoch_counts_what_was_compared_before() -> None:
    method, ends = BUILT["amended"], []
    for interrupted in (False, True):
        search = searching(method, "nb201")
        made = watch(search, 2)
        for i in range(4):
            if interrupted and i == 3:
                state, made = made.state(), watch(search, 2)
                made.load(state)
            made.over(method.step, method.step)(search, [small.batch(i, n=2, size=8)], small.batch(9, n=2, size=8))
        row = entries(made)
        ends.append({k: row[k] for k in ("probes", "mix")})
    assert ends[0] == ends[1]
    assert ends[0]["probes"]["Hv"]["count"] == 2
    older = {k: v for k, v in made.state().items() if k != "probes"}
    watch(search, 2).load(older)
    made.load(older | {"probes": {"sums": {"Hv": torch.ones(3)}}})
    assert not made.probes.sums, "sums without the relative difference are those of an older version"


@pytest.mark.slow
def test_a_run_shows_it_in_rows_and_verdict(tmp_path: Path) -> None:
    found = {}
    for every in (0, 2):
        words = (*jobs.TINY_NB201, "method=amended", f"search.probe_every={every}", f"name=p{every}")
        done = jobs.nasx(tmp_path, *words)
        assert done.code == 0, done
        folder = tmp_path / "runs" / f"p{every}"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found[every] = rows, json.loads((folder / "result.json").read_text())
    assert [row["probes"]["MHv"]["count"] for row in found[2][0]] == [3, 3]
    said = found[2][1]["verdict"]["text"]
    assert "Error bars of its gradient, on average: against double backward, Hv a cosine of " in said
    assert "against half the radius, Hv a cosine of " in said
    assert "(6 compared)" in said
    assert "double backward" not in found[0][1]["verdict"]["text"]
    picture = curves.search_picture(tmp_path / "runs" / "p2").read_text()
    assert all(word in picture for word in ("Error bars, relative difference", "MHv-half"))
    for one, other in zip(found[0][0], found[2][0], strict=True):
        assert {k: one[k] for k in one if k != "wall_s"} == {k: other[k] for k in one if k != "wall_s"}
