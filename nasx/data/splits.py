"""Which training images train the weights, and which the architecture. Torch-free.

    halves   the first `fraction` of the unshuffled index list trains w, the rest trains a (DARTS, train_search.py)
    seeded   the same sizes, disjoint, drawn with the run's seed
    file     NAS-Bench-201's official file: {"train": ["int", ["0", ...]], "valid": ["int", ["1", ...]]}
    full     all images train both (single-level searches)

Disjoint except `full`.
"""

from __future__ import annotations

import json
from collections.abc import Sized
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from nasx.errors import UserError

OFFICIAL = "the official CIFAR-10 file is configs/nas-benchmark/cifar-split.txt of AutoDL-Projects"


class Split(Protocol):
    """The settings of a split; every data set component has them."""

    @property
    def split(self) -> Literal["halves", "seeded", "file", "full"]: ...
    @property
    def fraction(self) -> float: ...
    @property
    def split_file(self) -> str | None: ...


class Counted(Protocol):
    """Anything with training labels."""

    @property
    def train_y(self) -> Sized: ...


def splits(images: Counted | int, component: Split, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices int64, ascending, of the training images for w and for a. `images`: an Images, or their number."""
    n = images if isinstance(images, int) else len(images.train_y)
    every = np.arange(n, dtype=np.int64)
    if component.split == "full":
        return every, every.copy()
    if component.split == "file":
        return read_split(component.split_file, n)
    cut = int(component.fraction * n)
    if not 0 < cut < n:
        raise UserError(f"dataset.fraction={component.fraction}", f"leaves one part of {n} images empty",
                        "use a fraction between 0 and 1")
    # The legacy generator's numbers are frozen by numpy, so a seed means the same split in every version.
    order = every if component.split == "halves" else np.random.RandomState(seed % 2**32).permutation(every)
    return np.sort(order[:cut]), np.sort(order[cut:])


def read_split(file: str | None, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The two index lists of a NAS-Bench-201 split file for `n` images (None: not compared)."""
    if file is None:
        raise UserError("dataset.split=file", "no file is named", f"set dataset.split_file; {OFFICIAL}")
    where = f"dataset.split_file={file}"
    try:
        content = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
        train, valid = (np.array([int(i) for i in content[part][1]], np.int64) for part in ("train", "valid"))
    except OSError as error:
        raise UserError(where, f"cannot be read ({error.strerror})", OFFICIAL) from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(where, f"is not a split file ({type(error).__name__}: {error})",
                        'expected {"train": ["int", ["0", ...]], "valid": ["int", ["1", ...]]}') from error
    both = np.concatenate([train, valid])
    if not train.size or not valid.size:
        fault = "has an empty part"
    elif np.unique(both).size != both.size:
        fault = "names an image twice"
    elif both.min() < 0 or (n is not None and both.max() >= n):
        fault = f"names image {both.min() if both.min() < 0 else both.max()}, but the set has {n:,} training images"
    else:
        return train, valid
    raise UserError(where, fault, OFFICIAL)
