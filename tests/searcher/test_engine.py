"""The engine takes the same steps as the naive path: whole outer steps of every method, in float64.

Compared are the changes of weights and architecture, relative to their size. Central differences divide rounding errors
by the probe length, hence the second tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_steps import SPACES, apart, batches, position, prepared
from variants import BUILT, TRAINING

from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Method, Search, Tree, gradients
from nasx.searcher.loop import on_device_of
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb201.space import Nb201

import small
import toy

EXACT, ROUNDED, DIFFERENCE = 1e-12, 1e-10, 1e-7
"""Rounding; rounding behind batch norms of blocks that a sampled cell does not read (weights moved by 2e-16 move these
architecture steps by 4e-12 themselves); finite differences."""


def moves(search: Search, step: Callable[..., Any], method: Method, steps: int = 2) -> Tree:
    """Two steps, the second one with momentum."""
    before = position(search)
    for i in range(steps):
        train, val = batches(method, 1 + 10 * i)
        step(search, train, val)
        search.updates += method.steps_w
    return {k: x - before[k] for k, x in position(search).items()}


def differs_by_difference(name: str) -> bool:
    return name.startswith(("lambda", "amended", "darts order", "idarts difference", "idarts leak"))


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.sample(14)
def test_steps_equal_those_of_the_naive_path(space: str, name: str) -> None:
    if name == "pc_darts" and space != "darts":
        return  # a property of that space: on others the method is DARTS itself
    method = BUILT[name]
    expected = moves(prepared(SPACES[space], method, naive=True), method.step, method)
    got = moves(prepared(SPACES[space], method), method.step, method)
    assert float(toy.flat(expected).norm()) > 0
    assert apart(got, expected) <= (
        DIFFERENCE if differs_by_difference(name) else ROUNDED if (space, name) == ("nb1shot1", "gdas") else EXACT
    )


def test_a_checkpoint_of_other_kernels_keeps_those_of_this_device() -> None:
    x = torch.ones(2, requires_grad=True)
    live, other = (torch.optim.Adam([x], lr=0.1, capturable=c) for c in (False, True))
    live.load_state_dict(on_device_of(live, {**other.state_dict(), "state": {}}))
    assert live.param_groups[0]["capturable"] is False
    assert on_device_of(other, live.state_dict())["param_groups"][0]["capturable"] is True


# ------------------------------------------------------------------------------------------------- compiled
@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("space", ["nb201", "darts"])
def test_compiled_cells_equal_the_naive_path_in_as_few_graphs_as_there_are_kinds(space: str, last: bool) -> None:
    """nb201: one for each width; darts: for each number of edges that leave a node, width and stride."""
    from torch._dynamo.utils import counters  # too slow for test collection

    torch._dynamo.reset()
    counters.clear()
    chosen = {"nb201": Nb201(layers=2, channels=4), "darts": Darts(layers=3, channels=4)}[space]
    net = small.build(chosen)
    problem = RelaxedProblem(chosen, net, small.softmax, engine=EngineSettings(compile="on", channels_last=last))
    plain = RelaxedProblem(chosen, small.build(chosen, naive=True), small.softmax)
    data = small.batch(1, size=16)
    if last:
        data = data._replace(x=data.x.contiguous(memory_format=torch.channels_last))
    found = []
    for side in (problem, plain):
        mix = small.mixture(chosen, 2)
        w = weights(side.supernet)
        found.append(gradients(side.outcome(w, mix, data).loss, w, mix))
    for got, expected in zip(*found, strict=True):
        for k, g in expected.items():
            assert float((got[k] - g).abs().max()) <= 1e-10 * max(float(g.abs().max()), 1e-3)
    assert counters["stats"]["unique_graphs"] == {"nb201": 3, "darts": 4 + 1 + 3 + 1 + 3}[space]
