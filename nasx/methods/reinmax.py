"""ReinMax: one operation per edge is sampled, with a gradient that is accurate to second order.

    D ~ p = softmax(a),   q = (softmax(a / tau) + D) / 2
    d L / d a = 2 J(q) g - J(p) g / 2,   J(x) = diag(x) - x x',   g = d L / d D

The straight-through estimator J(p) g approximates the loss difference between two operations by Euler's method. ReinMax
uses Heun's method (the mean of the slopes at both ends), so its expectation over D is the exact gradient of E L(D) if L
is quadratic in D and tau = 1. The steps are those of `inner` (first-order DARTS); all cells share one sample per batch.

Source: Liu, Dong, Liu, Yu, Gao, "Bridging Discrete and Backpropagation: Straight-Through and Beyond" (2023), algorithm
2; microsoft/ReinMax, reinmax.py.
Cost per step: that of `inner`.

Deviations
1. The paper estimates gradients with respect to discrete latent variables. Here, the operation of each edge is such a
   variable, with the other edges fixed at their samples. The search settings are nasx's own choice.
2. Samples are drawn with Gumbel noise from the batch's seed, so a step is a function of its batches.
3. If a space also weights inputs and outputs (NAS-Bench-1Shot1), these are sampled in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nasx.core.bilevel import Activate, Batch, Search, Tree
from nasx.methods.wrapper import Sampling, gumbel

if TYPE_CHECKING:
    from nasx.core.constraints import AtLeast1


def sampled(tau: float, gen: torch.Generator) -> Activate:
    """Return a sampler of one-hot weights along the last axis, with the ReinMax gradient."""

    def activate(logits: Tensor) -> Tensor:
        best = (logits.detach() + gumbel(logits, gen)).argmax(-1, keepdim=True)
        return estimated(logits, torch.zeros_like(logits).scatter_(-1, best, 1.0), tau)

    return activate


def estimated(logits: Tensor, hot: Tensor, tau: float) -> Tensor:
    """Return the one-hot tensor `hot` with the ReinMax gradient with respect to the logits."""
    q = ((torch.softmax(logits.detach() / tau, -1) + hot) / 2).clamp_min(torch.finfo(logits.dtype).tiny)
    at_q = torch.softmax(q.log() + (logits - logits.detach()), -1)  # q, with the Jacobian J(q)
    moving = 2 * at_q - torch.softmax(logits, -1) / 2
    return hot + (moving - moving.detach())


@dataclass(frozen=True, kw_only=True)
class ReinMax(Sampling):
    """Steps of the inner method on sampled architectures."""

    tau: AtLeast1 = 1.0

    def sample(self, search: Search, a: Tree, batch: Batch) -> Tree:
        return search.problem.relax(a, sampled(self.tau, search.generator(batch)))
