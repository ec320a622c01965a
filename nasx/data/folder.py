"""User-provided images in memory: a folder with one subfolder per class, or a .npz file.

    PATH/...                                               the layouts of listing.py
    PATH.npz with train_x, train_y, test_x, test_y         (or x_train, ...; or x and y, which are split per class)

Arrays are uint8 (n, h, w), (n, h, w, c) or (n, c, h, w); labels are integers. Image files are converted to RGB as
described in decode.py and, if `size` is set, cropped to their centred square and resized to size x size. The training
images of a folder are shuffled with a fixed seed, so that a batch of consecutive images does not consist of one class,
which would break batch norm without running statistics. Decoded images are cached (survey.py).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nasx.core import spelling
from nasx.core.files import NPZ_FAULTS
from nasx.core.system import physical_memory
from nasx.data import bounds, decode, fitting, survey
from nasx.data.base import Parts
from nasx.data.decode import UnreadableError
from nasx.data.listing import Files, Listing, held_out
from nasx.errors import UserError

log = logging.getLogger("nasx")
ON_DISK = "lower dataset.size, or use dataset=photos, which decodes from disk"


class Pixels(NamedTuple):
    """Decoded images uint8 (n, 3, h, w), file keys (n, 2) from survey.stamps, and conversions (n,) as decode.Odd."""

    x: np.ndarray
    keys: np.ndarray
    odd: np.ndarray


def read_folder(found: Listing, size: int | None, cache: Path) -> Parts:
    """Read the images, labels and class names of an image folder. Raises UserError."""
    order = np.random.RandomState(0).permutation(len(found.train.names))
    train = Files(found.train.folder, found.train.names[order], found.train.labels[order])
    files, cut = train.joined(found.test), len(order)
    place, keys = survey.kept_at(cache, files.folder, size), survey.stamps(files)
    pixels = _kept(place)
    if pixels is None or not np.array_equal(pixels.keys, keys):
        pixels = _decoded(files, keys, size, pixels, place)
    done = decode.summary(pixels.odd)
    log.info("%s: %s%s", files.folder, found.said, f"; {done}" if done else "")
    return Parts(pixels.x[:cut], train.labels, pixels.x[cut:], found.test.labels, found.classes)


def _kept(place: Path) -> Pixels | None:
    """Load the cached images; return None if the cache file is missing or damaged."""
    try:
        pixels = Pixels(**survey.load(place))
    except TypeError:
        return None
    n = pixels.x.shape[0] if pixels.x.dtype == np.uint8 and pixels.x.ndim == 4 else 0
    return pixels if n and pixels.keys.shape == (n, 2) and pixels.odd.shape == (n,) else None


def _decoded(files: Files, keys: np.ndarray, size: int | None, before: Pixels | None, place: Path) -> Pixels:
    """Decode the images that are not in `before`, and cache all decoded images at `place`, even after an error.

    Raises one UserError for all images that are unreadable or differ in size.
    """
    rows = {} if before is None else {key.tobytes(): i for i, key in enumerate(before.keys)}
    at = np.array([rows.get(key.tobytes(), -1) for key in keys])
    new, paths = np.flatnonzero(at < 0), files.paths()
    x, odd = np.empty((0, 3, 0, 0), np.uint8), np.zeros(len(keys), np.uint8)
    if before is not None and len(new) < len(keys):
        x = _space(len(keys), *before.x.shape[2:])
        for i in np.flatnonzero(at >= 0):  # one by one, to avoid a copy of all images
            x[i], odd[i] = before.x[at[i]], before.odd[at[i]]
    bad: dict[Path, str] = {}
    other: dict[Path, str] = {}
    for i, one in zip(new, survey.read([paths[i] for i in new], lambda path: _fitted(path, size)), strict=True):
        if isinstance(one, UnreadableError):
            bad[paths[i]] = str(one)
            continue
        planes, odd[i] = one
        if not len(x):
            x = _space(len(keys), *planes.shape[1:])
        if planes.shape[1:] != x.shape[2:]:
            other[paths[i]] = f"{planes.shape[2]} x {planes.shape[1]}"
            continue
        x[i], at[i] = planes, i
    good = at >= 0
    if not bad and not other:
        survey.keep(place, x=x, keys=keys, odd=odd)
        return Pixels(x, keys, odd)
    if good.any():
        survey.keep(place, x=x[good], keys=keys[good], odd=odd[good])
    where, faults = f"dataset.path={files.folder}", []
    if bad:
        faults.append(survey.unreadable(where, bad, files.folder, len(keys), place.with_suffix(".unreadable.txt")))
    if other:
        lines = [f"{path.relative_to(files.folder)} ({shape})" for path, shape in other.items()]
        faults.append(
            UserError(
                where,
                f"{len(other):,} of {len(keys):,} images differ in size from {x.shape[3]} x "
                f"{x.shape[2]}: {', '.join(lines[: survey.SHOWN])}" + ", ..." * (len(lines) > survey.SHOWN),
                "set dataset.size to resize all images to one size",
            )
        )
    raise UserError.join(faults)


def _fitted(path: Path, size: int | None) -> tuple[np.ndarray, int]:
    """Read one image; return it as uint8 (3, h, w) with the conversions applied. Raises UnreadableError."""
    image, odd = decode.rgb(path)
    return fitting.planes(image if size is None else fitting.squared(image, size)), int(odd)


def _space(n: int, height: int, width: int) -> np.ndarray:
    """Allocate memory for n images, uint8 (n, 3, height, width). Raises UserError if they do not fit."""
    bounds.held("folder", n, height, width, ON_DISK)
    return np.empty((n, 3, height, width), np.uint8)


# ---------------------------------------------------------------------------------------------------- .npz files
def read_npz(path: Path, test_fraction: float) -> Parts:
    """Read the images, labels and class names in a .npz file. Raises UserError."""
    expected = "expected train_x, train_y, test_x, test_y, or x and y"
    try:
        with np.load(path, allow_pickle=False) as content:
            if (size := sum(entry.file_size for entry in content.zip.infolist())) > physical_memory() // 2:
                raise ValueError(f"it unpacks to {size / 2**30:.1f} GB, more than half of this machine's memory")
            arrays = {name: np.atleast_1d(content[name]) for name in content.files}
    except NPZ_FAULTS as error:
        raise UserError(f"dataset.path={path}", f"is not a readable .npz ({error})", expected) from error
    for names in (("train_x", "train_y", "test_x", "test_y"), ("x_train", "y_train", "x_test", "y_test")):
        if all(name in arrays for name in names):
            train_x, train_y, test_x, test_y = (arrays[name] for name in names)
            how = f"{names[0]} and {names[2]}"
            break
    else:
        if "x" not in arrays or "y" not in arrays:
            raise UserError(
                f"dataset.path={path}",
                f"contains {'the arrays ' + ', '.join(arrays) if arrays else 'no arrays'}",
                expected,
            )
        if not len(arrays["x"]) == arrays["y"].size > 1:
            raise UserError(
                f"dataset.path={path}",
                f"has {spelling.counted(len(arrays['x']), 'image')} and {spelling.counted(arrays['y'].size, 'label')}",
                "expected as many labels as images, and at least two",
            )
        train_at, test_at = _cut(path, arrays["y"].reshape(-1), test_fraction)
        train_x, test_x = arrays["x"][train_at], arrays["x"][test_at]
        train_y, test_y = arrays["y"].reshape(-1)[train_at], arrays["y"].reshape(-1)[test_at]
        how = "test set cut from each class"
    train_x, test_x = _planes(path, train_x), _planes(path, test_x)
    found, labels = np.unique(np.concatenate([train_y.reshape(-1), test_y.reshape(-1)]), return_inverse=True)
    cut = len(train_x)
    if len(labels) != cut + len(test_x) or len(train_y.reshape(-1)) != cut or train_x.shape[1:] != test_x.shape[1:]:
        raise UserError(
            f"dataset.path={path}",
            f"images {train_x.shape}, {test_x.shape} and labels {train_y.shape}, {test_y.shape} do not match",
            expected,
        )
    if untrained := np.setdiff1d(labels[cut:], labels[:cut]).tolist():
        named = ", ".join(str(found[label]) for label in untrained[:5]) + ", ..." * (len(untrained) > 5)
        raise UserError(
            f"dataset.path={path}",
            f"has labels that occur only in the test set: {named}",
            "remove these test images, or add training images with these labels",
        )
    log.info("%s: %d classes, %s + %s images, %s", path, len(found), f"{cut:,}", f"{len(test_x):,}", how)
    labels = labels.astype(np.int64)
    return Parts(train_x, labels[:cut], test_x, labels[cut:], tuple(map(str, found)))


def _cut(path: Path, y: np.ndarray, test_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the shuffled indices of the training images, and the indices of the test images held out from each class.

    Raises UserError for a class with a single image.
    """
    held = np.zeros(len(y), bool)
    for label in np.unique(y):
        own = np.flatnonzero(y == label)
        if len(own) < 2:
            raise UserError(
                f"dataset.path={path}",
                f"has only 1 image with label {label}, but part of each class is held out as the test set",
                "add images with this label, or remove this image, or give train_x, train_y, test_x, test_y",
            )
        held[own[held_out(len(own), test_fraction)]] = True
    order = np.random.RandomState(0).permutation(len(y))
    return order[~held[order]], np.flatnonzero(held)


def _planes(path: Path, x: np.ndarray) -> np.ndarray:
    """Convert images to (n, 3, h, w), with grey images repeated in all channels. Raises UserError."""
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or not x.size:
        raise UserError(
            f"dataset.path={path}",
            f"images are {x.dtype} {x.shape}",
            "expected uint8 (n, h, w), (n, h, w, c) or (n, c, h, w)",
        )
    x = fitting.channels_first(x[:, None] if x.ndim == 3 else x)
    if x.shape[1] != 3:
        raise UserError(f"dataset.path={path}", f"images have shape {x.shape}", "expected 1 or 3 channels")
    return x
