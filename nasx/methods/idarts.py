"""iDARTS: the implicit hypergradient with a truncated Neumann series.

    g = d/da L2 - gamma * M * s,   s = sum over k = 0..K of (I - gamma H)^k v

v = d/dw L2 and d/da L2 are computed on one validation batch after T real weight steps, H = d^2 L1 / dw^2 and
M = d^2 L1 / da dw on one training batch. With K = 0, s = v gives DARTS' second-order correction at the current weights.
If gamma < 1 / lambda_max(H), gamma s converges to H^-1 v with an error of O((1 - gamma mu)^(K+1)), mu = lambda_min(H).

Source: Zhang, Su, Pan, Chang, Abbasnejad, Haffari (2021), eqs. 6-9, algorithm 1.
Cost per architecture step: one validation pass, K Hessian products (`difference`: two passes each; otherwise one double
backward each through one retained graph) and one mixed product (`exact`: one double backward; otherwise two passes).
Per step: T weight passes. Extra memory: four copies of the weights (`difference`), or about six with the graph for
double backward. An epoch has as many architecture steps as a pass has batches, and hence T passes of weight steps, as
in the released code for both spaces that it covers.

Computation of the products (`products`): the equation needs H u and M s; `exact` computes both by double backward.
The released NAS-Bench-201 notebook does so for H, but computes M s as a central difference with step radius / ||v||,
with the norm of v instead of s (`released`). `difference` uses central differences for both, with steps radius / ||u||
and radius / ||s||. On a smooth loss, the three agree; on networks with ReLU, they do not (docs/methods/kinks.md): on
the released problem in tests/parity, the cosine similarity to the released hypergradient is 0.75 for `exact` and 0.51
for `difference`. Therefore the default on NAS-Bench-201 is `released`, because its results are compared with the
published numbers. No released code runs for the other spaces (deviation 5); there, the default is the equation itself,
`exact`.

Deviations
1. The T inner steps update the weights (the released NAS-Bench-201 code steps a copied optimizer without gradients, so
   it never trains them with SGD), and the probes leave the weights unchanged (the released code restores them with the
   wrong vector). `release_leak=true` reproduces both: there is no SGD step, and each step moves the weights by
   -R (s - v), R = radius / ||v||, a normalized step down the validation loss. Tables label such runs.
2. The training batch of all products is the last of the T batches (the paper does not specify it).
3. With `products=difference`, the probe of the mixed product is scaled by ||s||, not by ||v|| as in the released code.
   The results are equal up to O(radius^2), and more stable in single precision.
4. Weight decay and momentum are not part of H, as in the released code.
5. The default architect of the released NAS-Bench-1Shot1 code uses a different formula and cannot run; it is not
   reproduced. For the DARTS space no code was released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Cost, Number, Search, Tree, combine, logs, step_length
from nasx.methods.alternating import Alternating, Difference, Exact, Hypergradient, conjugate_gradients, outer_gradients

if TYPE_CHECKING:
    from nasx.core.constraints import PositiveFloat, Repeats, Terms

CG_PRODUCTS = 20
"""Number of Hessian products in the conjugate gradients for `search.probe_every` (nasx: ten times the default K)."""


@dataclass(frozen=True, kw_only=True)
class IDarts(Alternating):
    """T weight steps, then one architecture step along the truncated implicit gradient."""

    reproduces_faults: ClassVar[tuple[str, ...]] = ("release_leak",)
    T: Repeats = 4
    K: Terms = 2
    gamma: PositiveFloat | None = None
    products: Literal["released", "exact", "difference"] = "exact"
    radius: PositiveFloat = 0.01
    release_leak: bool = False

    @property
    def steps_w(self) -> int:
        return self.T

    @property
    def updates_per_batch(self) -> int:
        return self.T

    @property
    def weights_first(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        forward, backward = self.series_passes(self.K)
        steps = 1 + (0 if self.release_leak else self.T)
        return Cost(steps + forward, steps + backward, 4 if self.products == "difference" else 6)

    def response(self, h: Tensor, lr: float) -> Tensor:
        gamma = lr if self.gamma is None else self.gamma
        return gamma * torch.stack([(1 - gamma * h) ** k for k in range(self.K + 1)]).sum(0)

    def series(self, search: Search, train: Batch, v: Tree, gamma: Number, K: int) -> tuple[Tree, Tree]:
        """Compute the Neumann sum s = sum over k = 0..K of (I - gamma H)^k v, and M s."""
        difference = Difference(search, train, self.radius)
        products = difference if self.products == "difference" else Exact(search, train)
        s = u = v
        for _ in range(K):
            u = combine(u, products.hessian(u), -gamma)
            s = combine(s, u, 1.0)
        if self.products == "exact":
            return s, products.mixed(s)
        del products  # free the graph for double backward before the passes of the difference
        eps = step_length(v, self.radius) if self.products == "released" else None
        return s, difference.mixed(s, "Ms", eps)

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        outcome, v, direct = outer_gradients(search, val)
        gamma = search.lr_of(train) if self.gamma is None else self.gamma
        s, Ms = self.series(search, train, v, gamma, self.K)
        g = combine(direct, Ms, -gamma)
        if search.probe is not None:
            self.error_bars(search, train, v, direct, g, gamma)
        return Hypergradient(g, outcome, v, s)

    def error_bars(self, search: Search, train: Batch, v: Tree, direct: Tree, g: Tree, gamma: Number) -> None:
        """Compare g with a series of twice as many terms, and with conjugate gradients instead of the series."""
        K, unprobed = max(2 * self.K, 1), replace(search, probe=None)

        def longer() -> Tree:
            return combine(direct, self.series(unprobed, train, v, gamma, K)[1], -gamma)

        def solved() -> Tree:
            products = Exact(search, train)
            return combine(direct, products.mixed(conjugate_gradients(products.hessian, v, CG_PRODUCTS)), -1.0)

        search.compare("g-2K", g, longer, *self.series_passes(K))
        search.compare("g-CG", g, solved, 1, CG_PRODUCTS + 2)

    def series_passes(self, K: int) -> tuple[int, int]:
        """Return the numbers of forward and backward passes for K Hessian products and the mixed product."""
        match self.products:
            case "exact":
                return 1, K + 2
            case "released":
                return 3, K + 3
        return 2 * K + 2, 2 * K + 2

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        return self.leak(search, train[-1], val) if self.release_leak else super().step(search, train, val)

    def leak(self, search: Search, train: Batch, val: Batch) -> dict[str, Tensor]:
        """Take the released step of deviation 1: an architecture step, then w <- w - R (s - v) instead of SGD."""
        found = self.hypergradient(search, train, val)
        search.descend_a(found.g)
        assert found.v is not None
        assert found.s is not None
        length = step_length(found.v, self.radius)
        with torch.no_grad():
            for k, x in search.w.items():
                x.sub_(length * (found.s[k] - found.v[k]))
        return logs(val=found.outcome)
