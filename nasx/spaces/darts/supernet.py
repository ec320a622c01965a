"""Supernet of the DARTS space.

Source: DARTS (Liu et al. 2019), section 2 and appendix A. Shapes: x (n, 3, h, w) -> Logits (n, classes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from nasx.core.trees import Number, Tree
from nasx.spaces.base import Logits, Supernet
from nasx.spaces.blocks import ConvNorm, EdgeOrder, FactorizedReduceNorm
from nasx.spaces.darts.network import plan
from nasx.spaces.edge_operations import Style
from nasx.spaces.mixed_cell import Edge, RelaxedCell
from nasx.spaces.rules import EDGES
from nasx.spaces.selection import Lists


class DartsSupernet(Supernet):
    """Supernet of DARTS: stem, L relaxed cells, global average pooling, linear layer.

    Cells L // 3 and 2 L // 3 are reduction cells. The output of a cell concatenates its four nodes; both inputs pass
    through a 1x1 convolution (input 0 through a factorized reduction if the previous cell is a reduction cell). S1-S4,
    PC-DARTS and untied cells differ only in the arguments and the mixture.
    """

    def __init__(
        self,
        lists: Mapping[str, Lists],
        layers: int,
        channels: int,
        stem_kind: str,
        partial: int,
        classes: int,
        *,
        tracked: bool,
        naive: bool,
        auxiliary: Callable[[int, int], nn.Module] | None,
    ) -> None:
        """Build the supernet. `lists`: cell kind -> operations per edge; `auxiliary`: (channels, classes) -> head."""
        super().__init__()
        self.naive, c = naive, channels
        self.stem0, self.stem1, width, halved = stem(stem_kind, c, tracked)
        before, last = width, width
        self.cells, self.pre0, self.pre1 = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.kinds = plan(layers)
        self.auxiliary: nn.Module | None = None
        skip = int(all(names[0] == "none" for kind in set(self.kinds) for names in lists[kind]))
        for i, kind in enumerate(self.kinds):
            reduction = kind == "reduce"
            c = 2 * c if reduction else c
            self.pre0.append(
                FactorizedReduceNorm(before, c, tracked=tracked)
                if halved
                else ConvNorm(before, c, 1, relu=True, affine=False, tracked=tracked)
            )
            self.pre1.append(ConvNorm(last, c, 1, relu=True, affine=False, tracked=tracked))
            edges = [
                Edge(e, s, t, 2 if reduction and s < 2 else 1, tuple(names))
                for e, ((s, t), names) in enumerate(zip(EDGES, lists[kind], strict=True))
            ]
            self.cells.append(RelaxedCell(edges, 2, 4, c, Style(tracked=tracked, pool_norm=True), partial, skip))
            before, last, halved = last, 4 * c, reduction
            if auxiliary and i == 2 * layers // 3:
                self.auxiliary = auxiliary(last, classes)
        self.ordered = EdgeOrder(self.cells[0].order, skip)  # type: ignore[arg-type]
        self.classifier = nn.Linear(last, classes)

    def forward(
        self,
        x: Tensor,
        mix: Tree,
        *,
        drop_path: Number = 0.0,
        skip_dropout: Number = 0.0,
        gen: torch.Generator | None = None,
    ) -> Logits:
        rows: dict[str, Iterator[Tensor]] = {kind: iter(self.ordered(mix[kind])) for kind in set(self.kinds)}
        shares, biases = (
            {kind: self.ordered.edges(mix, f"{kind}.{each}", len(mix[kind])) for kind in rows}
            for each in ("edge", "bias")
        )
        before = self.stem0(x)
        last = self.stem1(before)
        auxiliary = None
        for i, (kind, cell, pre0, pre1) in enumerate(zip(self.kinds, self.cells, self.pre0, self.pre1, strict=True)):
            nodes = cell(
                [pre0(before), pre1(last)],
                next(rows[kind]),
                next(shares[kind]),
                drop_path,
                gen,
                self.naive,
                skip_dropout,
                next(biases[kind]),
            )
            before, last = last, torch.cat(nodes, 1)
            if self.auxiliary is not None and self.training and i == 2 * len(self.cells) // 3:
                auxiliary = self.auxiliary(last)
        return Logits(self.classifier(last.mean((2, 3))), auxiliary)


def stem(kind: str, channels: int, tracked: bool) -> tuple[nn.Module, nn.Module, int, bool]:
    """Return the stem: modules for inputs 0 and 1 of cell 0, their width, and whether input 0 is twice as large.

    cifar: 3x3 convolution to 3 C channels and batch norm, for both inputs. imagenet: inputs at 1/4 and 1/8 of the
    resolution with 3 C channels (PC-DARTS' search network). single: three stride-2 convolutions to 1/8 of the
    resolution (Single-DARTS, section 5.1).
    """
    width = 3 * channels
    if kind == "cifar":
        return ConvNorm(3, width, 3, relu=False, affine=True, tracked=tracked), nn.Identity(), width, False
    half = [
        ConvNorm(3, width // 2, 3, 2, relu=False, affine=True, tracked=tracked),
        ConvNorm(width // 2, width, 3, 2, relu=True, affine=True, tracked=tracked),
    ]
    third = ConvNorm(width, width, 3, 2, relu=True, affine=True, tracked=tracked)
    if kind == "imagenet":
        return nn.Sequential(*half), third, width, True
    if kind == "single":
        return nn.Sequential(*half, third), nn.Identity(), width, False
    raise ValueError(f"unknown stem {kind!r}")
