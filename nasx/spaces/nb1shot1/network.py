"""Discrete network of NAS-Bench-101."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.errors import UserError
from nasx.spaces import modules, operations
from nasx.spaces.base import Logits, Network
from nasx.spaces.cost import no_drop_path
from nasx.spaces.nb1shot1.genotype import Matrix, Nb101Genotype, reached


def widths(matrix: Matrix, c_in: int, c_out: int) -> list[int]:
    """Return the number of channels of each vertex.

    The channels of the output are divided among the vertices that enter it; every other inner vertex is as wide as its
    widest target.
    """
    last = len(matrix) - 1
    out = [c_in, *[0] * (last - 1), c_out]
    entering = [v for v in range(1, last) if matrix[v][last]]
    for place, v in enumerate(entering):
        out[v] = c_out // len(entering) + int(place < c_out % len(entering))
    for v in reversed(range(1, last)):
        if not out[v]:
            out[v] = max(out[j] for j in range(v + 1, last) if matrix[v][j])
    return out


class Nb101Cell(nn.Module):
    """A pruned cell with `c_in` input channels and `c_out` output channels."""

    def __init__(self, cell: Nb101Genotype, c_in: int, c_out: int, momentum: float) -> None:
        super().__init__()
        self.matrix, self.last = cell.matrix, len(cell.matrix) - 1
        self.widths = widths(cell.matrix, c_in, c_out)
        norm = modules.batch_norm(momentum=momentum)
        fed = [v for v in range(1, self.last + 1) if cell.matrix[0][v]]
        self.projections = nn.ModuleDict({str(v): modules.ConvBNReLU(c_in, self.widths[v], norm=norm) for v in fed})
        self.ops = nn.ModuleList(
            [
                operations.build(name, self.widths[v], momentum=momentum)
                for v, name in enumerate(cell.ops[1:-1], start=1)
            ]
        )

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        nodes = [x]
        for v, op in enumerate(self.ops, start=1):
            terms = [nodes[u][:, : self.widths[v]] for u in range(1, v) if self.matrix[u][v]]
            if self.matrix[0][v]:
                terms.append(self.projections[str(v)](x))
            nodes.append(op(sum(terms[1:], start=terms[0]), gen))
        joined = [nodes[u] for u in range(1, self.last) if self.matrix[u][self.last]]
        terms = [torch.cat(joined, 1)] if joined else []
        if self.matrix[0][self.last]:
            terms.append(self.projections[str(self.last)](x))
        return sum(terms[1:], start=terms[0])


class Nb101Network(Network):
    """Network: stem, three stacks of cells with max pooling between them, global average pooling, linear layer."""

    def __init__(self, genotype: Nb101Genotype, classes: int, layers: int, channels: int, momentum: float) -> None:
        super().__init__()
        cell = genotype.pruned()
        if len(reached(cell.matrix, 0)) < len(cell.matrix):
            raise UserError("genotype", "its output is not connected to its input", "choose another cell")
        self.stem = modules.ConvBNReLU(3, channels, 3, norm=modules.batch_norm(momentum=momentum))
        self.cells = nn.ModuleList()
        before = channels
        for i in range(layers):
            width = channels * 2 ** (i // (layers // 3))
            self.cells.append(Nb101Cell(cell, before, width, momentum))
            before = width
        self.stack = layers // 3
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor, *, drop_path: float = 0.0, gen: torch.Generator | None = None) -> Logits:
        no_drop_path(drop_path, "nb1shot1")
        return Logits(self.classifier(self.features(x, gen).mean((2, 3))))

    def features(self, x: Tensor, gen: torch.Generator | None = None, maps: list[Tensor] | None = None) -> Tensor:
        """Return the feature map (n, 4 C, h, w) before the final pooling; `maps` collects the output of each cell."""
        x = self.stem(x)
        for i, cell in enumerate(self.cells):
            if i and i % self.stack == 0:
                x = F.max_pool2d(x, 2, 2)
            x = cell(x, gen)
            if maps is not None:
                maps.append(x)
        return x
