"""Image classification datasets held in memory as bytes. Torch-free; source.py has their common base.

Sources: Krizhevsky 2009 (CIFAR); Netzer et al. 2011 (SVHN, the `train` part only: 73,257 images); Chrabaszcz et al.
2017 and Dong & Yang 2020 (ImageNet16-120); Alpaydin & Kaynak 1998 (digits). Crop, flip and normalization follow the
released code of DARTS and NAS-Bench-201; conf/dataset/ gives the source of each value.

Deviations: (1) CIFAR-100 is read with its 100 fine labels; (2) SVHN's label 10 is the digit 0, as in torchvision;
(3) the digits are enlarged to `size` by repeating pixels, because the 8 x 8 originals are smaller than a network's
three resolutions need.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from nasx.data import bounds, listing
from nasx.data.base import OFFLINE, data_root
from nasx.data.fetch import fetch
from nasx.data.folder import ON_DISK, read_folder, read_npz
from nasx.data.layouts import Layout, balanced, missing, pickled_images, record_images, unpickled, verify
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
        """Return the folders to search, in order; `path` may be the parent or the folder of the files."""
        here = [self.root / self.layout.folder, self.root / self.layout.binary]
        return [*here, self.root] if self.path else here

    def locate(self) -> tuple[Path, bool] | None:
        """Return the folder of the files, and whether their layout is binary. Raises UserError if some are missing."""
        both = (
            (False, {**self.layout.train, **self.layout.test}),
            (True, dict.fromkeys(self.layout.binary_train + self.layout.binary_test)),
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
        again = "the next run downloads it again" if self.download else "set dataset.download=true"
        return f"move {folder} away; {again}, or unpack {self.layout.url.rsplit('/', 1)[-1]} there; {OFFLINE}"

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

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
        layout = self.layout
        found = self.locate()
        if found is None:
            self.find()
            found = fetch(self.name, self.root, layout.url, layout.md5, layout.folder), False
        folder, binary = found
        remedy = self.remedy(folder)
        parts = []
        for names, published, each in (
            (layout.binary_train, layout.train, layout.each_train),
            (layout.binary_test, layout.test, layout.each_test),
        ):
            if binary:
                pairs = [
                    record_images(
                        folder / name, each * layout.classes // len(names), layout.label_bytes, layout.classes, remedy
                    )
                    for name in names
                ]
            else:
                pairs = [pickled_images(folder / name, md5, layout.labels, remedy) for name, md5 in published.items()]
            parts += [np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])]
            balanced(parts[-1], layout.classes, each, str(folder), remedy)
        return parts[0], parts[1], parts[2], parts[3], self.names(folder, binary)

    def names(self, folder: Path, binary: bool) -> tuple[str, ...]:
        """Return the class names from the meta file, or numbers without one."""
        file, key, md5 = self.layout.meta
        if not binary and (folder / file).is_file():
            return tuple(map(str, unpickled(folder / file, md5, self.remedy(folder))[key]))
        listed = folder / self.layout.binary_names
        names = listed.read_text(encoding="utf-8").split() if binary and listed.is_file() else []
        return tuple(names) if len(names) == self.layout.classes else tuple(map(str, range(self.layout.classes)))


@dataclass(frozen=True, kw_only=True)
class Cifar10(_Cifar):
    """CIFAR-10: 50,000 and 10,000 images 32 x 32 of 10 classes."""

    name: ClassVar[str] = "cifar10"
    layout: ClassVar[Layout] = Layout(
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta=("batches.meta", "label_names", "5ff9c542aee3614f3951f8cda6e48888"),
        labels="labels",
        binary="cifar-10-batches-bin",
        binary_train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        binary_test=("test_batch.bin",),
        label_bytes=1,
        binary_names="batches.meta.txt",
        classes=10,
        each_train=5000,
        each_test=1000,
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
    )


@dataclass(frozen=True, kw_only=True)
class Cifar100(_Cifar):
    """CIFAR-100 with fine labels: 50,000 and 10,000 images 32 x 32 of 100 classes."""

    name: ClassVar[str] = "cifar100"
    layout: ClassVar[Layout] = Layout(
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta=("meta", "fine_label_names", "7973b15100ade9c7d40fb424638fde48"),
        labels="fine_labels",
        binary="cifar-100-binary",
        binary_train=("train.bin",),
        binary_test=("test.bin",),
        label_bytes=2,
        binary_names="fine_label_names.txt",
        classes=100,
        each_train=500,
        each_test=100,
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
    )


# ------------------------------------------------------------------------------------------- files under one root
@dataclass(frozen=True, kw_only=True)
class Svhn(Source):
    """SVHN, cropped digits: 73,257 training images (the `extra` part is not used) and 26,032 test images."""

    download: bool = True

    name: ClassVar[str] = "svhn"
    side: ClassVar[int] = 32
    files: ClassVar[dict[str, str]] = {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    }
    url: ClassVar[str] = "https://ufldl.stanford.edu/housenumbers/"

    def number_of_classes(self) -> int:
        return 10

    def folder(self) -> Path:
        within = self.root / "svhn"
        return self.root if len(missing(self.root, self.files)) < len(missing(within, self.files)) else within

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

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
        self.find()
        from scipy.io import loadmat  # slow to import

        folder, parts = self.folder(), []
        for file in missing(folder, self.files):
            fetch(self.name, folder, self.url + file, self.files[file], file)
        for file, md5 in self.files.items():
            verify(folder / file, md5, f"move {folder / file} away and get it again from {self.url}; {OFFLINE}")
            content = loadmat(folder / file, variable_names=("X", "y"))
            y = content["y"].astype(np.int64).reshape(-1)
            parts += [content["X"].transpose(3, 2, 0, 1), np.where(y == 10, 0, y)]
        return parts[0], parts[1], parts[2], parts[3], tuple("0123456789")


@dataclass(frozen=True, kw_only=True)
class ImageNet16(Source):
    """ImageNet16-120: the first `classes` classes of ImageNet downsampled to 16 x 16; 151,700 and 6,000 images."""

    pad: int = 2
    classes: int = 120

    name: ClassVar[str] = "imagenet16"
    side: ClassVar[int] = 16
    train: ClassVar[dict[str, str]] = {
        "train_data_batch_1": "27846dcaa50de8e21a7d1a35f30f0e91",
        "train_data_batch_2": "c7254a054e0e795c69120a5727050e3f",
        "train_data_batch_3": "4333d3df2e5ffb114b05d2ffc19b1e87",
        "train_data_batch_4": "1620cdf193304f4a92677b695d70d10f",
        "train_data_batch_5": "348b3c2fdbb3940c4e9e834affd3b18d",
        "train_data_batch_6": "6e765307c242a1b3d7d5ef9139b48945",
        "train_data_batch_7": "564926d8cbf8fc4818ba23d2faac7564",
        "train_data_batch_8": "f4755871f718ccb653440b9dd0ebac66",
        "train_data_batch_9": "bb6dd660c38c58552125b1a92f86b5d4",
        "train_data_batch_10": "8f03f34ac4b42271a294f91bf480f29b",
    }
    test: ClassVar[dict[str, str]] = {"val_data": "3410e3017fdaefba8d5073aaa65e4bd6"}

    def number_of_classes(self) -> int:
        return self.classes

    def places(self) -> list[Path]:
        here = [self.root / "ImageNet16", self.root / "imagenet16"]
        return [*here, self.root] if self.path else here

    def folder(self) -> Path:
        names = {**self.train, **self.test}
        best = min(self.places(), key=lambda folder: len(missing(folder, names)))
        lacks = missing(best, names)
        if lacks:
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

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
        self.find()
        folder, parts = self.folder(), []
        for files in (self.train, self.test):
            kept = []
            for file, md5 in files.items():
                x, y = pickled_images(folder / file, md5, "labels", f"get {file} again; {OFFLINE}")
                wanted = (y >= 1) & (y <= self.classes)  # labels are 1..1000
                kept.append((x[wanted], y[wanted] - 1))
            parts += [np.concatenate([x for x, _ in kept]), np.concatenate([y for _, y in kept])]
        return parts[0], parts[1], parts[2], parts[3], tuple(str(i + 1) for i in range(self.classes))


@dataclass(frozen=True, kw_only=True)
class Folder(Source):
    """A folder with one folder of images per class (layouts: nasx/data/listing.py), or a .npz file.

    `size`: image files are cropped to the centred square and resized (bilinear, up or down); arrays are reduced by area
    averaging.
    """

    test_fraction: float = 0.2

    name: ClassVar[str] = "folder"
    resampling: ClassVar[str] = "bilinear"

    def find(self) -> None:
        self.placed()
        if self.root.is_dir():
            self.listed()

    def placed(self) -> None:
        """Raise UserError unless the settings are valid and `path` exists; `find` also reads it."""
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
                "set it to a .npz file, or to a folder with one folder per class, under train/ and test/ (or val/) or "
                "directly",
            )
        if not 0 < self.test_fraction < 1:
            raise UserError(f"dataset.test_fraction={self.test_fraction}", "is not between 0 and 1", "try 0.2")

    def listed(self) -> Listing:
        """List the images of the folder. Raises UserError for an unknown layout, or if they do not fit into memory."""
        found = listing.listed(listing.layout(self.root), self.test_fraction)
        if self.size is not None:
            bounds.held(self.name, len(found.train.names) + len(found.test.names), self.size, self.size, ON_DISK)
        return found

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
        self.placed()
        if self.root.is_file():
            return read_npz(self.root, self.test_fraction)
        return read_folder(self.listed(), self.size, data_root() / "folders")


# -------------------------------------------------------------------------------------------------------- digits
@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """UCI handwritten digits, inside the package: 1,437 training and 360 test images, 8 x 8 with 17 grey levels.

    The split is fixed in the file (scripts/build_digits.py). Pixels are repeated to enlarge images to `size` x `size`,
    and the channel is repeated to three. No flip: a mirrored digit is a different symbol.
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

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
        self.find()
        with np.load(self.file, allow_pickle=False) as content:
            x, y = content["x"], content["y"].astype(np.int64)
        at = np.arange(self.size) * 8 // self.size
        grey = np.round(np.arange(17) * 255 / 16).astype(np.uint8)[x[:, at][:, :, at]]
        x = np.repeat(grey[:, None], 3, axis=1)
        return x[: self.training], y[: self.training], x[self.training :], y[self.training :], tuple("0123456789")
