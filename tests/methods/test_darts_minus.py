"""DARTS-: the auxiliary skip connection in the supernet, its schedule, and its absence from the choice."""

from __future__ import annotations

import agree
import pytest
import torch

from nasx.methods.darts import Darts as First
from nasx.methods.darts_minus import DartsMinus
from nasx.methods.sdarts import Sdarts
from nasx.spaces.base import Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

import small
import toy
from reference import methods

MINUS = DartsMinus(inner=First())


def test_auxiliary_weight_falls_linearly_to_zero() -> None:
    search = toy.search(toy.Smooth())
    search.epochs = 50
    for search.epoch, beta in ((0, 1.0), (25, 0.5), (49, 0.02)):
        assert MINUS.auxiliary(search) == pytest.approx(beta)


def test_both_steps_see_the_auxiliary_connection() -> None:
    """On the toy the first operation is the skip connection: its weight is p + beta in both losses."""
    problem = toy.Smooth()
    search, train, val = toy.search(problem, lr=0.1), problem.batch(1), problem.batch(2)
    search.epoch, search.epochs = 1, 4
    extra = toy.real([[0.75, 0.0, 0.0]] * 2)

    def mix(a: toy.Tree) -> toy.Tree:
        return {"a": (torch.softmax(a["a"], -1) + extra).expand(2, 2, 3)}

    w, a = problem.w0(), problem.a0()
    da = methods.darts1(lambda w, a: problem.value(w, mix(a), val), w, a)
    a = {k: a[k] - da[k] for k in a}
    dw, _ = methods.single({"train": agree.mixed_loss(problem, train)}, w, mix(a), "same_batch")
    MINUS.step(search, [train], val)
    assert agree.relative(search.a, a) < 1e-12
    assert agree.relative(toy.unflat(search.grads_w[0], w), dw) < 1e-12
    chosen = MINUS.select(search, toy.selection())
    assert agree.same(chosen, problem.relax(search.a)), "the choice is by p alone"


def test_noise_is_drawn_first_and_the_auxiliary_connection_added_to_it() -> None:
    problem = toy.Smooth()
    train, val = problem.batch(1), problem.batch(2)
    ends = []
    for method in (DartsMinus(inner=Sdarts(inner=First())), Sdarts(inner=DartsMinus(inner=First()))):
        search = toy.search(problem)
        search.epoch, search.epochs = 1, 4
        method.step(search, [train], val)
        ends.append(search.w)
    assert agree.same(*ends), "whichever is around the other"


S1_LIKE = (("skip_connect", "dil_conv_3x3"), ("max_pool_3x3", "skip_connect")) * 7


@pytest.mark.parametrize(
    "space",
    [Nb201(), Darts(), Darts(edges="fixed"), Darts(untied=True, layers=4), Darts(normal=S1_LIKE)],
    ids=lambda space: type(space).__name__,
)
def test_mask_is_one_where_the_operation_stands(space: Space) -> None:
    mask, mix = space.mask("skip_connect"), small.mixture(space)
    assert {k: x.shape for k, x in mask.items()} == {k: x.shape for k, x in mix.items()}
    kept = space.relax({k: torch.zeros(shape) for k, shape in space.shapes().items()}, torch.ones_like)
    for name, x in mask.items():
        for e, own in enumerate(space.edge_operations(name)):
            for o, operation in enumerate(own):
                expected = float(operation == "skip_connect" and float(kept[name][0, e, o]) > 0)
                assert bool((x[:, e, o] == expected).all())
    assert not any(x.any() for x in Nb1Shot1().mask("skip_connect").values())


def test_an_edge_of_the_supernet_gains_its_input() -> None:
    """nb201, edge 0 -> 3 alone: the cell gives beta x more."""
    net = small.build(Nb201(layers=1, channels=4))
    cell, x = net.cells[0], torch.randn(2, 4, 6, 6, dtype=torch.float64)
    rows = torch.zeros(6, 4, dtype=torch.float64)
    rows[cell.order.index(3), 2] = 0.7
    mask = Nb201().mask("skip_connect")["cell"][0, cell.order, 1:].double()
    only = torch.zeros(6, 1, dtype=torch.float64)
    only[cell.order.index(3)] = 1.0
    torch.testing.assert_close(cell([x], rows + 0.3 * mask * only)[-1], cell([x], rows)[-1] + 0.3 * x)


def test_a_space_with_weights_of_edges_has_the_auxiliary_connection_too() -> None:
    """On PC-DARTS' space the operations alone are strengthened; this raised an AttributeError."""
    search = small.search(Darts(layers=3, channels=8, partial=4, edge_norm=True))
    seen: list[toy.Tree] = []
    problem = search.problem
    outcome = problem.outcome
    problem.outcome = lambda w, mix, *rest, **more: (seen.append(mix), outcome(w, mix, *rest, **more))[1]  # type: ignore
    clean = {k: x.detach() for k, x in problem.relax(search.a).items()}
    DartsMinus(inner=First()).step(search, [small.batch(1)], small.batch(2))
    assert all(torch.equal(seen[0][k], clean[k]) for k in ("normal.edge", "reduce.edge"))
    skip = Darts().operations.index("skip_connect")
    extra = seen[0]["normal"].detach() - clean["normal"]
    torch.testing.assert_close(extra[..., skip], torch.ones_like(extra[..., skip]))
    assert not extra[..., [k for k in range(8) if k != skip]].any()
