"""NAS-Bench-201: one cell of four nodes and six edges, five operations, 15,625 cells.

Node 0 is the input and node 3 the output; node j = sum over i < j of op_ij(node i). Edges in the order of the
architecture string: 0->1, 0->2, 1->2, 0->3, 1->3, 2->3. Text form `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`, with the
predecessor after `~`. `none` may be selected: the largest of all five weights is taken on each edge.

Macro structure: stem (3x3 convolution to C channels, BN), three stages of N cells at C, 2C, 4C channels, a residual
block of stride 2 before stages 2 and 3, then BN, ReLU, global average pool, linear. With N = 5, C = 16 and 10 classes
a network has 73,306 + 28,000 (1x1 convolution edges) + 243,040 (3x3 convolution edges) parameters.

Source: X. Dong and Y. Yang, NAS-Bench-201, ICLR 2020, sections 2.1 and 2.2; released code.

Deviations
1. Convolutions have no bias where batch norm has no affine part (one later version of the released supernet has).
2. Residual blocks accept odd sizes (see ops.py); the benchmark's sizes are even.
3. With `partial` = K operations see the first C / K channels; the rest passes by, unweighted (DrNAS, section 4.2; the
   PC-DARTS of Lambda-DARTS' release). With `edge_norm` a softmax over the edges of a node weighs both, as PC-DARTS does
   on its own space (eq. 3); no release has that here. It cannot change which operation of an edge is the strongest.
4. Supernets normalize by batch statistics at evaluation too (`batch_norm=batch`), as in the scripts of NATS-Bench;
   those of NAS-Bench-201 v1, elsewhere followed by protocol nb201-v1, keep running ones: `batch_norm=tracked`.

Shapes: a["cell"] (6, operations), mix["cell"] (3 N, 6, operations); with `edge_norm` also a["cell.edge"] (1, 6) and
mix["cell.edge"] (3 N, 1, 6), and mix["cell"] is scaled by it; network x (n, 3, h, w) -> (n, classes).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.errors import UserError
from nasx.spaces import genotypes, ops, rules
from nasx.spaces.base import Activate, Genotype, Logits, Network, Space, Supernet, Tree
from nasx.spaces.darts.network import no_drop_path, plain_only
from nasx.spaces.published import resolve
from nasx.spaces.selection import Lists, best, softmax_by_node, strongest

if TYPE_CHECKING:
    from nasx.config.settings import Channels, Layers, Positive

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = genotypes.NB201_EDGES
"""(source, target) in the order of the architecture string."""
NODES = [slice(0, 1), slice(1, 3), slice(3, 6)]
"""The edges that enter each node."""


@dataclass(frozen=True)
class Nb201Genotype(Genotype):
    """Six operations in the order of the architecture string."""

    ops: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))
        if len(self.ops) != len(EDGES):
            raise UserError("genotype", f"has {len(self.ops)} operations instead of 6", genotypes.NB201_FORM)
        for place, name in enumerate(self.ops, start=1):
            rules.known(name, f"genotype, operation {place}")

    def __str__(self) -> str:
        word = [f"{name}~{source}" for name, (source, _) in zip(self.ops, EDGES, strict=True)]
        return f"|{word[0]}|+|{'|'.join(word[1:3])}|+|{'|'.join(word[3:])}|"

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(genotypes.nb201_cell(resolve(text, "nb201")))

    def operations(self) -> dict[str, int]:
        return dict(Counter(self.ops))


@dataclass(frozen=True, kw_only=True)
class Nb201(Space):
    """NAS-Bench-201. `layers` counts the cells of one stage of the supernet, `channels` those of its first stage."""

    read_as: ClassVar[str] = "nb201"
    layers: Layers = 5
    channels: Channels = 16
    operations: tuple[str, ...] = OPERATIONS
    cell: Lists | None = None
    partial: Positive = 1
    edge_norm: bool = False
    batch_norm: Literal["batch", "tracked"] = "batch"
    affine: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        object.__setattr__(self, "cell", None if self.cell is None else tuple(tuple(row) for row in self.cell))
        rules.nb201(self)

    def edge_operations(self, name: str) -> Lists:
        """The operations of each of the six edges, in the order of the mixture's last axis; none for edge weights."""
        return rules.rows(self, name, len(EDGES)) if name == "cell" else ()

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
        from nasx.spaces.supernet import Nb201Supernet

        return Nb201Supernet(self, classes, naive=naive)

    def discretize(self, mix: Tree) -> Nb201Genotype:
        rows = mix["cell"].detach().cpu()
        lists = self.edge_operations("cell")
        assert rows.shape[1:] == (len(EDGES), len(lists[0])), rows.shape
        return Nb201Genotype(tuple(own[best(row)] for row, own in zip(rows[0].tolist(), lists, strict=True)))

    def encode(self, genotype: Genotype) -> Tree:
        assert isinstance(genotype, Nb201Genotype)
        lists = self.edge_operations("cell")
        chosen = torch.tensor([own.index(name) for name, own in zip(genotype.ops, lists, strict=True)])
        hot = F.one_hot(chosen, len(lists[0])).to(torch.get_default_dtype())
        mix = {"cell": hot} | ({"cell.edge": torch.ones(1, len(EDGES))} if self.edge_norm else {})
        return {name: x.expand(3 * self.layers, -1, -1).clone() for name, x in mix.items()}

    def sample(self, gen: torch.Generator) -> Nb201Genotype:
        lists = self.edge_operations("cell")
        chosen = torch.randint(len(lists[0]), (len(EDGES),), generator=gen, device=gen.device)
        return Nb201Genotype(tuple(own[i] for i, own in zip(chosen.tolist(), lists, strict=True)))

    def parse(self, text: str) -> Nb201Genotype:
        cell = genotypes.nb201_cell(resolve(text, self.read_as))
        rules.nb201_fits(self, cell)
        return Nb201Genotype(cell)

    def size(self) -> int:
        return len(self.edge_operations("cell")[0]) ** len(EDGES)

    def network(self, genotype: Genotype, classes: int, *, layers: int | None = None, channels: int | None = None,
                stem: str = "cifar", auxiliary: bool = False) -> Nb201Network:
        """The benchmark's network: 5 cells a stage and 16 channels where `layers` and `channels` are None."""
        assert isinstance(genotype, Nb201Genotype)
        plain_only(stem, auxiliary, "nb201")
        return Nb201Network(genotype, classes, layers or 5, channels or 16)


class Nb201Cell(nn.Module):
    """A discrete cell: `ops` in the order of the architecture string."""

    def __init__(self, genotype: Nb201Genotype, channels: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList([ops.build(name, channels) for name in genotype.ops])

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        nodes: list[Tensor] = [x]
        edge = iter(self.ops)
        for target in (1, 2, 3):
            outputs = [next(edge)(nodes[source], gen) for source in range(target)]
            nodes.append(sum(outputs[1:], start=outputs[0]))
        return nodes[3]


class Nb201Network(Network):
    """Stem, three stages of cells with residual blocks between them, BN, ReLU, pool, linear."""

    def __init__(self, genotype: Nb201Genotype, classes: int, layers: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.blocks = nn.ModuleList()
        for stage in range(3):
            width = channels * 2**stage
            if stage:
                self.blocks.append(ops.ResidualBlock(width // 2, width))
            self.blocks.extend(Nb201Cell(genotype, width) for _ in range(layers))
        self.norm = nn.BatchNorm2d(4 * channels)
        self.classifier = nn.Linear(4 * channels, classes)

    def forward(self, x: Tensor, *, drop_path: float = 0.0, gen: torch.Generator | None = None) -> Logits:
        no_drop_path(drop_path, "nb201")
        return Logits(self.classifier(self.features(x, gen).mean((2, 3))))

    def features(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        """The map (n, 4 C, h, w) that the classifier pools."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, gen)
        return F.relu(self.norm(x))
