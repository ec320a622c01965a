"""The DARTS space and its variants: counts, discretization by its definition, edge weights."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import space_variants
import torch
from torch import Tensor

from nasx.errors import UserError
from nasx.spaces.darts.genotype import DartsGenotype, UntiedDartsGenotype
from nasx.spaces.darts.network import plan
from nasx.spaces.darts.space import OPERATIONS, PAIRS, Darts

OPS2 = ("skip_connect", "sep_conv_3x3")
STEMS = ["darts", "darts_no_none", "s1", "s2", "s3", "s4", "amended_s2", "amended_s3"]
PER_CELL = 1 * 3 * 6 * 10


def load(name: str, **changes: object) -> Darts:
    space = space_variants.full(name, **changes)
    assert type(space) is Darts
    return space


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(space: Darts, seed: int) -> dict[str, Tensor]:
    gen = generator(seed)
    return {name: torch.randn(shape, generator=gen, dtype=torch.float64) for name, shape in space.shapes().items()}


def reference(rows: list[list[float]], names: list[list[str]]) -> list[tuple[str, int]]:
    """DARTS section 2.4, word by word: score edges by the largest weight but that of none; keep two; choose."""
    cell = []
    for node in range(2, 6):
        offset = sum(range(2, node))
        scored = []
        for pred in range(node):
            weights = [(w, n) for w, n in zip(rows[offset + pred], names[offset + pred], strict=True) if n != "none"]
            scored.append((pred, max(w for w, _ in weights), weights))
        scored.sort(key=lambda item: -item[1])  # stable: the lower predecessor first among equals
        for pred, strength, weights in sorted(scored[:2]):
            cell.append((next(n for w, n in weights if w == strength), pred))
    return cell


# ---------------------------------------------------------------------------------------------------- facts
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("darts", (PER_CELL * 7**8) ** 2),
        ("darts_no_none", (PER_CELL * 7**8) ** 2),
        ("s1", (PER_CELL * 2**8) ** 2),
        ("s2", (PER_CELL * 2**8) ** 2),
        ("s3", (PER_CELL * 2**8) ** 2),
        ("s4", (PER_CELL * 2**8) ** 2),
        ("amended_s2", (2**8) ** 20),
        ("amended_s3", (PER_CELL * 2**8) ** 2),
    ],
)
def test_size(name: str, size: int) -> None:
    assert load(name).size() == size


def test_size_of_untied_cells_with_free_edges() -> None:
    for edges in ("pruned", "searched"):
        assert load("amended_s2", edges=edges).size() == (180 * 2**8) ** 20


def test_size_by_enumeration() -> None:
    space = Darts(layers=3, operations=("none", "skip_connect"))
    normal = list(itertools.product(*space.options("normal")))
    assert len(set(normal)) == PER_CELL
    assert space.size() == PER_CELL**2


def test_shapes_and_cells() -> None:
    assert load("darts").shapes() == {"normal": (14, 8), "reduce": (14, 8)}
    assert load("darts").cells() == {"normal": 6, "reduce": 2}
    assert load("darts_no_none").shapes()["normal"] == (14, 7)
    assert load("s1").shapes()["normal"] == (14, 2)
    assert load("amended_s2").shapes() == {"normal": (18, 14, 2), "reduce": (2, 14, 2)}
    assert [Darts(layers=n).cells()["reduce"] for n in (3, 4, 5, 8, 20)] == [2] * 5
    assert [i for i in range(20) if plan(20)[i] == "reduce"] == [6, 13]
    assert [i for i in range(8) if plan(8)[i] == "reduce"] == [2, 5]
    assert load("darts").groups == (("normal",),)


def test_s1_lists() -> None:
    space = load("s1")
    assert space.edge_operations("normal")[0] == ("skip_connect", "dil_conv_3x3")
    assert space.edge_operations("normal")[5] == ("max_pool_3x3", "skip_connect")
    assert space.edge_operations("normal")[13] == ("dil_conv_3x3", "dil_conv_5x5")
    assert space.edge_operations("reduce")[6] == ("max_pool_3x3", "sep_conv_3x3")
    assert Counter(itertools.chain(*space.edge_operations("reduce"))) == {
        "max_pool_3x3": 8,
        "avg_pool_3x3": 6,
        "dil_conv_3x3": 2,
        "sep_conv_3x3": 1,
        "skip_connect": 6,
        "dil_conv_5x5": 5,
    }
    assert Counter(itertools.chain(*space.edge_operations("normal"))) == {
        "skip_connect": 12,
        "dil_conv_3x3": 6,
        "dil_conv_5x5": 4,
        "sep_conv_3x3": 4,
        "max_pool_3x3": 2,
    }


# -------------------------------------------------------------------------------------------- discretization
@pytest.mark.parametrize("name", [n for n in STEMS if n != "amended_s2"])
def test_discretize_equals_the_definition(name: str) -> None:
    space = load(name)
    for seed in range(60):
        mix = space.relax(random(space, seed), softmax)
        expected = [
            reference(mix[kind][0].tolist(), [list(row) for row in space.edge_operations(kind)])
            for kind in ("normal", "reduce")
        ]
        found = space.discretize(mix)
        assert isinstance(found, DartsGenotype)
        assert [list(found.normal), list(found.reduce)] == expected


def test_ties_go_to_the_lowest_predecessor_and_operation() -> None:
    space = Darts()
    mix = {k: torch.full((n, 14, 8), 0.125) for k, n in space.cells().items()}
    pairs = (("max_pool_3x3", 0), ("max_pool_3x3", 1)) * 4
    assert space.discretize(mix) == DartsGenotype(pairs, pairs)


def test_none_takes_mass_but_is_never_chosen() -> None:
    space = Darts()
    mix = {k: torch.full((n, 14, 8), 0.01) for k, n in space.cells().items()}
    mix["normal"][:, :, 0] = 0.9
    assert "none" not in space.discretize(mix).operations()


def test_untied_cells_are_discretized_each_by_itself() -> None:
    space = load("amended_s2", layers=5, edges="pruned")
    mix = space.relax(random(space, 4), softmax)
    found = space.discretize(mix)
    assert isinstance(found, UntiedDartsGenotype)
    names = [list(r) for r in space.edge_operations("normal")]
    normal, reduce = ([reference(rows.tolist(), names) for rows in mix[kind]] for kind in ("normal", "reduce"))
    expected = [normal[0], reduce[0], normal[1], reduce[1], normal[2]]  # reductions at 5 // 3 = 1 and 10 // 3 = 3
    assert [list(cell) for cell in found.cells] == expected


@pytest.mark.parametrize("layers", [1, 2])
def test_a_supernet_without_normal_cells_is_refused(layers: int) -> None:
    with pytest.raises(UserError, match=rf"space\.layers={layers}: leaves no normal cell; use 3"):
        Darts(layers=layers)


VARIANTS = [
    Darts(),
    Darts(layers=3),
    load("darts_no_none"),
    load("s1"),
    load("s4"),
    load("amended_s2", layers=6),
    load("amended_s2", layers=6, edges="searched"),
    Darts(partial=4, edge_norm=True),
    Darts(edges="searched"),
    Darts(edges="fixed", operations=OPS2),
    Darts(untied=True, layers=4, edge_norm=True),
]


@pytest.mark.parametrize("space", VARIANTS, ids=range(len(VARIANTS)))
@pytest.mark.sample(5)
def test_a_hundred_genotypes_come_back(space: Darts) -> None:
    gen = generator(7)
    for _ in range(100):
        genotype = space.sample(gen)
        text = str(genotype)
        assert space.parse(text) == genotype == type(genotype).parse(text)
        mix = space.encode(genotype)
        assert space.discretize(mix) == genotype
        assert {k: tuple(v.shape) for k, v in mix.items()} == {
            k: (n, *space.shapes()[k][-2:]) for k, n in space.cells().items()
        }
        assert all(rows.sum().item() == 8 for k in ("normal", "reduce") for rows in mix[k])


# ------------------------------------------------------------------------------------------------ edge weights
def test_edge_norm_is_a_softmax_over_the_edges_of_a_node() -> None:
    space = Darts(partial=4, edge_norm=True)
    assert space.shapes() == {"normal": (14, 8), "normal.edge": (1, 14), "reduce": (14, 8), "reduce.edge": (1, 14)}
    assert space.groups == (("normal", "normal.edge"),)
    a = random(space, 1)
    mix = space.relax(a, softmax)
    assert mix["normal.edge"].shape == (6, 1, 14)
    for start, stop in ((0, 2), (2, 5), (5, 9), (9, 14)):
        beta = torch.softmax(a["normal.edge"][0, start:stop], 0)
        torch.testing.assert_close(mix["normal.edge"][3, 0, start:stop], beta)
        product = torch.softmax(a["normal"][start:stop], -1) * beta[:, None]
        torch.testing.assert_close(mix["normal"][3, start:stop], product)


def test_searched_edges_weigh_an_edge_by_the_pairs_that_hold_it() -> None:
    space = Darts(edges="searched", operations=OPS2)
    assert space.shapes()["normal.pair"] == (1, 20)
    assert [sum(node == n for node, _ in PAIRS) for n in (2, 3, 4, 5)] == [1, 3, 6, 10]
    a = random(space, 2)
    mix = space.relax(a, softmax)
    edge = 0
    for node, start in ((2, 0), (3, 1), (4, 4), (5, 10)):
        pairs = list(itertools.combinations(range(node), 2))
        weight = torch.softmax(a["reduce.pair"][0, start : start + len(pairs)], 0)
        for pred in range(node):
            total = sum(weight[i] for i, pair in enumerate(pairs) if pred in pair)
            torch.testing.assert_close(mix["reduce"][0, edge], torch.softmax(a["reduce"][edge], -1) * total)
            edge += 1
        best = pairs[int(weight.argmax())]
        cell = space.discretize(mix).reduce  # type: ignore[attr-defined]
        assert tuple(p for _, p in cell[2 * (node - 2) : 2 * (node - 2) + 2]) == best


def test_fixed_edges_keep_the_last_node_and_the_first_input() -> None:
    space = Darts(edges="fixed", operations=OPS2)
    mix = space.relax(random(space, 3), softmax)
    kept = [e for e in range(14) if mix["normal"][0, e].sum() > 0]
    assert kept == [0, 1, 2, 4, 5, 8, 9, 13]
    torch.testing.assert_close(mix["normal"].sum(-1)[:, kept], torch.ones(6, 8, dtype=torch.float64))
    found = space.discretize(mix)
    assert isinstance(found, DartsGenotype)
    assert [p for _, p in found.normal] == [0, 1, 0, 2, 0, 3, 0, 4]


@pytest.mark.parametrize("untied", [False, True])
def test_the_second_stage_keeps_the_edges_of_the_first(untied: bool) -> None:
    first = Darts(layers=4, edges="searched", operations=OPS2, untied=untied)
    genotype = first.sample(generator(5))
    second = Darts(layers=4, edges="fixed", operations=OPS2, untied=untied, keep=str(genotype))
    assert second.size() == 2 ** (8 * (4 if untied else 2))
    other = second.discretize(second.relax(random(second, 6), softmax))
    cells = zip(genotype.layers(4), other.layers(4), strict=True)  # type: ignore[attr-defined]
    assert all([p for _, p in ours] == [p for _, p in theirs] for ours, theirs in cells)


def test_relax_carries_gradients_to_every_parameter() -> None:
    for space in (Darts(partial=2, edge_norm=True), Darts(edges="searched"), Darts(edges="fixed")):
        a = {k: v.requires_grad_() for k, v in random(space, 8).items()}
        mix = space.relax(a, softmax)
        sum((m * torch.randn(m.shape, generator=generator(i))).sum() for i, m in enumerate(mix.values())).backward()
        assert all(v.grad is not None and v.grad.abs().sum() > 0 for v in a.values())


# ---------------------------------------------------------------------------------------------------- sampling
def test_sample_is_uniform_over_genotypes() -> None:
    """Chi-square over 180 cells (one operation): 179 degrees of freedom, 99.9 % quantile 242.7."""
    space = Darts(layers=3, operations=("none", "skip_connect"))
    gen = generator(11)
    counts = Counter(space.sample(gen).normal for _ in range(5400))  # type: ignore[attr-defined]
    assert len(counts) == 180
    assert sum((n - 30) ** 2 / 30 for n in counts.values()) < 242.7


def test_sample_weighs_pairs_by_their_operations() -> None:
    """Edge 0 -> 3 has one choice, the others two: pairs (0,1), (0,2), (1,2) have weights 2 : 2 : 4."""
    rows = [("none", "skip_connect") if e == 2 else OPS2 for e in range(14)]
    space = Darts(layers=3, operations=OPS2, normal=tuple(rows))
    gen = generator(12)
    counts = Counter(tuple(p for _, p in space.sample(gen).normal[2:4]) for _ in range(4000))  # type: ignore[attr-defined]
    expected = {(0, 1): 1000, (0, 2): 1000, (1, 2): 2000}
    assert sum((counts[k] - n) ** 2 / n for k, n in expected.items()) < 13.8  # 2 degrees of freedom, 99.9 %


# ------------------------------------------------------------------------------------------------------ faults
V2 = "DARTS_V2"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"operations": ()}, "is empty"),
        ({"operations": ("none",)}, "no operation can be selected"),
        ({"operations": ("sep_conv_3",)}, "is not an operation"),
        ({"normal": ((*OPS2,),) * 13}, "14 lists"),
        ({"partial": 3}, "does not divide"),
        ({"edges": "searched", "edge_norm": True}, "would be learned twice"),
        ({"keep": V2}, "is used only with space.edges=fixed"),
        ({"edges": "fixed", "keep": V2, "untied": True}, "tied"),
    ],
)
def test_faulty_fields(changes: dict, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        Darts(**changes)


def test_parse_refuses_what_the_space_lacks() -> None:
    with pytest.raises(UserError, match=r"normal cell, node 5: this space has no dil_conv_3x3 on edge 2->5"):
        Darts(operations=OPERATIONS[:6]).parse(V2)
    with pytest.raises(UserError, match="does not keep the edges from"):
        Darts(edges="fixed").parse(V2)
    with pytest.raises(UserError, match="cells are tied"):
        Darts(untied=True).parse(V2)
    with pytest.raises(UserError, match="has 3 cells, but this space has 8"):
        Darts(untied=True).parse(str(Darts(untied=True, layers=3).sample(generator())))
    assert Darts().parse("darts_v2") == Darts().parse(V2)
