"""The user's own images: a folder with one folder a class, or a .npz file.

    PATH/train/<class>/*.png, PATH/test/<class>/*.png      (also val or valid for test)
    PATH/<class>/*.png                                     (every class is split, `test_fraction` for the test set)
    PATH.npz with train_x, train_y, test_x, test_y         (or x_train, ...; or x and y, which are split)

Arrays are uint8 (n, h, w), (n, h, w, c) or (n, c, h, w); labels are integers. Classes are the folders' names in
sorted order. Images become RGB and, where `size` is given or they differ, are cut to their centred square and resized
to size x size. Training images are put into a fixed random order, so that no batch of consecutive ones holds a single
class: batch norm without running statistics would be lost on it. Decoded folders are kept in the cache, keyed by every
file's name, size and time of change.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from nasx.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]
Listing = list[tuple[Path, int]]


def read_folder(root: Path, size: int | None, test_fraction: float, cache: Path) -> Parts:
    """Training images and labels, test images and labels, class names of an image folder. Raises UserError."""
    train, test, classes = listings(root, test_fraction)
    key = hashlib.sha256(repr((str(root.resolve()), size)).encode())
    for part in (train, test):
        for path, label in part:
            status = path.stat()
            key.update(repr((str(path.relative_to(root)), label, status.st_size, status.st_mtime_ns)).encode())
    kept = cache / f"{key.hexdigest()[:24]}.npz"
    try:
        with np.load(kept, allow_pickle=False) as content:
            return content["train_x"], content["train_y"], content["test_x"], content["test_y"], classes
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or damaged: decode and write it again
    train_x, test_x = _decode(train + test, len(train), size)
    train_y, test_y = (np.array([label for _, label in part], np.int64) for part in (train, test))
    _keep(kept, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
    return train_x, train_y, test_x, test_y, classes


def classes_of(train: Path, test: Path | None) -> tuple[str, ...]:
    """Names of the class folders, sorted; those of `test` must be the same. Raises UserError."""
    def named(part: Path) -> list[str]:
        return sorted(entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith("."))

    found = named(train)
    tested = found if test is None else named(test)
    if len(found) < 2:
        raise UserError(str(train), f"has {len(found)} folders, expected one a class",
                        "put the images of each class in a folder of their own")
    if tested != found:
        lacks, more = sorted({*found} - {*tested}), sorted({*tested} - {*found})
        said = [f"{word} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                for word, names in (("lacks", lacks), ("has besides", more)) if names]
        raise UserError(str(test), f"has other class folders than {train.name}/: it {' and '.join(said)}",
                        f"sort its images into the class folders of {train.name}/")
    return tuple(found)


def listings(root: Path, test_fraction: float) -> tuple[Listing, Listing, tuple[str, ...]]:
    """The images of both parts with their labels, and the classes. Reads no image. Raises UserError."""
    train = root / "train"
    test = next((root / name for name in ("test", "val", "valid") if (root / name).is_dir()), None)
    single = not train.is_dir() or test is None
    base = root if not train.is_dir() else train
    classes = classes_of(base, None if single else test)

    def listed(folder: Path) -> list[Path]:
        return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())

    train_list: Listing = []
    test_list: Listing = []
    for label, name in enumerate(classes):
        files = listed(base / name)
        others = [] if single else listed(test / name)  # type: ignore[operator]
        if single:
            held = max(1, round(test_fraction * len(files)))
            chosen = set(np.random.RandomState(0).permutation(len(files))[:held].tolist())
            others = [p for i, p in enumerate(files) if i in chosen]
            files = [p for i, p in enumerate(files) if i not in chosen]
        if not files or not others:
            place = base if single or not files else test
            raise UserError(f"dataset.path={root}", f"{place}/{name} has too few images ({', '.join(SUFFIXES)})",
                            "add images or remove the class's folders")
        train_list += [(p, label) for p in files]
        test_list += [(p, label) for p in others]
    order = np.random.RandomState(0).permutation(len(train_list))
    return [train_list[i] for i in order], test_list, classes


def _decode(files: Listing, cut: int, size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """All images uint8 (n, 3, h, w), divided at `cut`."""
    from PIL import Image  # a dependency of torchvision; only this data set needs it

    x: np.ndarray | None = None
    for i, (path, _) in enumerate(files):
        try:
            with Image.open(path) as image:
                pixels = image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(str(path), f"is not a readable image ({error})", "repair or remove it") from error
        if size is not None and pixels.size != (size, size):
            side = min(pixels.size)
            left, top = (pixels.width - side) // 2, (pixels.height - side) // 2
            pixels = pixels.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        if x is None:
            _fits(len(files), pixels.width, pixels.height)
            x = np.empty((len(files), 3, pixels.height, pixels.width), np.uint8)
        if (pixels.height, pixels.width) != x.shape[2:]:
            raise UserError(str(path), f"is {pixels.width} x {pixels.height}, the first image {x.shape[3]} x "
                                       f"{x.shape[2]}", "set dataset.size to bring all images to one size")
        x[i] = np.asarray(pixels).transpose(2, 0, 1)
    assert x is not None
    return x[:cut], x[cut:]


def memory() -> int:
    """This machine's, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _fits(n: int, width: int, height: int) -> None:
    needed = 3 * n * width * height
    if needed > memory() // 2:
        raise UserError("dataset=folder", f"{n:,} images of {width} x {height} need {needed / 2**30:.1f} GB, more than "
                                          f"half of this machine's {memory() / 2**30:.1f} GB",
                        "lower dataset.size, or use dataset=photos, which decodes from the disk")


def _keep(path: Path, **arrays: np.ndarray) -> None:
    """Write the cache whole or not at all; a cache that cannot be written is no fault of the run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes names for allow_pickle
        os.replace(part, path)
    except OSError:
        Path(part).unlink(missing_ok=True)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def read_npz(path: Path, test_fraction: float) -> Parts:
    """The same of a .npz file. Raises UserError."""
    expected = "expected train_x, train_y, test_x, test_y, or x and y"
    try:
        with np.load(path, allow_pickle=False) as content:
            if (size := sum(entry.file_size for entry in content.zip.infolist())) > memory() // 2:
                raise ValueError(f"it unpacks to {size / 2**30:.1f} GB, more than half of this machine's memory")
            arrays = {name: np.atleast_1d(content[name]) for name in content.files}
    except (OSError, ValueError, KeyError, EOFError, AttributeError, MemoryError, RecursionError, NotImplementedError,
            zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"dataset.path={path}", f"is not a readable .npz ({error})", expected) from error
    for names in (("train_x", "train_y", "test_x", "test_y"), ("x_train", "y_train", "x_test", "y_test")):
        if all(name in arrays for name in names):
            train_x, train_y, test_x, test_y = (arrays[name] for name in names)
            break
    else:
        if "x" not in arrays or "y" not in arrays:
            raise UserError(f"dataset.path={path}", f"has {', '.join(arrays) or 'nothing'}", expected)
        if not len(arrays["x"]) == arrays["y"].size > 1:
            raise UserError(f"dataset.path={path}", f"has {len(arrays['x'])} images and {arrays['y'].size} labels",
                            "expected as many labels as images, and at least two")
        order = np.random.RandomState(0).permutation(len(arrays["x"]))
        cut = len(order) - max(1, round(test_fraction * len(order)))
        train_x, test_x = arrays["x"][order[:cut]], arrays["x"][order[cut:]]
        train_y, test_y = arrays["y"].reshape(-1)[order[:cut]], arrays["y"].reshape(-1)[order[cut:]]
    train_x, test_x = _planes(path, train_x), _planes(path, test_x)
    found, labels = np.unique(np.concatenate([train_y.reshape(-1), test_y.reshape(-1)]), return_inverse=True)
    cut = len(train_x)
    if len(labels) != cut + len(test_x) or len(train_y.reshape(-1)) != cut or train_x.shape[1:] != test_x.shape[1:]:
        raise UserError(f"dataset.path={path}", f"images {train_x.shape}, {test_x.shape} and labels {train_y.shape}, "
                                                f"{test_y.shape} do not fit together", expected)
    return train_x, labels[:cut].astype(np.int64), test_x, labels[cut:].astype(np.int64), tuple(map(str, found))


def _planes(path: Path, x: np.ndarray) -> np.ndarray:
    """To (n, 3, h, w): grey images get three equal channels."""
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or not x.size:
        raise UserError(f"dataset.path={path}", f"images are {x.dtype} {x.shape}",
                        "expected uint8 (n, h, w), (n, h, w, c) or (n, c, h, w)")
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.shape[1] not in (1, 3):
        raise UserError(f"dataset.path={path}", f"images have shape {x.shape}", "expected 1 or 3 channels")
    return np.repeat(x, 3, axis=1) if x.shape[1] == 1 else x
