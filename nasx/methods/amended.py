"""Amended-DARTS: the inverse Hessian in the exact hypergradient is replaced by eta times the Hessian.

    g = d/da L2(w, a) - eta * M H v,   v = d/dw L2,  H = d^2 L1 / dw^2,  M = d^2 L1 / da dw

All derivatives are taken at the current weights; both products are central differences on one training batch.

Source: Bi, Hu, Xie, Chen, Wei, Tian (2019), eqs. 5, 8, 14-15.
Cost per architecture step: five passes (one validation pass, two probes for H v, two for M H v). Per weight step:
one pass. Extra memory: one copy of the weights.

Deviations
1. Sign: minus, as in eqs. 5 and 8, and as required for descent (the exact second term is -M H^-1 v and H is positive
   definite near a minimum); eq. 15 prints a plus. On L = (w x - a)^2 the plus sign always ascends.
2. Scale: the second probe is rescaled to length `radius` along H v. The chained probes w +- d/2 of eq. 15 are
   equivalent in exact arithmetic, but less accurate in single precision.
3. eta = 0.1 is the paper's value and the default. However, on the paper's own toy problem (T1: L = (w x - a)^2,
   train x = 1, validation x = 2) the hypergradient with eta = 0.1 is -0.28, and the exact one +1.4: the method still
   ascends. Descent requires eta > 1/8; eta = 1/4 is exact on this problem.
4. The paper's claim that the amended term never points against the exact term is false in general: H = diag(1, 10),
   M = [1 1], v = (1, -0.3) is a counterexample (tests/methods/test_amended.py).
5. For any method, search.cutout, search.drop_path, search.auxiliary and space.auxiliary make the search consistent
   with retraining; the files of this method in conf/pair set them. The paper does not give the drop-path probability;
   these files use that of retraining, 0.2, with its schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from nasx.core.bilevel import Batch, Cost, Search, combine
from nasx.methods.alternating import Alternating, Difference, Hypergradient, outer_gradients

if TYPE_CHECKING:
    from nasx.core.constraints import NonNegativeFloat, PositiveFloat


@dataclass(frozen=True, kw_only=True)
class Amended(Alternating):
    """Alternating steps with the amended second-order term."""

    eta: NonNegativeFloat = 0.1
    radius: PositiveFloat = 0.01

    @property
    def cost(self) -> Cost:
        return Cost(6, 6, 1)

    def response(self, h: Tensor, lr: float) -> Tensor:
        return self.eta * h

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        outcome, v, direct = outer_gradients(search, val)
        products = Difference(search, train, self.radius)
        Hv = products.hessian(v, "Hv")
        MHv = products.mixed(Hv, "MHv")
        return Hypergradient(combine(direct, MHv, -self.eta), outcome, v, Hv)
