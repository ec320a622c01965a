"""Find the epoch in which the collapse of a search began, from its metrics rows. Pure Python, no torch.

    eigenvalue   the epoch whose architecture DARTS-ES would return: the last epoch before the dominant eigenvalue first
                 grew by more than a factor of 1.3 (stop.py; RobustDARTS section 4.3)
    skip         defined by nasx: if more than half of a cell's operations are skip connections (the threshold of
                 verdict.py) in every epoch from c > 1 to the end, the last epoch before c with the smallest share of
                 skip connections

The onset is the earlier of the two epochs. There is no onset if the eigenvalue did not grow and no such c exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nasx.core.plain import Row
from nasx.diagnostics import verdict


class Onset(NamedTuple):
    """The last epoch (from 1) before the collapse began, and the observation from which it follows."""

    epoch: int
    reason: str


def onset(rows: Sequence[Row]) -> Onset | None:
    """Return the earlier of the onsets that the two rules find; None if neither finds one."""
    found = [each for each in (_eigenvalue(rows), _skips(rows)) if each is not None]
    return min(found, default=None)


def skip_share(row: Row) -> float | None:
    """Return the largest share of skip connections in a row's cells, reduction cells excluded; None if unknown."""
    cells = row.get("cells") or {}
    return max((cell["skip_ratio"] for name, cell in cells.items() if not name.startswith("reduce")), default=None)


def _eigenvalue(rows: Sequence[Row]) -> Onset | None:
    _, grown = verdict.growth(rows)
    if grown is None:
        return None
    return Onset(grown.epoch, f"the dominant eigenvalue grew {grown.ratio:.2f}-fold from epoch {grown.epoch} on")


def _skips(rows: Sequence[Row]) -> Onset | None:
    shares = [(int(row["epoch"]), share) for row in rows if (share := skip_share(row)) is not None]
    first = len(shares)
    while first and shares[first - 1][1] > verdict.SKIPS:
        first -= 1
    before = shares[:first]
    if first == len(shares) or not before:
        return None
    least = min(share for _, share in before)
    epoch = max(epoch for epoch, share in before if share == least)
    crossed = shares[first][0]
    return Onset(
        epoch,
        f"the share of skip connections rose from {least:.2f} in epoch {epoch} to over {verdict.SKIPS:g} in epoch "
        f"{crossed} and stayed there",
    )
