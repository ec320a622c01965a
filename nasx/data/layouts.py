"""Readers of the published file layouts. Pickles are read without executing their code.

* CIFAR python layout: pickled dictionaries, "data" uint8 (n, 3072) in planes red, green, blue, row-major 32 x 32;
  "labels", or "fine_labels" for CIFAR-100. Checked against the md5 that torchvision lists.
* CIFAR binary layout: records of one label byte (CIFAR-100: coarse, then fine) and 3,072 pixel bytes. No checksums
  are published for these files, so size, label range and class counts are checked instead.
* Downsampled ImageNet (Chrabaszcz et al. 2017): pickled dictionaries, "data" uint8 (n, 3 s^2), "labels" 1..1000.

All readers return images uint8 (n, c, h, w) and labels int64 (n,).
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nasx.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The published files of a CIFAR dataset; md5 as torchvision lists them."""

    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: tuple[str, str, str]
    labels: str
    binary: str
    binary_train: tuple[str, ...]
    binary_test: tuple[str, ...]
    label_bytes: int
    binary_names: str
    classes: int
    each_train: int
    each_test: int
    url: str
    md5: str


def verify(path: Path, md5: str, remedy: str) -> bytes:
    """Return the content of `path`. Raises UserError unless its md5 is the published one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror})", remedy) from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError(
            str(path),
            f"is corrupt or not the published file: md5 {found}, expected {md5} ({len(content):,} bytes)",
            remedy,
        )
    return content


# -------------------------------------------------------------------------------------------- restricted pickles
class _PlainType:
    """Replacement of numpy.dtype while unpickling, for numeric types only."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or np.dtype(name).kind not in "biuf":
            raise pickle.UnpicklingError(f"data type {name!r} is refused")
        self.type = np.dtype(name)

    def __setstate__(self, state: Sequence[object]) -> None:
        if state[1] in ("<", ">"):
            self.type = self.type.newbyteorder(state[1])


class _PlainArray:
    """Replacement of numpy.ndarray while unpickling, built from raw bytes and a numeric type only."""

    value: np.ndarray

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, plain, fortran, raw = state
        if not isinstance(plain, _PlainType) or not isinstance(raw, bytes | str):
            raise pickle.UnpicklingError("a non-numeric array is refused")
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        self.value = np.frombuffer(content, plain.type).reshape(shape, order="F" if fortran else "C")

    @classmethod
    def empty(cls, *_: object) -> _PlainArray:
        return cls()


class _Text:
    """Decoder of bytes, which Python 3 writes into old pickle protocols as latin-1 text; other codecs are refused."""

    @classmethod
    def encode(cls, text: str, codec: str) -> bytes:
        if codec not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"codec {codec!r} is refused")
        return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    # Bound methods, not functions: a pickle may set attributes of a global, which bound methods refuse.
    allowed: ClassVar[dict[tuple[str, str], object]] = {
        ("numpy.core.multiarray", "_reconstruct"): _PlainArray.empty,
        ("numpy._core.multiarray", "_reconstruct"): _PlainArray.empty,
        ("numpy", "ndarray"): _PlainArray,
        ("numpy", "dtype"): _PlainType,
        ("_codecs", "encode"): _Text.encode,
    }

    def find_class(self, module: str, name: str) -> object:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is refused") from None


def unpickle(content: bytes, where: str, remedy: str) -> dict[str, Any]:
    """Unpickle a dictionary of plain values and numeric arrays. Raises UserError for anything else, unexecuted."""
    try:
        loaded = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    # Exceptions of the unpickler on a damaged pickle.
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        ImportError,
        IndexError,
        KeyError,
        MemoryError,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(where, f"is not a pickled dictionary of numbers ({error})", remedy) from error
    if not isinstance(loaded, dict):
        raise UserError(where, f"holds a {type(loaded).__name__}, expected a dictionary", remedy)
    return {
        key if isinstance(key, str) else repr(key): value.value if isinstance(value, _PlainArray) else value
        for key, value in loaded.items()
    }


def pickled_images(path: Path, md5: str, labels: str, remedy: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels (as stored) of a pickled file whose "data" is uint8 (n, 3 s^2). Raises UserError."""
    content = unpickle(verify(path, md5, remedy), str(path), remedy)
    missing = [key for key in ("data", labels) if key not in content]
    if missing:
        raise UserError(str(path), f"has no {' and no '.join(missing)}; it has {', '.join(sorted(content))}", remedy)
    data, y = np.asarray(content["data"]), np.asarray(content[labels], np.int64)
    size = round((data.shape[1] / 3) ** 0.5) if data.ndim == 2 else 0
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * size * size or y.shape != data.shape[:1]:
        raise UserError(
            str(path),
            f"holds data {data.dtype} {data.shape} and labels {y.shape}, expected uint8 (n, 3 size^2) and (n,)",
            remedy,
        )
    return data.reshape(-1, 3, size, size), y


def pickled_names(path: Path, md5: str, key: str, remedy: str) -> tuple[str, ...]:
    """Read the class names from a pickled meta file. Raises UserError."""
    return tuple(map(str, unpickle(verify(path, md5, remedy), str(path), remedy)[key]))


# ------------------------------------------------------------------------------------------------ binary records
def record_images(
    path: Path, records: int, label_bytes: int, classes: int, remedy: str
) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels of a file in the CIFAR binary layout; the last label byte counts (CIFAR-100: fine)."""
    length = label_bytes + 3072
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror})", remedy) from error
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
        raise UserError(where, f"has {counts[worst]:,} images of class {worst}, expected {each:,}", remedy)


def missing(folder: Path, names: Mapping[str, object] | Sequence[str]) -> list[str]:
    """Return the file names in `names` that are missing from the folder."""
    return [name for name in names if not (folder / name).is_file()]
