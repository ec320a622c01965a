"""Sets too large for memory: ImageNet, and any folder of images in its layout. Decoded from the disk as needed.

    PATH/train/<class>/*.JPEG, PATH/val/<class>/*.JPEG        (test or valid for val)

Classes are the names of the folders in sorted order, the same in both parts; files of a class are taken in the order of
their names. Torch-free: decoded.py decodes, crops and draws the batches.

    training     window of `scale` of the area and `ratio` of width to height, resized to size x size; mirrored with
                 probability 1/2; brightness, contrast, saturation and hue moved by up to `jitter`, in random order
    evaluation   the shorter side resized to `resize`, then the centre, size x size

Source: released code of DARTS, cnn/train_imagenet.py; O. Russakovsky et al. 2015 (ImageNet, ILSVRC 2012).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from nasx.data.folder import SUFFIXES, classes_of
from nasx.data.source import OFFLINE, absent, data_root, split_faults, statistics_faults
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.data.decoded import Decoded

TEST = ("val", "valid", "test")


class Files(NamedTuple):
    """The images of a part: paths below its folder as bytes (n,), labels int64 (n,)."""

    folder: Path
    names: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ImageNet:
    """ImageNet-1k (ILSVRC 2012): 1,281,167 training and 50,000 validation images of 1,000 classes, on a disk."""

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

    data: ClassVar[str] = "images"
    name: ClassVar[str] = "imagenet"
    folders: ClassVar[tuple[str, ...]] = ("imagenet", "ILSVRC2012")

    def check(self) -> None:
        """Quick and torch-free: settings in range, folders there and alike. Raises UserError with all faults."""
        faults = [*split_faults(self), *statistics_faults(self.mean, self.std)]
        if not 8 <= self.size <= self.resize:
            faults.append(UserError(f"dataset.size={self.size}, dataset.resize={self.resize}",
                                    "do not fit together", "use 8 <= size <= resize; ImageNet has 224 and 256"))
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            faults.append(UserError(f"dataset.scale={list(self.scale)}, dataset.ratio={list(self.ratio)}",
                                    "are no ranges", "use [0.08,1] and [0.75,1.3333]"))
        if self.jitter is not None and (min(self.jitter) < 0 or self.jitter[3] > 0.5):
            faults.append(UserError(f"dataset.jitter={list(self.jitter)}", "is out of range",
                                    "brightness, contrast and saturation from 0, hue from 0 to 0.5; or null"))
        try:
            self.parts()
        except UserError as error:
            faults.append(error)
        if faults:
            raise UserError.join(faults)

    def open(self, device: Any, *, cutout: int = 0, channels_last: bool = False, workers: int | None = 0) -> Decoded:
        """The set on a device, decoded by so many `workers` besides this process. Lists all files."""
        from nasx.data.decoded import Decoded  # imports torchvision

        train, test, classes = self.parts()
        return Decoded(self, listed(train, classes), listed(test, classes), classes, device, cutout=cutout,
                       channels_last=channels_last, workers=workers or 0)

    def places(self) -> list[Path]:
        """Folders looked at, in order."""
        root = data_root(self.path)
        return [*(root / name for name in self.folders), *([root] if self.path or not self.folders else [])]

    def parts(self) -> tuple[Path, Path, tuple[str, ...]]:
        """The folders of both parts, and the classes. Raises UserError."""
        if not self.folders and not self.path:
            raise UserError("dataset.path=null", f"dataset={self.name} needs a folder with train/ and val/",
                            f"set dataset.path; {OFFLINE}")
        root = next((place for place in self.places() if (place / "train").is_dir()), None)
        if root is None:
            raise absent(self.name, self.path, self.places(), "train/<class>/*.JPEG and val/<class>/*.JPEG",
                         "unpack the images there, one folder a class")
        test = next((root / name for name in TEST if (root / name).is_dir()), None)
        if test is None:
            raise UserError(str(root), f"has train/ but no {TEST[0]}/", "put the validation images of each class into "
                            f"{root / TEST[0]}/<class>/")
        return root / "train", test, classes_of(root / "train", test)


@dataclass(frozen=True, kw_only=True)
class Photos(ImageNet):
    """Any folder of images too large for memory, in the layout of ImageNet: train/<class>/*, val/<class>/*."""

    name: ClassVar[str] = "photos"
    folders: ClassVar[tuple[str, ...]] = ()


def listed(part: Path, classes: tuple[str, ...]) -> Files:
    """The images in the class folders of a part, by class and name. Raises UserError for a class without images."""
    names: list[bytes] = []
    counts = []
    for name in classes:
        with os.scandir(part / name) as entries:
            found = sorted(e.name for e in entries if e.name.lower().endswith(SUFFIXES) and not e.name.startswith("."))
        if not found:
            raise UserError(str(part / name), f"has no images ({', '.join(SUFFIXES)})",
                            "add images, or remove the class in both parts")
        names += [os.fsencode(f"{name}/{file}") for file in found]
        counts.append(len(found))
    return Files(part, np.array(names), np.repeat(np.arange(len(classes), dtype=np.int64), counts))
