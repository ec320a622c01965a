"""Random search with weight sharing: train a supernet on random single paths, then keep the best on validation data.

    each step: draw an architecture uniformly, take one weight step on a training batch with its one-hot mixture
    at the end: draw `samples` architectures, evaluate each on one validation batch, keep the most accurate one

Source: Li and Talwalkar (2019), section 3; NAS-Bench-201's RSPS.
Cost per step: one pass. At the end: `samples` forward passes.

Deviations
1. Operations outside the drawn path are computed and multiplied by zero: same values, but a fixed graph.
2. Samples are drawn from the batch's seed, so a step is a function of its batch.
3. Each candidate is evaluated on a different validation batch; Li and Talwalkar finally use the whole validation set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Cost, Method, Search, Selection, Tree, detached, logs
from nasx.methods.random import best_of

if TYPE_CHECKING:
    from nasx.core.constraints import Draws


@dataclass(frozen=True, kw_only=True)
class RandomWs(Method):
    """Training of random single paths, followed by selection of an architecture with the shared weights."""

    samples: Draws = 100

    @property
    def cost(self) -> Cost:
        return Cost(1, 1)

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        return logs(search.update_w(train[0], search.sampled(train[0])))

    @torch.no_grad()
    def select(self, search: Search, selection: Selection) -> Tree:
        def accuracy(mix: Tree) -> float:
            return float(search.problem.outcome(detached(search.w), mix, next(selection.val)).accuracy)

        return best_of(self.samples, search, selection, accuracy)
