"""Choosing by weight, with ties to the lowest index: the rule of every discretization."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def best(weights: Sequence[float], among: Iterable[int] | None = None) -> int:
    """Index of the largest weight (of the indices `among`), the lowest one where several are equal."""
    return max(range(len(weights)) if among is None else sorted(among), key=weights.__getitem__)


def top(weights: Sequence[float], k: int) -> tuple[int, ...]:
    """Indices of the k largest weights, ascending; lower indices win ties."""
    return tuple(sorted(sorted(range(len(weights)), key=lambda i: -weights[i])[:k]))
