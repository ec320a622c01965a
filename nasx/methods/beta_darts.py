"""beta-DARTS: a penalty on the smooth maximum of each edge's logits keeps the softmax weights close to each other.

    loss of the architecture + lambda_e * mean over edges of log sum_o exp(a_o),   lambda_e = growth * e

The steps are those of `inner` (first-order DARTS), with the penalty's gradient lambda_e * softmax(a) / edges added to
every architecture gradient.

Source: Ye, Li, Zhang, Chen, Fan, Ouyang (2022), section 3; released code, optimizers/darts/architect.py, mlc_loss.
Cost per step: that of `inner`.

Deviations
1. In spaces with several architecture parameters (normal and reduction cells), the penalties are summed; the released
   code implements the penalty only for the single parameter of NAS-Bench-201.
2. All architecture parameters are penalized, including those of edges and edge pairs in spaces that have them.
3. lambda grows by the same amount per epoch for any search length, as in the released code (0.5 e: up to 49.5 in the
   100 epochs of NAS-Bench-201, up to 24.5 in the 50 of DARTS). The released script for the DARTS space does not pass
   the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Number, Search, Tree
from nasx.methods.wrapper import Wrapper

if TYPE_CHECKING:
    from nasx.core.constraints import NonNegativeFloat


@dataclass(frozen=True, kw_only=True)
class BetaDarts(Wrapper):
    """Steps of the inner method, with a growing penalty on the logits."""

    growth: NonNegativeFloat = 0.5

    def weight(self, search: Search) -> Number:
        """Return lambda_e for the current epoch."""
        return self.growth * search.epoch

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        weight = self.weight(search)

        def pull(a: Tree) -> Tree:
            return {k: weight * torch.softmax(x.detach(), -1) / x[..., 0].numel() for k, x in a.items()}

        return self.inner.step(search.with_arch_penalty(pull), train, val)
