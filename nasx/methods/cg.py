"""The implicit hypergradient, computed by conjugate gradients instead of a series.

    g = d/da L2 - M x,   (H + damping) x = v,   v = d/dw L2

The derivatives are computed at the current weights, on one validation batch and one training batch. x is approximated
with `steps` products with H; as many products as there are weights would give the exact solution. The iteration stops
at a direction of nonpositive curvature, as in truncated Newton methods; `damping` is added to all eigenvalues of H,
which is indefinite for neural networks.

Source: Pedregosa (2016), algorithm 1; Rajeswaran, Finn, Kakade, Levine (iMAML, 2019), section 3.2 (few steps).
Cost per architecture step: one validation pass, one training pass whose graph is kept, `steps` Hessian products and one
mixed product, by double backward. Extra memory: about six copies of the weights with the graph.

Deviations
1. Both papers solve the equation to a tolerance. Here, the number of steps is fixed, so that the host never waits for
   the device; steps after convergence or nonpositive curvature have no effect.
2. The settings for architecture search (steps, damping) are nasx's own choice; neither paper searches architectures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasx.core.bilevel import Batch, Cost, Search, Tree, combine
from nasx.methods.alternating import Alternating, Exact, Hypergradient, conjugate_gradients, outer_gradients

if TYPE_CHECKING:
    from nasx.core.constraints import NonNegativeFloat, Repeats


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient(Alternating):
    """Alternating steps along the implicit gradient, computed with conjugate gradients."""

    steps: Repeats = 5
    damping: NonNegativeFloat = 1.0

    @property
    def cost(self) -> Cost:
        return Cost(3, self.steps + 4, 6)

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        outcome, v, direct = outer_gradients(search, val)
        exact = Exact(search, train)

        def product(u: Tree) -> Tree:
            return combine(exact.hessian(u), u, self.damping)

        x = conjugate_gradients(product, v, self.steps)
        return Hypergradient(combine(direct, exact.mixed(x), -1.0), outcome, v, x)
