"""Alignment, split, correlation and cosines equal slow definitions in float64, for every space of conf/space, with a
plain supernet of one module per operation whose edges are recorded separately.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import agree
import pytest
import space_variants
import torch
from torch import Tensor, nn

from nasx.core.bilevel import Batch, Tree, detached
from nasx.diagnostics import agreement, structure
from nasx.searcher.problem import RelaxedProblem
from nasx.spaces.base import Space
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

import small
import toy
from reference import diagnostics


# --------------------------------------------------------------------------------------------------------- layers
@pytest.mark.parametrize("signed", [False, True])
def test_alignment_equals_the_definition_and_the_papers_example(signed: bool) -> None:
    problem = toy.Alignment()
    g = agreement.look(problem, problem.w0(), problem.relax(problem.a0()), toy.TRAIN).mix
    expected = diagnostics.layer_alignment(list(g["a"]), signed)
    assert float(agreement.alignment(g, problem.groups, signed=signed)) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(-0.1092090616 if signed else -0.0385514178, abs=1e-10)


def test_alignment_joins_the_names_of_a_cell_and_needs_two_cells() -> None:
    problem = toy.Alignment(split=True)
    g = agreement.look(problem, problem.w0(), problem.relax(problem.a0()), toy.TRAIN).mix
    assert float(agreement.alignment(g, problem.groups)) == pytest.approx(-0.0385514178, abs=1e-10)
    assert agreement.alignment({"a": torch.ones(1, 2, 3)}, (("a",),)) is None


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_gradient_of_second_order_is_that_through_the_weight_step(momentum: float) -> None:
    """Lambda-DARTS, eq. 20: each cell's own d L2 / dp at w1, minus lr M v by the exact product."""
    search = small.search(Nb201(layers=1, channels=2), lr=0.2, momentum=momentum)
    search.w_opt.param_groups[0]["weight_decay"] = 0.01
    train, val = small.batch(1, n=2, size=8), small.batch(2, n=2, size=8)
    search.update_w(train)  # fills the momentum buffers
    mix = detached(search.problem.relax(search.a))
    before = [x.detach().clone() for x in search.w.values()]
    found = agreement.second_order(search, mix, train, val)["cell"]
    assert all(torch.equal(x, y.detach()) for x, y in zip(before, search.w.values(), strict=True))

    def loss(w: Tree, p: Tensor, batch: Batch) -> Tensor:
        return search.problem.outcome(w, {"cell": p}, batch).loss

    w, p = ({k: x.detach().requires_grad_() for k, x in search.w.items()}, mix["cell"].clone().requires_grad_())
    slope = torch.autograd.grad(loss(w, p, train), list(w.values()), create_graph=True)
    buffers = [search.w_opt.state[x].get("momentum_buffer") for x in search.w.values()]
    w1 = {
        k: (x - 0.2 * (g + 0.01 * x + (0 if b is None else momentum * b))).detach().requires_grad_()
        for (k, x), g, b in zip(w.items(), slope, buffers, strict=True)
    }
    direct, *v = torch.autograd.grad(loss(w1, p, val), [p, *w1.values()])
    (mixed,) = torch.autograd.grad(sum((g * u).sum() for g, u in zip(slope, v, strict=True)), p)
    assert agree.relative({"p": found}, {"p": direct - 0.2 * mixed}) < 1e-12
    assert float(mixed.norm() / direct.norm()) > 1e-3, "the second term must count in this test"


def test_on_cells_in_a_row_the_alignment_of_second_order_differs_from_that_of_first_order() -> None:
    """The closed form of toy.Alignment: L = sum of p_l' M_l w, so that g_l = 2 M_l w1 - 2 lr M_l (sum of M_k' p_k)."""
    problem = toy.Alignment()
    search = toy.search(problem, lr=0.3)
    mix = problem.relax(search.a)
    p, w, M = mix["a"].detach().reshape(3, -1), search.w["w"].detach(), toy.M
    pull = torch.einsum("lij,li->j", M, p)
    w1 = w - 0.3 * pull
    expected = torch.einsum("lij,j->li", M, 2 * w1 - 0.3 * 2 * pull)
    found = agreement.second_order(search, detached(mix), toy.TRAIN, toy.VAL)
    torch.testing.assert_close(found["a"].reshape(3, -1), expected, rtol=0, atol=1e-12)
    value = agreement.alignment(found, problem.groups)
    assert float(value) == pytest.approx(diagnostics.layer_alignment(list(expected)), rel=1e-10)
    assert abs(float(value) + 0.0385514178) > 0.01  # that of first order


def test_the_split_is_the_decaying_mean_of_sums_over_edges_in_the_first_and_the_last_cells() -> None:
    gen = torch.Generator().manual_seed(0)
    seen = [{"cell": torch.randn(15, 2, 3, generator=gen, dtype=torch.float64)} for _ in range(7)]
    names = {"cell": [("skip", "conv", "none"), ("conv", "skip", "none")]}
    running = agreement.Running((("cell",),), names)
    for g in seen:
        running.add(seen[0], g)
    row = running.entries()
    weights = [0.999 ** (6 - k) for k in range(7)]
    for name, columns in (("skip", (0, 1)), ("conv", (1, 0)), ("none", (2, 2))):
        for part, cells in enumerate((range(5), range(10, 15))):
            sums = [sum(float(g["cell"][i, edge, columns[edge]]) for i in cells for edge in range(2)) for g in seen]
            expected = sum(w * x for w, x in zip(weights, sums, strict=True)) / sum(weights)
            assert row["split"]["cell"][name][part] == pytest.approx(expected, rel=1e-10)
    values = [diagnostics.layer_alignment(list(g["cell"])) for g in seen]
    assert row["over_steps"]["alignment_val"] == pytest.approx(sum(values) / 7, rel=1e-12)
    assert row["over_steps"]["alignment_train"] == pytest.approx(values[0], rel=1e-12)


def test_a_running_split_goes_on_from_its_state() -> None:
    gen = torch.Generator().manual_seed(1)
    seen = [{"cell": torch.randn(6, 1, 2, generator=gen)} for _ in range(6)]
    whole, first, second = (agreement.Running((("cell",),), {"cell": [("skip", "conv")]}) for _ in range(3))
    for i, g in enumerate(seen):
        whole.add(g, g)
        (first if i < 4 else second).add(g, g)
        if i == 3:
            second.load(first.state())
    assert whole.entries() == second.entries()
    assert whole.entries()["over_steps"] == {}


# ---------------------------------------------------------------------------------------------------------- nodes
def test_correlation_equals_the_double_sum() -> None:
    problem = toy.Correlation()
    mix = problem.relax(problem.a0())
    parts = [(problem.residual(problem.w0(), mix, b), b.x) for b in (problem.val(), problem.train())]
    expected = diagnostics.gradient_correlation(*parts[0], *parts[1])
    assert agreement.correlation(*parts[0], *parts[1]) == pytest.approx(expected, rel=1e-13)
    by_weights = [
        torch.autograd.grad(problem.value({"W": w}, mix, b), w)[0]
        for b in (problem.val(), problem.train())
        for w in [problem.w0()["W"].requires_grad_()]
    ]
    assert expected == pytest.approx(float((by_weights[0] * by_weights[1]).sum()) / 6, rel=1e-13)


class Plain:
    """A supernet of plain modules at the weights of `net`, run once on a batch: each operation and each node heard."""

    def __init__(self, space: Space, net: Any, mix: Tree, batch: Batch) -> None:
        ref: Any = small.reference(space, net)
        self.outputs: list[dict[tuple[int, int], Tensor]] = [{} for _ in ref.cells]
        edges: list[dict[int, Tensor]] = [{} for _ in ref.cells]
        for i, cell in enumerate(ref.cells):
            for e, edge in enumerate(cell.edges):
                edge.register_forward_hook(lambda _, __, out, i=i, e=e: edges[i].__setitem__(e, out))
                for o, op in enumerate(edge.ops):
                    op.register_forward_hook(
                        lambda _, __, out, i=i, at=(e, o): self.outputs[i].__setitem__(at, out.detach())
                    )
        self.leaves = detached(mix, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(ref(batch.x, small.renamed(self.leaves)), batch.y)
        flat = [(i, e) for i, heard in enumerate(edges) for e in heard]
        found = torch.autograd.grad(loss, [*self.leaves.values(), *(edges[i][e] for i, e in flat)], allow_unused=True)
        self.mix = dict(zip(self.leaves, found, strict=False))
        slope = {
            at: torch.zeros_like(edges[at[0]][at[1]]) if g is None else g
            for at, g in zip(flat, found[len(self.leaves) :], strict=True)
        }
        self.kinds = getattr(ref, "kinds", [""] * len(ref.cells))
        self.values: list[list[Tensor]] = []
        self.slopes: list[list[Tensor]] = []
        places = {kind: iter(range(99)) for kind in self.kinds}
        for i, kind in enumerate(self.kinds):
            place = next(places[kind])
            name = f"{kind or 'cell'}.edge"
            share = mix[name][place].flatten() if name in mix else torch.ones(14)
            self.values.append([])
            self.slopes.append([])
            for own in into(space):
                self.values[i].append(sum(share[e] * edges[i][e] for e in own).detach().flatten(1))
                self.slopes[i].append(len(batch.y) * (slope[i, own[0]] / share[own[0]]).flatten(1))

    def stages(self) -> Iterator[list[int]]:
        alike: dict[Any, list[int]] = {}
        for i, kind in enumerate(self.kinds):
            alike.setdefault((kind, self.values[i][0].shape), []).append(i)
        yield from (cells for cells in alike.values() if len(cells) > 1)


def into(space: Space) -> list[list[int]]:
    """Rows of the mixture that end at each node."""
    match space:
        case Nb201():
            return [[0], [1, 2], [3, 4, 5]]
        case Nb1Shot1():
            return [[block] for block in range(space.blocks)]
    starts = (0, 2, 5, 9, 14)
    return [list(range(*pair)) for pair in pairwise(starts)]


def smaller(name: str) -> Any:
    """A space of several cells a stage."""
    fields = space_variants.composed(name)["space"]
    layers = {"nb201": 2, "nb1shot1": 6}.get(fields["_target_"].split(".")[2], 6)
    return space_variants.full(name, layers=layers, channels=max(2, 2 * fields.get("partial", 1)))


def quiet(space: Space, mix: Tree) -> Tree:
    """The mixture with no weight on noise, which both supernets draw in another order."""
    names = structure.operation_names(space, list(mix))
    return {
        k: torch.stack(
            [
                x[:, e] * torch.tensor([float(o != "noise") for o in own], dtype=x.dtype)
                for e, own in enumerate(names[k])
            ],
            1,
        )
        if k in names
        else x
        for k, x in mix.items()
    }


@pytest.mark.parametrize("name", space_variants.IMAGES)
@pytest.mark.sample(3)
def test_every_space_is_heard_as_a_plain_supernet_is(name: str) -> None:
    space = smaller(name)
    net: Any = small.build(space)
    problem = RelaxedProblem(space, net, small.softmax)
    mix = detached(quiet(space, small.mixture(space)))
    batches = [small.batch(seed, n=2, size=space_variants.size(name) // 2) for seed in (3, 4)]
    val, train = (agreement.look(problem, dict(net.named_parameters()), mix, b, list(net.cells)) for b in batches)
    plain, other = (Plain(space, net, mix, b) for b in batches)
    for kind, g in plain.mix.items():
        if g is not None and "pair" not in kind:
            skipped = [
                [o not in ("none", "noise") for o in own]
                for own in structure.operation_names(space, [kind]).get(kind, [])
            ]
            keep = torch.tensor(skipped).expand(g.shape) if skipped else torch.ones_like(g, dtype=torch.bool)
            torch.testing.assert_close(val.mix[kind][keep], g[keep], rtol=1e-8, atol=1e-12)
    for got, expected in ((val.values, plain.values), (val.slopes, plain.slopes)):
        for ours, theirs in zip(got, expected, strict=True):
            for x, y in zip(ours, theirs, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-11)
    assert agreement.correlations(val, train) == {
        place: [
            pytest.approx(diagnostics.gradient_correlation(*four), rel=1e-7)
            for four in zip(plain.slopes[i], plain.values[i], other.slopes[i], other.values[i], strict=True)
        ]
        for place, i in (("first", 0), ("middle", len(net.cells) // 2), ("last", len(net.cells) - 1))
    }
    stages = list(plain.stages())
    assert stages, "cells to compare"
    assert agreement.node_cosine(val) == [
        pytest.approx(mean([cosine([plain.slopes[i][j] for i in cells]) for j in range(len(into(space)))]), rel=1e-7)
        for cells in stages
    ]
    found = agreement.output_cosine(val)
    assert len(found) == len(stages)
    for got, cells in zip(found, stages, strict=True):
        expected: dict[str, list[float]] = {}
        for (e, o), first in plain.outputs[cells[0]].items():
            word = names_of(space, plain.kinds[cells[0]])[e][o]
            if word not in ("none", "noise"):
                expected.setdefault(word, []).append(cosine([plain.outputs[i][e, o] for i in cells]))
                assert first.shape == plain.outputs[cells[1]][e, o].shape
        assert got == {word: pytest.approx(mean(own), rel=1e-7) for word, own in expected.items()}


def names_of(space: Any, kind: str) -> Any:
    name = kind or next(iter(space.shapes()))
    return structure.operation_names(space, [name])[name]


def cosine(tensors: list[Tensor]) -> float:
    return diagnostics.layer_alignment(tensors)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_a_module_that_knows_no_nodes_is_heard_by_its_output() -> None:
    cell = nn.Sequential(nn.Linear(3, 2))
    with agreement.watching([cell]) as (nodes, heard):
        y = cell(torch.ones(1, 3))
    assert nodes[0][0] is y
    assert heard == [[]]
    cell(torch.ones(1, 3))
    assert len(nodes[0]) == 1
