"""List the images of a folder with one subfolder per class, without reading them (`folder`, `photos`, `imagenet`).

    PATH/train/<class>/*, PATH/test/<class>/*       val or valid instead of test; if both exist, val trains as well
    PATH/train/<class>/*                            the test set is cut from train/, `test_fraction` of each class
    PATH/<class>/*                                  the test set is cut from each class, in the same way

A split folder is recognized by its name in any case and common form (train, Training, training_set, TrainImages,
train2017) and contains class folders; a folder train/ that contains images is a class. Classes are the sorted names
of the class folders, the same in all splits; images are the files at any depth of a class folder with a suffix of
`SUFFIXES` in any case, sorted by path. Layouts in which images would be skipped raise an error: a folder with images
next to the split folders, two folders for one split, and classes that all contain the same subfolders, which are
probably the classes or the splits. Other files, and images outside of class folders, are counted in `Listing.said`.

Hidden entries (a leading dot: .ipynb_checkpoints, ._name, .DS_Store) and files of operating systems (`SYSTEM`) are
skipped everywhere.

Links to files and folders are followed, inside and outside of PATH. A link to a folder that contains the link raises an
error; a broken link counts as an unreadable image.
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
"""Lower-case names of entries that operating systems create."""
WORD = re.compile(
    r"((?P<train>train(ing)?)|(?P<test>test(ing)?)|(?P<val>val(id|idation)?|dev))"
    r"(sets?|data|dataset|images?|imgs?|split)?"
)
"""Pattern of the word in the name of a split folder; the named group is the split."""


class Files(NamedTuple):
    """Image files of a part: the folder, relative paths as bytes (n,), labels int64 (n,)."""

    folder: Path
    names: np.ndarray
    labels: np.ndarray

    def joined(self, other: Files) -> Files:
        """Return these files followed by `other` of the same folder."""
        return Files(self.folder, *(np.concatenate(pair) for pair in zip(self[1:], other[1:], strict=True)))

    def paths(self) -> list[Path]:
        return [self.folder / os.fsdecode(name) for name in self.names]


class Layout(NamedTuple):
    """The folders below `root` that are read.

    `train`: folders of training images (("",): the root); `test`: None if the test set is cut from the training images;
    `classes`: names of the class folders in each of these folders.
    """

    root: Path
    train: tuple[str, ...]
    test: str | None
    classes: tuple[str, ...]

    def how(self) -> str:
        """Describe briefly where the splits come from."""
        names = [f"{name}/" for name in self.train if name]
        if self.test is None:
            return f"test set cut from {names[0] if names else 'each class'}"
        return f"{' and '.join(names)} for training, {self.test}/ for the test"


class Listing(NamedTuple):
    """The images of both parts, the classes, and a line for the log: counts, origin of the parts, skipped files."""

    train: Files
    test: Files
    classes: tuple[str, ...]
    said: str


# ------------------------------------------------------------------------------------------------------- entries
def hidden(name: str) -> bool:
    """Return whether an entry of a folder is hidden or a system file, and therefore skipped."""
    return name.startswith(".") or name.lower() in SYSTEM


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, sorted by name. Raises UserError if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            str(folder), f"cannot be read ({error.strerror})", "give this user permission to read it"
        ) from error


def folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder."""
    return [entry.name for entry in entries(folder) if entry.is_dir()]


def files(folder: Path, above: tuple[tuple[int, int], ...] = (), prefix: str = "") -> Iterator[str]:
    """Yield the paths of all files below a folder, at any depth, sorted by parts. Raises UserError for a link cycle."""
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
    """Return whether a file name has the suffix of an image."""
    return name.lower().endswith(SUFFIXES)


# ------------------------------------------------------------------------------------------------------- layouts
def split_of(name: str) -> str | None:
    """Return the split (train, val, test) in a folder's name; None if it contains none or several."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    words = filter(None, map(WORD.fullmatch, re.findall(r"[a-z]+", spaced)))
    found = {split for word in words for split, text in word.groupdict().items() if text}
    return found.pop() if len(found) == 1 else None


def layout(root: Path, *, published: bool = False) -> Layout:
    """Return the layout of a folder. Raises UserError if images would be skipped or classes differ.

    `published`: expect the layout of ImageNet, train/ and val/; other folders (an unlabelled test/) are ignored.
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
            f"contains images in {names_of(unread)}, which would be ignored (only {said} is read)",
            "move them elsewhere; a folder of held-out images must be named test/ or val/ and contain one folder per "
            "class",
        )
    train, val, test = splits["train"][0], *(splits[split][0] if split in splits else None for split in ("val", "test"))
    if published:
        return checked(Layout(root, (train,), val or test, ()))
    return checked(Layout(root, (train, val) if test and val else (train,), test or val, ()))


def checked(found: Layout) -> Layout:
    """Return the layout with its classes. Raises UserError unless the classes are the same in all its folders."""
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
    """Format the first few folder names for a sentence."""
    return ", ".join(f"{name}/" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ------------------------------------------------------------------------------------------------------- listing
def listed(found: Layout, test_fraction: float) -> Listing:
    """List the images of both parts, class by class. Raises one UserError for all classes with too few images."""
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
    """Return the indices of the test images of a class of n: at least one, and not all."""
    return np.random.RandomState(0).permutation(n)[: min(max(1, round(test_fraction * n)), n - 1)]


def below(root: Path, part: str, name: str, unread: Counter[str]) -> list[str]:
    """Return the paths, relative to the root, of the images of a class in a part; count other files in `unread`."""
    found = []
    for path in files(root / part / name, (), "/".join(filter(None, (part, name))) + "/"):
        if image(path):
            found.append(path)
        else:
            unread[printable(f"files {os.path.splitext(path)[1].lower() or 'without a suffix'}")] += 1
    return found
