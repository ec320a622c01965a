"""FairDARTS: operations do not compete; a loss pushes their independent weights towards 0 or 1.

    p = sigmoid(a),   loss of the architecture - weight * mean over all entries of (p - 1/2)^2

The steps are those of `inner` (first-order DARTS), with the gradient of the second term added to every architecture
gradient: -weight * 2 (p - 1/2) p (1 - p) / entries.

Source: Chu, Zhou, Zhang, Li (2020), eq. 3 and section 4; xiaomi-automl/FairDARTS, separate_loss.py (L2), architect.py.
Cost per step: that of `inner`.

Deviations
1. The cell is derived by the rules of the space: the strongest operation on each of the two strongest edges of a node.
   The released code also drops weights below a threshold of 0.85, so a node may have fewer than two edges.
2. The mean is over the entries of all architecture parameters, as in the released code for the two cells of the DARTS
   space. In spaces with parameters for edges or edge pairs, it also includes the sigmoids of these parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Search, Tree
from nasx.methods.wrapper import Wrapper

if TYPE_CHECKING:
    from nasx.core.constraints import NonNegativeFloat


@dataclass(frozen=True, kw_only=True)
class FairDarts(Wrapper):
    """Steps of the inner method on sigmoid weights, with the zero-one loss."""

    weight: NonNegativeFloat = 10.0

    def activate(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        entries = sum(x.numel() for x in search.a.values())

        def push(a: Tree) -> Tree:
            p = {k: torch.sigmoid(x.detach()) for k, x in a.items()}
            return {k: -2 * self.weight / entries * (x - 0.5) * x * (1 - x) for k, x in p.items()}

        return self.inner.step(search.with_arch_penalty(push), train, val)
