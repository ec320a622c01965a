"""SAMA: the inverse Hessian in the implicit hypergradient is replaced by the identity.

    g = d/da L2 - M u,   u = (d update / d gradient) v,   v = d/dw L2

M u is a central difference of length `radius` on one training batch, at the current weights. `u` adapts v to the
optimizer of the weights: for SGD, which all searches of nasx use, u = v.

Source: Choe, Mehta, Ahn, Neiswanger, Xie, Strubell, Xing, "Making Scalable Meta Learning Practical" (2023), section 3;
leopard-ai/betty, hypergradient/sama.py and utils.py (SGD: no preconditioning; radius 1).
Cost per architecture step: three passes (validation, two probes). Extra memory: one copy of the weights.

Deviations
1. The probes leave the weights unchanged. The released code restores them out of place (`add` instead of `add_`), so
   that they remain displaced along -u by a step of length `radius`.
2. The adaptation to Adam is omitted because no search trains its weights with Adam. The overlap of communication with
   computation is also omitted.
3. The settings for architecture search are nasx's own choice: the paper addresses other problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Cost, Search, combine
from nasx.methods.alternating import Alternating, Difference, Hypergradient, outer_gradients

if TYPE_CHECKING:
    from nasx.core.constraints import PositiveFloat


@dataclass(frozen=True, kw_only=True)
class Sama(Alternating):
    """Alternating steps along the implicit gradient, with the identity as the inverse Hessian."""

    radius: PositiveFloat = 1.0

    @property
    def cost(self) -> Cost:
        return Cost(4, 4, 1)

    def response(self, h: Tensor, lr: float) -> Tensor:
        return torch.ones_like(h)

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        outcome, v, direct = outer_gradients(search, val)
        Mv = Difference(search, train, self.radius).mixed(v, "Mv")
        return Hypergradient(combine(direct, Mv, -1.0), outcome, v, v)
