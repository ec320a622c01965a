"""Upper bounds on settings, from the image size and the memory of this machine. Does not import torch.

dataset.pad     less than the shorter side: every random crop contains at least one row and column of its image
cutout          at most the shorter side: a larger cutout could erase the whole image
batch           its images, as float32, need at most half of the memory (activations and gradients need more memory)
images          an in-memory dataset needs at most half of the memory
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from nasx.core.system import physical_memory
from nasx.errors import UserError


def faults(
    shape: Sequence[int], group: str = "", *, pad: int = 0, cutout: int = 0, batch: int = 0
) -> Iterator[UserError]:
    """Yield a UserError for each setting that is too large for images of shape (c, h, w).

    `group` (search, retrain): the settings group of `cutout` and `batch`, for the error messages.
    """
    height, width = shape[1:]
    side, place, size = min(height, width), f"{group}." if group else "", f"{width} x {height}"
    if pad >= side:
        yield UserError(
            f"dataset.pad={pad}",
            f"is not less than the shorter side of the images ({size}): a random crop may contain only padding",
            f"use at most {side - 1}, or 0 for no crop",
        )
    if cutout > side:
        yield UserError(
            f"{place}cutout={cutout}",
            f"is larger than the images ({size}) and may erase a whole image",
            f"use at most {side}, or 0 for none",
        )
    if (needed := 4 * batch * math.prod(shape)) > physical_memory() // 2:
        yield UserError(
            f"{place}batch={batch}",
            _too_much(batch, size, needed),
            f"use at most {physical_memory() // 8 // math.prod(shape):,} (or fewer: the network needs memory too), "
            "or lower dataset.size",
        )


def check(shape: Sequence[int], group: str = "", *, pad: int = 0, cutout: int = 0, batch: int = 0) -> None:
    """Raise one UserError for all settings that are too large for images of shape (c, h, w)."""
    if found := list(faults(shape, group, pad=pad, cutout=cutout, batch=batch)):
        raise UserError.join(found)


def held(name: str, count: int, height: int, width: int, remedy: str = "lower dataset.size") -> None:
    """Raise UserError unless `count` three-channel images fit into half of the memory."""
    if (needed := 3 * count * height * width) > physical_memory() // 2:
        raise UserError(f"dataset={name}", _too_much(count, f"{width} x {height}", needed), remedy)


def _too_much(count: int, size: str, needed: int) -> str:
    return (
        f"{count:,} images of {size} need {needed / 2**30:,.1f} GB, more than half of this machine's "
        f"{physical_memory() / 2**30:.1f} GB"
    )
