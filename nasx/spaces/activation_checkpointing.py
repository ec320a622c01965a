"""Activation checkpointing: a relaxed cell keeps only its inputs and is computed again in the backward pass.

Memory falls to the inputs of all cells and the inside of one; each backward pass costs one more forward pass of the
cells. Values and gradients stay the same: what is random is drawn before a cell's body runs (mixed_cell.py), so the
second run sees the same tensors; it also sees the weights that the first one saw, which may be substituted ones (a
probe at other weights), and leaves running batch-norm statistics where they are.

Source: T. Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016; the non-reentrant form of
torch.utils.checkpoint, which second derivatives can pass through.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from nasx.spaces.blocks import Cell
from nasx.spaces.edge_operations import Norm


def recompute(supernet: nn.Module) -> nn.Module:
    """Let every cell of `supernet` recompute itself; returns the same module."""
    for cell in supernet.modules():
        if isinstance(cell, Cell):
            cell.run = Recomputed(cell)
    return supernet


class Shell(nn.Module):
    """A cell's body as a module's forward, so that weights can be substituted in it."""

    def __init__(self, cell: Cell[object]) -> None:
        super().__init__()
        self.cell, self.body = cell, cell.run

    def forward(self, *args: object) -> object:
        return self.body(*args)


class Recomputed:
    """Stands for a cell's `run`. No module, so that the cell does not contain itself."""

    def __init__(self, cell: Cell[object]) -> None:
        self.shell = Shell(cell)

    def __call__(self, *args: object) -> object:
        if not torch.is_grad_enabled():
            return self.shell(*args)
        weights: dict[str, Tensor] = dict(self.shell.named_parameters())  # those of this pass
        moving = [m for m in self.shell.modules() if isinstance(m, Norm) and m.tracking]
        training = self.shell.cell.training

        def contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
            return nullcontext(), Again(self.shell.cell, training, moving)

        def body(*inputs: object) -> object:
            return functional_call(self.shell, weights, inputs, tie_weights=False)

        return checkpoint(body, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


class Again(AbstractContextManager[None]):
    """The second run of a pass: in the mode of the first, with the same kernels, running statistics as they are.

    Entered at each backward pass through the cell (a class, since a generator's context can be entered only once).
    """

    def __init__(self, cell: nn.Module, training: bool, norms: list[Norm]) -> None:
        self.cell, self.training, self.norms = cell, training, norms
        self.momenta = [norm.momentum for norm in norms]

    def __enter__(self) -> None:
        self.before = self.cell.training
        if self.before != self.training:
            self.cell.train(self.training)
        for norm in self.norms:
            norm.tracking, norm.momentum = True, 0.0

    def __exit__(self, *_: object) -> None:
        if self.before != self.training:
            self.cell.train(self.before)
        for norm, momentum in zip(self.norms, self.momenta, strict=True):
            norm.tracking, norm.momentum = False, momentum
