"""DARTS: differentiable architecture search by alternating gradient steps.

    first order    g = d/da L2(w, a)
    second order   g = d/da L2(w', a) - lr * M(w) d/dw' L2(w', a),   w' = w - lr (mu * buffer + d/dw L1(w, a) + wd * w)

M = d^2 L1 / da dw; M u is a central difference of d/da L1 along u, with probes at distance `radius`.

Source: Liu, Simonyan, Yang (2019), eqs. 6-8, algorithm 1.
Cost per architecture step: order 1, one pass (architecture gradient only); order 2, four passes and memory for three
additional copies of the weights. Per weight step: one pass.

Deviations
1. With Nesterov momentum, the virtual step w' is the heavy-ball step above, as in the released NAS-Bench-201 code.
2. The virtual step is not clipped (as in the released code for convolutional cells), while real weight steps are. The
   released code for recurrent cells clips d/dw L1 and d/dw' L2 like real steps, and multiplies the correction by the
   factor c of the first clipping, because w' moves by c times the step: `clip=true`, with the bound `search.clip`. In
   that code, c may exceed 1; here, as in the clipping itself, it does not. A later release also adds wd * w' to the
   vector and evaluates M at w'; nasx does neither.
3. `first` selects which of the two alternating updates comes first: the released DARTS code updates the architecture
   first, the NAS-Bench-201 scripts the weights.
4. Probes never update the running statistics of batch norm; if a space keeps any, only real weight steps update them.
5. Architecture parameters start at 1e-3 N(0, 1), as in the released code; in the paper they are equal (`Space.init`).
6. Validation batches cycle through the shuffled split; the released code reshuffles it at every step.
7. The architecture is never clipped; the NAS-Bench-201 v1 scripts clip weights and architecture together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Cost, Number, Search, combine, detached
from nasx.methods.alternating import Alternating, Difference, Hypergradient, first_order, outer_gradients

if TYPE_CHECKING:
    from nasx.core.constraints import PositiveFloat


@dataclass(frozen=True, kw_only=True)
class Darts(Alternating):
    """Alternating first- or second-order bilevel steps."""

    order: Literal[1, 2] = 1
    radius: PositiveFloat = 0.01
    first: Literal["architecture", "weights"] = "architecture"
    clip: bool = False

    @property
    def weights_first(self) -> bool:
        return self.first == "weights"

    @property
    def cost(self) -> Cost:
        return Cost(2, 2) if self.order == 1 else Cost(5, 5, 3)

    def response(self, h: Tensor, lr: float) -> Tensor:
        return torch.full_like(h, lr if self.order == 2 else 0.0)

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        if self.order == 1:
            return first_order(search, val)
        mix = detached(search.mixture(search.a, train))
        g_w = search.grad_w(detached(search.w, requires_grad=True), mix, train)
        c: Number = 1.0
        if self.clip:
            g_w, c = search.clip_with_factor(g_w)
        w1 = search.virtual_step(g_w, train.rate)
        outcome, v, direct = outer_gradients(search, val, w1)
        if self.clip:
            v = search.clip_gradient(v)
        Mv = Difference(search, train, self.radius).mixed(v, "Mv")
        return Hypergradient(combine(direct, Mv, -search.lr_of(train) * c), outcome, v, v)
