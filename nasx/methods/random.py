"""Random search: architectures drawn uniformly from the space; nothing is trained.

If a benchmark contains the architectures, the best of `samples` by validation accuracy is kept (random search as
reported for NAS-Bench-201). Otherwise, the samples cannot be compared, and the first one is kept.

Source: Li and Talwalkar (2019); Lindauer and Hutter (2020), practice 8 (random sampling and random search).
Cost: only table lookups.

Deviation: the published random search on NAS-Bench-201 has a budget of training time; here, the budget is `samples`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from nasx.core.bilevel import Batch, Method, Search, Selection, Tree

if TYPE_CHECKING:
    from nasx.core.constraints import Draws


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Selection of the best of `samples` random architectures in the benchmark, or of one random architecture."""

    trains: ClassVar[bool] = False
    samples: Draws = 1

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        raise NotImplementedError("random search trains nothing")

    def select(self, search: Search, selection: Selection) -> Tree:
        return best_of(self.samples, search, selection, selection.score)


def best_of(samples: int, search: Search, selection: Selection, accuracy: Callable[[Tree], float | None]) -> Tree:
    """Draw `samples` architectures uniformly and return the most accurate one (the first in a tie).

    Drawing stops at an unknown accuracy; without a benchmark, the first architecture is returned.
    """
    best, highest = search.problem.sample(selection.gen), None
    for draw in range(samples):
        mix = best if draw == 0 else search.problem.sample(selection.gen)
        found = accuracy(mix)
        selection.tick()
        if found is None:
            break
        if highest is None or found > highest:
            best, highest = mix, found
    return best
