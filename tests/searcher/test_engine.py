"""The engine takes the same steps as the naive path: whole outer steps of every method, in float64.

Compared are the changes of weights and architecture, relative to their size. Central differences divide rounding errors
by the probe length, hence the second tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from variants import BUILT, TRAINING

from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Batch, Method, Search, Tree, gradients
from nasx.searcher.loop import on_device_of
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.base import Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

import small
import toy

SPACES: dict[str, Space] = {
    "nb201": Nb201(layers=1, channels=4),
    "darts": Darts(layers=3, channels=4),
    "nb1shot1": Nb1Shot1(variant=1, layers=3, channels=4),
}
EXACT, ROUNDED, DIFFERENCE = 1e-12, 1e-10, 1e-7
"""Rounding; rounding behind batch norms of blocks that a sampled cell does not read (weights moved by 2e-16 move these
architecture steps by 4e-12 themselves); finite differences."""


def prepared(space: Space, method: Method, *, naive: bool = False, engine: EngineSettings | None = None) -> Search:
    """A search in the middle of an epoch, with momentum and clipping, on either path."""
    net = small.build(space, naive=naive)
    problem = RelaxedProblem(space, net, method.activate, engine=engine)
    gen = torch.Generator().manual_seed(0)
    start = method.start({k: torch.randn(s, generator=gen, dtype=torch.float64) for k, s in space.shapes().items()})
    a = {k: x.detach().clone().requires_grad_() for k, x in start.items()}
    w = weights(net)
    search = Search(
        problem,
        w,
        a,
        torch.optim.SGD(w.values(), lr=0.05, momentum=0.9),
        torch.optim.Adam(a.values(), lr=3e-4, betas=(0.5, 0.999)),
        clip=5.0,
    )
    search.epoch, search.epochs, search.progress = 1, 3, 0.4
    return search


def batches(method: Method, first: int = 1) -> tuple[list[Batch], Batch]:
    return [small.batch(first + i, size=8) for i in range(method.train_batches)], small.batch(first + 90, size=8)


def position(search: Search) -> Tree:
    return {
        **{f"w {k}": x.detach().clone() for k, x in search.w.items()},
        **{f"a {k}": x.detach().clone() for k, x in search.a.items()},
    }


def moves(search: Search, step: Callable[..., Any], method: Method, steps: int = 2) -> Tree:
    """Two steps, the second one with momentum."""
    before = position(search)
    for i in range(steps):
        train, val = batches(method, 1 + 10 * i)
        step(search, train, val)
        search.updates += method.steps_w
    return {k: x - before[k] for k, x in position(search).items()}


def apart(got: Tree, expected: Tree) -> float:
    """Largest relative distance, of the weights' moves and of the architecture's."""

    def distance(kind: str) -> float:
        far = toy.flat({k: got[k] - expected[k] for k in got if k.startswith(kind)})
        length = float(toy.flat({k: x for k, x in expected.items() if k.startswith(kind)}).norm())
        return float(far.norm()) / length if length else float(far.norm())

    return max(distance("w "), distance("a "))


def differs_by_difference(name: str) -> bool:
    return name.startswith(("lambda", "amended", "darts order", "idarts difference", "idarts leak"))


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("space", SPACES)
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
