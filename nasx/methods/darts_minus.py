"""DARTS-: an auxiliary skip connection next to every mixed operation, which decays to zero by the end of the search.

    edge = beta_e x + sum_o p_o o(x),   beta_e = beta (1 - e / E)

It takes over what makes skip connections win the competition of operations, the easier flow of gradients, so that their
weight p shows what they are worth as operations. The steps are those of `inner` (first-order DARTS) on such edges;
discretization looks at p alone.

Source: Chu, Wang, Zhang, Lu, Wei, Yan (2021), section 3; released code (scripts/run_darts_minus.sh:
beta 1, linear).
Cost per step: that of `inner`.

Deviations
1. The auxiliary connection is the space's own skip connection, so it costs nothing; at stride 2 (factorized reduction)
   it thereby shares its weights, where the released code has a second one.
2. Edges without a skip connection among their operations (some of S1) get none; a space that has none anywhere (S4,
   NAS-Bench-1Shot1) is refused.
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
    """Steps of the inner method with an auxiliary skip connection that fades."""

    operation: ClassVar[str] = "skip_connect"
    """What is strengthened, by its name in all spaces that have it."""
    beta: NonNegativeFloat = 1.0

    def auxiliary(self, search: Search) -> Number:
        """beta of the current epoch."""
        return self.beta * (1 - search.epoch / max(search.epochs, 1))

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        weight, skips = self.auxiliary(search), search.problem.mask(self.operation)

        def shape(mix: Tree) -> Tree:
            return mix | combine({k: mix[k] for k in skips}, skips, weight)

        return self.inner.step(search.with_transform(shape), train, val)
