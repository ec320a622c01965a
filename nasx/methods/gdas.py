"""GDAS: one operation per edge is sampled by a straight-through Gumbel softmax.

    q = softmax((log p + Gumbel noise) / tau),  mix = onehot(argmax q) forward, d mix = d q backward,  p = softmax(a)

tau falls linearly by epoch from `tau_max` to `tau_min`. The steps are those of `inner` (first-order DARTS), each batch
with a sample of its own, shared by all cells.

Source: Dong and Yang (2019), eqs. 5-7; schedule and order of the NAS-Bench-201 script (weights first, tau 10 to 0.1).
Cost per step: that of `inner`; one pass for the weights, one for the architecture.

Deviations
1. Operations that were not sampled are computed and multiplied by zero: the same values, a fixed graph.
2. Noise draws from the batch's seed, so a step is a function of its batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nasx.around import Around, concrete
from nasx.bilevel import Activate, Batch, Number, Search, Tree

if TYPE_CHECKING:
    from nasx.settings import PositiveFloat


def straight_through(tau: Number, gen: torch.Generator) -> Activate:
    """A sampler of hard one-hot weights along the last axis whose gradient is the soft sample's."""
    sample = concrete(tau, gen)

    def activate(logits: Tensor) -> Tensor:
        soft = sample(logits)
        hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return hard + soft - soft.detach()

    return activate


@dataclass(frozen=True, kw_only=True)
class Gdas(Around):
    """Steps of the inner method, each on a sampled architecture."""

    draws: ClassVar[bool] = True
    tau_max: PositiveFloat = 10.0
    tau_min: PositiveFloat = 0.1

    def tau(self, search: Search) -> Number:
        """Temperature of the current epoch."""
        return self.tau_max + (self.tau_min - self.tau_max) * search.epoch / max(search.epochs - 1, 1)

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        tau = self.tau(search)

        def draw(a: Tree, batch: Batch) -> Tree:
            return search.problem.relax(a, straight_through(tau, search.generator(batch)))

        return self.inner.step(search.drawing(draw), train, val)
