"""Building blocks shared by the supernets of all spaces.

A supernet takes the mixture as an argument and owns no architecture parameters. Batch norm uses batch statistics and
has no buffers unless the space sets `batch_norm=tracked`; passes inside `tracking` then update running statistics.
Shapes: x (n, 3, h, w) -> Logits (n, classes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core import distributed
from nasx.core.trees import Tree
from nasx.spaces.edge_operations import Norm, R, Wrapper, shifted, weight


class Cell(nn.Module, Generic[R]):
    """A relaxed cell. It calls `run`, which is `body` or a compiled or checkpointed version of `body`."""

    body: Callable[..., R]

    def __init__(self) -> None:
        super().__init__()
        self.run = self.body

    def wrap(self, how: Wrapper) -> None:
        self.run = how(self.body)


@contextmanager
def tracking(supernet: nn.Module, on: bool) -> Iterator[None]:
    """Update running batch-norm statistics in passes inside the `with` block if `on` and if the supernet has any."""
    norms = [m for m in supernet.modules() if isinstance(m, Norm) and m.tracked] if on else []
    for norm in norms:
        norm.tracking = True
    try:
        yield
    finally:
        for norm in norms:
            norm.tracking = False


@contextmanager
def evaluating(supernet: nn.Module, on: bool) -> Iterator[None]:
    """Set eval mode inside the `with` block if `on`: batch norms with running statistics then use them."""
    before = supernet.training
    if on:
        supernet.eval()
    try:
        yield
    finally:
        if on:
            supernet.train(before)


def wrap(supernet: nn.Module, how: Wrapper) -> None:
    """Replace the function that computes each cell with the result of `how`, such as a compiled function."""
    for cell in supernet.modules():
        if isinstance(cell, Cell):
            cell.wrap(how)


def synchronize(supernet: nn.Module) -> None:
    """Make batch norms compute their statistics over the images on all ranks."""
    distributed.convert_sync_batchnorm(supernet, torch.device("cpu"))  # torch's SyncBatchNorm has no second derivative
    for norm in supernet.modules():
        if isinstance(norm, Norm):
            norm.normalize = distributed.batch_norm


class ConvNorm(nn.Module):
    """[relu,] convolution, batch norm."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, relu: bool, affine: bool, tracked: bool
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.relu = kernel, stride, relu
        self.weight = weight(outputs, inputs, kernel)
        self.norm = Norm(outputs, affine=affine, tracked=tracked)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x) if self.relu else x
        out: Tensor = self.norm(F.conv2d(x, self.weight, stride=self.stride, padding=self.kernel // 2))
        return out


class FactorizedReduceNorm(nn.Module):
    """relu, two parallel 1x1 stride-2 convolutions, concatenation, batch norm.

    Each convolution has half of the output channels; the input of the second is shifted by one pixel.
    """

    def __init__(self, inputs: int, outputs: int, *, tracked: bool) -> None:
        super().__init__()
        self.weight1 = weight(outputs // 2, inputs, 1)
        self.weight2 = weight(outputs - outputs // 2, inputs, 1)
        self.norm = Norm(outputs, tracked=tracked)

    def forward(self, x: Tensor) -> Tensor:
        r = F.relu(x)
        halves = torch.cat([F.conv2d(r, self.weight1, stride=2), F.conv2d(shifted(r), self.weight2, stride=2)], 1)
        out: Tensor = self.norm(halves)
        return out


class EdgeOrder(nn.Module):
    """Module that sorts the edges of a mixture (cells, edges, operations) into the order in which cells compute them.

    One kernel sorts the edges of all cells. The first `skip` operations are dropped: a leading `none` is never
    computed, and its gradient is zero.
    """

    def __init__(self, order: Sequence[int], skip: int = 0) -> None:
        super().__init__()
        self.skip = skip
        self.register_buffer("order", torch.tensor(list(order)), persistent=False)

    def forward(self, mix: Tensor) -> tuple[Tensor, ...]:
        return self.sort(mix)[..., self.skip :].unbind(0)

    def sort(self, mix: Tensor) -> Tensor:
        """Sort the edges of `mix` (cells, edges, ...) by source node, as in `RelaxedCell.order`."""
        return mix.index_select(1, self.get_buffer("order"))

    def edges(self, mix: Tree, name: str, cells: int) -> Iterator[Tensor | None]:
        """Iterate over each cell's values (edges,) in `mix[name]` (cells, 1, edges), or over Nones if it is absent."""
        return iter(self.sort(mix[name].squeeze(1)).unbind(0) if name in mix else [None] * cells)
