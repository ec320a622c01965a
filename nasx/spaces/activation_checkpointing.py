"""Activation checkpointing: a relaxed cell keeps only its inputs and is recomputed in the backward pass.

Memory falls to the inputs of all cells and the activations inside one cell; each backward pass costs one additional
forward pass of the cells. Values and gradients do not change: random tensors are drawn before a cell's body runs
(mixed_cell.py), so the second run uses the same tensors. The second run also uses the weights of the first run, which
may be substituted weights (a probe at other weights), and does not update running batch-norm statistics.

Source: T. Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016; the non-reentrant form of
torch.utils.checkpoint, which supports second derivatives.
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
    """Make every cell of `supernet` recompute its activations in the backward pass, and return the same module."""
    for cell in supernet.modules():
        if isinstance(cell, Cell):
            cell.run = Recomputed(cell)
    return supernet


class Shell(nn.Module):
    """Module whose forward is a cell's body, so that weights can be substituted in the body."""

    def __init__(self, cell: Cell[object]) -> None:
        super().__init__()
        self.cell, self.body = cell, cell.run

    def forward(self, *args: object) -> object:
        return self.body(*args)


class Recomputed:
    """Replacement of a cell's `run`. It is not a module, so that the cell does not contain itself."""

    def __init__(self, cell: Cell[object]) -> None:
        self.shell = Shell(cell)

    def __call__(self, *args: object) -> object:
        if not torch.is_grad_enabled():
            return self.shell(*args)
        weights: dict[str, Tensor] = dict(self.shell.named_parameters())  # the weights of this pass
        moving = [m for m in self.shell.modules() if isinstance(m, Norm) and m.tracking]
        training = self.shell.cell.training

        def contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
            return nullcontext(), Again(self.shell.cell, training, moving)

        def body(*inputs: object) -> object:
            return functional_call(self.shell, weights, inputs, tie_weights=False)

        return checkpoint(body, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


class Again(AbstractContextManager[None]):
    """Context of the second run of a pass: the mode and kernels of the first run, unchanged running statistics.

    The context is entered at each backward pass through the cell (it is a class because a context manager made from a
    generator can be entered only once).
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
