"""Datasets too large for memory, decoded from disk on demand: ImageNet, and any folder of images.

ImageNet is read from PATH/train/<class>/*.JPEG and PATH/val/<class>/*.JPEG, other folders in one of the layouts in
listing.py. The files of a class are sorted by path; decoded.py draws the batches and transforms the images. torch is
imported only by `transforms` and `open`.

    training     random window whose share of the area is in `scale` and whose width / height is in `ratio`, resized to
                 size x size; mirrored with probability 1/2; brightness, contrast, saturation and hue changed by up to
                 `jitter`, in random order
    evaluation   the shorter side resized to `resize`, then a centre crop of size x size

If `verify` is set, every image is decoded once before the first update, so that one error lists all unreadable images;
the result is cached (survey.py). Otherwise, a run stops at the first damaged image that it draws.

Source: released code of DARTS, cnn/train_imagenet.py; O. Russakovsky et al. 2015 (ImageNet, ILSVRC 2012).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from nasx.core.system import physical_memory
from nasx.data import decode, listing, survey
from nasx.data.base import OFFLINE, absent, data_root, places
from nasx.data.listing import Layout, Listing
from nasx.data.source import raise_all, split_faults, statistics_faults
from nasx.errors import UserError

if TYPE_CHECKING:
    import torch

    from nasx.data.decoded import Decoded, Transform

log = logging.getLogger("nasx")


@dataclass(frozen=True, kw_only=True)
class ImageNet:
    """ImageNet-1k (ILSVRC 2012): 1,281,167 training and 50,000 validation images of 1,000 classes, on disk."""

    path: str | None = None
    size: int = 224
    resize: int = 256
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333333333333333)
    flip: bool = True
    jitter: tuple[float, float, float, float] | None = (0.4, 0.4, 0.4, 0.2)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    split: Literal["halves", "seeded", "classes", "file", "full"] = "classes"
    fraction: float = 0.5
    fraction_a: float | None = None
    split_file: str | None = None
    verify: bool = False

    data: ClassVar[str] = "images"
    name: ClassVar[str] = "imagenet"
    folders: ClassVar[tuple[str, ...]] = ("imagenet", "ILSVRC2012")

    def check(self) -> None:
        """Check settings and folders, without importing torch or listing files. Raises one UserError for all faults."""
        raise_all(self.faults(), self.parts)

    def faults(self) -> Iterator[UserError]:
        """Yield a UserError for each invalid setting."""
        yield from split_faults(self)
        yield from statistics_faults(self.mean, self.std)
        if not 8 <= self.size <= self.resize:
            yield UserError(
                f"dataset.size={self.size}, dataset.resize={self.resize}",
                "are out of range",
                "use 8 <= size <= resize; the usual values for ImageNet are 224 and 256",
            )
        elif (needed := 15 * self.resize**2) > physical_memory() // 2:  # three channels, as bytes and as float32
            yield UserError(
                f"dataset.resize={self.resize}",
                f"one image of {self.resize} x {self.resize} needs {needed / 2**30:,.1f} GB, more than half of this "
                "machine's memory",
                "lower dataset.resize; the usual value for ImageNet is 256",
            )
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            yield UserError(
                f"dataset.scale={list(self.scale)}, dataset.ratio={list(self.ratio)}",
                "are not ranges",
                "use [0.08,1] and [0.75,1.3333]",
            )
        if self.jitter is not None and (min(self.jitter) < 0 or self.jitter[3] > 0.5):
            yield UserError(
                f"dataset.jitter={list(self.jitter)}",
                "is out of range",
                "use at least 0 for brightness, contrast and saturation, and 0 to 0.5 for hue; or use null",
            )

    def known_shape(self) -> tuple[int, int, int]:
        """Return the image shape (channels, height, width)."""
        return 3, self.size, self.size

    def preprocessing(self, shape: Sequence[int]) -> list[list[object]]:
        """Return the steps that convert an RGB image of any size to `shape`; see Source.preprocessing."""
        return [["resize", self.resize, "bilinear"], ["center_crop", self.size]]

    def transforms(self) -> tuple[Transform, Transform]:
        """Return two transforms of an image uint8 (3, h, w): for training and for evaluation."""
        from torchvision.transforms import v2  # imports torch

        flip = [v2.RandomHorizontalFlip()] if self.flip else []
        colour = [] if self.jitter is None else [v2.ColorJitter(*self.jitter)]
        crop = v2.RandomResizedCrop(self.size, self.scale, self.ratio, antialias=True)
        plain = [v2.Resize(self.resize, antialias=True), v2.CenterCrop(self.size)]
        return v2.Compose([crop, *flip, *colour]), v2.Compose(plain)

    def open(
        self, device: torch.device | str, *, cutout: int = 0, channels_last: bool = False, workers: int | None = 0
    ) -> Decoded:
        """List all files and open the dataset for a device. Raises UserError.

        `workers`: number of processes that decode images (0 or None: decode in this process).
        """
        from nasx.data.decoded import Decoded  # imports torchvision

        found, done = self.listed(), ""
        if self.verify:
            where, cache = f"dataset.path={found.train.folder}", data_root() / "folders"
            done = decode.summary(survey.verified(found.train.joined(found.test), where, cache))
        log.info("%s: %s%s", found.train.folder, found.said, f"; {done}" if done else "")
        return Decoded(
            self,
            found.train,
            found.test,
            found.classes,
            device,
            cutout=cutout,
            channels_last=channels_last,
            workers=workers or 0,
        )

    def places(self) -> list[Path]:
        """Return the folders to search, in order."""
        return places(self.path, *self.folders)

    def parts(self) -> Layout:
        """Return the layout of the dataset: its training and test folders and its classes. Raises UserError."""
        for place in self.places():
            if place.is_dir() and "train" in map(listing.split_of, listing.folders(place)):
                return listing.layout(place, published=True)
        raise absent(
            self.name,
            self.path,
            self.places(),
            "train/<class>/*.JPEG and val/<class>/*.JPEG",
            "unpack the images there, one folder per class",
        )

    def listed(self) -> Listing:
        """List all training and test images. Raises UserError."""
        return listing.listed(self.parts(), 0.0)  # val/ is the test set


@dataclass(frozen=True, kw_only=True)
class Photos(ImageNet):
    """An image folder too large for memory, with one subfolder per class (layouts: nasx/data/listing.py)."""

    verify: bool = True
    test_fraction: float = 0.2

    name: ClassVar[str] = "photos"
    folders: ClassVar[tuple[str, ...]] = ()

    def parts(self) -> Layout:
        """Return the layout of the dataset: its training and test folders and its classes. Raises UserError."""
        if not self.path:
            raise UserError(
                "dataset.path=null", f"dataset={self.name} needs a folder of images", f"set dataset.path; {OFFLINE}"
            )
        root = data_root(self.path)
        if not root.is_dir():
            raise UserError(
                f"dataset.path={self.path}",
                "does not exist",
                "set it to a folder that contains one folder per class, either directly or under train/ and val/ (or "
                "test/)",
            )
        if not 0 < self.test_fraction < 1:
            raise UserError(f"dataset.test_fraction={self.test_fraction}", "is not between 0 and 1", "try 0.2")
        return listing.layout(root)

    def listed(self) -> Listing:
        """List all training and test images. Raises UserError."""
        return listing.listed(self.parts(), self.test_fraction)
