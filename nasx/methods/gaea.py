"""GAEA: exponentiated gradient (mirror descent on the simplex) instead of gradient descent on logits.

    p <- p * exp(-rate * d L / d p) / sum,   that is  a <- a - rate * d L / d p  with p = softmax(a)

The gradient with respect to the mixture weights replaces the gradient with respect to the logits, which the Jacobian of
the softmax shrinks near the corners of the simplex. The steps are those of `inner` (first-order DARTS); an SGD step on
the architecture without momentum and weight decay is the exponentiated gradient step.

Source: Li, Khodak, Balcan, Talwalkar (2021), algorithm 1; liamcli/gaea_release, architect_edarts.py.
Cost per step: that of `inner`.

Deviations
1. The parameters are logits instead of weights, which is equivalent up to normalization; the released code bounds the
   weights below by 1e-5.
2. All parts of a second-order hypergradient (`method.inner.order=2`) are taken with respect to the mixture weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Search, Tree
from nasx.methods.wrapper import Sampling


def simplex(logits: Tensor) -> Tensor:
    """Return the softmax along the last axis; its gradient is passed to the logits unchanged."""
    return torch.softmax(logits, -1).detach() + (logits - logits.detach())


@dataclass(frozen=True, kw_only=True)
class Gaea(Sampling):
    """Steps of the inner method along gradients with respect to the mixture weights."""

    def start(self, a: Tree) -> Tree:
        return {k: torch.zeros_like(x) for k, x in a.items()}

    def sample(self, search: Search, a: Tree, batch: Batch) -> Tree:
        return search.problem.relax(a, simplex)
