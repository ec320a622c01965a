"""PC-DARTS: first-order DARTS on a space with partial channels and edge weights."""

from __future__ import annotations

import agree
import pytest
import torch

from nasx.methods.darts import Darts
from nasx.spaces.darts.space import Darts as DartsSpace

import small
from reference import methods

SPACE = DartsSpace(layers=4, channels=8, partial=4, edge_norm=True)


def test_edge_weights_scale_the_operations_as_published() -> None:
    search = small.search(SPACE)
    mix = search.problem.relax(search.a)
    for kind in ("normal", "reduce"):
        a, beta = search.a[kind].detach(), search.a[f"{kind}.edge"].detach()[0]
        torch.testing.assert_close(mix[f"{kind}.edge"][0, 0].detach(), methods.edge_weights(beta), rtol=0, atol=1e-15)
        torch.testing.assert_close(mix[kind][0].detach(), methods.pc_scores(a, beta), rtol=0, atol=1e-15)


@pytest.mark.parametrize("order", [1, 2])
def test_hypergradient_reaches_operations_and_edges(order: int) -> None:
    search = small.search(SPACE, lr=0.05)
    first, second = agree.loss(search.problem, agree.TRAIN), agree.loss(search.problem, agree.VAL)
    expected = (
        methods.darts1(second, search.w, search.a)
        if order == 1
        else methods.darts2(first, second, search.w, search.a, 0.05)
    )
    got = (
        Darts(order=order, radius=agree.RADIUS)
        .hypergradient(  # type: ignore[arg-type]
            search, agree.TRAIN, agree.VAL
        )
        .g
    )
    assert agree.relative(got, expected) < 1e-6
    assert set(got) == {"normal", "reduce", "normal.edge", "reduce.edge"}
    assert all(bool(x.abs().sum() > 0) for x in got.values())
