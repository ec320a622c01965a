"""Small real supernets in float64, and the mapping of their merged weights to plain modules."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nasx.core import distributed
from nasx.core.bilevel import Batch, Search, Tree
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces import edge_operations
from nasx.spaces.base import Space, Supernet
from nasx.spaces.darts.space import Darts
from nasx.spaces.mixed_cell import MixedEdges, RelaxedCell
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

from reference import operations, supernets


def softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, -1)


def protocol(**values: object) -> Any:
    """Return the search protocol with these settings; all others are neutral."""
    neutral = {"epochs": 1, "lr": 1.0, "lr_min": 0.0, "schedule": "cosine", "diagnose_order": 1}
    off = ("arch_weight_decay", "arch_warmup", "warmup_epochs", "diagnose_every", "diagnose_steps", "probe_every")
    return SimpleNamespace(**neutral | dict.fromkeys(off, 0) | values)


def batch(seed: int, n: int = 4, size: int = 16, classes: int = 10) -> Batch:
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, size, size, generator=gen, dtype=torch.float64)
    return Batch(x, torch.randint(classes, (n,), generator=gen), seed)


def words(seed: int, n: int = 4, steps: int = 5, vocabulary: int = 10) -> Batch:
    """Return segments of text without a carried state."""
    gen = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(vocabulary, (n, steps), generator=gen) for _ in range(2))
    return Batch(x, y, seed)


def given(space: Space, seed: int, n: int = 4, size: int = 16) -> Batch:
    """Return a batch that the networks of a space can read."""
    return words(seed, n) if space.data == "text" else batch(seed, n, size)


def build(space: Space, *, naive: bool = False, seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    return space.supernet(10, naive=naive).double()


def mixture(space: Space, seed: int = 0, scale: float = 1.0) -> Tree:
    """Return a random mixture with a separate copy for each cell, as leaves."""
    gen = torch.Generator().manual_seed(seed)
    a = {k: scale * torch.randn(shape, generator=gen, dtype=torch.float64) for k, shape in space.shapes().items()}
    mix = space.relax(a, softmax)
    return {
        k: (x + 0.05 * torch.rand(x.shape, generator=gen, dtype=torch.float64)).detach().requires_grad_()
        for k, x in mix.items()
    }


def search(space: Space, *, seed: int = 0, lr: float = 0.05, momentum: float = 0.0, **settings: Any) -> Search:
    """Return a search on a small float64 supernet, with plain SGD on both trees."""
    net = build(space, seed=seed)
    problem = RelaxedProblem(space, net, softmax, classes=10, parallel=distributed.world_size() > 1)
    gen = torch.Generator().manual_seed(seed)
    a = {
        k: torch.randn(shape, generator=gen, dtype=torch.float64).requires_grad_()
        for k, shape in space.shapes().items()
    }
    w = weights(net)
    return Search(
        problem,
        w,
        a,
        torch.optim.SGD(w.values(), lr=lr, momentum=momentum),
        torch.optim.SGD(a.values(), lr=1.0),
        clip=None,
        **settings,
    )


# ------------------------------------------------------------------------------------- merged weights -> modules
def put(conv: Any, value: Tensor) -> None:
    with torch.no_grad():
        assert conv.weight.shape == value.shape, (conv.weight.shape, value.shape)
        conv.weight.copy_(value)


def put_norm(norm: Any, source: edge_operations.Norm, part: slice | None = None) -> None:
    if source.weight is not None and source.bias is not None:
        with torch.no_grad():
            norm.weight.copy_(source.weight if part is None else source.weight[part])
            norm.bias.copy_(source.bias if part is None else source.bias[part])


def put_operation(op: nn.Module, bank: edge_operations.EdgeOperations, i: int) -> None:
    part = bank.part(i)
    match bank:
        case edge_operations.Conv() | edge_operations.ConvNormReLU():
            put(op.conv, bank.weight[part])
            put_norm(op.norm, bank.norm, part)
        case edge_operations.FactorizedReduce():
            half = bank.part(i, bank.channels // 2)
            put(op.conv1, bank.weight1[half])
            put(op.conv2, bank.weight2[half])
        case edge_operations.Separable() if bank.depth == 1:
            put(op.depthwise, bank.depthwise[0][part])
            put(op.pointwise, bank.pointwise[0][part])
        case edge_operations.Separable():
            for block in range(2):
                put(getattr(op, f"depthwise{block + 1}"), bank.depthwise[block][part])
                put(getattr(op, f"pointwise{block + 1}"), bank.pointwise[block][part])


def put_bundle(edges: nn.ModuleList, bundle: MixedEdges) -> None:
    for bank, pairs in zip(bundle.banks, bundle.members, strict=True):
        for i, (local, column) in enumerate(pairs):
            put_operation(edges[bundle.edges[local].row].ops[column], bank, i)


def reference(space: Space, net: Any, **settings: Any) -> nn.Module:
    """Return the naive reference supernet with the weights of `net`."""
    match space:
        case Nb201():
            ref: Any = supernets.Nb201Supernet(
                channels=space.channels, n=space.layers, affine=space.affine, k=space.partial
            ).double()
            put(ref.stem[0], net.stem.weight)
            for ours, theirs in zip(net.reductions.values(), ref.reductions, strict=True):
                put(theirs.conv_a.conv, ours.conv1.weight)
                put(theirs.conv_b.conv, ours.conv2.weight)
                put(theirs.shortcut, ours.shortcut)
        case Darts():
            ref = supernets.DartsSupernet(
                channels=space.channels,
                layers=space.layers,
                k=space.partial,
                stem=space.stem,
                normal=space.edge_operations("normal"),
                reduce=space.edge_operations("reduce"),
            ).double()
            if space.stem == "cifar":
                put(ref.stem[0], net.stem0.weight)
            else:
                put(ref.stem0[0], net.stem0[0].weight)
                put(ref.stem0[3], net.stem0[1].weight)
                put(ref.stem1[1], net.stem1.weight)
            for theirs, pre0, pre1 in zip(ref.cells, net.pre0, net.pre1, strict=True):
                if isinstance(theirs.preprocess0, operations.FactorizedReduce):
                    put(theirs.preprocess0.conv1, pre0.weight1)
                    put(theirs.preprocess0.conv2, pre0.weight2)
                else:
                    put(theirs.preprocess0.conv, pre0.weight)
                put(theirs.preprocess1.conv, pre1.weight)
        case Nb1Shot1():
            ref = supernets.Nb1Shot1Supernet(space.variant, channels=space.channels, layers=space.layers).double()
            put(ref.stem.conv, net.stem.weight)
            put(ref.postprocess.conv, net.last.weight)
            for ours, theirs in zip(net.cells, ref.cells, strict=True):
                for b in range(space.blocks):
                    put_operation(theirs.projections[b], ours.project, b)
                put(theirs.projections[-1].conv, ours.project.weight[space.blocks * ours.project.channels :])
                for b, bundle in enumerate(ours.bundles):
                    for bank, pairs in zip(bundle.banks, bundle.members, strict=True):
                        put_operation(theirs.edges[b].ops[pairs[0][1]], bank, 0)
        case _:
            raise AssertionError(space)
    for ours, theirs in zip(net.cells, ref.cells, strict=True):
        if isinstance(ours, RelaxedCell):
            for bundle in ours.bundles:
                put_bundle(theirs.edges, bundle)
    put(ref.classifier, net.classifier.weight)
    with torch.no_grad():
        ref.classifier.bias.copy_(net.classifier.bias)
    return ref


def renamed(mix: Tree) -> Tree:
    """Rename a mixture for the reference supernets, whose operation weights do not contain the edge weights."""
    mix = dict(mix)
    for kind in ("normal", "reduce", "cell"):
        if f"{kind}.edge" in mix:
            mix[kind] = mix[kind] / mix[f"{kind}.edge"].transpose(1, 2)
    names = {f"{kind}.edge": f"{kind}_edges" for kind in ("normal", "reduce", "cell")}
    names |= {f"input_{b}": f"inputs{b}" for b in range(2, 6)}
    return {names.get(k, k): x for k, x in mix.items()}


class Fixed:
    """A stream with a single position."""

    def __init__(self, first: int) -> None:
        self.position, self.first = 0, first

    def at(self, i: int) -> Batch:
        return batch(self.first + i, n=2, size=8)
