"""SNIP: a score that measures how much the loss on a batch depends on the presence of each weight.

    score = sum over the weights w of |w dL/dw|

w dL/dw is the derivative of L with respect to a multiplier of w, at 1: the connection sensitivity before normalization.

Source: Lee, Ajanthan, Torr (2019), section 4.1 (the sensitivity of a weight); Abdelfattah, Mehrotra, Dudziak, Lane
(2021), zero-cost proxy `snip` (its sum as a score), and their released code, foresight/pruners.
Cost per architecture: one pass.

Deviations: only those in zero_cost.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nasx.core.bilevel import Batch
from nasx.methods.zero_cost import ZeroCost, loss, weights


@dataclass(frozen=True, kw_only=True)
class Snip(ZeroCost):
    """Selection of the best of `candidates` random architectures by connection sensitivity."""

    def score(self, network: nn.Module, batch: Batch, gen: torch.Generator) -> float:
        w = weights(network)
        g = torch.autograd.grad(loss(network, batch, gen), w, allow_unused=True, materialize_grads=True)
        return float(torch.stack([(x * y).abs().double().sum() for x, y in zip(w, g, strict=True)]).sum().detach())
