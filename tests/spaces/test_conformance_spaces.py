"""Requirements of all spaces: structure, mixtures, genotypes and networks, for each file of conf/space.

A new space is covered automatically; `FACTS` lists known numbers.
"""

from __future__ import annotations

import dataclasses
from math import isclose, prod

import pytest
import torch
from space_variants import IMAGES, SPACES, VARIANTS, composed, full, size, tiny
from torch import nn

from nasx.config import instantiate
from nasx.core.bilevel import gradient
from nasx.core.trees import Tree
from nasx.errors import UserError
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.base import Genotype, Space
from nasx.train.job import built

import small
from reference import supernets

CELL = 1 * 3 * 6 * 10  # pairs of predecessors of the four nodes
FACTS: dict[str, tuple[int, dict[str, tuple[int, ...]]]] = {  # number of genotypes, architecture parameters
    "darts": ((CELL * 7**8) ** 2, {"normal": (14, 8), "reduce": (14, 8)}),
    "darts_no_none": ((CELL * 7**8) ** 2, {"normal": (14, 7), "reduce": (14, 7)}),
    **{name: ((CELL * 2**8) ** 2, {"normal": (14, 2), "reduce": (14, 2)}) for name in ("s1", "s2", "s4")},
    **{name: ((CELL * 2**8) ** 2, {"normal": (14, 3), "reduce": (14, 3)}) for name in ("s3", "amended_s3")},
    "amended_s2": (2 ** (8 * 20), {"normal": (18, 14, 2), "reduce": (2, 14, 2)}),
    "amended_s2 pruned": ((CELL * 2**8) ** 20, {"normal": (18, 14, 2), "reduce": (2, 14, 2)}),
    "amended_s2 searched": (
        (CELL * 2**8) ** 20,
        {"normal": (18, 14, 2), "reduce": (2, 14, 2), "normal.pair": (18, 1, 20), "reduce.pair": (2, 1, 20)},
    ),
    "darts_rnn": (prod(4 * node for node in range(1, 9)), {"recurrent": (36, 5)}),
    "nb201": (15_625, {"cell": (6, 5)}),
    "nb201 pc": (15_625, {"cell": (6, 5), "cell.edge": (1, 6)}),
    "nb1shot1_1": (14_580, {"ops": (4, 3), "output": (1, 5), "input_3": (1, 3), "input_4": (1, 4)}),
    "nb1shot1_2": (29_160, {"ops": (4, 3), "output": (1, 5), "input_2": (1, 2), "input_3": (1, 3), "input_4": (1, 4)}),
    "nb1shot1_3": (
        1_312_200,
        {"ops": (5, 3), "output": (1, 6), "input_2": (1, 2), "input_3": (1, 3), "input_4": (1, 4), "input_5": (1, 5)},
    ),
}
GOLDEN = {"darts": 1_930_618, "darts pc": 299_578}  # weights of supernets of the published size, 10 classes


def random(space: Space, seed: int = 0) -> Tree:
    gen = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(shape, generator=gen, dtype=torch.float64).requires_grad_()
        for k, shape in space.shapes().items()
    }


# ------------------------------------------------------------------------------------------------------ structure
def test_facts_are_known_of_all_spaces_here() -> None:
    """A new space is covered without an entry; ours all have one, and no entry outlives its space."""
    assert FACTS.keys() <= VARIANTS.keys()
    assert set(SPACES) <= FACTS.keys()


@pytest.mark.parametrize("name", FACTS)
def test_sizes_and_shapes(name: str) -> None:
    space = full(name)
    assert (space.size(), space.shapes()) == FACTS[name]


def test_sizes_as_the_papers_write_them() -> None:
    assert isclose(full("darts").size(), 1.08e18, rel_tol=5e-3)
    assert isclose(float(full("amended_s2 pruned").size()), 1.9e93, rel_tol=2e-2)


@pytest.mark.parametrize("name", VARIANTS)
def test_groups_name_parameters_of_cells_that_can_be_compared(name: str) -> None:
    space = full(name)
    assert space.groups
    for group in space.groups:
        assert set(group) <= space.shapes().keys() == space.cells().keys()
        assert len({space.cells()[k] for k in group}) == 1, "one copy a cell, of all names of a group"


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.sample(4)
def test_supernet_has_as_many_weights_as_the_reference(name: str) -> None:
    space = full(name)
    with torch.device("meta"):
        found = sum(x.numel() for x in space.supernet(10).parameters())
        target = composed(name)["space"]["_target_"]
        if target.endswith("Nb201"):
            ref: nn.Module = supernets.Nb201Supernet(
                channels=space.channels, n=space.layers, affine=space.affine, k=space.partial
            )
        elif target.endswith("Nb1Shot1"):
            ref = supernets.Nb1Shot1Supernet(space.variant, channels=space.channels, layers=space.layers)
        else:
            ref = supernets.DartsSupernet(
                channels=space.channels,
                layers=space.layers,
                k=space.partial,
                stem=space.stem,
                normal=space.edge_operations("normal"),
                reduce=space.edge_operations("reduce"),
            )
    assert found == sum(x.numel() for x in ref.parameters()) == GOLDEN.get(name, found)


# ------------------------------------------------------------------------------------------------------- mixtures
@pytest.mark.parametrize("name", VARIANTS)
def test_mixture_has_a_copy_for_each_cell_and_rows_that_sum_to_their_edge_s_weight(name: str) -> None:
    space = tiny(name)
    a = space.init(torch.Generator().manual_seed(1))
    assert {k: tuple(x.shape) for k, x in a.items()} == space.shapes()
    mix = space.relax(random(space), small.softmax)
    assert {k: tuple(x.shape) for k, x in mix.items()} == {
        k: (n, *space.shapes()[k][-2:]) for k, n in space.cells().items()
    }
    nodes = (
        (slice(0, 1), slice(1, 3), slice(3, 6))
        if "cell" in mix
        else (slice(0, 2), slice(2, 5), slice(5, 9), slice(9, 14))
    )
    fields = composed(name)["space"]
    for k, x in mix.items():
        assert bool((x >= 0).all())
        rows = x.sum(-1)
        if k.endswith(".edge"):
            expected = torch.ones(len(x), len(nodes)).double()
            rows = torch.stack([x[:, 0, node].sum(-1) for node in nodes], 1)  # the edges of each node
        elif k.endswith(".pair"):
            expected = torch.full((len(x), 1), 4.0).double()  # a softmax for each of the four nodes
        elif fields.get("edge_norm"):
            expected = mix[f"{k}.edge"][:, 0]
        elif fields.get("edges") == "searched":
            expected = torch.full((len(x), len(nodes)), 2.0).double()  # a pair's weight counts on both of its edges
            rows = torch.stack([rows[:, node].sum(-1) for node in nodes], 1)
        elif fields.get("edges") == "fixed":
            kept = torch.zeros(14).double().index_fill(0, torch.tensor([0, 1, 2, 4, 5, 8, 9, 13]), 1.0)
            expected = kept.expand(len(x), -1)
        else:
            expected = torch.ones_like(rows)
        torch.testing.assert_close(rows, expected, rtol=1e-13, atol=1e-13)


def inert(name: str, k: str) -> list[int]:
    """Flat indices, in one cell, of logits that have no effect by their definition."""
    fields = composed(name)["space"]
    if k.endswith(".pair") or k == "cell.edge":
        return [0]  # node 2 has one pair, node 1 of NAS-Bench-201 one edge
    if fields.get("edges") == "fixed":
        return [e * 2 + o for e in (3, 6, 7, 10, 11, 12) for o in range(2)]
    return []


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.sample(7)
def test_gradients_reach_every_architecture_parameter_and_every_weight(name: str) -> None:
    space = tiny(name)
    problem = RelaxedProblem(space, small.build(space), small.softmax)
    a, w = random(space, 2), weights(problem.supernet)
    g = gradient(problem.outcome(w, problem.relax(a), small.given(space, 1, size=size(name))).loss, {**w, **a})
    for k in a:
        silent = {tuple(i) for i in (g[k].flatten(-2) == 0).nonzero().tolist()}
        cells = range(len(g[k])) if g[k].dim() == 3 else [None]
        assert silent == {(i,) if c is None else (c, i) for c in cells for i in inert(name, k)}, k
    assert not [k for k in w if not bool(g[k].any())]


# ------------------------------------------------------------------------------------------------------ genotypes
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "darts imagenet"])  # its cells are darts'
@pytest.mark.sample(3)
def test_a_thousand_genotypes_come_back(name: str) -> None:
    space, gen, seen = tiny(name), torch.Generator().manual_seed(7), set()
    for _ in range(1000):
        genotype = space.sample(gen)
        assert space.discretize(space.encode(genotype)) == genotype
        assert space.parse(str(genotype)) == genotype
        seen.add(genotype)
    assert len(seen) > 100
    assert len({str(genotype) for genotype in seen}) == len(seen)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "|",
        "{}",
        "[]",
        "Genotype(",
        "__import__('os').getcwd()",
        "0",
        "\x00",
        "(" * 999,
        '{"matrix":[[0,1],[0,0]],"ops":["input","output"]}',
        "Genotype(normal=[], reduce=[])",
    ],
)
def test_garbage_is_refused(name: str, text: str) -> None:
    with pytest.raises(UserError):
        tiny(name).parse(text)


# ------------------------------------------------------------------------------------------------------- networks
@pytest.mark.parametrize("name", VARIANTS)
def test_the_network_of_a_found_cell_trains(name: str) -> None:
    """As `nasx retrain` builds it, smaller: discretized from a random mixture, forward and backward."""
    space, recipe = tiny(name), composed(name)["retrain"]
    genotype: Genotype = space.discretize(space.relax(random(space, 5), small.softmax))
    settings = dataclasses.replace(instantiate.build(recipe), channels=6)
    if "layers" in recipe:
        settings = dataclasses.replace(
            settings, layers={"nb201": 1, "nb1shot1": 3}.get(composed(name)["space"]["_target_"].split(".")[2], 4)
        )
    torch.manual_seed(0)
    network = built(settings, space, genotype, 10)
    gen, x = torch.Generator().manual_seed(1), small.given(space, 1, size=32).x
    x = x.float() if x.is_floating_point() else x
    logits = network(x, **settings.options(settings.epochs), gen=gen)
    loss = logits.main.square().mean() + (0 if logits.auxiliary is None else logits.auxiliary.square().mean())
    loss.backward()
    reached = [k for k, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())]
    names = [k for k, _ in network.named_parameters()]
    assert {names[0], next((k for k in names if k.startswith("classifier.")), names[-1])} <= set(reached)
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
    assert (logits.auxiliary is None) == (settings.auxiliary == 0)


def test_noise_of_s4_is_drawn_from_the_batch_s_seed_in_both_nets() -> None:
    space = tiny("s4")
    problem = RelaxedProblem(space, small.build(space), small.softmax)
    w, mix = weights(problem.supernet), problem.relax(random(space))
    torch.manual_seed(0)
    first = problem.outcome(w, mix, small.batch(1)).loss
    torch.manual_seed(1)
    torch.rand(7)
    again = problem.outcome(w, mix, small.batch(1)).loss
    other = problem.outcome(w, mix, small.batch(1)._replace(seed=2)).loss
    assert torch.equal(first, again), "the global generator has no part in it"
    assert not torch.equal(first, other)

    noisy = space.parse(str(space.sample(torch.Generator().manual_seed(2))).replace("sep_conv_3x3", "noise"))
    network = space.network(noisy, 10, layers=4, channels=4).double()
    x = small.batch(1).x
    for mode in (True, False):
        network.train(mode)
        one, same, two = (network(x, gen=torch.Generator().manual_seed(seed)).main for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, two), "noise in the retrained network, in evaluation too"
