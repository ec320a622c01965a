"""Activation checkpointing: a relaxed cell saves only its inputs and is recomputed in the backward pass.

Memory drops to the inputs of all cells plus the activations of one cell; each backward pass costs one additional
forward pass through the cells. Values and gradients do not change: random tensors are drawn before the body of a cell
runs (mixed_cell.py), so the recomputation uses the same tensors. It also uses the weights of the first pass, which may
have been substituted (by `functional_call`), and does not update running batch-norm statistics.

Source: T. Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016. Uses the non-reentrant form of
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
    """Make every cell of `supernet` recompute its activations in the backward pass, and return the supernet."""
    for cell in supernet.modules():
        if isinstance(cell, Cell):
            cell.run = Recomputed(cell)
    return supernet


class Shell(nn.Module):
    """Module whose forward pass runs the body of a cell, so that the weights in it can be substituted."""

    def __init__(self, cell: Cell[object]) -> None:
        super().__init__()
        self.cell, self.body = cell, cell.run

    def forward(self, *args: object) -> object:
        return self.body(*args)


class Recomputed:
    """Replacement for a cell's `run`; it is not a module, because the cell would then contain itself."""

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
    """Context of a recomputation: same mode and kernels as the first pass, but no update of running statistics.

    The context is entered in each backward pass through the cell. It is a class, because a context manager made from a
    generator can be entered only once.
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
