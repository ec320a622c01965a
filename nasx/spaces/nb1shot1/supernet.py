"""Supernet of NAS-Bench-1Shot1, whose cells consist of choice blocks.

Source: NAS-Bench-1Shot1 (Zela et al. 2020), section 3. Shapes: x (n, 3, h, w) -> Logits (n, classes).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core.trees import Number, Tree
from nasx.spaces.base import Logits, Supernet
from nasx.spaces.blocks import Cell, ConvNorm
from nasx.spaces.edge_operations import ConvNormReLU, Style
from nasx.spaces.mixed_cell import Edge, MixedEdges, RandomTensors


class ChoiceCell(Cell[Tensor]):
    """A relaxed NAS-Bench-1Shot1 cell with B choice blocks.

    Block b applies a mixed operation to the sum of its own projection of the cell's input and all earlier blocks, each
    scaled by its input weight (unscaled if the block has no choice of inputs). The output is o_0 times a projection of
    the input, plus the concatenation of o_b times block b. A single convolution computes all projections.
    """

    def __init__(self, blocks: int, operations: tuple[str, ...], inputs: int, channels: int, style: Style) -> None:
        super().__init__()
        self.blocks = blocks
        self.project = ConvNormReLU(2 * self.blocks, channels, 1, style, kernel=1, inputs=inputs)
        self.bundles = nn.ModuleList(
            [MixedEdges([Edge(b, b, b, 1, operations)], channels, style) for b in range(self.blocks)]
        )
        self.still: list[RandomTensors] = [(None, None)] * len(operations)  # nothing in this space is random

    @property
    def node_modules(self) -> list[nn.Module]:
        """Modules that return the nodes of the cell; cells without this property return their nodes from `forward`."""
        return list(self.bundles)

    def projections(self, x: Tensor, naive: bool) -> list[Tensor]:
        """Return the projections of the input for all B blocks (C channels each) and for the output (B * C)."""
        if naive:
            pieces = [self.project.single(x, i, None) for i in range(2 * self.blocks)]
        else:
            pieces = list(self.project.value(x).unbind(1))
        return [*pieces[: self.blocks], torch.cat(pieces[self.blocks :], 1)]

    def forward(
        self,
        x: Tensor,
        ops: Tensor,
        output: Tensor,
        inputs: Sequence[Tensor | None],
        naive: bool,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Apply the cell; `ops` (B, 3), `output` (B + 1,), `inputs[b]` (b + 1,) or None, `bias` (B,) or None."""
        return self.run(x, ops, output, list(inputs), naive, bias)

    def body(
        self,
        x: Tensor,
        ops: Tensor,
        output: Tensor,
        inputs: list[Tensor | None],
        naive: bool,
        bias: Tensor | None = None,
    ) -> Tensor:
        *projected, direct = self.projections(x, naive)
        shares = output.unbind()
        nodes: list[Tensor] = []
        shifts = [None] * self.blocks if bias is None else bias.unbind()
        for bundle, seen, weights, rows, by in zip(self.bundles, projected, inputs, ops.split(1), shifts, strict=True):
            sources = [seen, *nodes]
            if weights is not None:
                sources = [s * p for s, p in zip(sources, weights.unbind(), strict=True)]
            node = bundle(sum(sources[1:], sources[0]), rows, self.still, naive)[0]
            nodes.append(node if by is None else node + by)
        return shares[0] * direct + torch.cat([s * node for s, node in zip(shares[1:], nodes, strict=True)], 1)


class Nb1Shot1Supernet(Supernet):
    """Supernet of NAS-Bench-1Shot1.

    Layers: stem, three stacks of choice cells with padded max pooling between them, projection, global average pooling,
    linear layer.
    """

    def __init__(
        self,
        inputs: Sequence[str | None],
        operations: tuple[str, ...],
        layers: int,
        channels: int,
        style: Style,
        classes: int,
        *,
        naive: bool,
    ) -> None:
        """Build the supernet. `inputs`: name of each block's input weights; None if it has no choice of inputs."""
        super().__init__()
        self.naive, self.inputs = naive, inputs
        c = width = channels
        self.stem = ConvNormReLU(1, c, 1, style, kernel=3, inputs=3)
        self.down = (layers // 3, 2 * layers // 3)
        self.cells = nn.ModuleList()
        for i in range(layers):
            c = 2 * c if i in self.down else c
            self.cells.append(ChoiceCell(len(inputs), operations, width, c, style))
            width = len(inputs) * c
        self.last = ConvNorm(width, c, 1, relu=True, affine=False, tracked=style.tracked)
        self.classifier = nn.Linear(c, classes)

    def forward(self, x: Tensor, mix: Tree, *, drop_path: Number = 0.0, gen: torch.Generator | None = None) -> Logits:
        x = self.stem.value(x)[:, 0]  # slicing the weights would change the memory layout of their gradient
        names = [mix[name].flatten(1).unbind(0) if name else [None] * len(self.cells) for name in self.inputs]
        biases = mix["ops.bias"].squeeze(1).unbind(0) if "ops.bias" in mix else [None] * len(self.cells)
        rows = zip(
            mix["ops"].unbind(0), mix["output"].flatten(1).unbind(0), zip(*names, strict=True), biases, strict=True
        )
        for i, (cell, (ops, output, inputs, bias)) in enumerate(zip(self.cells, rows, strict=True)):
            if i in self.down:
                x = F.max_pool2d(x, 2, 2, 1)
            x = cell(x, ops, output, inputs, self.naive, bias)
        return Logits(self.classifier(self.last(x).mean((2, 3))))
