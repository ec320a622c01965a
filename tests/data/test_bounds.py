"""Values that are too large are refused at once: for the image size, the dataset, the memory of the machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasx.data import bounds, shrink
from nasx.data.imagenet import Photos
from nasx.data.images import Cifar10, Digits, Folder, ImageNet16, Svhn
from nasx.errors import UserError

CASES = [
    (
        ["search", "search.batch=100000000000"],
        r"search.batch=100000000000: 100,000,000,000 images of 32 x 32 need .*",
    ),
    (["search", "dataset=digits", "dataset.size=1000000"], "1,797 images of 1000000 x 1000000 need .* GB"),
    (["retrain", "genotype=DARTS_V2", "space=darts", "retrain.batch=100000000000"], "retrain.batch=100000000000: "),
    (
        ["search", "dataset=digits", "dataset.size=8", "search.cutout=1000"],
        r"search.cutout=1000: is larger than the images \(8 x 8\) and may erase a whole image; use at most "
        r"8, or 0 for",
    ),
    (
        ["search", "dataset=digits", "dataset.size=16", "dataset.pad=16"],
        r"dataset.pad=16: is not less than the shorter side of the images \(16 x 16\): .*; use at most 15, or 0",
    ),
    (
        ["search", "dataset.size=33"],
        r"dataset.size=33: is larger than the images \(32 x 32\); use at most 32, or null",
    ),
    (["search", "dataset.size=7"], "dataset.size=7: is too small; use at least 8"),
    (
        ["search", "seed=18446744073709551616"],
        "seed=18446744073709551616: must be at least 0 and below 18446744073709",
    ),
    (
        ["search", "seed=18446744073709551614", "seeds_per_job=3"],
        "seed=18446744073709551614: would use seeds up to 18446744073709551616, "
        "but the largest allowed seed is 18446744073709551615",
    ),
    (
        ["search", f"name={'x' * 260}"],
        r"name=xxxxxxxxxxxxxxxxxxxx\.\.\.: is 260 bytes long, but a folder name may have at most",
    ),
    (["search", f'name="{"ü" * 130}"'], "is 260 bytes long"),
    (["search", "space.layers=1000000000"], "space.layers=1000000000: must be above 0 and at most 1000"),
    (["search", "space.channels=1000000000"], "space.channels=1000000000: must be above 0 and at most 65536"),
    *[
        (["search", *text.split()], f"{text.split()[-1]}: must be {least} and at most {most};")
        for text, least, most in (
            ("method=random method.samples=1000000000", "above 0", 100000),
            ("method=random_ws method.samples=1000000000", "above 0", 100000),
            *(
                (f"method={name} method.candidates=1000000000", "above 0", 100000)
                for name in ("naswot", "snip", "grasp", "synflow", "zen")
            ),
            ("method=zen method.repeats=1000000000", "above 0", 1000),
            ("method=idarts method.K=1000000000", "at least 0", 1000),
            ("method=idarts method.T=1000000000", "above 0", 1000),
            ("method=tse method.T=1000000000", "above 0", 1000),
            ("method=sdarts method.perturbation=adversarial method.ascents=1000000000", "above 0", 1000),
            ("space=darts_rnn space.nodes=1000000000", "above 0", 100),
        )
    ],
    (["study", "study.searches=1000000000"], "study.searches=1000000000: must be at least 0 and at most 1024"),
    (["study", "study.retrains=1000000000"], "study.retrains=1000000000: must be above 0 and at most 1024"),
    (
        ["search", "dataset=imagenet", "dataset.resize=1000000"],
        "dataset.resize=1000000: one image of 1000000 x 1000000 needs 13,969.8 GB, more than half of this machine's ",
    ),
    (["search", "threads=1000000"], "threads=1000000: must be above 0 and at most 1024, or null"),
    (["search", "workers=1000000"], "workers=1000000: must be at least 0 and at most 1024, or null"),
]
CHECKS = """
import json, sys
from nasx.cli import arguments, preflight
from nasx.errors import UserError
for command, *words in json.load(sys.stdin):
    try:
        preflight.check_line(command, preflight.normalize(command, arguments.split_options(words)))
        said = ""
    except UserError as error:
        said = str(error)
    print(json.dumps([said, 'torch' in sys.modules]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """For each of `CASES` what the check before Hydra says, and whether torch is imported; from one process."""
    here = str(tmp_path_factory.mktemp("bounds"))
    env = {"NASX_DATA": here, "PATH": "/usr/bin:/bin", "HOME": here}
    lines = json.dumps([words for words, _ in CASES])
    done = subprocess.run(
        [sys.executable, "-c", CHECKS], input=lines, capture_output=True, text=True, check=True, env=env
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.sample(12)
def test_the_command_line_refuses_it_without_torch(case: int, answers: list[list[Any]]) -> None:
    said, torch = answers[case]
    assert not torch
    assert re.search(CASES[case][1], said), said


def test_the_largest_seed_and_the_longest_name_are_taken(tmp_path: Path) -> None:
    import torch

    from nasx.config.rules import LONGEST_NAME, _folder_name, _seeds
    from nasx.core.constraints import SEEDS

    torch.Generator().manual_seed(SEEDS - 1)
    with pytest.raises((RuntimeError, ValueError)):
        torch.Generator().manual_seed(SEEDS)
    assert list(_seeds({"seed": SEEDS - 1, "seeds_per_job": 1}, "search")) == []
    assert list(_seeds({"seed": SEEDS - 3, "study": {"searches": 2, "retrains": 1}}, "study")) == []
    assert list(_seeds({"seed": SEEDS - 2, "study": {"searches": 2, "retrains": 1}}, "study")) != []
    assert list(_folder_name({"name": "x" * LONGEST_NAME}, "search")) == []
    (tmp_path / f".{'x' * LONGEST_NAME}-retrain.0123456789abcdef.part").touch()


@pytest.mark.parametrize(
    ("given", "faults"),
    [
        ({"pad": 7, "cutout": 8, "batch": 10}, 0),
        ({"pad": 8}, 1),
        ({"cutout": 9}, 1),
        ({"batch": 10**12}, 1),
        ({"pad": 8, "cutout": 9, "batch": 10**12}, 3),
    ],
)
def test_bounds_are_those_of_the_shorter_side(given: dict[str, int], faults: int) -> None:
    assert len(list(bounds.faults((3, 8, 20), **given))) == faults


def test_what_only_files_tell_is_checked_when_they_are_read(tmp_path: Path) -> None:
    x = np.random.RandomState(0).randint(0, 256, (8, 10, 12)).astype(np.uint8)
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(8) % 2)
    path = str(tmp_path / "set.npz")
    with pytest.raises(UserError, match=r"dataset.pad=10: is not less than the shorter side of the images \(12 x 10\)"):
        Folder(path=path, pad=10).open("cpu")
    with pytest.raises(UserError, match=r"cutout=11: is larger than the images \(12 x 10\)"):
        Folder(path=path).open("cpu", cutout=11)
    with pytest.raises(UserError, match=r"search.batch=1000000000000: .* need .* GB, more than half of this machine's"):
        Folder(path=path).open("cpu").stream("w", batch=10**12, seed=0)
    with pytest.raises(UserError, match=r"retrain.batch=1000000000000: "):
        Folder(path=path).open("cpu").stream("retrain", batch=10**12, seed=0)


def test_images_on_a_disk_have_bounds_too(tmp_path: Path) -> None:
    from own_images import own_images

    own_images(tmp_path)
    photos = Photos(path=str(tmp_path), size=16, resize=16, verify=False)
    with pytest.raises(UserError, match=r"cutout=17: is larger than the images \(16 x 16\)"):
        photos.open("cpu", cutout=17)
    with pytest.raises(UserError, match=r"search.batch=1000000000000: "):
        photos.open("cpu").stream("w", batch=10**12, seed=0)


# ----------------------------------------------------------------------------------------------------------- size
def test_half_the_size_is_the_mean_of_four_pixels() -> None:
    x = np.zeros((1, 1, 4, 4), np.uint8)
    x[0, 0] = [[0, 10, 255, 255], [20, 30, 255, 254], [1, 1, 1, 2], [1, 2, 2, 2]]
    # (0 + 10 + 20 + 30) / 4 = 15; (3 * 255 + 254) / 4 = 254.75; 5 / 4 = 1.25; 7 / 4 = 1.75
    assert shrink.shrunk(x, 2)[0, 0].tolist() == [[15, 255], [1, 2]]
    x[0, 0, 2:, 2:] = [[1, 2], [2, 1]]  # 6 / 4 = 1.5, rounded up
    assert shrink.shrunk(x, 2)[0, 0, 1, 1] == 2


def test_other_sizes_weigh_by_area() -> None:
    assert shrink.weights(3, 2).tolist() == [[2, 1, 0], [0, 1, 2]]
    assert shrink.weights(4, 2).tolist() == [[2, 2, 0, 0], [0, 0, 2, 2]]
    x = np.random.RandomState(0).randint(0, 256, (5, 3, 32, 32)).astype(np.uint8)
    for size in (8, 11, 16, 24, 31, 32):
        fine = x.repeat(size, 2).repeat(size, 3).astype(np.int64)  # pixels of 1 / size: blocks of 32 x 32 are one pixel
        sums = fine.reshape(5, 3, size, 32, size, 32).sum((3, 5))
        assert np.array_equal(shrink.shrunk(x, size), (2 * sums + 32 * 32) // (2 * 32 * 32)), size
    assert np.array_equal(shrink.shrunk(x, 32), x)


@pytest.mark.parametrize(("kind", "side"), [(Cifar10, 32), (Svhn, 32), (ImageNet16, 16)])
def test_every_set_is_loaded_at_a_smaller_size(kind: type, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.RandomState(0).randint(0, 256, (6, 3, side, side)).astype(np.uint8)
    y = np.arange(6) % 2
    monkeypatch.setattr(kind, "read", lambda self: (x[:4], y[:4], x[4:], y[4:], ("a", "b")))
    half = x.reshape(6, 3, side // 2, 2, side // 2, 2).astype(int).sum((3, 5))
    for size, wanted in ((None, x), (side, x), (side // 2, (half + 2) // 4)):
        source = kind(size=size)
        images = source.load()
        assert np.array_equal(np.concatenate([images.train_x, images.test_x]), wanted)
        assert source.known_shape() == images.train_x.shape[1:]
        assert source.open("cpu").shape == images.train_x.shape[1:]  # what search and retraining draw from


def test_digits_are_enlarged_and_not_averaged() -> None:
    assert Digits(size=16).known_shape() == (3, 16, 16)
    assert len(np.unique(Digits(size=16).load().train_x)) == 17
