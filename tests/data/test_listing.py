"""Listing of an image folder: layouts, names, hidden files, links, refused folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nasx.data import listing
from nasx.data.imagenet import ImageNet, Photos
from nasx.data.images import Folder
from nasx.data.listing import Listing
from nasx.errors import UserError


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def listed(root: Path, fraction: float = 0.2) -> Listing:
    return listing.listed(listing.layout(root), fraction)


def names(part: listing.Files) -> list[str]:
    return [os.fsdecode(name) for name in part.names]


def split(root: Path, train: str, test: str) -> Path:
    return make(root, *(f"{train}/{c}/{i}.png" for c in "ab" for i in range(3)), *(f"{test}/{c}/9.png" for c in "ab"))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "val"),
        ("train", "test"),
        ("Train", "Test"),
        ("TRAIN", "VALID"),
        ("training_set", "test_set"),
        ("train", "validation"),
        ("training", "testing"),
        ("trainset", "testset"),
        ("TrainImages", "TestImages"),
        ("train2017", "val2017"),
        ("Training Data", "Validation Data"),
        ("seg_train", "seg_test"),
        ("pets-train", "dev"),
    ],
)
def test_two_splits_in_any_form(train: str, test: str, tmp_path: Path) -> None:
    found = listed(split(tmp_path, train, test))
    assert found.classes == ("a", "b")
    assert names(found.train) == [f"{train}/{c}/{i}.png" for c in "ab" for i in range(3)]
    assert names(found.test) == [f"{test}/{c}/9.png" for c in "ab"]
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.said == f"2 classes, 6 + 2 images, {train}/ for training, {test}/ for the test"


def test_the_validation_images_train_where_there_is_a_test_folder(tmp_path: Path) -> None:
    found = listed(make(split(tmp_path, "train", "test"), "val/a/5.png", "val/b/5.png"))
    assert names(found.train) == [
        *(f"train/a/{i}.png" for i in range(3)),
        "val/a/5.png",
        *(f"train/b/{i}.png" for i in range(3)),
        "val/b/5.png",
    ]
    assert names(found.test) == ["test/a/9.png", "test/b/9.png"]
    assert found.said == "2 classes, 8 + 2 images, train/ and val/ for training, test/ for the test"


def test_a_test_set_is_cut_from_each_class(tmp_path: Path) -> None:
    classes = {"a": 10, "b": 5, "c": 2}
    flat = [f"{c}/{i}.png" for c, n in classes.items() for i in range(n)]
    for root, prefix, said in (
        (make(tmp_path / "flat", *flat), "", "each class"),
        (make(tmp_path / "one", *(f"train/{x}" for x in flat)), "train/", "train/"),
    ):
        found = listed(root)
        assert [Counter(part.labels.tolist()) for part in (found.train, found.test)] == [
            {0: 8, 1: 4, 2: 1},
            {0: 2, 1: 1, 2: 1},
        ]
        held = set(np.random.RandomState(0).permutation(10)[:2].tolist())
        assert [x for x in names(found.test) if "/" in x][:2] == [f"{prefix}a/{i}.png" for i in sorted(held)]
        assert {*names(found.train), *names(found.test)} == {prefix + x for x in flat}
        assert found.said == f"3 classes, 13 + 4 images, test set cut from {said}"


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    found = listed(
        make(tmp_path, "train/0.png", "train/1.png", "bus/0.png", "bus/1.png", "test tube/0.png", "test tube/1.png")
    )
    assert found.classes == ("bus", "test tube", "train")


def test_suffixes_depth_and_hidden_entries(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a/1.PNG",
        "a/2.JpEg",
        "a/deep er/3.tif",
        "a/deep er/.x/4.png",
        "a/.5.png",
        "a/._6.png",
        "a/.ipynb_checkpoints/1-checkpoint.png",
        "a/__MACOSX/7.png",
        "a/Thumbs.db",
        "a/@eaDir/1.png/thumb.jpg",
        "b/1.webp",
        "b/2.gif",
        "b/3.heic",
        "b/readme",
        "b/4.heic",
        "__MACOSX/a/1.png",
        ".git/1.png",
        ".hidden/c/1.png",
        "cover.png",
        "notes.txt",
    )
    found = listed(tmp_path, 0.5)
    assert sorted([*names(found.train), *names(found.test)]) == [
        "a/1.PNG",
        "a/2.JpEg",
        "a/deep er/3.tif",
        "b/1.webp",
        "b/2.gif",
    ]
    assert found.said.endswith(
        "; not read: 2 files .heic, 1 files without a suffix, 1 images outside of the class folders"
    )


def test_names_outside_of_utf8_are_read(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    with open(os.fsencode(tmp_path) + b"/a/\xff\xfe.png", "wb"):
        pass
    found = listed(tmp_path)
    assert b"a/\xff\xfe.png" in {*found.train.names, *found.test.names}


# ------------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"],
            r"folders cat/, dog/ all hold the same subfolders \(test/, train/\).*use the layout test/cat/ "
            r"instead of cat/te",
        ),
        (
            ["part1/a/1.png", "part1/b/1.png", "part2/a/1.png", "part2/b/1.png"],
            "all hold the same subfolders .*use the folder whose subfolders are the classes",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "heldout/a/1.png", "heldout/b/1.png"],
            r"contains images in heldout/, which would be ignored \(nasx reads only train/\); move them elsewhere",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "test/1.png", "test/2.png"],
            r"contains images in test/, which would be ignored \(nasx reads only train/, val/\)",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "training_set/a/1.png", "training_set/b/1.png"],
            "has several folders for one split: train/, training_set/",
        ),
        (["test/a/1.png", "test/b/1.png"], "has no train/ with class folders, but has test/"),
        (
            ["train/1.png", "train/2.png", "test/1.png", "labels.csv"],
            "has only test/, train/, which contain",
        ),
        (["pets/a/1.png", "pets/b/1.png"], "has 1 class folder, expected at least 2; use the folder inside it: data"),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/A/1.png"],
            "val: differs from train/ in its class folders: it lacks b/ and also has A/",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "val/a/1.png"],
            "val: differs from train/ in its class folders: it lacks b/",
        ),
        (["a/1.png", "b/1.txt", "c/1.png", "c/2.png"], r"/a: has 1 image, but .*\n.*/b: has no images \(.png, "),
        (["train/a/1.png", "train/b/1.png", "val/a/1.txt", "val/b/1.png"], "val/a: has no images"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(files: list[str], message: str, tmp_path: Path) -> None:
    make(tmp_path, *files)
    for source in (Folder(path=str(tmp_path)), Photos(path=str(tmp_path))):
        with pytest.raises(UserError, match=f"(?s){message}"):
            source.listed()


def test_what_holds_no_images_may_stand_with_the_splits(tmp_path: Path) -> None:
    make(split(tmp_path, "train", "val"), "annotations/a.json", ".thumbnails/1.png", "__MACOSX/train/1.png", "list.csv")
    assert listed(tmp_path).classes == ("a", "b")


def test_imagenet_is_read_as_it_is_published(tmp_path: Path) -> None:
    """ILSVRC 2012 has test/ without labels; val/ is the test set, whatever else stands there."""
    make(split(tmp_path, "train", "val"), "test/1.JPEG")
    found = ImageNet(path=str(tmp_path)).listed()
    assert names(found.test) == ["val/a/9.png", "val/b/9.png"]
    with pytest.raises(UserError, match="contains images in test/"):
        Photos(path=str(tmp_path)).check()
    make(tmp_path, "test/a/1.JPEG", "test/b/1.JPEG")
    with pytest.raises(UserError, match=r"has no train/ with class folders; put the training images of each"):
        ImageNet(path=str(make(tmp_path / "unsorted", "train/1.JPEG", "val/1.JPEG"))).check()
    assert names(ImageNet(path=str(tmp_path)).listed().test) == names(found.test)


# --------------------------------------------------------------------------------------------------------- links
def test_links_are_followed_and_circles_refused(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", "x/1.png", "x/2.png", "3.png")
    root = make(tmp_path / "set", "a/1.png", "a/2.png")
    (root / "b").symlink_to(elsewhere / "x")
    (root / "a" / "linked.png").symlink_to(elsewhere / "3.png")
    (root / "a" / "gone.png").symlink_to(elsewhere / "nothing.png")
    found = listed(root)
    assert found.classes == ("a", "b")
    assert {*names(found.train), *names(found.test)} == {
        "a/1.png",
        "a/2.png",
        "a/gone.png",
        "a/linked.png",
        "b/1.png",
        "b/2.png",
    }
    (root / "a" / "again").symlink_to(root)
    with pytest.raises(UserError, match="is a link to a folder that contains it; remove the link"):
        listed(root)


def test_pipes_are_not_images(tmp_path: Path) -> None:
    """A reader of a pipe would wait for ever."""
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    os.mkfifo(tmp_path / "a" / "3.png")
    found = listed(tmp_path)
    assert len(found.train.names) + len(found.test.names) == 4


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    real = os.scandir

    def closed(path: object) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"/b: cannot be read \(Permission denied\); give this user permission"):
        listed(tmp_path)
