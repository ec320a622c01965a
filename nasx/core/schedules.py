"""Learning rate schedules."""

from __future__ import annotations

import math


def cosine(base: float, low: float, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch: low + (base - low) (1 + cos(pi e / E)) / 2 (DARTS, released code)."""
    return low + (base - low) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def rate(base: float, low: float, epoch: int, epochs: int, warmup: int) -> float:
    """The cosine's rate, times (e + 1) / W in the first W epochs (PC-DARTS, released code of its ImageNet search)."""
    return cosine(base, low, epoch, epochs) * min((epoch + 1) / max(warmup, 1), 1)
