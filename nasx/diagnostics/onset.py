"""Find the epoch at which the collapse of a search began, from its metrics rows. Pure Python, no torch.

    eigenvalue   the epoch that DARTS-ES would return: that before the first growth of the dominant eigenvalue by more
                 than 1.3 (stop.py; RobustDARTS section 4.3)
    skip         nasx: c is the epoch from which on, to the end, more than half of a cell's operations are skip
                 connections (the verdict's threshold); the share began to rise after the last epoch before c in which
                 it was at its minimum

The earlier of the two counts. A search whose last cell has no more than half skip connections, and whose eigenvalue did
not grow, has no onset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nasx.core.plain import Row
from nasx.diagnostics import verdict


class Onset(NamedTuple):
    """The last epoch before the collapse began (from 1), and what was seen."""

    epoch: int
    reason: str


def onset(rows: Sequence[Row]) -> Onset | None:
    """The earlier onset of the two rules; None if neither finds one, or none after the first epoch."""
    found = [each for each in (_eigenvalue(rows), _skips(rows)) if each is not None]
    return min(found, default=None)


def skip_share(row: Row) -> float | None:
    """The largest share of skip connections among the cells of a row that are not reduction cells; None: unknown."""
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
