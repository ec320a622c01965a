"""SNAS: mixtures are samples from a concrete distribution with a decreasing temperature and approach one-hot vectors.

    mix = softmax((log p + Gumbel noise) / tau),  p = softmax(a)

`tau` decreases linearly with e / E in epoch e of E, from `tau_max` towards `tau_min` (one step above it in the last
epoch). The steps are those of `inner` (Single-DARTS' simultaneous step with a softmax: one training loss updates both
weights and architecture), with a separate sample for each batch.

Source: Xie, Zheng, Liu, Lin (2019), section 2; temperatures: released code of DrNAS, whose SNAS produced the
NAS-Bench-201 numbers (there with first-order DARTS as `method.inner`).
Cost per step: that of `inner`; one pass for both updates.

Deviations
1. The paper's resource constraint (its "mild" and "moderate" settings) is omitted, as in all comparisons on
   NAS-Bench-201.
2. The paper gives no temperatures.
3. Noise is drawn from the batch's seed, so a step is a function of its batches; all cells share a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasx.core.bilevel import Batch, Number, Search, Tree
from nasx.methods.wrapper import Sampling, concrete

if TYPE_CHECKING:
    from nasx.core.constraints import PositiveFloat


@dataclass(frozen=True, kw_only=True)
class Snas(Sampling):
    """Steps of the inner method on mixtures sampled from a concrete distribution."""

    tau_max: PositiveFloat = 10.0
    tau_min: PositiveFloat = 1.0

    def tau(self, search: Search) -> Number:
        """Return the temperature for the current epoch."""
        return self.tau_max + (self.tau_min - self.tau_max) * search.epoch / max(search.epochs, 1)

    def sample(self, search: Search, a: Tree, batch: Batch) -> Tree:
        return search.problem.relax(a, concrete(self.tau(search), search.generator(batch)))
