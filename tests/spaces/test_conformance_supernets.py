"""Requirements of the supernets of all spaces: the discrete cell at a one-hot mixture, and equal values in both paths.

Each is built from its file of conf/space, so a new space is covered automatically.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from space_variants import IMAGES, full, size, tiny
from torch import Tensor, nn

from nasx.core.trees import Tree
from nasx.spaces import modules, operations
from nasx.spaces.darts.network import plan
from nasx.spaces.mixed_cell import RelaxedCell
from nasx.spaces.nb1shot1.supernet import ChoiceCell

import small


def doubled(mix: Tree) -> Tree:
    return {k: x.double() for k, x in mix.items()}


def close(x: Tensor, y: Tensor, tolerance: float = 1e-11) -> None:
    scale = max(float(y.detach().abs().max()), 1e-3)
    assert float((x - y).detach().abs().max()) <= tolerance * scale


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
@pytest.mark.sample(5)
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
                close(torch.cat(out, 1), plain_darts(space, cell, pairs, plan(space.layers)[i] == "reduce", args))


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
@pytest.mark.sample(12)
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
