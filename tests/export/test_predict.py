"""Probabilities that `predict` gives for files, folders, PIL images and arrays are those of the network on tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fuzz_targets
import numpy as np
import own_images
import pytest
import torch
from PIL import Image

from nasx.data import fitting
from nasx.data.imagenet import Photos
from nasx.data.images import Cifar10, Digits, Folder
from nasx.errors import UserError
from nasx.export import model as export_model
from nasx.export.model import Classifier

SIDE = 12
BILINEAR = [["square"], ["resize", SIDE, "bilinear"]]


def classifier(steps: Any = BILINEAR, shape: tuple[int, ...] = (3, SIDE, SIDE)) -> Classifier:
    """A network with random weights, as `nasx.load` returns it."""
    facts, _ = fuzz_targets._export()
    torch.manual_seed(0)
    facts |= {
        "image": list(shape),
        "preprocessing": steps,
        "normalization": {"mean": [0.4, 0.5, 0.6], "std": [0.2] * 3},
    }
    network = export_model.build(facts)
    network.classifier.weight.data *= 9  # so that probabilities are not all near 1/2
    return Classifier(network, json.loads(json.dumps(facts))).eval()


def wanted(model: Classifier, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.softmax(model(model.normalize(torch.from_numpy(x))), 1).numpy()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Grey, deep, CMYK, palette, transparent, WebP and turned images of three classes in train/ and val/."""
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "cache"))
    own_images.own_images(tmp_path / "images", "train/val")
    return tmp_path / "images"


@pytest.mark.parametrize("kind", ["folder", "photos"])
def test_a_folder_is_read_as_the_dataset_reads_it(folder: Path, kind: str) -> None:
    source: Any = Folder(path=str(folder), size=SIDE, mean=(0.4, 0.5, 0.6), std=(0.2,) * 3)
    if kind == "photos":
        source = Photos(path=str(folder), size=SIDE, resize=16, mean=(0.4, 0.5, 0.6), std=(0.2,) * 3, verify=False)
    images = source.open("cpu", workers=0)
    model = classifier(images.described()["preprocessing"])
    with torch.no_grad():
        known = torch.cat([torch.softmax(model(batch.x), 1) for batch in images.ordered("test", batch=7)]).numpy()
    files = source.listed().test.paths()
    found = model.predict(folder / "val")
    assert sorted(found.names) == sorted(map(str, files))
    rows = [found.names.index(str(file)) for file in files]
    assert len(rows) > 5
    assert np.ptp(known[:, 0]) > 0.02, "images that differ"
    assert np.abs(found.probabilities[rows] - known).max() < 1e-6
    assert found.classes == ("a", "b")
    assert found.labels == tuple("ab"[i] for i in found.probabilities.argmax(1))
    steps, count = model.facts["preprocessing"], len(images.train_y)
    own = (
        images.data.train_x.numpy()
        if kind == "folder"
        else images.parts["train"][[(i, None) for i in range(count)]].numpy()
    )
    pixels = [each.x.tobytes() for each in fitting.read(folder / "train", steps, images.shape)]
    assert sorted(pixels) == sorted(x.tobytes() for x in own)
    assert len(set(pixels)) > 10
    one = model.predict(str(files[0]))
    assert one.names == (str(files[0]),)
    several = model.predict(files[:3])
    assert several.names == tuple(map(str, files[:3]))
    assert np.abs(np.concatenate([one.probabilities, several.probabilities]) - known[[0, 0, 1, 2]]).max() < 1e-6


def test_pil_images_are_converted_like_files(folder: Path) -> None:
    model = classifier()
    files = [Path(name) for name in model.predict(folder).names]
    opened = [Image.open(file) for file in files]
    assert {image.mode for image in opened} >= {"L", "RGBA", "CMYK", "P"}
    found, known = model.predict(opened), model.predict(files)
    assert np.array_equal(found.probabilities, known.probabilities)
    assert found.names[:2] == ("image 0", "image 1")


def test_arrays() -> None:
    model, gen = classifier(), np.random.default_rng(0)
    exact = gen.integers(0, 256, (5, 3, SIDE, SIDE), np.uint8)
    known = wanted(model, exact)
    assert np.ptp(known[:, 0]) > 0.05
    last = exact.transpose(0, 2, 3, 1)
    for given, rows in (
        (exact, slice(None)),
        (last, slice(None)),
        (torch.from_numpy(exact), slice(None)),
        (list(exact.transpose(0, 2, 3, 1)), slice(None)),
        ((each for each in last), slice(None)),
        (last[1], slice(1, 2)),
        (Image.fromarray(last[2]), slice(2, 3)),
        ([exact[0:2], last[2]], slice(0, 3)),
    ):
        assert np.abs(model.predict(given).probabilities - known[rows]).max() < 1e-6
    grey = exact[0, 0]
    assert np.abs(model.predict(grey).probabilities - wanted(model, np.stack([grey] * 3)[None])).max() < 1e-6
    large = gen.integers(0, 256, (30, 20, 3), np.uint8)
    resized = Image.fromarray(large).resize((SIDE, SIDE), Image.Resampling.BILINEAR, (0, 5, 20, 25))
    known = wanted(model, np.asarray(resized).transpose(2, 0, 1)[None].copy())
    assert np.abs(model.predict(large).probabilities - known).max() < 1e-6
    many = model.predict(np.repeat(exact, 30, 0)).probabilities  # in three batches
    assert np.abs(many - wanted(model, exact).repeat(30, 0)).max() < 1e-6


def test_the_steps_of_each_dataset() -> None:
    """Against the naive mean of blocks, repeated pixels, and the dataset's own reading."""
    gen = np.random.default_rng(0)
    image = Image.fromarray(gen.integers(0, 256, (24, 30, 3), np.uint8))
    square = np.asarray(image)[:, 3:27].astype(float)
    blocks = np.floor(square.reshape(12, 2, 12, 2, 3).mean((1, 3)) + 0.5)
    area = fitting.fitted(image, Cifar10(size=12).preprocessing((3, 12, 12)), "x")
    assert np.array_equal(area.transpose(1, 2, 0), blocks)
    digit = Image.fromarray(gen.integers(0, 256, (8, 8, 3), np.uint8))
    repeated = fitting.fitted(digit, Digits().preprocessing((3, 32, 32)), "x")
    assert np.array_equal(repeated.transpose(1, 2, 0), np.asarray(digit).repeat(4, 0).repeat(4, 1))
    assert fitting.fitted(image, [], "x").shape == (3, 24, 30)


def test_faults(tmp_path: Path) -> None:
    model = classifier()
    (tmp_path / "bad.png").write_bytes(b"not an image")
    (tmp_path / "empty").mkdir()
    area = classifier([["square"], ["resize", SIDE, "area"]])
    for images, message, own in (
        (tmp_path / "bad.png", r"bad.png: cannot be read \(not an image", model),
        (tmp_path / "none.png", "none.png: cannot be read", model),
        (tmp_path / "empty", "contains no images", model),
        (np.zeros((4, 4), np.float32), "is float32", model),
        (np.zeros((3, 4, 5), np.uint8), r"is uint8 \(3, 4, 5\)", model),
        ([np.zeros((2, 3, 4, 4, 4), np.uint8)], "image 0: is uint8", model),
        ([], "there are no images", model),
        (3, "int is not an image", model),
        (np.zeros((9, 9, 3), np.uint8), "image 0: is smaller than 12 x 12", area),
        (np.zeros((9, 9, 3), np.uint8), "has 9 x 9 pixels; use 12 x 12", classifier([])),
        (np.zeros((9, 9, 3), np.uint8), "is not an array", classifier([], (1, SIDE, SIDE))),
        (np.zeros((9, 9, 3), np.uint8), "unknown steps", classifier([["turn", 90]])),
    ):
        with pytest.raises(UserError, match=message):
            own.predict(images)
