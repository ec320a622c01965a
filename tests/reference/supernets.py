"""Naive relaxed supernets: one module per cell, edge and operation, nothing merged, nothing shared.

    cells[i].edges[e].ops[o]    the operations of edge e, in the order of the mixture's last axis
    cells[i].preprocess0/1      input projections (DARTS, PC-DARTS);  cells[i].projections[b] (NB-1Shot1, last: output)

Submodules: plain convolutions `conv`, `norm`; separable ones `depthwise1 pointwise1 norm1 depthwise2 pointwise2 norm2`;
dilated ones `depthwise pointwise norm`; pools `norm`; FactorizedReduce `conv1 conv2 norm`. All convolutions lack a bias
unless said. Batch norm uses batch statistics (no running ones) and is not affine inside search cells, affine outside.

forward(x, mix, gen) -> logits (n, classes); mix maps a name to (cells of that name, edges, operations); random
operations draw from `gen` in the order of cells and edges.

    DARTS      "normal", "reduce": (6, 14, 8), (2, 14, 8) at 8 cells; per-edge operation lists may differ
    PC-DARTS   the same, and "normal_edges", "reduce_edges": as many numbers as edges, per cell
    NB-201     "cell": (15, 6, 5), with partial channels also "cell_edges"
    NB-1Shot1  "ops" (9, blocks, 3), "output" (9, 1, blocks + 1), "inputs<b>" (9, 1, b) for block b >= 2 with a choice
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.operations import (
    Edge,
    FactorizedReduce,
    Identity,
    Operation,
    PartialEdge,
    Pool,
    ReLUConvNorm,
    Zero,
    conv,
    darts_operation,
    norm,
)

Tree = dict[str, Tensor]

DARTS_OPS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NB201_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NB1SHOT1_PARENTS = {1: (1, 2, 2, 2, 2), 2: (1, 1, 2, 2, 3), 3: (1, 1, 1, 2, 2, 2)}


# ----------------------------------------------------------------------------------------- DARTS and PC-DARTS
class DartsCell(nn.Module):
    """Two inputs, four nodes, 14 edges row by row; the output is the concatenation of the nodes."""

    def __init__(
        self,
        lists: Sequence[Sequence[str]],
        c_before: int,
        c_last: int,
        c: int,
        reduction: bool,
        reduction_before: bool,
        k: int = 1,
    ) -> None:
        super().__init__()
        self.preprocess0: Operation = (
            FactorizedReduce(c_before, c) if reduction_before else ReLUConvNorm(c_before, c, 1)
        )
        self.preprocess1 = ReLUConvNorm(c_last, c, 1)
        sources = [source for node in range(2, 6) for source in range(node)]
        self.edges = nn.ModuleList()
        for source, names in zip(sources, lists, strict=True):
            stride = 2 if reduction and source < 2 else 1
            ops = [darts_operation(name, c // k, stride) for name in names]
            self.edges.append(Edge(ops) if k == 1 else PartialEdge(ops, stride, k))

    def forward(self, s0: Tensor, s1: Tensor, mix: Tensor, scale: Tensor | None, gen: torch.Generator | None) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        e = 0
        for node in range(2, 6):
            total: Tensor | None = None
            for source in range(node):
                y = self.edges[e](states[source], mix[e], gen)
                y = y if scale is None else scale[e] * y
                total = y if total is None else total + y
                e += 1
            assert total is not None
            states.append(total)
        return torch.cat(states[2:], dim=1)


def per_edge(names: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    """One list of names for each of 14 edges."""
    return [[str(name) for name in names]] * 14 if isinstance(names[0], str) else [list(ops) for ops in names]


class DartsSupernet(nn.Module):
    """The DARTS space and all that share its topology: S1 to S4 by their operation lists, PC-DARTS by `k` > 1.

    `normal` and `reduce` are one list of names for all edges, or 14 lists. `stem`: "cifar" or "imagenet".
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 16,
        layers: int = 8,
        k: int = 1,
        stem: str = "cifar",
        normal: Sequence[str] | Sequence[Sequence[str]] = DARTS_OPS,
        reduce: Sequence[str] | Sequence[Sequence[str]] = DARTS_OPS,
    ) -> None:
        super().__init__()
        width = 3 * channels
        if stem == "cifar":
            self.stem = nn.Sequential(conv(3, width, 3), norm(width, affine=True))
        else:
            self.stem0 = nn.Sequential(
                conv(3, width // 2, 3, 2),
                norm(width // 2, affine=True),
                nn.ReLU(),
                conv(width // 2, width, 3, 2),
                norm(width, affine=True),
            )
            self.stem1 = nn.Sequential(nn.ReLU(), conv(width, width, 3, 2), norm(width, affine=True))
        lists = {"normal": per_edge(normal), "reduce": per_edge(reduce)}
        self.cells, self.kinds, self.imagenet, self.partial = nn.ModuleList(), [], stem != "cifar", k > 1
        before, last, c, reduction_before = width, width, channels, self.imagenet
        for i in range(layers):
            reduction = i in (layers // 3, 2 * layers // 3)
            c = 2 * c if reduction else c
            kind = "reduce" if reduction else "normal"
            self.cells.append(DartsCell(lists[kind], before, last, c, reduction, reduction_before, k))
            self.kinds.append(kind)
            before, last, reduction_before = last, 4 * c, reduction
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor, mix: Tree, gen: torch.Generator | None = None) -> Tensor:
        if self.imagenet:
            s0 = self.stem0(x)
            s1 = self.stem1(s0)
        else:
            s0 = s1 = self.stem(x)
        seen = {"normal": 0, "reduce": 0}
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            scale = mix[f"{kind}_edges"][seen[kind]].reshape(14) if self.partial else None
            s0, s1 = s1, cell(s0, s1, mix[kind][seen[kind]], scale, gen)
            seen[kind] += 1
        return self.classifier(s1.mean(dim=(2, 3)))


# ---------------------------------------------------------------------------------------------- NAS-Bench-201
def nb201_operation(name: str, c: int, affine: bool, bias: bool) -> Operation:
    if name == "none":
        return Zero(c, 1)
    if name == "skip_connect":
        return Identity()
    if name == "avg_pool_3x3":
        return Pool("avg", c, 1, normed=False)
    return ReLUConvNorm(c, c, int(name[-1]), affine=affine, bias=bias)


class Nb201Cell(nn.Module):
    """Four nodes, six edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2; the output is node 3."""

    def __init__(self, c: int, affine: bool, bias: bool, k: int = 1) -> None:
        super().__init__()
        self.edges = nn.ModuleList()
        for _ in range(6):
            ops = [nb201_operation(name, c // k, affine, bias) for name in NB201_OPS]
            self.edges.append(Edge(ops) if k == 1 else PartialEdge(ops, 1, k))

    def forward(self, x: Tensor, mix: Tensor, scale: Tensor | None = None) -> Tensor:
        e = [lambda s, i=i: self.edges[i](s, mix[i]) * (1 if scale is None else scale[i]) for i in range(6)]
        node1 = e[0](x)
        node2 = e[1](x) + e[2](node1)
        return e[3](x) + e[4](node1) + e[5](node2)


class ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_a = ReLUConvNorm(c_in, c_out, 3, 2, affine=True)
        self.conv_b = ReLUConvNorm(c_out, c_out, 3, affine=True)
        self.shortcut = conv(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(F.avg_pool2d(x, 2, stride=2)) + self.conv_b(self.conv_a(x))


class Nb201Supernet(nn.Module):
    """Stem, three stages of `n` cells at c, 2c, 4c channels, a residual block before stages 2 and 3, head.

    `affine`, `bias`: batch norms and convolutions of the cells; `last_affine`: the norm before the head, affine in the
    v1 supernets and following `affine` in the newer ones.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 16,
        n: int = 5,
        affine: bool = False,
        bias: bool = False,
        last_affine: bool = True,
        k: int = 1,
    ) -> None:
        super().__init__()
        self.n = n
        self.stem = nn.Sequential(conv(3, channels, 3), norm(channels, affine=True))
        widths = [channels, 2 * channels, 4 * channels]
        self.cells = nn.ModuleList(Nb201Cell(c, affine, bias, k) for c in widths for _ in range(n))
        self.reductions = nn.ModuleList(ResidualBlock(c, 2 * c) for c in widths[:2])
        self.last = norm(widths[-1], affine=last_affine)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor, mix: Tree, gen: torch.Generator | None = None) -> Tensor:
        x = self.stem(x)
        for i, cell in enumerate(self.cells):
            if i in (self.n, 2 * self.n):
                x = self.reductions[i // self.n - 1](x)
            x = cell(x, mix["cell"][i], mix["cell_edges"][i].reshape(6) if "cell_edges" in mix else None)
        return self.classifier(F.relu(self.last(x)).mean(dim=(2, 3)))


# ------------------------------------------------------------------------------------------------- NB-1Shot1
class ConvNormReLU(Operation):
    def __init__(self, c_in: int, c_out: int, size: int) -> None:
        super().__init__()
        self.conv, self.norm = conv(c_in, c_out, size), norm(c_out, affine=True)

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Nb1Shot1Cell(nn.Module):
    """Each block: own projection of the cell input and all earlier blocks, weighted, summed, then a mixed operation."""

    def __init__(self, blocks: int, c_in: int, c: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList([ConvNormReLU(c_in, c, 1) for _ in range(blocks)])
        self.projections.append(ConvNormReLU(c_in, blocks * c, 1))
        self.edges = nn.ModuleList(
            Edge([Pool("max", c, 1, normed=False), ConvNormReLU(c, c, 3), ConvNormReLU(c, c, 1)]) for _ in range(blocks)
        )

    def forward(self, x: Tensor, mix: Tree, i: int) -> Tensor:
        outputs: list[Tensor] = []
        for b, edge in enumerate(self.edges, start=1):
            sources = [self.projections[b - 1](x), *outputs]
            weights = mix[f"inputs{b}"][i].reshape(b) if f"inputs{b}" in mix else [1.0] * b
            total = sum(weight * source for weight, source in zip(weights, sources, strict=True))
            outputs.append(edge(total, mix["ops"][i][b - 1]))
        o = mix["output"][i].reshape(-1)
        joined = torch.cat([o[b] * y for b, y in enumerate(outputs, start=1)], dim=1)
        return o[0] * self.projections[-1](x) + joined


class Nb1Shot1Supernet(nn.Module):
    def __init__(self, space: int, classes: int = 10, channels: int = 16, layers: int = 9) -> None:
        super().__init__()
        blocks = len(NB1SHOT1_PARENTS[space]) - 1
        self.down = (layers // 3, 2 * layers // 3)
        self.stem = ConvNormReLU(3, channels, 3)
        self.cells = nn.ModuleList()
        c_in, c = channels, channels
        for i in range(layers):
            c = 2 * c if i in self.down else c
            self.cells.append(Nb1Shot1Cell(blocks, c_in, c))
            c_in = blocks * c
        self.postprocess = ReLUConvNorm(c_in, c, 1)
        self.classifier = nn.Linear(c, classes)

    def forward(self, x: Tensor, mix: Tree, gen: torch.Generator | None = None) -> Tensor:
        x = self.stem(x)
        for i, cell in enumerate(self.cells):
            if i in self.down:
                x = F.max_pool2d(x, 2, stride=2, padding=1)
            x = cell(x, mix, i)
        return self.classifier(self.postprocess(x).mean(dim=(2, 3)))


def parameters(net: nn.Module) -> int:
    return sum(x.numel() for x in net.parameters())
