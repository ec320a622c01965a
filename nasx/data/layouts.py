"""Readers of the published file layouts. A pickle is read only if its md5 is the published one.

* CIFAR python layout: pickled dictionaries, "data" uint8 (n, 3072) in planes red, green, blue, row-major 32 x 32;
  "labels", or "fine_labels" for CIFAR-100. The files are checked against the md5 that torchvision lists.
* CIFAR binary layout: records of one label byte (CIFAR-100: coarse, then fine) and 3,072 pixel bytes. No checksums
  are published for these files, so size, label range and class counts are checked instead.
* Downsampled ImageNet (Chrabaszcz et al. 2017): pickled dictionaries, "data" uint8 (n, 3 s^2), "labels" 1..1000.

All readers return images uint8 (n, c, h, w) and labels int64 (n,).
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
"""Dataset -> its published files and their md5."""
Content = dict[str, np.ndarray | list[int] | list[str]]
"""Content of a pickled file: images, labels, names of the classes."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The published files of a CIFAR dataset; md5 as torchvision lists them."""

    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: Sequence[str]
    """The file with the names of the classes, their key in it, and its md5."""
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
    """Return the content of `path`. Raises UserError unless its md5 is the published one."""
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
    """Load the dictionary pickled in a published file. Raises UserError unless its md5 is the published one."""
    content = verify(path, md5, remedy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns about arrays pickled by Python 2
        return dict(pickle.loads(content, encoding="latin1"))


def pickled_images(path: Path, md5: str, labels: str, remedy: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels (as stored) of a pickled file whose "data" is uint8 (n, 3 s^2). Raises UserError."""
    content = unpickled(path, md5, remedy)
    data = np.asarray(content["data"])
    size = round((data.shape[1] / 3) ** 0.5)
    return data.reshape(-1, 3, size, size), np.asarray(content[labels], np.int64)


# ------------------------------------------------------------------------------------------------ binary records
def record_images(
    path: Path, records: int, label_bytes: int, classes: int, remedy: str
) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels of a file in the CIFAR binary layout; the last label byte is used (CIFAR-100: fine)."""
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
    """Raise UserError unless every class occurs `each` times."""
    counts = np.bincount(y, minlength=classes)
    if (counts != each).any():
        worst = int(np.argmax(np.abs(counts - each)))
        raise UserError(
            where, f"has {spelling.counted(counts[worst], 'image')} of class {worst}, expected {each:,}", remedy
        )


def joined(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the images and the labels of several files."""
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return x, y


def missing(folder: Path, names: Mapping[str, object] | Sequence[str]) -> list[str]:
    """Return the file names in `names` that are missing from the folder."""
    return [name for name in names if not (folder / name).is_file()]


def most_complete(folders: Iterable[Path], names: Mapping[str, object] | Sequence[str]) -> Path:
    """Return the folder that lacks the fewest of the files `names`; the first one if several are equal."""
    return min(folders, key=lambda folder: len(missing(folder, names)))
