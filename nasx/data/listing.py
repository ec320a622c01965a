"""List the images in a folder with one subfolder per class, without reading them (`folder`, `photos`, `imagenet`).

    PATH/train/<class>/*, PATH/test/<class>/*       val or valid may replace test; if both exist, val is training data
    PATH/train/<class>/*                            `test_fraction` of each class in train/ is held out as the test set
    PATH/<class>/*                                  `test_fraction` of each class is held out as the test set

A split folder contains class folders and has one of the common names, in any case (train, Training, training_set,
TrainImages, train2017); a folder train/ without subfolders is a class. Classes are the sorted names of the class
folders, which must be the same in all splits. Images are the files at any depth below a class folder whose extension is
in `SUFFIXES`, in any case; they are sorted by path. Layouts in which images would be skipped or mislabelled raise an
error: a folder with images next to the split folders, two folders for the same split, and classes that all contain the
same subfolders (which are probably the actual classes or splits). Other files, and images outside the class folders,
are counted in `Listing.said`.

Hidden entries (names with a leading dot: .ipynb_checkpoints, ._name, .DS_Store) and operating-system files (`SYSTEM`)
are always skipped.

Symbolic links to files and folders inside or outside PATH are followed. A link to a folder that contains the link
raises an error; a broken link counts as an unreadable image.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nasx.core import spelling
from nasx.errors import UserError, printable

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".avif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
    ".pgm", ".pnm",
)  # fmt: skip
SYSTEM = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
)
"""Lowercase names of files and folders that operating systems create."""
WORD = re.compile(
    r"((?P<train>train(ing)?)|(?P<test>test(ing)?)|(?P<val>val(id|idation)?|dev))"
    r"(sets?|data|dataset|images?|imgs?|split)?"
)
"""Pattern of a word that names a split; the named group that matches is the split."""


class Files(NamedTuple):
    """Image files of one part: their folder, relative paths as bytes (n,), and labels as int64 (n,)."""

    folder: Path
    names: np.ndarray
    labels: np.ndarray

    def joined(self, other: Files) -> Files:
        """Return these files followed by `other`, whose paths must be relative to the same folder."""
        return Files(self.folder, *(np.concatenate(pair) for pair in zip(self[1:], other[1:], strict=True)))

    def paths(self) -> list[Path]:
        return [self.folder / os.fsdecode(name) for name in self.names]


class Layout(NamedTuple):
    """The folders below `root` that contain the images.

    `train`: folders with training images, or `("",)` for `root` itself; `test`: folder with test images, or None if the
    test set is held out from the training images; `classes`: names of the class folders in each of these folders.
    """

    root: Path
    train: tuple[str, ...]
    test: str | None
    classes: tuple[str, ...]

    def how(self) -> str:
        """Return a short description of where the training and test images come from."""
        names = [f"{name}/" for name in self.train if name]
        if self.test is None:
            return f"test set cut from {names[0] if names else 'each class'}"
        return f"{' and '.join(names)} for training, {self.test}/ for the test"


class Listing(NamedTuple):
    """The training and test images, the class names, and a log message.

    `said`: the number of classes and images, the origin of the parts, and the number of files that were not read.
    """

    train: Files
    test: Files
    classes: tuple[str, ...]
    said: str


# ------------------------------------------------------------------------------------------------------- entries
def hidden(name: str) -> bool:
    """Return whether a folder entry is skipped because it is hidden or a system file."""
    return name.startswith(".") or name.lower() in SYSTEM


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the visible entries of a folder, sorted by name. Raises UserError if the folder cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            str(folder), f"cannot be read ({error.strerror})", "give this user permission to read it"
        ) from error


def folders(folder: Path) -> list[str]:
    """Return the sorted names of the visible subfolders of a folder."""
    return [entry.name for entry in entries(folder) if entry.is_dir()]


def files(folder: Path, above: tuple[tuple[int, int], ...] = (), prefix: str = "") -> Iterator[str]:
    """Yield `prefix` plus the relative path of each file below a folder, at any depth, in sorted order.

    `above`: device and inode of each parent folder visited so far. Raises UserError for a cycle of links.
    """
    status = os.stat(folder)
    mark = (status.st_dev, status.st_ino)
    if mark in above:
        raise UserError(str(folder), "is a link to a folder that contains it", "remove the link")
    for entry in entries(folder):
        if entry.is_dir():
            yield from files(folder / entry.name, (*above, mark), f"{prefix}{entry.name}/")
        elif entry.is_file() or not os.path.exists(entry.path):  # skip pipes and devices, but not broken links
            yield prefix + entry.name


def image(name: str) -> bool:
    """Return whether a file name has an image extension."""
    return name.lower().endswith(SUFFIXES)


# ------------------------------------------------------------------------------------------------------- layouts
def split_of(name: str) -> str | None:
    """Return the split (train, val, test) that a folder name indicates; None if it indicates none or several."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    words = filter(None, map(WORD.fullmatch, re.findall(r"[a-z]+", spaced)))
    found = {split for word in words for split, text in word.groupdict().items() if text}
    return found.pop() if len(found) == 1 else None


def layout(root: Path, *, published: bool = False) -> Layout:
    """Detect the layout of a folder. Raises UserError if images would be skipped or the splits have different classes.

    `published`: require the layout of ImageNet, train/ and val/, and ignore other folders (an unlabelled test/).
    """
    splits: dict[str, list[str]] = {}
    others = []
    for name in folders(root):
        split = split_of(name)
        if split and folders(root / name):
            splits.setdefault(split, []).append(name)
        else:
            others.append(name)
    if not splits and not published:
        if len(others) > 1 and all(map(split_of, others)):
            raise UserError(
                str(root),
                f"has only {names_of(others)}, which contain no class folders",
                f"put the images of each class into a separate folder, for example {others[0]}/<class>/",
            )
        return checked(Layout(root, ("",), None, ()))
    for split, names in splits.items():
        if len(names) > 1:
            raise UserError(
                str(root),
                f"has several folders for one split: {names_of(names)}",
                f"put the images of the {split} split into one folder",
            )
    if "train" not in splits:
        more = f", but has {names_of([names[0] for names in splits.values()])}" if splits else ""
        raise UserError(
            str(root),
            f"has no train/ with class folders{more}",
            "put the training images of each class into train/<class>/",
        )
    if published and not splits.keys() & {"val", "test"}:
        raise UserError(
            str(root),
            f"has {splits['train'][0]}/ but no val/ with class folders",
            f"put the validation images of each class into {root / 'val'}/<class>/",
        )
    if not published and (unread := [name for name in others if any(map(image, files(root / name)))]):
        said = names_of([names[0] for names in splits.values()])
        raise UserError(
            str(root),
            f"contains images in {names_of(unread)}, which would be ignored (nasx reads only {said})",
            "move them elsewhere; a folder of held-out images must be named test/ or val/ and contain one folder per "
            "class",
        )
    train, val, test = splits["train"][0], *(splits[split][0] if split in splits else None for split in ("val", "test"))
    if published:
        return checked(Layout(root, (train,), val or test, ()))
    return checked(Layout(root, (train, val) if test and val else (train,), test or val, ()))


def checked(found: Layout) -> Layout:
    """Return the layout with its classes filled in. Raises UserError unless all its folders have the same classes."""
    first, *others = [found.root / name for name in (*found.train, *([found.test] if found.test else []))]
    classes = folders(first)
    if len(classes) < 2:
        inner = first / classes[0] if classes and folders(first / classes[0]) else None
        raise UserError(
            str(first),
            f"has {spelling.counted(len(classes), 'class folder')}, expected at least 2",
            f"use the folder inside it: dataset.path={inner}"
            if inner and first == found.root
            else "put the images of each class in a separate folder",
        )
    for folder in others:
        lacks, more = (sorted({*a} - {*b}) for a, b in ((classes, folders(folder)), (folders(folder), classes)))
        said = [f"{word} {names_of(names)}" for word, names in (("lacks", lacks), ("also has", more)) if names]
        if said:
            raise UserError(
                str(folder),
                f"differs from {first.name}/ in its class folders: it {' and '.join(said)}",
                f"sort its images into the class folders of {first.name}/",
            )
    inside = folders(first / classes[0])
    if inside and all(folders(first / name) == inside for name in classes):
        raise UserError(
            str(first),
            f"its folders {names_of(classes)} all hold the same subfolders "
            f"({names_of(inside)}) and are probably not the classes",
            f"use the layout {inside[0]}/{classes[0]}/ instead of {classes[0]}/{inside[0]}/"
            if any(map(split_of, inside))
            else "use the folder whose subfolders are the classes, or move the images up into the classes",
        )
    return found._replace(classes=tuple(classes))


def names_of(names: list[str]) -> str:
    """Format up to three folder names, and the number of remaining ones, for an error message."""
    return ", ".join(f"{name}/" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ------------------------------------------------------------------------------------------------------- listing
def listed(found: Layout, test_fraction: float) -> Listing:
    """List the training and test images by class. Raises one UserError for all classes with too few images."""
    parts: dict[str, list[list[str]]] = {"train": [], "test": []}
    unread: Counter[str] = Counter()
    faults = []
    for name in found.classes:
        train = [path for part in found.train for path in below(found.root, part, name, unread)]
        test = [] if found.test is None else below(found.root, found.test, name, unread)
        if found.test is None and len(train) > 1:
            held = set(held_out(len(train), test_fraction).tolist())
            train, test = ([p for i, p in enumerate(train) if (i in held) is part] for part in (False, True))
        if not train or not test:
            place = found.root / (found.test if train and found.test else found.train[0]) / name
            faults.append(
                UserError(
                    str(place),
                    "has 1 image, but part of each class is held out as the test set"
                    if train and not found.test
                    else f"has no images ({', '.join(SUFFIXES)})",
                    "add images, or remove the class from all splits",
                )
            )
        parts["train"].append(train)
        parts["test"].append(test)
    if faults:
        raise UserError.join(faults)
    for part in dict.fromkeys([*found.train, *([found.test] if found.test else [])]):
        unread.update(
            "images outside of the class folders"
            for entry in entries(found.root / part)
            if not entry.is_dir() and image(entry.name)
        )
    train_part, test_part = (
        Files(
            found.root,
            np.array([os.fsencode(path) for paths in lists for path in paths]),
            np.repeat(np.arange(len(lists), dtype=np.int64), [len(paths) for paths in lists]),
        )
        for lists in parts.values()
    )
    said = f"{len(found.classes)} classes, {len(train_part.names):,} + {len(test_part.names):,} images, {found.how()}"
    if unread:
        said += "; not read: " + ", ".join(f"{n:,} {kind}" for kind, n in sorted(unread.items()))
    return Listing(train_part, test_part, found.classes, said)


def held_out(n: int, test_fraction: float) -> np.ndarray:
    """Return the indices of the test images in a class of n images: at least one, but never all."""
    return np.random.RandomState(0).permutation(n)[: min(max(1, round(test_fraction * n)), n - 1)]


def below(root: Path, part: str, name: str, unread: Counter[str]) -> list[str]:
    """Return the paths, relative to `root`, of the images of a class in one part; count other files in `unread`."""
    found = []
    for path in files(root / part / name, (), "/".join(filter(None, (part, name))) + "/"):
        if image(path):
            found.append(path)
        else:
            unread[printable(f"files {os.path.splitext(path)[1].lower() or 'without a suffix'}")] += 1
    return found
