"""Any image folder and .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nasx.data import folder as reading
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
        patch.setattr(reading, "_decode", None)
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
    with pytest.raises(UserError, match=r"png: is \d+ x \d+, the first image .*dataset.size"):
        Folder(path=str(tmp_path / "all")).load()
    assert Folder(path=str(tmp_path / "all"), size=8).load().train_x.shape == (2, 3, 8, 8)


def test_faults(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.path=null.*digits"):
        Folder().check()
    with pytest.raises(UserError, match=r"dataset.path=.*nowhere: there is no such folder"):
        Folder(path=str(tmp_path / "nowhere")).check()
    draw(tmp_path / "one" / "a" / "0.png")
    with pytest.raises(UserError, match="has 1 folders, expected one a class"):
        Folder(path=str(tmp_path / "one")).load()
    draw(tmp_path / "one" / "a" / "1.png")
    draw(tmp_path / "one" / "b" / "0.png")
    (tmp_path / "one" / "b" / "1.png").write_bytes((tmp_path / "one" / "b" / "0.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"b/1.png: is not a readable image.*repair or remove"):
        Folder(path=str(tmp_path / "one")).load()
    assert not cache.exists()


@pytest.mark.parametrize("part", ["test", "val"])
def test_other_classes_in_the_test_folders_are_refused(part: str, tmp_path: Path) -> None:
    """A misspelt folder would leave a class without test images, and a better number than the true one."""
    for place in ("train/a/0", "train/b/0", f"{part}/a/0", f"{part}/c/0"):
        draw(tmp_path / f"{place}.png")
    with pytest.raises(UserError, match=rf"{part}: has other class folders than train/: it lacks b and has besides c"):
        Folder(path=str(tmp_path)).check()
    (tmp_path / part / "c" / "0.png").unlink()
    (tmp_path / part / "c").rename(tmp_path / part / "b")
    with pytest.raises(UserError, match=rf"{part}/b has too few images"):
        Folder(path=str(tmp_path)).check()
    draw(tmp_path / part / "b" / "0.png")
    Folder(path=str(tmp_path)).check()


def test_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"10,000,000 images of 1000 x 1000 need .* GB.*lower dataset.size"):
        reading._fits(10_000_000, 1000, 1000)


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
    x, y = RANDOM.randint(0, 256, (10, 8, 8)).astype(np.uint8), np.arange(10)
    file = tmp_path / "set.npz"
    np.savez(file, x=x, y=y)
    images = Folder(path=str(file), test_fraction=0.3).load()
    assert sorted([*images.train_y, *images.test_y]) == list(range(10))
    assert np.array_equal(images.train_x[0, 0], x[images.train_y[0]])
    for arrays, message in (({"z": x}, "has z; expected train_x"), ({"x": x / 255, "y": y}, "images are float64"),
                            ({"x": x[:, :, :, None].repeat(5, 3), "y": y}, "expected 1 or 3 channels"),
                            ({"train_x": x, "train_y": y[:3], "test_x": x, "test_y": y}, "do not fit together"),
                            ({"x": np.array([{}], dtype=object), "y": y}, "is not a readable .npz")):
        np.savez(file, **arrays)
        with pytest.raises(UserError, match=message):
            Folder(path=str(file)).load()
    file.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(UserError, match=r"is not a readable \.npz"):
        Folder(path=str(file)).load()
