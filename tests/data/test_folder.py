"""Image folders and .npz files."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from nasx.data import decode
from nasx.data.images import Folder
from nasx.errors import UserError

Image = pytest.importorskip("PIL.Image")
RANDOM = np.random.RandomState(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "folders"


def draw(path: Path, width: int = 6, height: int = 5) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RANDOM.randint(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels.transpose(2, 0, 1)


def test_train_and_test_folders(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "pets"
    train = [draw(root / "train" / name) for name in ("cat/a.png", "cat/b.png", "dog/a.png")]
    test = [draw(root / "test" / name) for name in ("cat/z.png", "dog/z.png")]
    source = Folder(path=str(root))
    source.check()
    images = source.load()
    assert images.classes == ("cat", "dog")
    order = np.random.RandomState(0).permutation(3)
    assert images.train_y.tolist() == [[0, 0, 1][i] for i in order]
    assert np.array_equal(images.train_x, np.stack([train[i] for i in order]))
    assert np.array_equal(images.test_x, np.stack(test))
    assert images.mean == pytest.approx((images.train_x / 255).mean((0, 2, 3)))
    (kept,) = cache.iterdir()

    with monkeypatch.context() as patch:  # the second time nothing is decoded
        patch.setattr(decode, "rgb", None)
        assert np.array_equal(source.load().train_x, images.train_x)
    kept.write_bytes(kept.read_bytes()[:100])  # a damaged cache is written again
    assert np.array_equal(source.load().train_x, images.train_x)
    changed = draw(root / "train" / "cat" / "a.png")  # and so is one of changed files
    assert np.array_equal(source.load().train_x[order.tolist().index(0)], changed)


def test_one_folder_a_class_is_split(tmp_path: Path) -> None:
    drawn = {(name, i): draw(tmp_path / "all" / name / f"{i}.png") for name in "abc" for i in range(5)}
    images = Folder(path=str(tmp_path / "all"), test_fraction=0.2).load()
    assert sorted(images.train_y.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert images.train_y.tolist() != sorted(images.train_y.tolist())  # consecutive images are of several classes
    assert images.test_y.tolist() == [0, 1, 2]
    found = {x.tobytes() for x in np.concatenate([images.train_x, images.test_x])}
    assert found == {x.tobytes() for x in drawn.values()}


def test_sizes(tmp_path: Path) -> None:
    draw(tmp_path / "all" / "a" / "0.png", 12, 10)
    draw(tmp_path / "all" / "a" / "1.png", 9, 8)
    draw(tmp_path / "all" / "b" / "0.png", 12, 10)
    draw(tmp_path / "all" / "b" / "1.png", 20, 8)
    with pytest.raises(UserError, match=r"2 of 4 images differ in size from .*png \(20 x 8\).*; set dataset.size"):
        Folder(path=str(tmp_path / "all")).load()
    assert Folder(path=str(tmp_path / "all"), size=8).load().train_x.shape == (2, 3, 8, 8)


def test_faults(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.path=null.*digits"):
        Folder().check()
    with pytest.raises(UserError, match=r"dataset.path=.*nowhere: does not exist"):
        Folder(path=str(tmp_path / "nowhere")).check()
    draw(tmp_path / "one" / "a" / "0.png")
    with pytest.raises(UserError, match="has 1 class folder, expected at least 2; put the images of each class in a"):
        Folder(path=str(tmp_path / "one")).load()
    with pytest.raises(UserError, match=r"dataset.test_fraction=1.5: is not between 0 and 1"):
        Folder(path=str(tmp_path / "one"), test_fraction=1.5).check()


@pytest.mark.parametrize("part", ["test", "val"])
def test_other_classes_in_the_test_folders_are_refused(part: str, tmp_path: Path) -> None:
    """A misspelt folder would leave a class without test images, and a better number than the true one."""
    for place in ("train/a/0", "train/b/0", f"{part}/a/0", f"{part}/c/0"):
        draw(tmp_path / f"{place}.png")
    with pytest.raises(
        UserError, match=rf"{part}: differs from train/ in its class folders: it lacks b/ and also has c/"
    ):
        Folder(path=str(tmp_path)).check()
    (tmp_path / part / "c" / "0.png").unlink()
    (tmp_path / part / "c").rename(tmp_path / part / "b")
    with pytest.raises(UserError, match=rf"{part}/b: has no images"):
        Folder(path=str(tmp_path)).check()
    draw(tmp_path / part / "b" / "0.png")
    Folder(path=str(tmp_path)).check()


def test_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    for name in ("a/0", "a/1", "b/0", "b/1"):
        draw(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"4 images of 10000000 x 10000000 need .* GB.*lower dataset.size, or use data"):
        Folder(path=str(tmp_path), size=10_000_000).check()


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1), (6, 7, 3), (3, 6, 7), (1, 6, 7)])
def test_npz(shape: tuple[int, ...], tmp_path: Path) -> None:
    x, y = RANDOM.randint(0, 256, (10, *shape)).astype(np.uint8), np.array([3, 5] * 5)
    np.savez(tmp_path / "set.npz", train_x=x[:8], train_y=y[:8], test_x=x[8:], test_y=y[8:])
    images = Folder(path=str(tmp_path / "set.npz")).load()
    assert images.train_x.shape == (8, 3, 6, 7)
    assert images.classes == ("3", "5")
    assert images.train_y.tolist() == [0, 1] * 4
    planes = x if shape[0] in (1, 3) else x.reshape(10, 6, 7, -1).transpose(0, 3, 1, 2)
    assert np.array_equal(images.test_x, np.broadcast_to(planes[8:], (2, 3, 6, 7)))


def test_npz_split_and_faults(tmp_path: Path) -> None:
    x, y = RANDOM.randint(0, 256, (10, 8, 8)).astype(np.uint8), np.array([7] * 7 + [9] * 3)
    file = tmp_path / "set.npz"
    np.savez(file, x=x, y=y)
    images = Folder(path=str(file), test_fraction=0.3).load()
    assert images.classes == ("7", "9")
    assert sorted(images.train_y.tolist()) == [0] * 5 + [1] * 2
    assert images.test_y.tolist() == [0, 0, 1]  # of each class
    labels = {one.tobytes(): label for one, label in zip(x, (y == 9).astype(int), strict=True)}
    for part, wanted in ((images.train_x, images.train_y), (images.test_x, images.test_y)):
        assert [labels.pop(one[0].tobytes()) for one in part] == wanted.tolist()
    assert not labels
    for arrays, message in (
        ({"z": x}, "contains the arrays z; expected train_x"),
        ({"x": x / 255, "y": y}, "images are float64"),
        ({"x": x[:, :, :, None].repeat(5, 3), "y": y}, "expected 1 or 3 channels"),
        ({"train_x": x, "train_y": y[:3], "test_x": x, "test_y": y}, "do not match"),
        (
            {"train_x": x, "train_y": y, "test_x": x[:3], "test_y": np.array([7, 8, 5])},
            "has labels that occur only in the test set: 5, 8; remove",
        ),
        ({"x": x, "y": np.arange(10)}, "has only 1 image with label 0, but part of each class is held out"),
        ({"x": np.array([{}], dtype=object), "y": y}, "is not a readable .npz"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(UserError, match=message):
            Folder(path=str(file)).load()
    file.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(UserError, match=r"is not a readable \.npz"):
        Folder(path=str(file)).load()


def test_an_npz_is_scaled_by_area_averaging(tmp_path: Path) -> None:
    x = RANDOM.randint(0, 256, (8, 16, 20)).astype(np.uint8)
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(8) % 2)
    images = Folder(path=str(tmp_path / "set.npz"), size=8).load()
    assert images.train_x.shape[1:] == (3, 8, 8)
    means = x[:, :, 2:18].reshape(8, 8, 2, 8, 2).astype(float).mean((2, 4))  # the centred square
    found = {one.tobytes() for one in np.concatenate([images.train_x, images.test_x])[:, 0]}
    assert found == {np.floor(one + 0.5).astype(np.uint8).tobytes() for one in means}
    with pytest.raises(UserError, match=r"dataset.size=24: is larger than the images \(20 x 16\); use at most 16"):
        Folder(path=str(tmp_path / "set.npz"), size=24).load()


def test_a_channel_that_is_constant_is_named_and_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the first update ends in NaN, with the advice to lower the learning rate."""
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("nasx"), "warning", lambda text, *given: said.append(text % given))
    x = RANDOM.randint(0, 256, (8, 3, 8, 8)).astype(np.uint8)
    x[:, 2] = 5
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(8) % 2)
    source = Folder(path=str(tmp_path / "set.npz"))
    images = source.load()
    assert images.std[2] == 1.0
    assert min(images.std[:2]) > 0
    assert said == ["dataset=folder: channel 2 of the training images is constant; a std of 0 is replaced by 1"]
    batch = next(source.open("cpu").ordered("test", batch=2))
    assert torch.isfinite(batch.x).all()
    assert (batch.x[:, 2] == 0).all()
