"""Searches on small real spaces in the middle of an epoch, and the distance between two of them."""

from __future__ import annotations

import torch

from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Batch, Method, Search, Tree
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


def prepared(space: Space, method: Method, *, naive: bool = False, engine: EngineSettings | None = None) -> Search:
    """Return a search in the middle of an epoch, with momentum and clipping, on either path."""
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


def apart(got: Tree, expected: Tree) -> float:
    """Return the largest relative distance between the moves of the weights, and of the architecture."""

    def distance(kind: str) -> float:
        far = toy.flat({k: got[k] - expected[k] for k in got if k.startswith(kind)})
        length = float(toy.flat({k: x for k, x in expected.items() if k.startswith(kind)}).norm())
        return float(far.norm()) / length if length else float(far.norm())

    return max(distance("w "), distance("a "))
