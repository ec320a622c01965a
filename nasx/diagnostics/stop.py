"""Early stopping of a search by the dominant eigenvalue of the architecture Hessian. Pure Python, no torch.

    lambda_k   eigenvalue of evaluation k = 0, 1, ...: one every `every` epochs, the first after the first epoch
    m_k        mean of lambda_j over the evaluations j >= 0 with |j - k| <= window // 2
    stop when  m_k / m_(k - lag) > factor and the epoch of evaluation k - lag is at least `start`;
               the result is the architecture of that epoch

m_k is known window // 2 evaluations after evaluation k. With the published settings (every=2, window=5, lag=4), the
search therefore stops 12 epochs after the epoch whose architecture is returned. `start` counts epochs from 0, as in the
released code; metrics rows count completed epochs, so start=10 allows row 11 at the earliest.

Source: Zela, Elsken, Saikia, Marrakchi, Brox, Hutter (2020), section 4.3 (DARTS-ES); automl/RobustDARTS,
src/search/analyze.py, EVLocalAvg.

Deviations
1. If m_(k - lag) is not positive, the search does not stop; the released code would stop on two negative means.
2. `found` depends only on the metrics rows, so a resumed search makes the same decision as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from nasx.core.plain import Row

if TYPE_CHECKING:
    from nasx.core.constraints import NonNegative, Positive, PositiveFloat


class Growth(NamedTuple):
    """The first growth in an eigenvalue series: the epoch before it, the epoch of its detection, m_k / m_(k - lag)."""

    epoch: int
    at: int
    ratio: float


def growth(
    series: Sequence[tuple[int, float]], *, window: int = 5, lag: int = 4, factor: float = 1.3, start: int = 10
) -> Growth | None:
    """Return the first growth by more than `factor` in (epoch, eigenvalue) pairs; None if there is none yet."""
    values = [value for _, value in series]
    half = window // 2

    def mean(k: int) -> float:
        around = values[max(k - half, 0) : k + half + 1]
        return sum(around) / len(around)

    for last in range(half + lag, len(series)):
        now, before = last - half, last - half - lag
        epoch, earlier = series[before][0], mean(before)
        if epoch - 1 >= start and earlier > 0 and mean(now) / earlier > factor:
            return Growth(epoch, series[last][0], mean(now) / earlier)
    return None


def series(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """Return (epoch, eigenvalue) for each metrics row with an eigenvalue."""
    return [(int(row["epoch"]), float(row["eigenvalue"])) for row in rows if row.get("eigenvalue") is not None]


@dataclass(frozen=True, kw_only=True)
class NoStop:
    """No early stopping; no eigenvalues are needed."""

    acts: ClassVar[bool] = False
    """Whether `found` ends the search."""

    def due(self, epoch: int) -> bool:
        """Return whether an eigenvalue is needed after `epoch` (from 1)."""
        return False

    def found(self, rows: Sequence[Row], epochs: int) -> dict[str, object] | None:
        """Return None: the search never stops early."""
        return None


@dataclass(frozen=True, kw_only=True)
class EigenvalueStop:
    """DARTS-ES: stop when the dominant eigenvalue of the architecture Hessian grows (RobustDARTS)."""

    mode: Literal["stop", "simulate"] = "stop"
    every: Positive = 2
    window: Positive = 5
    lag: Positive = 4
    factor: PositiveFloat = 1.3
    start: NonNegative = 10

    @property
    def acts(self) -> bool:
        """Whether a stop ends the search; with mode=simulate, it is only recorded."""
        return self.mode == "stop"

    @property
    def least_epochs(self) -> int:
        """Number of epochs of the shortest search in which `found` can return a stop."""
        return 2 + self.every * (self.window // 2 + self.lag + math.ceil(self.start / self.every))

    def due(self, epoch: int) -> bool:
        """Return whether an eigenvalue is needed after `epoch` (from 1): after 1, 1 + every, 1 + 2 every, ..."""
        return (epoch - 1) % self.every == 0

    def found(self, rows: Sequence[Row], epochs: int) -> dict[str, object] | None:
        """Return the first stop in the rows: epoch, at, ratio, genotype, lookup, simulated; None if there is none.

        A detection in the last of `epochs` epochs does not count, because the search ends there anyway.
        """
        mine = [row for row in rows if self.due(row["epoch"]) and row["epoch"] < epochs]
        grown = growth(series(mine), window=self.window, lag=self.lag, factor=self.factor, start=self.start)
        if grown is None:
            return None
        kept = next(row for row in mine if row["epoch"] == grown.epoch)
        return {
            **grown._asdict(),
            "genotype": kept["genotype"],
            "lookup": kept.get("lookup"),
            "simulated": not self.acts,
        }
