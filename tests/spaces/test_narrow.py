"""Restricted spaces: kept operations, the limit of skip connections, partial channels, dropout on skip connections."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nasx.config.settings import SearchSettings
from nasx.core.bilevel import gradient
from nasx.errors import UserError
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.base import Space
from nasx.spaces.darts.genotype import KINDS, NODES, DartsGenotype
from nasx.spaces.darts.space import OPERATIONS, Darts, edges_of
from nasx.spaces.mixed_cell import MixedEdges
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

import small

SPACES: dict[str, Space] = {
    "darts": Darts(layers=3, channels=4),
    "nb201": Nb201(layers=1, channels=4),
    "darts-partial": Darts(layers=3, channels=8, partial=2),
    "nb201-partial": Nb201(layers=1, channels=8, partial=4),
}


def narrowed(space: Space, keep: int, seed: int = 5) -> Space:
    return space.narrow({k: x.detach() for k, x in small.mixture(space, seed).items()}, keep)


# --------------------------------------------------------------------------------------------------- operations
@pytest.mark.parametrize("keep", [1, 3, 5])
def test_each_edge_keeps_its_strongest_operations_in_their_order(keep: int) -> None:
    for space in (Nb201(), Darts(operations=OPERATIONS[1:])):
        mix = small.mixture(space, 1)
        found = space.narrow(mix, keep)
        for name in ("cell",) if space == Nb201() else KINDS:
            for row, own, kept in zip(
                mix[name][0].tolist(), space.edge_operations(name), found.edge_operations(name), strict=True
            ):
                weakest = min(row[own.index(operation)] for operation in kept)
                assert sum(p > weakest for p in row) == keep - 1
                assert list(kept) == [operation for operation in own if operation in kept]
        again = found.narrow({k: x.detach() for k, x in small.mixture(found, 2).items()}, 1)
        assert math.prod(len(row) for row in again.edge_operations("cell" if space == Nb201() else "normal")) == 1


def test_equal_weights_keep_the_lower_index_and_none_competes_with_the_others() -> None:
    space = Darts()
    mix = {kind: torch.zeros(6, 14, 8) for kind in KINDS}
    mix["normal"][:, 3, 0] = 1.0
    found = space.narrow(mix, 2)
    assert found.edge_operations("normal")[3] == ("none", "max_pool_3x3") == found.edge_operations("reduce")[0]


def test_searched_edges_become_fixed() -> None:
    for untied in (False, True):
        space = Darts(layers=3, edges="searched", untied=untied)
        mix = {k: x.detach() for k, x in small.mixture(space, 1).items()}
        found = space.narrow(mix, None)
        assert (found.edges, found.keep) == ("fixed", str(space.discretize(mix)))
        assert found.edge_operations("normal") == space.edge_operations("normal")
    with pytest.raises(UserError, match="untied"):
        space.narrow(mix, 3)
    assert Darts().narrow({}, None) == Darts()


def test_a_space_whose_blocks_share_their_operations_says_so() -> None:
    with pytest.raises(UserError, match="all edges of Nb1Shot1 share one list of operations"):
        Nb1Shot1(variant=1).narrow({}, 2)


@pytest.mark.parametrize("name", SPACES)
def test_a_narrowed_supernet_is_the_wide_one_without_what_is_gone(name: str) -> None:
    """Fused, naive and, with the same weights, the wide supernet at a mixture that is zero elsewhere."""
    from nasx.searcher.warm_start import sources, transfer

    wide = SPACES[name]
    space = narrowed(wide, 3)
    net, naive, mix = small.build(space), small.build(space, naive=True), small.mixture(space, 2)
    data = small.batch(1)
    outs, grads = [], []
    for each in (net, naive):
        out = each(data.x, mix).main
        leaves = {**weights(each), **{f"mix {k}": x for k, x in mix.items()}}
        grads.append(gradient(F.cross_entropy(out, data.y), leaves))
        outs.append(out)
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-12, atol=1e-12)
    assert all(torch.allclose(g, grads[1][k], rtol=1e-9, atol=1e-12) for k, g in grads[0].items())
    old = small.build(wide, seed=1)
    with torch.no_grad():
        for k, x in transfer(dict(sources(old, net)), weights(net), weights(old)).items():
            weights(net)[k].copy_(x)
    full = {k: torch.zeros_like(x) for k, x in small.mixture(wide, 0).items()}
    for k in full:
        for e, (own, kept) in enumerate(zip(wide.edge_operations(k), space.edge_operations(k), strict=True)):
            full[k][:, e, [own.index(operation) for operation in kept]] = mix[k][:, e].detach()
    torch.testing.assert_close(net(data.x, mix).main, old(data.x, full).main, rtol=1e-12, atol=1e-12)


def test_genotypes_of_narrowed_spaces_come_back() -> None:
    for wide in (Nb201(layers=1, channels=4), Darts(layers=3, channels=4, operations=OPERATIONS[1:])):
        space = narrowed(wide, 2)
        for seed in range(20):
            genotype = space.sample(torch.Generator().manual_seed(seed))
            assert space.parse(str(genotype)) == genotype == space.discretize(space.encode(genotype))
            assert wide.parse(str(genotype)) == genotype
    space = narrowed(Nb201(), 2)
    assert space.size() == 2**6
    refused = 0
    for seed in range(50):
        text = str(Nb201().sample(torch.Generator().manual_seed(seed)))
        try:
            space.parse(text)
        except UserError:
            refused += 1
    assert refused > 40


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"cell": [["skip_connect"]] * 5}, "6 lists"),
        ({"cell": [["skip_connect"]] * 5 + [["none", "skip_connect"]]}, "6 lists"),
        ({"partial": 3}, "does not divide 16"),
        ({"cell": [["nor_conv_9x9"]] * 6}, r"space\.cell\[0\]"),
    ],
)
def test_faulty_fields(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        Nb201(**changes)


# ------------------------------------------------------------------------------------------------------- skips
def by_hand(rows: Tensor, limit: int) -> list[tuple[str, int]]:
    """P-DARTS' rule by its words: find the cell, zero the weakest chosen skip connection, again, until few are left."""
    rows = rows.clone()
    skip, names = OPERATIONS.index("skip_connect"), OPERATIONS
    while True:
        cell, chosen = [], []
        for node in NODES:
            part = rows[edges_of(node)][:, 1:]  # without none
            best, place = part.max(1)
            for pred in sorted(torch.topk(best, 2).indices.tolist()):
                cell.append((names[1 + int(place[pred])], pred))
                chosen.append(edges_of(node).start + pred)
        skips = [e for (name, _), e in zip(cell, chosen, strict=True) if name == "skip_connect"]
        if len(skips) <= limit:
            return cell
        rows[min(skips, key=lambda e: float(rows[e, skip])), skip] = 0.0


@pytest.mark.parametrize("limit", [0, 1, 2, 8])
def test_the_weakest_skip_connections_go_until_few_are_left(limit: int) -> None:
    gen, seen = torch.Generator().manual_seed(limit), 0
    for _ in range(50):
        logits = torch.randn(2, 14, 8, generator=gen, dtype=torch.float64)
        logits[..., OPERATIONS.index("skip_connect")] += 1.5
        rows = torch.softmax(logits, -1)
        mix = {"normal": rows[:1].expand(6, -1, -1), "reduce": rows[1:].expand(2, -1, -1)}
        found, free = Darts(max_skips=limit).discretize(mix), Darts().discretize(mix)
        assert isinstance(found, DartsGenotype)
        assert isinstance(free, DartsGenotype)
        assert list(found.normal) == by_hand(rows[0], limit)
        assert found.reduce == free.reduce, "the reduction cell is free"
        seen += found != free
    assert seen == 0 if limit == 8 else seen > 10


def test_a_limit_that_cannot_be_kept_ends() -> None:
    space = Darts(operations=("skip_connect",), max_skips=0)
    genotype = space.discretize({kind: torch.ones(6, 14, 1) for kind in KINDS})
    assert genotype.operations()["skip_connect"] == 16


# ----------------------------------------------------------------------------------------------------- channels
def test_without_edge_weights_the_rest_passes_by_with_weight_one() -> None:
    """PC-DARTS' path with all edge weights 1; that path equals its plain reference in test_supernet.py."""
    space = Darts(layers=3, channels=8, partial=4)
    net, mix, data = small.build(space), small.mixture(space, 1), small.batch(1)
    ones = {f"{kind}.edge": torch.ones(len(mix[kind]), 1, 14, dtype=torch.float64) for kind in KINDS}
    torch.testing.assert_close(net(data.x, mix).main, net(data.x, {**mix, **ones}).main, rtol=1e-13, atol=1e-13)


def test_partial_channels_of_a_nb201_cell_by_hand() -> None:
    """Each edge: operations on the first C / K channels beside the untouched rest, channels shuffled, edges summed."""
    net = small.build(Nb201(layers=1, channels=8, partial=4))
    cell, gen = net.cells[0], torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 6, 6, generator=gen, dtype=torch.float64)
    rows = torch.rand(6, 4, generator=gen, dtype=torch.float64)  # without none
    nodes, place = [x], {}
    for source, bundle in enumerate(cell.bundles):
        assert isinstance(bundle, MixedEdges)
        for local, edge in enumerate(bundle.edges):
            place[(source, edge.target)] = (bundle, local, sum(len(b.edges) for b in cell.bundles[:source]) + local)
    for target in (1, 2, 3):
        total = torch.zeros_like(x)
        for source in range(target):
            bundle, local, row = place[(source, target)]
            seen = nodes[source]
            mixed = sum(
                rows[row, column - 1] * bank.single(seen[:, :2], [p for p, _ in pairs].index(local), None)
                for bank, pairs in zip(bundle.banks, bundle.members, strict=True)
                for p, column in pairs
                if p == local
            )
            edge = torch.cat([mixed, seen[:, 2:]], 1)
            total = total + edge.view(2, 4, 2, 6, 6).transpose(1, 2).reshape(2, 8, 6, 6)
        nodes.append(total)
    torch.testing.assert_close(cell([x], rows)[-1], nodes[3], rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------------ dropout
def test_skip_dropout_drops_elements_of_the_identity_alone() -> None:
    """At a mixture of one skip connection a cell of nb201 gives x / (1 - rate) or 0, element by element."""
    net = small.build(Nb201(layers=1, channels=4))
    cell, x = net.cells[0], torch.randn(64, 4, 8, 8, dtype=torch.float64)
    rows = torch.zeros(6, 4, dtype=torch.float64)
    rows[cell.order.index(3), 0] = 1.0  # 0 -> 3, skip_connect
    y = cell([x], rows, None, 0.0, torch.Generator().manual_seed(1), False, 0.25)[-1]
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / 0.75)
    share = float(kept.double().mean())
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / x.numel())
    rows = torch.zeros(6, 4, dtype=torch.float64)
    rows[:, 1:] = 1.0  # all but skip connections
    plain = cell([x], rows)[-1]
    torch.testing.assert_close(cell([x], rows, None, 0.0, torch.Generator().manual_seed(1), False, 0.25)[-1], plain)


@pytest.mark.parametrize("name", SPACES)
def test_dropped_fused_and_naive_agree(name: str) -> None:
    space, data = SPACES[name], small.batch(3)
    mix, outs = small.mixture(space, 1), []
    for naive in (False, True):
        net = small.build(space, naive=naive)
        problem = RelaxedProblem(space, net, small.softmax)
        problem.options = {"drop_path": 0.2, "skip_dropout": 0.4}
        assert problem.draws
        outs.append(gradient(problem.outcome(weights(net), mix, data).loss, {**mix, **weights(net)}))
        again = gradient(problem.outcome(weights(net), mix, data).loss, mix)
        assert all(torch.equal(again[k], outs[-1][k]) for k in mix), "a function of the batch's seed"
    assert all(torch.allclose(g, outs[1][k], rtol=1e-9, atol=1e-12) for k, g in outs[0].items())


def test_dropout_falls_with_the_architecture_frozen_and_fades_once_it_moves() -> None:
    """P-DARTS, released code: rate (E - e - 1) / E in the warm-up, then rate exp(-0.2 (e - W))."""
    facts: dict[str, Any] = dict.fromkeys((f.name for f in dataclasses.fields(SearchSettings)), 0)
    settings = SearchSettings(**{**facts, "epochs": 25, "arch_warmup": 10, "skip_dropout": 0.4})
    found = [settings.options(epoch)["skip_dropout"] for epoch in (0, 9, 10, 11, 24)]
    assert found == pytest.approx([0.4 * 24 / 25, 0.4 * 15 / 25, 0.4, 0.4 * math.exp(-0.2), 0.4 * math.exp(-2.8)])
    assert "skip_dropout" not in SearchSettings(**{**facts, "epochs": 25}).options(3)
