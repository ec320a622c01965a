"""NAS-Bench-201: one cell with four nodes, six edges and five operations, hence 15,625 cells.

Node 0 is the input and node 3 the output; node j = sum over i < j of op_ij(node i). Edges are in the order of the
architecture string: 0->1, 0->2, 1->2, 0->3, 1->3, 2->3. The text form is `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`, with
the predecessor after `~`. On each edge, discretization selects the operation with the largest of all five weights,
which may be `none`; with `derive_none=false`, `none` is never selected, as in the DARTS space.

Macro structure: stem (3x3 convolution to C channels, BN), three stages of N cells with C, 2C and 4C channels, a
residual block with stride 2 before stages 2 and 3, then BN, ReLU, global average pooling, linear layer. With N = 5,
C = 16 and 10 classes, a network has 73,306 parameters, plus 28,000 for each 1x1 and 243,040 for each 3x3 convolution in
the cell.

Source: X. Dong and Y. Yang, NAS-Bench-201, ICLR 2020, sections 2.1 and 2.2; released code.

Deviations
1. Convolutions have no bias even if batch norm has no affine parameters (one later version of the released supernet
   adds a bias in that case).
2. Residual blocks accept odd sizes (see modules.py); the benchmark's sizes are even.
3. With `partial` = K, operations process the first C / K channels; the others bypass them unweighted (DrNAS, section
   4.2; PC-DARTS in the released code of Lambda-DARTS). With `edge_norm`, a softmax over the edges into a node weights
   both parts, as PC-DARTS does in the DARTS space (eq. 3); no released code does so on NAS-Bench-201. Edge weights
   cannot change which operation is strongest on an edge.
4. Supernets also use batch statistics in evaluation (`batch_norm=batch`), as in the scripts of NATS-Bench; the scripts
   of NAS-Bench-201 v1, which protocol nb201-v1 otherwise follows, keep running statistics (`batch_norm=tracked`).

Shapes: a["cell"] (6, operations), mix["cell"] (3 N, 6, operations); with `edge_norm` also a["cell.edge"] (1, 6) and
mix["cell.edge"] (3 N, 1, 6), and mix["cell"] is scaled by it; network x (n, 3, h, w) -> (n, classes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self, Unpack

import torch
import torch.nn.functional as F

from nasx.core.trees import Activate, Decision, Tree
from nasx.spaces import genotypes, rules
from nasx.spaces.base import Genotype, Space, Supernet
from nasx.spaces.cost import plain_only
from nasx.spaces.edge_operations import Style
from nasx.spaces.expected_cost import Site
from nasx.spaces.latency import Size
from nasx.spaces.nb201.cost import CellCosts
from nasx.spaces.nb201.genotype import EDGES, OPERATIONS, Nb201Genotype
from nasx.spaces.nb201.network import Nb201Network
from nasx.spaces.published import resolve
from nasx.spaces.selection import Lists, best, choosable, draw, softmax_by_node, strongest

if TYPE_CHECKING:
    from nasx.core.constraints import Channels, Layers, Positive

NODES = [slice(0, 1), slice(1, 3), slice(3, 6)]
"""Slice of the edges that enter each node."""


@dataclass(frozen=True, kw_only=True)
class Nb201(Space):
    """NAS-Bench-201. `layers`: cells per stage of the supernet; `channels`: channels in its first stage."""

    read_as: ClassVar[str] = "nb201"
    layers: Layers = 5
    channels: Channels = 16
    operations: tuple[str, ...] = OPERATIONS
    cell: Lists | None = None
    partial: Positive = 1
    edge_norm: bool = False
    batch_norm: Literal["batch", "tracked"] = "batch"
    affine: bool = False
    derive_none: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        object.__setattr__(self, "cell", None if self.cell is None else tuple(tuple(row) for row in self.cell))
        rules.nb201(self)

    def edge_operations(self, name: str) -> Lists:
        """Return the operations of each edge, in the order of the mixture's last axis; () for edge weights."""
        return rules.rows(self, name, len(EDGES)) if name == "cell" else ()

    def choices(self) -> list[tuple[int, ...]]:
        """Return the indices of the operations that can be selected on each of the six edges."""
        return [tuple(range(len(row))) if self.derive_none else choosable(row) for row in self.edge_operations("cell")]

    def decisions(self) -> tuple[tuple[Decision, ...], ...]:
        return (tuple(Decision("cell", tuple((e, o) for o in own)) for e, own in enumerate(self.choices())),)

    def narrow(self, mix: Tree, keep: int | None) -> Self:
        lists = self.edge_operations("cell")
        return self if keep is None else replace(self, cell=strongest(mix["cell"], lists, keep))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"cell": (len(EDGES), len(self.edge_operations("cell")[0]))}
        return shapes | ({"cell.edge": (1, len(EDGES))} if self.edge_norm else {})

    def cells(self) -> dict[str, int]:
        return dict.fromkeys(self.shapes(), 3 * self.layers)

    def relax(self, a: Tree, activate: Activate) -> Tree:
        mix = {"cell": activate(a["cell"])}
        if self.edge_norm:
            edge = softmax_by_node(a["cell.edge"], NODES)
            mix = {"cell": mix["cell"] * edge.transpose(-1, -2), "cell.edge": edge}
        return {name: x.expand(3 * self.layers, *x.shape) for name, x in mix.items()}

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return (("cell",),)

    def supernet(self, classes: int, *, naive: bool = False) -> Supernet:
        from nasx.spaces.nb201.supernet import Nb201Supernet

        lists, style = self.edge_operations("cell"), Style(self.batch_norm == "tracked", self.affine)
        return Nb201Supernet(lists, self.layers, self.channels, style, self.partial, classes, naive=naive)

    def discretize(self, mix: Tree) -> Nb201Genotype:
        rows = mix["cell"].detach().cpu()
        lists = self.edge_operations("cell")
        assert rows.shape[1:] == (len(EDGES), len(lists[0])), rows.shape
        found = zip(rows[0].tolist(), lists, self.choices(), strict=True)
        return Nb201Genotype(tuple(own[best(row, among)] for row, own, among in found))

    def encode(self, genotype: Genotype) -> Tree:
        assert isinstance(genotype, Nb201Genotype)
        lists = self.edge_operations("cell")
        chosen = torch.tensor([own.index(name) for name, own in zip(genotype.ops, lists, strict=True)])
        hot = F.one_hot(chosen, len(lists[0])).to(torch.get_default_dtype())
        mix = {"cell": hot} | ({"cell.edge": torch.ones(1, len(EDGES))} if self.edge_norm else {})
        return {name: x.expand(3 * self.layers, -1, -1).clone() for name, x in mix.items()}

    def sample(self, gen: torch.Generator) -> Nb201Genotype:
        edges = zip(self.edge_operations("cell"), self.choices(), strict=True)
        return Nb201Genotype(tuple(own[among[draw(len(among), gen)]] for own, among in edges))

    def parse(self, text: str) -> Nb201Genotype:
        cell = genotypes.nb201_cell(resolve(text, self.read_as))
        rules.nb201_fits(self, cell)
        return Nb201Genotype(cell)

    def size(self) -> int:
        return math.prod(map(len, self.choices()))

    def network(self, genotype: Genotype, classes: int, **size: Unpack[Size]) -> Nb201Network:
        """Return the benchmark's network, by default with 5 cells per stage and 16 channels."""
        assert isinstance(genotype, Nb201Genotype)
        plain_only(size, "nb201")
        return Nb201Network(genotype, classes, size.get("layers") or 5, size.get("channels") or 16)

    def tabulated(self, values: Sequence[float]) -> CellCosts:
        return CellCosts.of(values, self.edge_operations("cell"), self.choices())

    def sites(self, shape: tuple[int, ...], **size: Unpack[Size]) -> Iterator[Site]:
        layers, channels, (h, w) = size.get("layers") or 5, size.get("channels") or 16, shape[-2:]
        for stage in range(3):
            h, w = (-(-h // 2), -(-w // 2)) if stage else (h, w)
            for edge in layers * list(range(len(EDGES))):
                yield Site("cell", 0, edge, channels * 2**stage, 1, h, w)
