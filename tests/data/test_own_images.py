"""User images in four layouts: `folder` and `photos` read the same, log the same, and name bad files.

Files of every kind (own_images.py), with spaces and unicode in names, hidden system files, and files that look like
images.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from own_images import BAD, CLASSES, KINDS, LAYOUTS, own_images, write

from nasx.data import decode, survey
from nasx.data.decoded import pixels
from nasx.data.imagenet import ImageNet, Photos
from nasx.data.images import Folder
from nasx.errors import UserError

UPRIGHT = [name for name, kind in KINDS.items() if kind.shown.shape[0] < kind.shown.shape[1]]
"""Kinds that show as many pixels as most: without dataset.size all images of a folder must."""


@pytest.fixture(autouse=True)
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged; the cache lies in tmp_path."""
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))
    lines: list[str] = []
    monkeypatch.setattr(logging.getLogger("nasx"), "info", lambda text, *given: lines.append(text % given))
    return lines


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    seen: list[str] = []
    real = decode.rgb
    monkeypatch.setattr(decode, "rgb", lambda path: seen.append(path.name) or real(path))
    return seen


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_in_memory_and_from_the_disk(layout: str, tmp_path: Path, said: list[str]) -> None:
    root = tmp_path / "meine bilder"
    shown = own_images(root, layout)
    for file in shown.copy():
        if Path(file).name.startswith("turned") and Path(file).name not in UPRIGHT:
            (root / file).unlink()
            del shown[file]
    source = Folder(path=str(root), size=None)
    source.check()
    images = source.load()
    opened = Photos(path=str(root), size=8, resize=8).open("cpu")
    assert images.classes == opened.classes == CLASSES
    total = len(images.train_y) + len(images.test_y)
    assert total == len(shown)
    for part, x, y in (("train", images.train_x, images.train_y), ("test", images.test_x, images.test_y)):
        files = opened.parts[part].files
        order = np.random.RandomState(0).permutation(len(y)) if part == "train" else np.arange(len(y))
        assert files.labels[order].tolist() == y.tolist()
        for i, one in zip(order, x, strict=True):
            name = os.fsdecode(files.names[i])
            assert np.array_equal(one, shown[name].transpose(2, 0, 1)), name
            assert np.array_equal(one, pixels(root / name).numpy()), name
    train, test = LAYOUTS[layout]
    how = f"{train}/ for training, {test}/ for the test" if test else "test set cut from each class"
    tail = said[0].partition("; ")[2]
    assert said[0].startswith(f"{root}: 3 classes, {len(images.train_y)} + {len(images.test_y)} images, {how}; ")
    assert tail == (
        "9 turned upright (EXIF), 9 scaled from 16 to 8 bits, 3 scaled from 0..1 to 8 bits, 18 "
        "composited on white, 3 converted from CMYK or another colour space"
    )
    assert said == [said[0], said[0]]  # photos log the same


@pytest.mark.parametrize("kind", [Folder, Photos])
def test_bad_files_are_named_at_once_and_a_retry_decodes_only_what_is_new(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    root = tmp_path / "set"
    shown = own_images(root)
    for i, (name, content) in enumerate(BAD.items()):
        write(root / ("val" if i == 1 else "train") / CLASSES[i % 3] / name, content)
    (root / "train" / "cat" / "gone.png").symlink_to(root / "nothing.png")
    wide = {"size": 16} if kind is Folder else {"size": 16, "resize": 16}
    source = kind(path=str(root), **wide)
    source.check()
    seen = count_decoded(monkeypatch)
    with pytest.raises(UserError) as caught:
        source.open("cpu")
    text = str(caught.value)
    assert text.count("\n") == 0
    assert text.startswith(f"dataset.path={root}: 5 of {len(shown) + 5} images cannot be read: ")
    for part in (
        "train/cat/truncated.jpg (",
        "val/großer hund/truncated.png (",
        "train/cat/empty.png (an empty file)",
        "train/cat/gone.png (a broken link)",
        "; repair or remove them and run the same command again",
        "train/zebra/a page.jpg (not an image, or an unknown format)",
    ):
        assert part in text, text
    assert len(seen) == len(shown) + 5
    assert said == []

    seen.clear()
    (root / "train" / "cat" / "gone.png").unlink()
    for name in BAD:
        for file in root.rglob(name):
            file.unlink()
    write(root / "val" / "cat" / "truncated.jpg", KINDS["photo.jpg"].content)  # repaired
    source.open("cpu")
    assert seen == ["truncated.jpg"]
    assert len(said) == 1
    seen.clear()
    source.open("cpu")
    assert seen == []
    assert said[1] == said[0]


def test_a_long_list_of_bad_files_goes_to_a_file(tmp_path: Path) -> None:
    for i in range(40):
        write(tmp_path / "set" / "ab"[i % 2] / f"{i}.png", b"" if i > 3 else KINDS["plain.png"].content)
    with pytest.raises(UserError, match=r"36 of 40 images cannot be read: .*, and 26 more, all listed in ") as caught:
        Folder(path=str(tmp_path / "set")).load()
    log = Path(str(caught.value).partition("all listed in ")[2].partition(";")[0])
    assert len(log.read_text().splitlines()) == 36
    with pytest.raises(UserError, match="36 of 40"):
        Photos(path=str(tmp_path / "set")).open("cpu")


def test_sizes_and_unreadable_files_are_named_together(tmp_path: Path) -> None:
    own_images(tmp_path)
    write(tmp_path / "train" / "cat" / "empty.png", b"")
    with pytest.raises(
        UserError,
        match=r"(?s)1 of \d+ images cannot be read: .*empty.png.*\n.*: 12 of \d+ images "
        r"differ in size from 14 x 11: .*\(11 x 14\).*set dataset.size",
    ):
        Folder(path=str(tmp_path)).load()


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_images(tmp_path / "set")
    (tmp_path / "data").write_text("in the way")
    seen = count_decoded(monkeypatch)
    first = Folder(path=str(tmp_path / "set"), size=8).load()
    count = len(seen)
    assert np.array_equal(Folder(path=str(tmp_path / "set"), size=8).load().train_x, first.train_x)
    assert len(seen) == 2 * count


def test_rules_that_change_decode_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_images(tmp_path / "set")
    Photos(path=str(tmp_path / "set")).open("cpu")
    seen = count_decoded(monkeypatch)
    Photos(path=str(tmp_path / "set")).open("cpu")
    assert seen == []
    monkeypatch.setattr(survey.decode, "VERSION", 2)
    Photos(path=str(tmp_path / "set")).open("cpu")
    assert seen


def test_imagenet_is_verified_on_request(tmp_path: Path) -> None:
    own_images(tmp_path)
    write(tmp_path / "train" / "cat" / "empty.png", b"")
    ImageNet(path=str(tmp_path)).open("cpu")
    with pytest.raises(UserError, match=r"1 of \d+ images cannot be read: train/cat/empty.png \(an empty file\)"):
        ImageNet(path=str(tmp_path), verify=True).open("cpu")
