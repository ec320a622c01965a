"""Types for loaded datasets, and the location of the data folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nasx.core.files import user_cache
from nasx.errors import UserError

OFFLINE = "offline: use dataset=digits"


class Parts(NamedTuple):
    """Training and test sets, with images as uint8 (n, c, h, w) and labels as int64 (n,), and the class names."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """An image dataset with images as uint8 (n, c, h, w) and labels as int64 (n,).

    `mean` and `std` are per channel, for pixel values scaled to [0, 1].
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str


def data_root(path: str | None = None) -> Path:
    """Return the data folder: `path`, else $NASX_DATA, else the subfolder `nasx` of the XDG cache folder."""
    chosen = path or os.environ.get("NASX_DATA")
    return Path(chosen).expanduser() if chosen else user_cache()


def places(path: str | None, *names: str) -> list[Path]:
    """Return the folders to search for a dataset: the subfolders `names` of the data folder, then `path` if set."""
    root = data_root(path)
    return [*(root / name for name in names), *([root] if path else [])]


def statistics(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel of images uint8 (n, c, h, w), with pixels in [0, 1].

    Both are computed from a histogram of the pixel values, so they do not depend on the order of the images.
    """
    levels = np.arange(256) / 255
    counts = np.stack([np.bincount(x[:, c].ravel(), minlength=256) for c in range(x.shape[1])])
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1))
    return tuple(map(float, mean)), tuple(map(float, std))


def absent(name: str, path: str | None, looked: list[Path], expected: str, remedy: str) -> UserError:
    """Return the UserError for a dataset whose files were not found."""
    places = ", ".join(map(str, looked))
    origin = "dataset.path" if path else "NASX_DATA" if os.environ.get("NASX_DATA") else "the default folder"
    return UserError(
        f"dataset={name}",
        f"no files found; looked in {places} ({origin}); expected {expected}",
        f"{remedy}, or set NASX_DATA or dataset.path to their folder; {OFFLINE}",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """A text dataset: the word indices of each part, int64 (n,), and the vocabulary."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    words: tuple[str, ...]

    def described(self) -> dict[str, object]:
        """Return the entries for result.json: the number of words in the vocabulary and in each part."""
        return {"words": len(self.words), **{name: len(getattr(self, name)) for name in ("train", "valid", "test")}}
