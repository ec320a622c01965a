"""Every dataset is read from small files in its published layout; errors state place, fault and remedy."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from nasx.data import fetch as fetching
from nasx.data.base import data_root, statistics
from nasx.data.imagenet import ImageNet, Photos
from nasx.data.images import Cifar10, Cifar100, Digits, ImageNet16, Svhn
from nasx.data.text import Ptb
from nasx.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf" / "dataset"
RANDOM = np.random.RandomState(0)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pixels(n: int, size: int = 32) -> np.ndarray:
    return RANDOM.randint(0, 256, (n, 3 * size * size)).astype(np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NASX_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


class Written:
    """A tiny CIFAR of 2 images a class for training and 1 for the test, in both layouts."""

    def __init__(self, kind: type, root: Path, monkeypatch: pytest.MonkeyPatch, binary: bool) -> None:
        layout = kind.layout  # type: ignore[attr-defined]
        c, files = layout.classes, len(layout.train)
        each = files if files > 1 else 2
        self.train_y = RANDOM.permutation(np.repeat(np.arange(c), each))
        self.test_y = RANDOM.permutation(c)
        self.train_x, self.test_x = pixels(c * each), pixels(c)
        folder = root / (layout.binary if binary else layout.folder)
        folder.mkdir()
        parts = [(x, y) for x, y in zip(np.split(self.train_x, files), np.split(self.train_y, files), strict=True)]
        parts.append((self.test_x, self.test_y))
        if binary:
            for name, (x, y) in zip(layout.binary_train + layout.binary_test, parts, strict=True):
                labels = [y // 5, y][-layout.label_bytes :]
                np.concatenate([np.stack(labels, 1).astype(np.uint8), x], 1).tofile(folder / name)
            (folder / layout.binary_names).write_text("\n".join(f"name{i}" for i in range(c)) + "\n\n")
        else:
            for name, (x, y) in zip([*layout.train, *layout.test], parts, strict=True):
                content = {"batch_label": name, "data": x, layout.labels: y.tolist()}
                (folder / name).write_bytes(pickle.dumps(content, protocol=2))
            names = {layout.meta[1]: [f"name{i}" for i in range(c)]}
            (folder / layout.meta[0]).write_bytes(pickle.dumps(names, protocol=2))
        changes = {"each_train": each, "each_test": 1}
        if not binary:
            changes |= {
                "train": {name: md5(folder / name) for name in layout.train},
                "test": {name: md5(folder / name) for name in layout.test},
                "meta": (*layout.meta[:2], md5(folder / layout.meta[0])),
            }
        monkeypatch.setattr(kind, "layout", dataclasses.replace(layout, **changes))
        self.folder = folder


# --------------------------------------------------------------------------------------------------------- CIFAR
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kind", [Cifar10, Cifar100])
def test_cifar_in_both_layouts(kind: type, binary: bool, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(kind, here, monkeypatch, binary)
    for source in (kind(download=False), kind(download=False, path=str(written.folder))):
        source.check()
        images = source.load()
        assert np.array_equal(images.train_x, written.train_x.reshape(-1, 3, 32, 32))
        assert np.array_equal(images.test_x, written.test_x.reshape(-1, 3, 32, 32))
        assert np.array_equal(images.train_y, written.train_y)
        assert np.array_equal(images.test_y, written.test_y)
        assert images.classes == tuple(f"name{i}" for i in range(len(images.classes)))
        assert images.train_x.dtype == np.uint8
        assert images.train_y.dtype == np.int64


def test_cifar_missing_names_every_place_and_the_way_out(here: Path) -> None:
    with pytest.raises(UserError) as caught:
        Cifar10(download=False).check()
    for part in (
        here / "cifar-10-batches-py",
        here / "cifar-10-batches-bin",
        "data_batch_1",
        "data_batch_1.bin",
        "NASX_DATA",
        "dataset.download=true",
        "https://www.cs.toronto.edu",
        "offline: use dataset=digits",
    ):
        assert str(part) in str(caught.value)
    with pytest.raises(UserError, match=str(here / "elsewhere")):
        Cifar10(download=False, path=str(here / "elsewhere")).check()


def test_cifar_incomplete(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(Cifar10, here, monkeypatch, binary=False)
    (written.folder / "data_batch_3").unlink()
    for act in (Cifar10().check, Cifar10().load):
        with pytest.raises(UserError, match=r"cifar-10-batches-py: is incomplete: no data_batch_3; move"):
            act()


def test_cifar_wrong_md5(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(Cifar10, here, monkeypatch, binary=False)
    file = written.folder / "data_batch_2"
    expected, content = md5(file), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    before = sorted(here.rglob("*"))
    with pytest.raises(UserError) as caught:
        Cifar10().load()
    for part in (file, md5(file), expected, "corrupt", "move", "digits"):
        assert str(part) in str(caught.value)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:-1], r"has 30,729 bytes, expected 30,730 \(10 records of 3,073\)"),
        (lambda c: b"\x0a" + c[1:], "has label 10, expected 0 to 9"),
        (lambda c: bytes([(c[0] + 1) % 10]) + c[1:], r"images of class \d, expected 5"),
    ],
)
def test_cifar_binary_damaged(damage, message: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(Cifar10, here, monkeypatch, binary=True)
    file = written.folder / "data_batch_4.bin"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=message):
        Cifar10().load()


@pytest.mark.parametrize("kind", [Cifar10, Cifar100, Svhn])
def test_a_failed_download_says_all_and_leaves_nothing(kind, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(url: str, root: str, filename: str, md5: str) -> None:
        (Path(root) / filename).write_bytes(b"half of it")
        raise OSError("network is unreachable")

    utilities = pytest.importorskip("torchvision.datasets.utils")
    monkeypatch.setattr(utilities, "download_url", half)
    kind().check()
    with pytest.raises(UserError) as caught:
        kind().load()
    source = kind.layout if hasattr(kind, "layout") else kind
    for part in (here, source.url, "md5", "network is unreachable", "nothing was kept", "offline: use dataset=digits"):
        assert str(part) in str(caught.value)
    assert not [path for path in here.rglob("*") if path.is_file() or path.name.startswith(".")]


def test_a_refused_port_is_a_failed_download(here: Path) -> None:
    with pytest.raises(UserError, match=r"could not be downloaded from http://127\.0\.0\.1:9/a\.tar\.gz"):
        fetching.fetch("cifar10", here, "http://127.0.0.1:9/a.tar.gz", "0" * 32, "a")
    assert not list(here.iterdir())


def test_a_download_is_moved_into_place(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(url: str, root: str, filename: str, md5: str) -> None:
        with tarfile.open(Path(root) / filename, "w:gz") as archive:
            entry = tarfile.TarInfo("a/file")
            entry.size = 7
            archive.addfile(entry, io.BytesIO(b"content"))

    monkeypatch.setattr(pytest.importorskip("torchvision.datasets.utils"), "download_url", whole)
    assert (fetching.fetch("cifar10", here / "new", "http://host/a.tar.gz", "", "a") / "file").read_text() == "content"
    assert [path.name for path in (here / "new").iterdir()] == ["a"]
    fetching.fetch("cifar10", here / "new", "http://host/a.tar.gz", "", "a")  # another run was quicker
    assert [path.name for path in (here / "new").iterdir()] == ["a"]


def test_a_download_needs_a_folder_to_write_to(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "file").write_text("in the way")
    monkeypatch.setenv("NASX_DATA", str(here / "file" / "data"))
    for kind in (Cifar10, Svhn):
        with pytest.raises(UserError, match=r"file is not writable.*dataset=digits"):
            kind().check()
        with pytest.raises(UserError, match=r"dataset.path=.*typo: does not exist; correct it, or create"):
            kind(path=str(here / "typo")).check()
    assert not (here / "typo").exists()


REAL = Path(os.environ.get("NASX_DATA", "/nowhere"))


@pytest.mark.skipif(
    not (REAL / "cifar-10-batches-bin" / "test_batch.bin").is_file(), reason="NASX_DATA has no cifar-10-batches-bin"
)
@pytest.mark.slow
def test_the_real_cifar10() -> None:
    images = Cifar10(path=str(REAL), download=False).load()
    assert images.train_x.shape == (50_000, 3, 32, 32)
    assert np.bincount(images.train_y).tolist() == [5_000] * 10
    assert np.bincount(images.test_y).tolist() == [1_000] * 10
    assert images.train_y[:5].tolist() == [6, 9, 9, 4, 1]
    mean, std = statistics(images.train_x)
    values = yaml.safe_load((CONF / "cifar10.yaml").read_text())
    assert np.allclose(mean, values["mean"], atol=1e-6)
    assert np.allclose(std, values["std"], atol=1e-6)


# -------------------------------------------------------------------------------------------------- hostile files
# ---------------------------------------------------------------------------------------------------- other sets
def test_svhn(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    x = RANDOM.randint(0, 256, (32, 32, 3, 7)).astype(np.uint8)
    y = np.array([1, 10, 3, 9, 10, 2, 5], np.uint8)[:, None]
    for file, part in (("train_32x32.mat", slice(5)), ("test_32x32.mat", slice(5, 7))):
        scipy_io.savemat(here / file, {"X": x[..., part], "y": y[part]})
    with pytest.raises(UserError, match=r"train_32x32.mat: is corrupt or not the published file: md5 .*move"):
        Svhn().load()
    monkeypatch.setattr(Svhn, "files", {file: md5(here / file) for file in Svhn.files})
    Svhn(download=False).check()
    images = Svhn(download=False).load()
    assert images.train_y.tolist() == [1, 0, 3, 9, 0]
    assert images.test_y.tolist() == [2, 5]
    assert np.array_equal(images.train_x[3, 2], x[:, :, 2, 3])
    (here / "test_32x32.mat").unlink()
    with pytest.raises(UserError, match=r"looked in .*svhn.*expected test_32x32.mat.*digits"):
        Svhn(download=False).check()


def test_imagenet16(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"looked in .*ImageNet16.*train_data_batch_1, .*val_data.*dataset=digits"):
        ImageNet16().check()
    folder = here / "ImageNet16"
    folder.mkdir()
    labels = {file: [1 + i, 120, 121, 1000] for i, file in enumerate([*ImageNet16.train, *ImageNet16.test])}
    data = {file: pixels(4, 16) for file in labels}
    for file, y in labels.items():
        (folder / file).write_bytes(pickle.dumps({"data": data[file], "labels": y}, protocol=2))
    with pytest.raises(UserError, match=r"train_data_batch_1: is corrupt"):
        ImageNet16().load()
    for part in ("train", "test"):
        monkeypatch.setattr(ImageNet16, part, {file: md5(folder / file) for file in getattr(ImageNet16, part)})
    ImageNet16().check()
    images = ImageNet16().load()
    assert images.train_y.tolist() == [label for i in range(10) for label in (i, 119)]
    assert images.test_y.tolist() == [10, 119]
    assert len(images.classes) == 120
    assert np.array_equal(images.train_x[2], data["train_data_batch_2"][0].reshape(3, 16, 16))


def test_digits() -> None:
    images = Digits().load()
    assert images.train_x.shape == (1437, 3, 32, 32)
    assert images.test_x.shape == (360, 3, 32, 32)
    assert np.bincount(np.concatenate([images.train_y, images.test_y])).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # as the UCI repository lists its test set
    small = Digits(size=8).load()
    assert np.array_equal(images.train_x[:, 0], small.train_x[:, 0].repeat(4, 1).repeat(4, 2))
    assert len(np.unique(small.train_x)) == 17
    assert Digits(size=28).load().test_x.shape == (360, 3, 28, 28)
    values = yaml.safe_load((CONF / "digits.yaml").read_text())
    mean, std = statistics(images.train_x)
    assert np.allclose(mean, values["mean"], atol=1e-8)
    assert np.allclose(std, values["std"], atol=1e-8)
    assert Digits.file.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"dataset\.size=4"):
        Digits(size=4).check()


# ---------------------------------------------------------------------------------------------------- in general
@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_yaml_lists_every_field_with_a_comment(file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    module, _, name = values.pop("_target_").rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    assert kind.name == file.stem
    assert set(values) == {field.name for field in dataclasses.fields(kind)}
    lines = [line for line in file.read_text().splitlines() if line[0] not in "#_"]
    assert all("  # " in line for line in lines)
    source = kind(**values)
    if kind in (ImageNet, Photos, Ptb):
        return
    assert source.pad == (2 if kind is ImageNet16 else 4)
    assert source.flip is (kind is not Digits)


def test_faulty_settings_are_named_together() -> None:
    with pytest.raises(UserError) as caught:
        Digits(split="thirds", fraction=1.0, pad=-1, mean=(0.5,)).check()  # type: ignore[arg-type]
    for part in ("dataset.split=thirds", "dataset.fraction=1.0", "dataset.pad=-1", "only one is given"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="has 1 value for 3 channels"):
        Digits(mean=(0.5,), std=(1.0,)).load()
    with pytest.raises(UserError, match=r"dataset.split=file: split_file is not set"):
        Digits(split="file").check()


def test_the_root(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_root("/a") == Path("/a")
    assert data_root() == here
    monkeypatch.delenv("NASX_DATA")
    assert data_root() == here / "cache" / "nasx"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root() == Path("~/.cache/nasx").expanduser()


def test_statistics_are_exact() -> None:
    x = RANDOM.randint(0, 256, (5, 3, 4, 6)).astype(np.uint8)
    mean, std = statistics(x)
    assert np.allclose(mean, (x / 255).mean((0, 2, 3)), rtol=1e-14)
    assert np.allclose(std, (x / 255).std((0, 2, 3)), rtol=1e-14)


def test_images_import_neither_torch_nor_scipy() -> None:
    code = (
        "import sys; from nasx.data.images import Cifar10, Digits; Digits().check(); Digits().load()\n"
        "print([m for m in ('torch', 'torchvision', 'scipy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
