"""Requirements of all spaces: each file of conf/space, built as by the command line, but smaller.

A new space is covered automatically; `FACTS` lists known numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from math import isclose, prod
from pathlib import Path
from typing import Any

import pytest
import texts
import torch
import variants
from hydra import compose, initialize_config_dir
from hydra.types import RunMode
from omegaconf import OmegaConf
from torch import Tensor, nn

from nasx.cli import preflight
from nasx.config import check, instantiate, paths
from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Batch, Search, gradient
from nasx.core.trees import Tree
from nasx.errors import UserError
from nasx.jobs import search as jobs_search
from nasx.searcher.loop import Loop
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces import modules, operations
from nasx.spaces.base import Genotype, Space
from nasx.spaces.mixed_cell import RelaxedCell
from nasx.spaces.nb1shot1.supernet import ChoiceCell
from nasx.tracking import run_folder
from nasx.train.job import built

import small
from reference import supernets

SPACES = sorted(file.stem for file in (paths.conf_dir() / "space").glob("*.yaml"))
METHODS = sorted(file.stem for file in (paths.conf_dir() / "method").glob("*.yaml"))
VARIANTS: dict[str, tuple[str, ...]] = dict.fromkeys(SPACES, ()) | {
    "amended_s2 pruned": ("space.edges=pruned",),
    "amended_s2 searched": ("space.edges=searched",),
    "darts pc": ("space.partial=4", "space.edge_norm=true"),
    "nb201 pc": ("space.partial=4", "space.edge_norm=true"),
    "darts imagenet": ("space.stem=imagenet",),
}
TEXT = {"darts_rnn"}
"""Spaces whose networks read text: what is said of images alone is said of them in test_spaces_recurrent.py."""
IMAGES = [name for name in VARIANTS if name not in TEXT]
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


@functools.cache
def composed(name: str) -> dict[str, Any]:
    """The configuration of a search on a space, without pair deltas (which may change the space)."""
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        cfg = compose("search", [f"space={name.split()[0]}", "~pair", *VARIANTS[name]])
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def full(name: str, **changes: object) -> Any:
    return instantiate.build({**composed(name)["space"], **changes})


def tiny(name: str) -> Any:
    """The space with a supernet of few layers and channels; its architecture parameters keep their kinds."""
    fields = composed(name)["space"]
    layers = {"nb201": 1, "nb1shot1": 3}.get(fields["_target_"].split(".")[2], 4)
    depth = {"layers": layers} if "layers" in fields else {}
    return full(name, **depth, channels=max(4, 2 * fields.get("partial", 1)))


def size(name: str) -> int:
    return 64 if "imagenet" in name else 16


def random(space: Space, seed: int = 0) -> Tree:
    gen = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(shape, generator=gen, dtype=torch.float64).requires_grad_()
        for k, shape in space.shapes().items()
    }


def doubled(mix: Tree) -> Tree:
    return {k: x.double() for k, x in mix.items()}


def close(x: Tensor, y: Tensor, tolerance: float = 1e-11) -> None:
    scale = max(float(y.detach().abs().max()), 1e-3)
    assert float((x - y).detach().abs().max()) <= tolerance * scale


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


# ---------------------------------------------------------------------------------- supernet at a one-hot mixture
def place(cell: RelaxedCell, edge: int, column: int) -> tuple[int, int, int]:
    """Bundle, bank and index in it that hold the operation in `column` of the mixture's row `edge`."""
    for b, bundle in enumerate(cell.bundles):
        for k, pairs in enumerate(bundle.members):  # type: ignore[arg-type,union-attr]
            for i, (local, own) in enumerate(pairs):
                if (bundle.edges[local].row, own) == (edge, column):  # type: ignore[index,union-attr]
                    return b, k, i
    raise AssertionError((edge, column))


def watch(cell: Any, calls: list[tuple[tuple, Any]]) -> None:
    """Note what the cell's body is given and what it gives."""

    def run(*args: Any) -> Any:
        calls.append((args, cell.body(*args)))
        return calls[-1][1]

    cell.run = run


def plain_darts(space: Any, cell: RelaxedCell, pairs: Any, reduction: bool, args: tuple) -> Tensor:
    """The nodes of a discrete cell of the chosen operations, with norms behind pools as supernets have them."""
    inputs, _, _, drawn, *_ = args
    nodes = list(inputs)
    outputs = []
    names = space.edge_operations("reduce" if reduction else "normal")
    for at, (name, pred) in enumerate(pairs):
        edge = sum(range(2, 2 + at // 2)) + pred
        b, k, i = place(cell, edge, names[edge].index(name))
        stride = 2 if reduction and pred < 2 else 1
        if name == "noise":
            outputs.append(drawn[b][k][0][i])
        else:
            op = operations.build(
                name, nodes[pred].size(1), stride, affine=False, tracked=False, pool_norm=True
            ).double()
            small.put_operation(op, cell.bundles[b].banks[k], i)  # type: ignore[union-attr,index]
            outputs.append(op(nodes[pred]))
        if at % 2:
            nodes.append(outputs[-2] + outputs[-1])
    return torch.cat(nodes[2:], 1)


def plain_choice(space: Any, cell: ChoiceCell, genotype: Any, x: Tensor) -> Tensor:
    """The discrete cell as NAS-Bench-1Shot1 composes it: unreached blocks see no inputs and reach no output."""
    c = cell.project.channels

    def projection(i: int) -> nn.Module:
        op = modules.ConvBNReLU(x.size(1), c, norm=modules.batch_norm(tracked=False)).double()
        small.put_operation(op, cell.project, i)
        return op

    nodes: list[Tensor] = []
    for b, name in enumerate(genotype.ops[1 : space.blocks + 1]):
        given = [projection(b)(x), *nodes]
        chosen = [bool(genotype.matrix[p][b + 1]) for p in range(b + 1)] if space.inputs[b + 1] else [True] * (b + 1)
        total = sum((y for y, on in zip(given, chosen, strict=True) if on), start=torch.zeros_like(given[0]))
        op = operations.build(name, c, tracked=False).double()
        (bank,) = [
            k
            for k, pairs in zip(cell.bundles[b].banks, cell.bundles[b].members, strict=True)  # type: ignore
            if pairs[0][1] == space.operations.index(name)
        ]
        small.put_operation(op, bank, 0)
        nodes.append(op(total))
    out = torch.cat([y * float(genotype.matrix[b + 1][-1]) for b, y in enumerate(nodes)], 1)
    direct = torch.cat([projection(space.blocks + b)(x) for b in range(space.blocks)], 1)
    return out + float(genotype.matrix[0][-1]) * direct


@pytest.mark.parametrize("pixels", [0, 13])
@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("name", [name for name in IMAGES if name not in ("nb201", "darts pc", "nb201 pc")])
def test_a_one_hot_mixture_computes_the_discrete_cell(name: str, naive: bool, pixels: int) -> None:
    """Cell by cell: supernets and retrained networks differ around the cells (norms behind pools, projections)."""
    space, data = tiny(name), small.batch(2, size=pixels or size(name))
    net, gen = small.build(space, naive=naive), torch.Generator().manual_seed(3)
    for _ in range(3):
        genotype: Any = space.sample(gen)
        calls: list[tuple[tuple, Any]] = []
        cells = list(net.cells)  # type: ignore[arg-type]
        for cell in cells:
            watch(cell, calls)
        net(data.x, doubled(space.encode(genotype)), gen=torch.Generator().manual_seed(5))
        assert len(calls) == len(cells)
        for i, (cell, (args, out)) in enumerate(zip(cells, calls, strict=True)):
            if isinstance(cell, ChoiceCell):
                close(out, plain_choice(space, cell, genotype, args[0]))
            else:
                pairs = genotype.layers(space.layers)[i]
                close(torch.cat(out, 1), plain_darts(space, cell, pairs, space.kind(i) == "reduce", args))


@pytest.mark.parametrize("pixels", [16, 13])
@pytest.mark.parametrize("naive", [False, True])
def test_nb201_supernet_at_a_one_hot_mixture_is_the_network_itself(naive: bool, pixels: int) -> None:
    space = full("nb201", layers=2, channels=4)
    net: Any = small.build(space, naive=naive)
    gen, data = torch.Generator().manual_seed(4), small.batch(3, size=pixels)
    for _ in range(5):
        genotype = space.sample(gen)
        network: Any = space.network(genotype, 10, layers=2, channels=4).double()
        small.put(network.stem[0], net.stem.weight)
        supercells, reductions = iter(net.cells), iter(net.reductions.values())
        for block in network.blocks:
            if not hasattr(block, "ops"):
                ours: Any = next(reductions)
                convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
                for conv, weight in zip(convs, (ours.conv1.weight, ours.conv2.weight, ours.shortcut), strict=True):
                    small.put(conv, weight)
                continue
            cell: Any = next(supercells)
            for edge, (op, chosen) in enumerate(zip(block.ops, genotype.ops, strict=True)):
                if chosen.startswith("nor_conv"):
                    b, k, i = place(cell, edge, space.operations.index(chosen))
                    small.put_operation(op, cell.bundles[b].banks[k], i)
        small.put(network.classifier, net.classifier.weight)
        with torch.no_grad():
            network.classifier.bias.copy_(net.classifier.bias)
        close(net(data.x, doubled(space.encode(genotype))).main, network(data.x).main)


@pytest.mark.parametrize("pixels", [1, 3, 9])
@pytest.mark.parametrize("name", IMAGES)
def test_images_of_odd_size_give_the_same_numbers_in_both_paths(name: str, pixels: int) -> None:
    """Of one pixel too: nothing is read that was never written."""
    space, data = tiny(name), small.batch(2, n=3, size=pixels)
    mix = small.mixture(space, 4)
    one, other = (
        small.build(space, naive=naive)(data.x, mix, gen=torch.Generator().manual_seed(5)).main
        for naive in (False, True)
    )
    close(one, other, 1e-9)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["darts", "nb201", "nb1shot1_3", "s1"])
def test_no_gradient_comes_from_foreign_memory(name: str, last: bool) -> None:
    """Freed memory full of NaN changes nothing, in any memory layout, on maps of one pixel too."""
    space, found = tiny(name), []
    for junk in (float("nan"), 1e30):
        net, data = small.build(space), small.batch(2, size=4)
        net = net.to(memory_format=torch.channels_last) if last else net  # type: ignore[call-overload]
        x = data.x.contiguous(memory_format=torch.channels_last) if last else data.x
        mix = {k: m.detach() for k, m in small.mixture(space, 4).items()}  # only the weights' gradient is asked for
        loss = net(x, mix).main.square().sum()
        for n in (4, 8, 16, 32, 64, 128, 256, 512):
            held = [torch.full((n,), junk, dtype=torch.float64) for _ in range(200)]
            del held
        found.append([loss, *torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)])
    for one, other in zip(*found, strict=True):
        assert one is None or torch.equal(one, other)
    assert all(bool(x.isfinite().all()) for x in found[0] if x is not None)


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


# ------------------------------------------------------------------------------------------------------- searches
class Batches:
    """An endless stream of small float64 batches."""

    def __init__(self, space: Space, first: int, size: int) -> None:
        self.space, self.at, self.size = space, first, size

    def __next__(self) -> Batch:
        self.at += 1
        return small.given(self.space, self.at, n=2, size=self.size)

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def looped(name: str, method: Any, engine: EngineSettings | None = None) -> Loop:
    space = tiny(name)
    problem = RelaxedProblem(space, small.build(space), method.activate, engine=engine)
    a = {k: x.double().requires_grad_() for k, x in method.start(space.init(torch.Generator().manual_seed(0))).items()}
    w = weights(problem.supernet)
    state = Search(
        problem,
        w,
        a,
        torch.optim.SGD(w.values(), lr=0.05, momentum=0.9),
        torch.optim.Adam(a.values(), lr=3e-3),
        clip=5.0,
    )
    return Loop(
        state,
        method,
        problem.supernet,
        Batches(space, 0, size(name) // 2),
        Batches(space, 1000, size(name) // 2),
        epochs=2,
        updates_per_epoch=1,
        lr=0.05,
        lr_min=0.0,
    )


def method_of(name: str) -> Any:
    return variants.method_of(name, "~pair")


@pytest.mark.parametrize("method", ["darts", "gdas", "lambda"])
@pytest.mark.parametrize("name", VARIANTS)
def test_two_updates_of_a_search_and_a_resume_between_them(name: str, method: str) -> None:
    if compares(name, method):
        pytest.skip("a method that compares cells needs two of them")
    whole = looped(name, method_of(method))
    start = {k: x.detach().clone() for k, x in whole.search.a.items()}
    whole.run()
    assert whole.search.updates == 2
    moved = {k for k, x in whole.search.a.items() if not torch.equal(x, start[k])}
    assert moved == start.keys() or (method == "gdas" and moved), "a sampled path may leave a block out"
    assert all(bool(x.isfinite().all()) for x in (*whole.search.a.values(), *whole.search.w.values()))

    first, kept = looped(name, method_of(method)), io.BytesIO()

    def end(row: dict[str, Any]) -> None:
        first.stopped = True
        torch.save(first.state(), kept)

    first.end_epoch = end
    first.run()
    assert first.search.updates == 1
    second = looped(name, method_of(method))
    kept.seek(0)
    second.load(torch.load(kept, weights_only=True))
    second.run()
    for k, x in {**whole.search.w, **whole.search.a}.items():
        assert torch.equal(x, {**second.search.w, **second.search.a}[k]), k


def test_checkpointed_search_of_untied_cells_ends_in_the_same_bits() -> None:
    plain, lean = (
        looped("amended_s2 searched", method_of("darts"), EngineSettings(checkpoint=on)) for on in (False, True)
    )
    plain.run()
    lean.run()
    for k, x in {**plain.search.w, **plain.search.a}.items():
        assert torch.equal(x, {**lean.search.w, **lean.search.a}[k]), k


# ----------------------------------------------------------------------------------- every space with every method
class Killed(Exception):
    """Stands for the end of the process."""


def compares(space: str, method: str) -> bool:
    """Whether a method compares cells, of which the space has one alone."""
    return bool(method_of(method).needs_two_cells and full(space).single)


def words_for(space: str, method: str, out: Path) -> list[str]:
    if space in TEXT:
        return [
            f"space={space}",
            f"method={method}",
            f"dataset.path={texts.write(out.parent / 'text')}",
            "space.channels=6",
            "search.batch=8",
            "search.epochs=2",
            "search.updates_per_epoch=3",
            "search.evaluate_every=0",
            "search.clip=0.25",
            "quiet=true",
            "device=cpu",
            "threads=1",
            f"out={out}",
            "name=run",
            *(["method.tune=1", "method.batches=2"] if method == "darts_pt" else []),
        ]
    layers = {"nb201": 1, "nb1shot1": 3}.get(composed(space)["space"]["_target_"].split(".")[2], 3)
    changes = ["space.layers=4", "space.auxiliary=false"] if space == "amended_s2" else [f"space.layers={layers}"]
    if method == "amended" and "edges" in composed(space)["space"]:
        changes = [*dict.fromkeys([*changes, "space.auxiliary=false"])]
    if method == "darts_pt":
        changes += ["method.tune=1", "method.batches=2"]
    if hasattr(method_of(method), "candidates"):
        changes.append("method.candidates=4")
    return [
        f"space={space}",
        f"method={method}",
        "dataset=digits",
        *changes,
        "space.channels=4",
        "search.batch=8",
        "search.epochs=2",
        "search.updates_per_epoch=3",
        "search.evaluate_every=0",
        "search.auxiliary=0",
        "search.drop_path=0",
        "search.cutout=0",
        "quiet=true",
        "device=cpu",
        "threads=1",
        f"out={out}",
        "name=run",
        "dataset.size=8",
    ]


def search(words: list[str]) -> dict[str, Any]:
    cfg, choices = preflight.resolved(preflight.make_loader().load_configuration("search", words, RunMode.RUN))
    check.check(cfg, choices, words)
    return jobs_search.search(cfg, {"choices": choices, "overrides": words, "command": "nasx search"})


def rows(out: Path) -> list[dict[str, Any]]:
    file = out / "run" / "metrics.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{k: v for k, v in row.items() if k not in ("wall_s", "diagnostics")} for row in found]


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(jobs_search, "pictures", lambda folder: None)
    return monkeypatch


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("space", SPACES)
def test_every_space_with_every_method_searches_and_resumes(
    space: str, method: str, tmp_path: Path, without_pictures: pytest.MonkeyPatch
) -> None:
    if method == "pc_darts" and "edge_norm" not in composed(space)["space"]:
        pytest.skip("PC-DARTS is a property of a space")
    if compares(space, method):
        pytest.skip("a method that compares cells needs two of them")
    if method_of(method).reads not in (None, full(space).data):
        pytest.skip("a method for networks that read something else")
    if method == "darts_minus" and not any(x.any() for x in full(space).mask("skip_connect").values()):
        pytest.skip("DARTS- needs skip connections")
    whole = search(words_for(space, method, tmp_path / "whole"))
    assert whole["status"] == "finished"
    depth = {"layers": 4 if space == "amended_s2" else 3} if "layers" in composed(space)["space"] else {}
    parsed = full(space, **depth).parse(whole["genotype"])
    assert str(parsed) == whole["genotype"]

    append, left = run_folder.Run.append, [1]

    def dying(self: run_folder.Run, row: Any) -> None:
        if not left[0]:
            raise Killed  # at the end of the second epoch: its updates are lost, the first epoch's are kept
        left[0] -= 1
        append(self, row)

    with without_pictures.context() as patched:
        patched.setattr(run_folder.Run, "append", dying)
        try:
            search(words_for(space, method, tmp_path / "broken"))
        except Killed:
            assert len(rows(tmp_path / "broken")) == 1
        else:
            assert not method_of(method).trains, "only a method that trains nothing has no epochs"
    again = search(words_for(space, method, tmp_path / "broken"))
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    same = ("genotype", "operations", "updates", "passes", "supernet", "lookup", "verdict")
    assert {k: again[k] for k in same} == {k: whole[k] for k in same}
