"""Base class of in-memory image datasets: settings, file locations and checks.

If `size` is set, all images are reduced to size x size by area averaging when they are loaded (shrink.py), both for a
search and for retraining; null keeps their size. `mean` and `std`, if set, are used as given; `pad` and `cutout` are in
pixels of the scaled images. If a channel is constant over the training images, its std of 0 is replaced by 1, so the
normalized channel is 0.

A dataset component (`Cifar10`, ...) is a frozen dataclass of settings. Its method `check()` is fast, and
`open(device)` returns an `Opened`, from which batches are drawn (batch_stream.py). Datasets that fit into memory derive
from `Source` and also have a method `load()`, which returns `Images`. The files are searched for in `path`, else in the
folder given by the environment variable NASX_DATA, else in ~/.cache/nasx (XDG). torch is imported only by `open`.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from nasx.core import spelling
from nasx.data import bounds, shrink
from nasx.data.base import OFFLINE, Images, Parts, absent, data_root, statistics
from nasx.data.splits import Split, read_split
from nasx.errors import UserError

if TYPE_CHECKING:
    import torch

    from nasx.data.batch_stream import InMemory

log = logging.getLogger("nasx")
SMALLEST = 8
"""Smallest allowed side of an image in pixels; networks halve the resolution twice."""


# -------------------------------------------------------------------------------------------------------- checks
def split_faults(component: Split) -> Iterator[UserError]:
    """Yield a UserError for each invalid split setting, including an invalid file if `split` is `file`."""
    if component.split not in ("halves", "seeded", "classes", "file", "full"):
        yield UserError(
            f"dataset.split={component.split}", "is not a split", "use halves, seeded, classes, file or full"
        )
    if not 0 < component.fraction < 1:
        yield UserError(f"dataset.fraction={component.fraction}", "is not between 0 and 1", "DARTS uses 0.5")
    elif component.fraction_a is not None and not 0 < component.fraction_a <= 1 - component.fraction:
        yield UserError(
            f"dataset.fraction_a={component.fraction_a}",
            f"is not between 0 and the share left by dataset.fraction={component.fraction}",
            "use null for all of the remainder",
        )
    try:
        if component.split == "file":
            read_split(component.split_file)
    except UserError as error:
        yield error


def statistics_faults(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Iterator[UserError]:
    """Yield a UserError if the per-channel mean and std are invalid."""
    if (mean is None) != (std is None):
        yield UserError("dataset.mean, dataset.std", "only one is given", "give both or neither")
    elif std is not None and (min(std) <= 0 or len(std) != len(mean or ())):
        yield UserError(
            f"dataset.std={list(std)}",
            "does not match dataset.mean or is not positive",
            "give one positive number per channel",
        )


def raise_all(faults: Iterator[UserError], find: Callable[[], object]) -> None:
    """Raise one UserError that joins all `faults` and the error that `find` raises; do nothing if there are none."""
    found = list(faults)
    try:
        find()
    except UserError as error:
        found.append(error)
    if found:
        raise UserError.join(found)


# --------------------------------------------------------------------------------------------- images in memory
@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Base class of in-memory image datasets. `mean` and `std`: null computes them from the training images."""

    path: str | None = None
    size: int | None = None
    pad: int = 4
    flip: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    split: Literal["halves", "seeded", "classes", "file", "full"] = "halves"
    fraction: float = 0.5
    fraction_a: float | None = None
    split_file: str | None = None

    data: ClassVar[str] = "images"
    """The kind of input: images or text."""
    name: ClassVar[str]
    resampling: ClassVar[str] = "area"
    """How an image is resized: area (shrink.py), bilinear (PIL) or nearest."""
    side: ClassVar[int | None] = None
    """Height and width of the original images; None if unknown until the files are read."""

    @abstractmethod
    def find(self) -> None:
        """Raise a UserError that lists the searched folders unless the files exist or can be downloaded."""

    @abstractmethod
    def read(self) -> Parts:
        """Read the training and test images, their labels, and the class names. Raises UserError."""

    def number_of_classes(self) -> int | None:
        """Return the number of classes; None if unknown until the files are read."""
        return None

    def known_shape(self) -> tuple[int, int, int] | None:
        """Return the image shape (channels, height, width); None if unknown until the files are read."""
        side = self.size or self.side
        return None if side is None else (3, side, side)

    def preprocessing(self, shape: Sequence[int]) -> list[list[object]]:
        """Return the steps that convert an RGB image of any size to `shape` (channels, height, width), in order.

        `["square"]` crops to the centred square, `["resize", side, resampling]` resizes the shorter side to `side`, and
        `["center_crop", side]` crops the centre. The list is empty if `shape` is not square; images must then already
        have this shape.
        """
        return [["square"], ["resize", shape[1], self.resampling]] if shape[1] == shape[2] else []

    @property
    def root(self) -> Path:
        return data_root(self.path)

    def check(self) -> None:
        """Check the settings and that the files exist, without importing torch. Raises one UserError for all faults."""
        raise_all(self.faults(), self.find)

    def faults(self) -> Iterator[UserError]:
        """Yield a UserError for each invalid setting."""
        yield from split_faults(self)
        yield from statistics_faults(self.mean, self.std)
        if self.pad < 0:
            yield UserError(f"dataset.pad={self.pad}", "is negative", "use 0 for no random crop")
        if self.size is not None and self.size < SMALLEST:
            yield UserError(f"dataset.size={self.size}", "is too small", f"use at least {SMALLEST}")
        elif self.size and self.side and self.size > self.side:
            yield self.too_large(self.side, self.side)
        elif shape := self.known_shape():
            yield from bounds.faults(shape, pad=self.pad)

    def load(self) -> Images:
        """Load all images; download missing files first if `download` is set. Raises UserError."""
        train_x, train_y, test_x, test_y, classes = self.read()
        own = train_x.shape[2:]
        train_x, test_x = self.scaled(train_x), self.scaled(test_x)
        if own != train_x.shape[2:]:
            log.info(
                "dataset=%s: images of %d x %d scaled to %d x %d by area averaging",
                self.name,
                own[1],
                own[0],
                self.size,
                self.size,
            )
        mean, std = (self.mean, self.std) if self.mean and self.std else statistics(train_x)
        if constant := [str(channel) for channel, value in enumerate(std) if not value]:
            log.warning(
                "dataset=%s: %s of the training images %s constant; a std of 0 is replaced by 1",
                self.name,
                f"channels {', '.join(constant)}" if len(constant) > 1 else f"channel {constant[0]}",
                "are" if len(constant) > 1 else "is",
            )
            std = tuple(value or 1.0 for value in std)
        if len(mean) != train_x.shape[1]:
            raise UserError(
                f"dataset.mean={list(mean)}",
                f"has {spelling.counted(len(mean), 'value')} for {spelling.counted(train_x.shape[1], 'channel')}",
                "give one number per channel, or null",
            )
        return Images(
            train_x=np.ascontiguousarray(train_x),
            train_y=train_y,
            test_x=np.ascontiguousarray(test_x),
            test_y=test_y,
            classes=classes,
            mean=tuple(mean),
            std=tuple(std),
            name=self.name,
        )

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Crop images uint8 (n, c, h, w) to their centred square, and reduce them to `size`. Raises UserError."""
        if self.size is None or x.shape[2:] == (self.size, self.size):
            return x
        if min(x.shape[2:]) < self.size:
            raise self.too_large(*x.shape[2:])
        return shrink.shrunk(shrink.square(x), self.size)

    def too_large(self, height: int, width: int) -> UserError:
        """Return the UserError for a `size` that is larger than the images, which area averaging cannot enlarge."""
        return UserError(
            f"dataset.size={self.size}",
            f"is larger than the images ({width} x {height})",
            f"use at most {min(height, width)}, or null: images are never enlarged",
        )

    def open(
        self, device: torch.device | str, *, cutout: int = 0, channels_last: bool = False, workers: int | None = None
    ) -> InMemory:
        """Load the dataset onto a device. Raises UserError. `workers` is ignored: images in memory need no workers."""
        from nasx.data.batch_stream import InMemory  # imports torch

        return InMemory(self, self.load(), device, cutout=cutout, channels_last=channels_last)

    def absent(self, looked: list[Path], expected: str, remedy: str) -> UserError:
        """Return the UserError for files that were not found."""
        return absent(self.name, self.path, looked, expected, remedy)

    def writable(self) -> None:
        """Raise UserError unless the data folder is writable for a download; if `path` is set, it must exist."""
        if self.path and not self.root.exists():
            raise UserError(
                f"dataset.path={self.path}",
                "does not exist",
                f"correct it, or create the folder: {self.name} will then be downloaded into it; {OFFLINE}",
            )
        place = self.root
        while not place.exists() and place != place.parent:
            place = place.parent
        if not (place.is_dir() and os.access(place, os.W_OK)):
            raise UserError(
                f"dataset={self.name}",
                f"no files under {self.root}, and {place} is not writable",
                f"set NASX_DATA or dataset.path to a folder; {OFFLINE}",
            )
