"""Splits of the training images into one part for the weights w and one part for the architecture a.

    halves   the first `fraction` of the unshuffled indices trains w, the remainder trains a (DARTS, train_search.py)
    seeded   two random parts of the same sizes as in `halves`, drawn with the seed of the run
    classes  as `seeded`, but within each class (PC-DARTS on ImageNet, train_search_imagenet.py)
    file     a file like that of NAS-Bench-201: {"train": ["int", ["0", ...]], "valid": ["int", ["1", ...]]}
    full     all images train both w and a (single-level search)

If `fraction_a` is set, only this fraction of the images trains a, not the whole remainder (`halves`, `seeded` and
`classes`). In all splits except `full`, the two parts are disjoint. This module does not import torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from nasx.errors import UserError

OFFICIAL = "the official CIFAR-10 file is configs/nas-benchmark/cifar-split.txt in AutoDL-Projects"


class Split(Protocol):
    """Split settings, which are fields of every image dataset component."""

    @property
    def split(self) -> Literal["halves", "seeded", "classes", "file", "full"]: ...
    @property
    def fraction(self) -> float: ...
    @property
    def fraction_a(self) -> float | None: ...
    @property
    def split_file(self) -> str | None: ...


class Counted(Protocol):
    """An object with training labels, int64 (n,)."""

    @property
    def train_y(self) -> np.ndarray: ...


def splits(images: Counted | int, component: Split, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the int64 indices of the training images for w and those for a. Raises UserError.

    The indices are sorted, except for the split `file`. `images`: a dataset, or the number of training images.
    """
    n = images if isinstance(images, int) else len(images.train_y)
    every = np.arange(n, dtype=np.int64)
    if component.split == "full":
        return every, every.copy()
    if component.split == "file":
        return read_split(component.split_file, n)
    # numpy's legacy generator is frozen, so a seed gives the same split in every version of numpy.
    order = every if component.split == "halves" else np.random.RandomState(seed % 2**32).permutation(every)
    groups = [order]
    if component.split == "classes" and not isinstance(images, int):
        groups = [order[images.train_y[order] == k] for k in np.unique(images.train_y)]
    parts = [_cut(group, component) for group in groups]
    w, a = (np.sort(np.concatenate(part)) for part in zip(*parts, strict=True))
    if not w.size or not a.size:
        raise UserError(
            f"dataset.fraction={component.fraction}",
            f"leaves one part of the split of {n} images empty",
            "use a fraction between 0 and 1",
        )
    return w, a


def _cut(order: np.ndarray, component: Split) -> tuple[np.ndarray, np.ndarray]:
    """Split `order` into the part for w and the part for a, which follows it."""
    cut, n = int(component.fraction * len(order)), len(order)
    end = n if component.fraction_a is None else cut + int(component.fraction_a * n)
    return order[:cut], order[cut:end]


def read_split(file: str | None, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read the indices for w and for a from a split file for `n` images (None: any number). Raises UserError."""
    if file is None:
        raise UserError("dataset.split=file", "split_file is not set", f"set dataset.split_file; {OFFICIAL}")
    where = f"dataset.split_file={file}"
    try:
        content = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
        train, valid = (np.array([int(i) for i in content[part][1]], np.int64) for part in ("train", "valid"))
    except OSError as error:
        raise UserError(where, f"cannot be read ({error.strerror})", OFFICIAL) from error
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(
            where,
            f"is not a split file ({type(error).__name__}: {error})",
            'expected {"train": ["int", ["0", ...]], "valid": ["int", ["1", ...]]}',
        ) from error
    both = np.concatenate([train, valid])
    if not train.size or not valid.size:
        fault = "has an empty part"
    elif np.unique(both).size != both.size:
        fault = "contains an image twice"
    elif both.min() < 0 or (n is not None and both.max() >= n):
        fault = f"contains image {both.min() if both.min() < 0 else both.max()}, but the set has {n:,} training images"
    else:
        return train, valid
    raise UserError(where, fault, OFFICIAL)
