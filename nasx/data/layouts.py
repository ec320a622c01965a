"""Readers for the published file layouts. A pickle file is loaded only if its MD5 checksum is the published one.

* CIFAR Python layout: pickled dictionaries with "data", uint8 (n, 3072), which contains the red, green and blue planes
  of 32 x 32 pixels in row-major order, and "labels" ("fine_labels" for CIFAR-100). The MD5 checksums are those that
  torchvision uses.
* CIFAR binary layout: records of one label byte (CIFAR-100: two, coarse and fine) followed by 3,072 pixel bytes. No
  checksums are published for these files, so their size, label range and class counts are checked instead.
* Downsampled ImageNet (Chrabaszcz et al. 2017): pickled dictionaries with "data", uint8 (n, 3 s^2), and "labels" from 1
  to 1000.

All readers return images as uint8 (n, c, h, w) and labels as int64 (n,).
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasx.core import spelling
from nasx.core.files import load_yaml
from nasx.errors import UserError

PUBLISHED = load_yaml(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
"""The published files of each dataset, with their MD5 checksums."""
Content = dict[str, np.ndarray | list[int] | list[str]]
"""Content of a pickle file: images, labels or class names."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The published files of a CIFAR dataset, with the MD5 checksums that torchvision uses."""

    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: Sequence[str]
    """The file that contains the class names, their key in this file, and its MD5 checksum."""
    labels: str
    binary: str
    binary_train: list[str]
    binary_test: list[str]
    label_bytes: int
    binary_names: str
    classes: int
    each_train: int
    each_test: int
    url: str
    md5: str


def read(path: Path, remedy: str) -> bytes:
    """Return the content of `path`. Raises UserError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror})", remedy) from error


def verify(path: Path, md5: str, remedy: str) -> bytes:
    """Return the content of `path`. Raises UserError unless its MD5 checksum equals `md5`."""
    content = read(path, remedy)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError(
            str(path),
            f"is corrupt or not the published file: md5 {found}, expected {md5} ({len(content):,} bytes)",
            remedy,
        )
    return content


def unpickled(path: Path, md5: str, remedy: str) -> Content:
    """Load the dictionary in a pickle file. Raises UserError unless the MD5 checksum of the file equals `md5`."""
    content = verify(path, md5, remedy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns about arrays pickled by Python 2
        return dict(pickle.loads(content, encoding="latin1"))


def pickled_images(path: Path, md5: str, labels: str, remedy: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the images and unmodified labels from a pickle file. Raises UserError.

    "data" in this file is uint8 (n, 3 s^2); `labels` is the key of the labels.
    """
    content = unpickled(path, md5, remedy)
    data = np.asarray(content["data"])
    size = round((data.shape[1] / 3) ** 0.5)
    return data.reshape(-1, 3, size, size), np.asarray(content[labels], np.int64)


# ------------------------------------------------------------------------------------------------ binary records
def record_images(
    path: Path, records: int, label_bytes: int, classes: int, remedy: str
) -> tuple[np.ndarray, np.ndarray]:
    """Read the images and labels from a file in the CIFAR binary layout. Raises UserError.

    Only the last label byte of each record is used, which is the fine label for CIFAR-100.
    """
    length = label_bytes + 3072
    content = np.frombuffer(read(path, remedy), np.uint8)
    if content.size != records * length:
        raise UserError(
            str(path),
            f"has {content.size:,} bytes, expected {records * length:,} ({records:,} records of {length:,})",
            remedy,
        )
    content = content.reshape(records, length)
    y = content[:, label_bytes - 1].astype(np.int64)
    if y.max() >= classes:
        raise UserError(str(path), f"has label {y.max()}, expected 0 to {classes - 1}", remedy)
    return content[:, label_bytes:].reshape(-1, 3, 32, 32), y


def balanced(y: np.ndarray, classes: int, each: int, where: str, remedy: str) -> None:
    """Raise UserError unless each class occurs exactly `each` times in `y`."""
    counts = np.bincount(y, minlength=classes)
    if (counts != each).any():
        worst = int(np.argmax(np.abs(counts - each)))
        raise UserError(
            where, f"has {spelling.counted(counts[worst], 'image')} of class {worst}, expected {each:,}", remedy
        )


def joined(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the images and labels from several files."""
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return x, y


def missing(folder: Path, names: Mapping[str, object] | Sequence[str]) -> list[str]:
    """Return the file names in `names` that do not exist in the folder."""
    return [name for name in names if not (folder / name).is_file()]


def most_complete(folders: Iterable[Path], names: Mapping[str, object] | Sequence[str]) -> Path:
    """Return the folder in which the fewest of the files `names` are missing; the first such folder in a tie."""
    return min(folders, key=lambda folder: len(missing(folder, names)))
