"""A search in the middle of an epoch on the smooth toy problem, and everything that a step changes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nasx.core.bilevel import Method, Search

import toy


def parts(method: Method, *, epoch: int = 1) -> tuple[toy.Watched, toy.Recorder, list[Any], Any]:
    """Return (problem, search, training batches, validation batch) on the smooth toy, in the middle of a search."""
    problem = toy.Watched(toy.Smooth(noise=0.1, activation=method.activate))
    a = method.start(problem.a0())
    search = toy.search(
        problem, a=a, lr=0.1, momentum=0.9, weight_decay=1e-3, clip=5.0, adam=True, a_lr=0.01, a_weight_decay=1e-3
    )
    search.epoch, search.epochs = epoch, 3
    batches = [toy.Smooth().batch(seed) for seed in range(1, 1 + method.train_batches)]
    return problem, search, batches, toy.Smooth().batch(1000)


def state(search: Search) -> list[Tensor]:
    """Return everything that a step may change."""
    found = [x.detach() for x in (*search.w.values(), *search.a.values())]
    for optimizer in (search.w_opt, search.a_opt):
        for values in optimizer.state.values():
            found += [x for x in values.values() if isinstance(x, Tensor)]
    return [x.clone() for x in found]
