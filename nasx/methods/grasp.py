"""GraSP: a score that measures how much the gradient flow through a network depends on its weights.

    g = dL/dw,  H = d2L/dw2 on one batch;  score = - sum over the weights of w H g

Source: Wang, Zhang, Grosse (2020), section 4 (the score of a weight); Abdelfattah, Mehrotra, Dudziak, Lane (2021),
zero-cost proxy `grasp` (its sum, with this sign), and their released code, foresight/pruners.
Cost per architecture: one forward pass, and two backward passes (the second one through the first).

Deviations
1. The logits are not divided by a temperature, as in the code of Abdelfattah et al. (Wang et al. divide by 200).
2. The batch is an ordinary training batch; Wang et al. use ten images per class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nasx.core.bilevel import Batch
from nasx.methods.zero_cost import ZeroCost, loss, weights


@dataclass(frozen=True, kw_only=True)
class Grasp(ZeroCost):
    """Selection of the best of `candidates` random architectures by gradient signal preservation."""

    def score(self, network: nn.Module, batch: Batch, gen: torch.Generator) -> float:
        w = weights(network)
        g = torch.autograd.grad(
            loss(network, batch, gen), w, create_graph=True, allow_unused=True, materialize_grads=True
        )
        flow = torch.stack([(x.detach() * x).sum() for x in g]).sum()
        moved = torch.autograd.grad(flow, w, allow_unused=True, materialize_grads=True)
        return -float(torch.stack([(x.detach() * y).double().sum() for x, y in zip(w, moved, strict=True)]).sum())
