"""Upper bounds of settings by the size of an image and the memory of this machine. Torch-free.

dataset.pad     below the shorter side: every random crop holds at least one row and column of its image
cutout          at most the shorter side: beyond it some cutouts blank the whole image wherever they are centred
batch           its images as float32 take at most half of the memory (activations and gradients come on top)
images          those that are held in memory take at most half of it
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

from nasx.errors import UserError


def memory() -> int:
    """This machine's, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def faults(
    shape: Sequence[int], group: str = "", *, pad: int = 0, cutout: int = 0, batch: int = 0
) -> Iterator[UserError]:
    """What is too large for images of this shape (c, h, w); `group` (search, retrain) names cutout and batch."""
    height, width = shape[1:]
    side, place, size = min(height, width), f"{group}." if group else "", f"{width} x {height}"
    if pad >= side:
        yield UserError(
            f"dataset.pad={pad}",
            f"is not below the side of the images ({size}): a random crop may hold nothing of its image",
            f"use at most {side - 1}, or 0 for no crop",
        )
    if cutout > side:
        yield UserError(
            f"{place}cutout={cutout}",
            f"is larger than the images ({size}), and may blank all of one",
            f"use at most {side}, or 0 for none",
        )
    if (needed := 4 * batch * math.prod(shape)) > memory() // 2:
        yield UserError(
            f"{place}batch={batch}",
            _too_much(batch, size, needed),
            f"use at most {memory() // 8 // math.prod(shape):,} (less is left by the network), or lower dataset.size",
        )


def check(shape: Sequence[int], group: str = "", *, pad: int = 0, cutout: int = 0, batch: int = 0) -> None:
    """Raise one UserError with what is too large for images of this shape (c, h, w)."""
    if found := list(faults(shape, group, pad=pad, cutout=cutout, batch=batch)):
        raise UserError.join(found)


def held(name: str, count: int, height: int, width: int, remedy: str = "lower dataset.size") -> None:
    """Raise UserError where so many images of three channels do not fit into memory."""
    if (needed := 3 * count * height * width) > memory() // 2:
        raise UserError(f"dataset={name}", _too_much(count, f"{width} x {height}", needed), remedy)


def _too_much(count: int, size: str, needed: int) -> str:
    return (
        f"{count:,} images of {size} need {needed / 2**30:,.1f} GB, more than half of this machine's "
        f"{memory() / 2**30:.1f} GB"
    )
