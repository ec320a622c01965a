"""DARTS-: an auxiliary skip connection parallel to every mixed operation decays to zero by the end of the search.

    edge = beta_e x + sum_o p_o o(x),   beta_e = beta (1 - e / E)

The auxiliary connection takes over the role of easing gradient flow, which otherwise lets skip connections dominate the
other operations. The weight p of a skip connection then reflects only its value as an operation. The steps are those of
`inner` (first-order DARTS) on such edges; discretization uses only p.

Source: Chu, Wang, Zhang, Lu, Wei, Yan (2021), section 3; released code (scripts/run_darts_minus.sh:
beta 1, linear).
Cost per step: that of `inner`.

Deviations
1. The auxiliary connection is the space's own skip connection, so it costs nothing. At stride 2 (factorized reduction)
   the two therefore share weights, while the released code has a second factorized reduction.
2. Edges without a skip connection among their operations (some edges of S1) have no auxiliary connection; a space
   without any skip connection (S4, NAS-Bench-1Shot1) is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from nasx.core.bilevel import Batch, Number, Search, Tree, combine
from nasx.methods.wrapper import Wrapper

if TYPE_CHECKING:
    from nasx.core.constraints import NonNegativeFloat


@dataclass(frozen=True, kw_only=True)
class DartsMinus(Wrapper):
    """Steps of the inner method with an auxiliary skip connection that decays to zero."""

    operation: ClassVar[str] = "skip_connect"
    """Name of the skip connection in all spaces that have one."""
    beta: NonNegativeFloat = 1.0

    def auxiliary(self, search: Search) -> Number:
        """Return beta_e for the current epoch."""
        return self.beta * (1 - search.epoch / max(search.epochs, 1))

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        weight, skips = self.auxiliary(search), search.problem.mask(self.operation)

        def shape(mix: Tree) -> Tree:
            return mix | combine({k: mix[k] for k in skips}, skips, weight)

        return self.inner.step(search.with_transform(shape), train, val)
