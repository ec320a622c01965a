"""Diagnostics in metrics rows: values, schedule and cost."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from variants import BUILT, TRAINING

from nasx.core.bilevel import Method, Tree, detached
from nasx.diagnostics import agreement, recorder, stop
from nasx.searcher.problem import RelaxedProblem
from nasx.spaces.base import Space
from nasx.spaces.blocks import wrap
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

import small
from reference import diagnostics
from small import Fixed

SPACES = {
    "nb201": Nb201(layers=2, channels=2),
    "nb1shot1": Nb1Shot1(variant=1, channels=2, layers=3),
    "darts": Darts(layers=3, channels=2, operations=("skip_connect", "sep_conv_3x3")),
}


def watch(
    space: Space, every: int, rule: object, *, steps: int = 0, search: Any = None, order: int = 1
) -> tuple[recorder.Watch, Tree]:
    search = search or small.search(space)
    made = recorder.Watch(
        search,
        space,
        search.problem.supernet,
        Fixed(0),
        Fixed(10),
        small.protocol(
            epochs=4, diagnose_every=every, diagnose_steps=steps, diagnose_order=order, arch_weight_decay=1e-3
        ),
        rule,
    )
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
    for i, key in enumerate(("operator_gradients_train", "operator_gradients")):
        leaves = {k: x.clone().requires_grad_() for k, x in mix.items()}
        loss = made.search.problem.outcome(made.search.w, leaves, small.batch(10 * i, n=2, size=8)).loss
        for k, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            assert np.allclose(row[key][k], g, rtol=1e-3, atol=0), (key, k)  # four digits
    assert all(torch.equal(x, w[k]) for k, x in made.search.w.items())
    batches = [small.batch(0, n=2, size=8), small.batch(10, n=2, size=8)]
    g = [agreement.look(made.search.problem, made.search.w, mix, b).mix for b in batches]
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


# ------------------------------------------------------------------------------------------------- over the steps
EVERYTHING = {
    "eigenvalue",
    "alignment_train",
    "alignment_val",
    "signed_train",
    "signed_val",
    "operator_gradients",
    "operator_gradients_train",
    "correlation",
    "correlation_single",
    "node_cosine",
    "output_cosine",
    "over_steps",
    "split",
    "entropy",
    "saturation",
    "change",
    "moved",
    "cells",
    "none_weight",
    "mix",
    "diagnostics",
}


def of(method: Method) -> Any:
    """A search of a method on a small supernet."""
    found = small.search(SPACES["nb201"], momentum=0.9)
    problem = RelaxedProblem(SPACES["nb201"], found.problem.supernet, method.activate)
    found.problem, found.epochs, found.epoch = problem, 3, 1
    found.a.update({k: x.detach().requires_grad_() for k, x in method.start(found.a).items()})
    found.a_opt = torch.optim.SGD(found.a.values(), lr=1.0)
    return found


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.sample(4)
def test_every_method_is_described_completely_and_takes_the_same_path(name: str) -> None:
    method, space = BUILT[name], SPACES["nb201"]
    ends = []
    for steps in (0, 1):
        search = of(method)
        made, mix = watch(space, steps, stop.NoStop(), steps=steps, search=search)
        step = made.over(method.step, method.step)
        assert (step == method.step) is not bool(steps)
        train = [small.batch(seed, n=2, size=8) for seed in range(1, 1 + method.train_batches)]
        before = search.problem.passes
        for _ in range(2):
            step(search, train, small.batch(9, n=2, size=8))
        ends.append(
            ([x.detach().clone() for x in (*search.w.values(), *search.a.values())], search.problem.passes - before)
        )
        row = made.entries(1, mix, str(space.discretize(mix)))
    assert all(torch.equal(x, y) for x, y in zip(ends[0][0], ends[1][0], strict=True))
    assert ends[1][1] - ends[0][1] == 4
    assert row.keys() == EVERYTHING
    assert row["diagnostics"]["forward"] == 7
    assert row["split"]["cell"].keys() == set(space.operations)


def test_a_look_at_a_step_sees_the_layers_as_the_step_does() -> None:
    search = small.search(SPACES["nb201"])
    made, _ = watch(SPACES["nb201"], 0, stop.NoStop(), steps=2, search=search)
    seen: list[list[torch.Tensor]] = []

    def step(search: Any, train: Any, val: Any) -> dict[str, torch.Tensor]:
        mix = detached(search.problem.relax(search.a))
        g = [agreement.look(search.problem, search.w, mix, batch).mix["cell"] for batch in (train[0], val)]
        seen.append(g)
        search.update_w(train[0])
        search.update_a(val)
        return {}

    looking = made.over(step, step)
    for i in range(5):
        looking(search, [small.batch(i, n=2, size=8)], small.batch(50 + i, n=2, size=8))
    row = made.entries(1, detached(search.problem.relax(search.a)), "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    assert made.taken == 5
    assert row["diagnostics"] == {"forward": 6, "backward": 6, "seconds": row["diagnostics"]["seconds"]}
    for k, part in enumerate(("train", "val")):
        expected = [diagnostics.layer_alignment(list(g[k])) for g in seen[::2]]
        assert row["over_steps"][f"alignment_{part}"] == pytest.approx(sum(expected) / 3, rel=1e-9)
    weights = [0.999**2, 0.999, 1]
    conv = [float(g[1][:2, :, 3].sum()) for g in seen[::2]]  # two of six cells, nor_conv_3x3
    assert row["split"]["cell"]["nor_conv_3x3"][0] == pytest.approx(
        sum(w * x for w, x in zip(weights, conv, strict=True)) / sum(weights), rel=1e-9
    )


def test_looks_of_second_order_are_means_over_the_steps_at_a_known_cost() -> None:
    search = small.search(SPACES["nb201"], momentum=0.9)
    made, mix = watch(SPACES["nb201"], 0, stop.NoStop(), steps=1, search=search, order=2)
    values = []

    def step(search: Any, train: Any, val: Any) -> dict[str, torch.Tensor]:
        g = agreement.second_order(search, detached(search.problem.relax(search.a)), train[0], val)["cell"]
        values.append(diagnostics.layer_alignment(list(g)))
        search.update_w(train[0])
        return {}

    before = search.problem.passes
    for i in range(3):
        made.over(step, step)(search, [small.batch(i, n=2, size=8)], small.batch(50 + i, n=2, size=8))
    row = made.entries(1, mix, "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    assert row["over_steps"]["alignment_second"] == pytest.approx(sum(values) / 3, rel=1e-9)
    assert row["over_steps"].keys() >= {"alignment_train", "alignment_val", "signed_second"}
    assert search.problem.passes - before - 3 * 3 == row["diagnostics"]["forward"] == 12
    assert row["diagnostics"]["backward"] == 15


@pytest.mark.slow
def test_looks_go_through_the_cells_as_they_are_written() -> None:
    made, mix = watch(SPACES["nb201"], 1, stop.NoStop())
    text = str(SPACES["nb201"].discretize(mix))
    expected = made.entries(1, mix, text)

    def never(graph: Any, example: Any) -> Any:
        raise AssertionError("compiled")

    wrap(made.search.problem.supernet, lambda body: torch.compile(body, backend=never))
    found = made.entries(1, mix, text)
    assert {k: v for k, v in found.items() if k != "diagnostics"} == {
        k: v for k, v in expected.items() if k != "diagnostics"
    }
