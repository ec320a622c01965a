"""Small files in the published layouts train for an epoch from the command line; damaged or missing ones give an error.

Small files cannot have the published checksums, so each dataset is a user package that differs only in checksums and
number of images; the built-in datasets must refuse the same small files.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from jobs import Done, nasx, result

CELL = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|"
WORDS = (
    "retrain",
    "space=nb201",
    f"genotype={CELL}",
    "retrain.layers=1",
    "retrain.channels=4",
    "retrain.batch=20",
    "retrain.epochs=1",
    "threads=1",
    "quiet=true",
    "out=runs",
    "--config-dir",
    "mine/conf",
    "allow=[mine]",
)


class Tiny(NamedTuple):
    """A small set: what is built in, the fields of the class that differ, and one file of it."""

    name: str
    kind: str
    facts: dict[str, Any]
    file: Path
    images: int


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pixels(n: int, size: int) -> np.ndarray:
    return np.random.RandomState(n).randint(0, 256, (n, 3 * size * size)).astype(np.uint8)


def pickled(path: Path, content: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return md5(path)


def cifar100(root: Path) -> Tiny:
    """100 classes of two images, and of one for the test."""
    folder = root / "cifar-100-python"
    sums = [
        pickled(folder / name, {"data": pixels(n, 32), "fine_labels": list(range(100)) * (n // 100)})
        for name, n in (("train", 200), ("test", 100))
    ]
    meta = pickled(folder / "meta", {"fine_label_names": [f"name{i}" for i in range(100)]})
    facts = {
        "layout": f"replace(Cifar100.layout, train={{'train': {sums[0]!r}}}, "
        f"test={{'test': {sums[1]!r}}}, meta=('meta', 'fine_label_names', {meta!r}), each_train=2, "
        "each_test=1)"
    }
    return Tiny("cifar100", "Cifar100", facts, folder / "test", 200)


def svhn(root: Path) -> Tiny:
    from scipy.io import savemat

    (root / "svhn").mkdir(parents=True)
    sums = {}
    for part, n in (("train", 60), ("test", 20)):
        file = root / "svhn" / f"{part}_32x32.mat"
        x = pixels(n, 32).reshape(n, 3, 32, 32).transpose(2, 3, 1, 0)
        savemat(file, {"X": x, "y": np.arange(n)[:, None] % 10 + 1})
        sums[file.name] = md5(file)
    return Tiny("svhn", "Svhn", {"files": repr(sums)}, root / "svhn" / "test_32x32.mat", 60)


def imagenet16(root: Path) -> Tiny:
    folder = root / "ImageNet16"
    names = {"train": [f"train_data_batch_{i}" for i in range(1, 11)], "test": ["val_data"]}
    sums = {
        part: {name: pickled(folder / name, {"data": pixels(130, 16), "labels": list(range(1, 131))}) for name in own}
        for part, own in names.items()
    }
    return Tiny("imagenet16", "ImageNet16", {part: repr(own) for part, own in sums.items()}, folder / "val_data", 1200)


@pytest.fixture(params=[cifar100, *(pytest.param(made, marks=pytest.mark.slow) for made in (svhn, imagenet16))])
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Tiny:
    made: Tiny = request.param(tmp_path / "data")
    lines = "\n".join(f"    {name}: ClassVar = {value}" for name, value in made.facts.items())
    (tmp_path / "mine" / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "sets.py").write_text(
        f"from dataclasses import dataclass, replace\nfrom typing import ClassVar\n\n"
        f"from nasx.data.images import {made.kind}\n\n\n"
        f"@dataclass(frozen=True, kw_only=True)\nclass Small({made.kind}):\n{lines}\n"
    )
    built = (Path(__file__).resolve().parents[2] / "conf" / "dataset" / f"{made.name}.yaml").read_text()
    (tmp_path / "mine" / "conf" / "dataset" / "small.yaml").write_text(
        built.replace(f"nasx.data.images.{made.kind}", "mine.sets.Small").replace("download: true", "download: false")
    )
    return made


def run(here: Path, *words: str) -> Done:
    return nasx(here, *WORDS, *words, env={"NASX_DATA": str(here / "data"), "PYTHONPATH": str(here)})


def test_an_epoch_and_every_fault(tiny: Tiny, tmp_path: Path) -> None:
    done = run(tmp_path, "dataset=small")
    assert done.code == 0, done
    assert result(tmp_path)["updates"] == -(-tiny.images // 20)
    published = run(tmp_path, f"dataset={tiny.name}", "name=other")
    assert published.code == 2
    assert "is corrupt or not the published file: md5" in published.err
    whole = tiny.file.read_bytes()
    tiny.file.write_bytes(whole[:-10])
    damaged = run(tmp_path, "dataset=small", "name=damaged")
    assert damaged.code == 2
    assert f"{tiny.file}: is corrupt or not the published file: md5 {md5(tiny.file)}, expected" in damaged.err
    tiny.file.unlink()
    missing = run(tmp_path, "dataset=small", "name=missing")
    assert missing.code == 2
    assert tiny.file.name in missing.err
    for told in (published, damaged, missing):
        assert told.err.count("\n") == 1, told  # one line
    assert not (tmp_path / "runs" / "missing").exists()  # told before anything began
