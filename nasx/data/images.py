"""Image classification datasets held in memory as bytes; source.py defines their base class. Does not import torch.

Sources: Krizhevsky 2009 (CIFAR); Netzer et al. 2011 (SVHN, the `train` part only: 73,257 images); Chrabaszcz et al.
2017 and Dong & Yang 2020 (ImageNet16-120); Alpaydin & Kaynak 1998 (digits). Crop, flip and normalization follow the
released code of DARTS and NAS-Bench-201; conf/dataset/ gives the source of each value.

Deviations: (1) CIFAR-100 uses its 100 fine labels; (2) SVHN's label 10 is the digit 0, as in torchvision; (3) digits
are enlarged to `size`, by default 32 x 32, by repeating pixels: networks have three resolutions, and the last would be
only 2 x 2 for the 8 x 8 originals (which `nasx quickstart` uses for speed).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from nasx.data import bounds, listing
from nasx.data.base import OFFLINE, Parts, data_root, places
from nasx.data.fetch import fetch
from nasx.data.folder import ON_DISK, read_folder, read_npz
from nasx.data.layouts import (
    PUBLISHED,
    Layout,
    balanced,
    joined,
    missing,
    most_complete,
    pickled_images,
    record_images,
    unpickled,
    verify,
)
from nasx.data.listing import Listing
from nasx.data.source import Source
from nasx.errors import UserError


# --------------------------------------------------------------------------------------------------------- CIFAR
@dataclass(frozen=True, kw_only=True)
class _Cifar(Source):
    download: bool = True

    layout: ClassVar[Layout]
    side: ClassVar[int] = 32

    def number_of_classes(self) -> int:
        return self.layout.classes

    def places(self) -> list[Path]:
        """Return the folders to search, in order. `path` may be the folder that contains the files, or its parent."""
        return places(self.path, self.layout.folder, self.layout.binary)

    def locate(self) -> tuple[Path, bool] | None:
        """Return the folder that contains the files, and whether their layout is binary; None if there are no files.

        Raises UserError if only some of the files exist.
        """
        both = (
            (False, {**self.layout.train, **self.layout.test}),
            (True, self.layout.binary_train + self.layout.binary_test),
        )
        for folder in self.places():
            for binary, names in both:
                lacks = missing(folder, names)
                if not lacks:
                    return folder, binary
                if len(lacks) < len(names):
                    raise UserError(str(folder), f"is incomplete: no {', '.join(lacks)}", self.remedy(folder))
        return None

    def remedy(self, folder: Path) -> str:
        again = "run the same command again to download it" if self.download else "set dataset.download=true"
        archive = self.layout.url.rsplit("/", 1)[-1]
        return f"move {folder} elsewhere, then {again}, or unpack {archive} there; {OFFLINE}"

    def find(self) -> None:
        if self.locate() is not None:
            return
        if self.download:
            return self.writable()
        first, second = sorted({**self.layout.train, **self.layout.test}), self.layout.binary_train
        raise self.absent(
            self.places(),
            f"{', '.join(first)} (or the binary layout, {', '.join(second)}, ...)",
            f"set dataset.download=true or unpack {self.layout.url} there",
        )

    def read(self) -> Parts:
        layout, found = self.layout, self.locate()
        if found is None:
            self.find()
            found = fetch(self.name, self.root, layout.url, layout.md5, layout.folder), False
        folder, binary = found
        train = self.part(folder, layout.binary_train if binary else layout.train, layout.each_train)
        test = self.part(folder, layout.binary_test if binary else layout.test, layout.each_test)
        return Parts(*train, *test, self.names(folder, binary))

    def part(self, folder: Path, files: list[str] | dict[str, str], each: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the images and labels of one part. Raises UserError.

        `files`: the names of binary files, or a dict that maps the names of pickle files to their MD5 checksums.
        """
        layout, remedy = self.layout, self.remedy(folder)
        if isinstance(files, dict):
            x, y = joined(pickled_images(folder / file, md5, layout.labels, remedy) for file, md5 in files.items())
        else:
            of_file = each * layout.classes // len(files), layout.label_bytes, layout.classes
            x, y = joined(record_images(folder / file, *of_file, remedy) for file in files)
        balanced(y, layout.classes, each, str(folder), remedy)
        return x, y

    def names(self, folder: Path, binary: bool) -> tuple[str, ...]:
        """Return the class names from the meta file, or class numbers if there is no meta file."""
        file, key, md5 = self.layout.meta
        if not binary and (folder / file).is_file():
            return tuple(map(str, unpickled(folder / file, md5, self.remedy(folder))[key]))
        listed = folder / self.layout.binary_names
        names = listed.read_text(encoding="utf-8").split() if binary and listed.is_file() else []
        return tuple(names) if len(names) == self.layout.classes else tuple(map(str, range(self.layout.classes)))


@dataclass(frozen=True, kw_only=True)
class Cifar10(_Cifar):
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels in 10 classes."""

    name: ClassVar[str] = "cifar10"
    layout: ClassVar[Layout] = Layout(**PUBLISHED["cifar10"])


@dataclass(frozen=True, kw_only=True)
class Cifar100(_Cifar):
    """CIFAR-100 with fine labels: 50,000 training and 10,000 test images of 32 x 32 pixels in 100 classes."""

    name: ClassVar[str] = "cifar100"
    layout: ClassVar[Layout] = Layout(**PUBLISHED["cifar100"])


# ------------------------------------------------------------------------------------------- files under one root
@dataclass(frozen=True, kw_only=True)
class Svhn(Source):
    """SVHN (cropped digits): 73,257 training images, without the `extra` part, and 26,032 test images."""

    download: bool = True

    name: ClassVar[str] = "svhn"
    side: ClassVar[int] = 32
    files: ClassVar[dict[str, str]] = PUBLISHED["svhn"]
    url: ClassVar[str] = "https://ufldl.stanford.edu/housenumbers/"

    def number_of_classes(self) -> int:
        return 10

    def folder(self) -> Path:
        return most_complete([self.root / "svhn", self.root], self.files)

    def find(self) -> None:
        lacks = missing(self.folder(), self.files)
        if lacks and not self.download:
            raise self.absent(
                [self.root / "svhn", self.root],
                ", ".join(lacks),
                f"set dataset.download=true or get them from {self.url}",
            )
        if lacks:
            self.writable()

    def read(self) -> Parts:
        self.find()
        from scipy.io import loadmat  # slow to import

        folder, parts = self.folder(), []
        for file in missing(folder, self.files):
            fetch(self.name, folder, self.url + file, self.files[file], file)
        for file, md5 in self.files.items():
            verify(folder / file, md5, f"move {folder / file} elsewhere and get it again from {self.url}; {OFFLINE}")
            content = loadmat(folder / file, variable_names=("X", "y"))
            y = content["y"].astype(np.int64).reshape(-1)
            parts.append((content["X"].transpose(3, 2, 0, 1), np.where(y == 10, 0, y)))
        train, test = parts
        return Parts(*train, *test, tuple("0123456789"))


@dataclass(frozen=True, kw_only=True)
class ImageNet16(Source):
    """ImageNet16-120: the first `classes` ImageNet classes at 16 x 16 pixels; 151,700 training, 6,000 test images."""

    pad: int = 2
    classes: int = 120

    name: ClassVar[str] = "imagenet16"
    side: ClassVar[int] = 16
    train: ClassVar[dict[str, str]] = PUBLISHED["imagenet16"]["train"]
    test: ClassVar[dict[str, str]] = PUBLISHED["imagenet16"]["test"]

    def number_of_classes(self) -> int:
        return self.classes

    def places(self) -> list[Path]:
        return places(self.path, "ImageNet16", "imagenet16")

    def folder(self) -> Path:
        names = {**self.train, **self.test}
        best = most_complete(self.places(), names)
        if lacks := missing(best, names):
            raise self.absent(
                self.places(),
                ", ".join(lacks),
                "get the 16 x 16 files from image-net.org (Downsampled ImageNet) or NAS-Bench-201's "
                "ImageNet16 and put them there",
            )
        return best

    def find(self) -> None:
        if not 1 <= self.classes <= 1000:
            raise UserError(f"dataset.classes={self.classes}", "is not between 1 and 1000", "NAS-Bench-201 uses 120")
        self.folder()

    def read(self) -> Parts:
        self.find()
        folder = self.folder()
        train, test = self.part(folder, self.train), self.part(folder, self.test)
        return Parts(*train, *test, tuple(str(i + 1) for i in range(self.classes)))

    def part(self, folder: Path, files: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """Read the images and labels of one part, restricted to the first `classes` classes. Raises UserError."""
        kept = []
        for file, md5 in files.items():
            x, y = pickled_images(folder / file, md5, "labels", f"get {file} again; {OFFLINE}")
            wanted = (y >= 1) & (y <= self.classes)  # labels are 1..1000
            kept.append((x[wanted], y[wanted] - 1))
        return joined(kept)


@dataclass(frozen=True, kw_only=True)
class Folder(Source):
    """A folder with one subfolder of images per class (layouts: nasx/data/listing.py), or a .npz file.

    If `size` is set, image files are cropped to their centred square and resized bilinearly (up or down); arrays are
    reduced by area averaging.
    """

    test_fraction: float = 0.2

    name: ClassVar[str] = "folder"
    resampling: ClassVar[str] = "bilinear"

    def find(self) -> None:
        self.placed()
        if self.root.is_dir():
            self.listed()

    def placed(self) -> None:
        """Raise UserError unless `path` exists and `test_fraction` is valid, without listing the folder."""
        if not self.path:
            raise UserError(
                "dataset.path=null",
                "dataset=folder needs a folder of images or a .npz file",
                f"set dataset.path; {OFFLINE}",
            )
        if not self.root.exists():
            raise UserError(
                f"dataset.path={self.path}",
                "does not exist",
                "set it to a .npz file, or to a folder that contains one folder per class, either directly or under "
                "train/ and test/ (or val/)",
            )
        if not 0 < self.test_fraction < 1:
            raise UserError(f"dataset.test_fraction={self.test_fraction}", "is not between 0 and 1", "try 0.2")

    def listed(self) -> Listing:
        """List the images in the folder.

        Raises UserError for an unknown layout, or if `size` is set and the images do not fit into memory.
        """
        found = listing.listed(listing.layout(self.root), self.test_fraction)
        if self.size is not None:
            bounds.held(self.name, len(found.train.names) + len(found.test.names), self.size, self.size, ON_DISK)
        return found

    def read(self) -> Parts:
        self.placed()
        if self.root.is_file():
            return read_npz(self.root, self.test_fraction)
        return read_folder(self.listed(), self.size, data_root() / "folders")


# -------------------------------------------------------------------------------------------------------- digits
@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """UCI handwritten digits, included in the package: 1,437 training and 360 test images, 8 x 8 with 17 grey levels.

    The training and test sets are fixed (scripts/build_digits.py). Images are enlarged to `size` x `size` by
    repeating pixels, and the grey channel is repeated three times. `flip` is off because a mirrored digit is a
    different symbol.
    """

    flip: bool = False
    size: int = 32

    name: ClassVar[str] = "digits"
    resampling: ClassVar[str] = "nearest"
    file: ClassVar[Path] = Path(__file__).with_name("digits.npz")
    training: ClassVar[int] = 1437

    def number_of_classes(self) -> int:
        return 10

    def find(self) -> None:
        bounds.held(self.name, 1797, self.size, self.size)
        if not self.file.is_file():
            raise UserError(str(self.file), "is missing from the installation", "reinstall nasx")

    def read(self) -> Parts:
        self.find()
        with np.load(self.file, allow_pickle=False) as content:
            x, y = content["x"], content["y"].astype(np.int64)
        at = np.arange(self.size) * 8 // self.size
        grey = np.round(np.arange(17) * 255 / 16).astype(np.uint8)[x[:, at][:, :, at]]
        x = np.repeat(grey[:, None], 3, axis=1)
        cut = self.training
        return Parts(x[:cut], y[:cut], x[cut:], y[cut:], tuple("0123456789"))
