"""GAEA: exponentiated gradient, the mirror descent of the simplex, in place of gradient descent on logits.

    p <- p * exp(-rate * d L / d p) / sum,   that is  a <- a - rate * d L / d p  with p = softmax(a)

The gradient by the mixture weights themselves takes the place of that by the logits, which the Jacobian of the softmax
shrinks near the corners of the simplex. The steps are those of `inner` (first-order DARTS); a step of SGD of the
architecture, without momentum and decay, is the exponentiated gradient.

Source: Li, Khodak, Balcan, Talwalkar (2021), algorithm 1; liamcli/gaea_release, architect_edarts.py.
Cost per step: that of `inner`.

Deviations
1. Logits are kept in the place of weights, which are equal up to the sum; the released code bounds weights at 1e-5.
2. Of a hypergradient of second order (`method.inner.order=2`), all parts are taken by the mixture weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Search, Tree
from nasx.methods.wrapper import Sampling


def simplex(logits: Tensor) -> Tensor:
    """Softmax weights along the last axis, whose gradient is passed to the logits unchanged."""
    return torch.softmax(logits, -1).detach() + (logits - logits.detach())


@dataclass(frozen=True, kw_only=True)
class Gaea(Sampling):
    """Steps of the inner method along gradients by the mixture weights."""

    def start(self, a: Tree) -> Tree:
        return {k: torch.zeros_like(x) for k, x in a.items()}

    def sample(self, search: Search, a: Tree, batch: Batch) -> Tree:
        return search.problem.relax(a, simplex)
