"""Learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cosine(base: float, low: float, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch: low + (base - low) (1 + cos(pi e / E)) / 2 (DARTS, released code)."""
    return low + (base - low) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def linear(base: float, low: float, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch: low + (base - low) (E - e) / E."""
    return low + (base - low) * (epochs - epoch) / epochs


SCHEDULES = {"cosine": cosine, "linear": linear}


def rate(base: float, low: float, epoch: int, epochs: int, warmup: int, schedule: str = "cosine") -> float:
    """Return the learning rate, scaled by (e + 1) / W in the first W epochs (PC-DARTS, released ImageNet code)."""
    return SCHEDULES[schedule](base, low, epoch, epochs) * min((epoch + 1) / max(warmup, 1), 1)


@contextmanager
def scaled(optimizer: torch.optim.Optimizer, rate: float) -> Iterator[None]:
    """Multiply an optimizer's learning rates by `rate` within the block."""
    before = [group["lr"] for group in optimizer.param_groups]
    for group, lr in zip(optimizer.param_groups, before, strict=True):
        group["lr"] = lr * rate
    try:
        yield
    finally:
        for group, lr in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = lr
