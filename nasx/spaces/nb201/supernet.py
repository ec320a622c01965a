"""Supernet of NAS-Bench-201.

Source: NAS-Bench-201 (Dong and Yang 2020), section 2.1. Shapes: x (n, 3, h, w) -> Logits (n, classes).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core.trees import Number, Tree
from nasx.spaces.base import Logits, Supernet
from nasx.spaces.blocks import ConvNorm, EdgeOrder
from nasx.spaces.edge_operations import Norm, Style, weight
from nasx.spaces.mixed_cell import Edge, RelaxedCell
from nasx.spaces.nb201.genotype import EDGES
from nasx.spaces.selection import Lists


class ResidualReduction(nn.Module):
    """NAS-Bench-201's residual block: two relu-conv3x3-norm (stride 2, then 1) plus an avgpool-conv1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int, *, tracked: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, 3, 2, relu=True, affine=True, tracked=tracked)
        self.conv2 = ConvNorm(outputs, outputs, 3, relu=True, affine=True, tracked=tracked)
        self.shortcut = weight(outputs, inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2] % 2, x.shape[3] % 2  # odd sizes: replication padding, as in the network (modules.py)
        pooled = F.avg_pool2d(F.pad(x, (0, w, 0, h), mode="replicate") if h or w else x, 2)
        out: Tensor = self.conv2(self.conv1(x)) + F.conv2d(pooled, self.shortcut)
        return out


class Nb201Supernet(Supernet):
    """Supernet: stem, three stages of N relaxed cells with residual blocks between them, norm, relu, pool, linear."""

    def __init__(
        self, lists: Lists, layers: int, channels: int, style: Style, partial: int, classes: int, *, naive: bool
    ) -> None:
        super().__init__()
        self.naive = naive
        tracked, c = style.tracked, channels
        skip = int(all(names[0] == "none" for names in lists))
        edges = [Edge(e, s, t, 1, names) for e, ((s, t), names) in enumerate(zip(EDGES, lists, strict=True))]
        self.stem = ConvNorm(3, c, 3, relu=False, affine=True, tracked=tracked)
        self.cells = nn.ModuleList()
        self.reductions = nn.ModuleDict()
        for stage in range(3):
            if stage:
                self.reductions[str(len(self.cells))] = ResidualReduction(c, 2 * c, tracked=tracked)
                c *= 2
            for _ in range(layers):
                self.cells.append(RelaxedCell(edges, 1, 3, c, style, partial, skip, outputs=1))
        self.ordered = EdgeOrder(self.cells[0].order, skip)  # type: ignore[arg-type]
        self.norm = Norm(c, affine=True, tracked=tracked)
        self.classifier = nn.Linear(c, classes)

    def forward(
        self,
        x: Tensor,
        mix: Tree,
        *,
        drop_path: Number = 0.0,
        skip_dropout: Number = 0.0,
        gen: torch.Generator | None = None,
    ) -> Logits:
        x = self.stem(x)
        shares, biases = (self.ordered.edges(mix, f"cell.{each}", len(self.cells)) for each in ("edge", "bias"))
        each_cell = zip(self.cells, self.ordered(mix["cell"]), shares, biases, strict=True)
        for i, (cell, rows, share, bias) in enumerate(each_cell):
            if str(i) in self.reductions:
                x = self.reductions[str(i)](x)
            x = cell([x], rows, share, drop_path, gen, self.naive, skip_dropout, bias)[-1]
        x = F.relu(self.norm(x)).mean((2, 3))
        return Logits(self.classifier(x))
