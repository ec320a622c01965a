"""Random search: architectures drawn uniformly from the space; nothing is trained.

If a benchmark contains the architectures, the best of `samples` by validation accuracy is kept (random search as
reported for NAS-Bench-201). Otherwise, the samples cannot be compared, and the first one is kept.

Source: Li and Talwalkar (2019); Lindauer and Hutter (2020), practice 8 (random sampling and random search).
Cost: none but table look-ups.

Deviation: random search as published for NAS-Bench-201 has a budget in training time; here a number of draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from nasx.core.bilevel import Batch, Method, Search, Selection, Tree

if TYPE_CHECKING:
    from nasx.core.constraints import Draws


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """The best of `samples` random architectures by their accuracy in the benchmark, or one random architecture."""

    trains: ClassVar[bool] = False
    samples: Draws = 1

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        raise NotImplementedError("random search trains nothing")

    def select(self, search: Search, selection: Selection) -> Tree:
        best, best_score = search.problem.sample(selection.gen), None
        for draw in range(self.samples):
            mix = best if draw == 0 else search.problem.sample(selection.gen)
            accuracy = selection.score(mix)
            selection.tick()
            if accuracy is None:
                break
            if best_score is None or accuracy > best_score:
                best, best_score = mix, accuracy
        return best
