"""The split of the training images between weights and architecture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nasx.data.images import Digits
from nasx.data.splits import read_split, splits
from nasx.errors import UserError


def write(path: Path, train: list[int], valid: list[int]) -> str:
    path.write_text(json.dumps({"train": ["int", [str(i) for i in train]], "valid": ["int", [str(i) for i in valid]]}))
    return str(path)


@pytest.mark.parametrize(("n", "fraction", "cut"), [(50_000, 0.5, 25_000), (7, 0.5, 3), (10, 0.9, 9)])
def test_halves_are_the_first_and_the_rest(n: int, fraction: float, cut: int) -> None:
    train, val = splits(n, Digits(fraction=fraction), seed=5)
    assert train.tolist() == list(range(cut))
    assert val.tolist() == list(range(cut, n))


def test_seeded_is_disjoint_complete_and_of_the_seed() -> None:
    train, val = splits(100, Digits(split="seeded", fraction=0.3), seed=0)
    assert len(train) == 30
    assert sorted([*train, *val]) == list(range(100))
    assert np.array_equal(train, splits(100, Digits(split="seeded", fraction=0.3), seed=0)[0])
    assert not np.array_equal(train, splits(100, Digits(split="seeded", fraction=0.3), seed=1)[0])
    assert train[:10].tolist() != list(range(10))


def test_full_is_everything_twice() -> None:
    for part in splits(9, Digits(split="full"), seed=0):
        assert part.tolist() == list(range(9))


def test_images_may_be_given_for_their_number() -> None:
    images = Digits(size=8).load()
    assert len(splits(images, Digits(), seed=0)[1]) == 719


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "split.json", [0, 5, 7], [1, 2])
    train, val = splits(8, Digits(split="file", split_file=file), seed=0)
    assert (train.tolist(), val.tolist()) == ([0, 5, 7], [1, 2])
    Digits(split="file", split_file=file).check()


def test_the_official_file_of_nas_bench_201(tmp_path: Path) -> None:
    """In the official layout, two columns of quoted numbers over many lines, for all 50,000 images."""
    order = np.random.RandomState(1).permutation(50_000)
    halves = [np.sort(order[:25_000]), np.sort(order[25_000:])]
    text = ",\n".join(
        f'  "{name}"              : ["int"   , [{", ".join(f"{chr(34)}{i}{chr(34)}" for i in half)}]]'
        for name, half in zip(("train", "valid"), halves, strict=True)
    )
    (tmp_path / "cifar-split.txt").write_text("{\n" + text + "\n}\n")
    read = splits(50_000, Digits(split="file", split_file=str(tmp_path / "cifar-split.txt")), seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(read, halves, strict=True))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is not a split file"),
        ("[]", "is not a split file"),
        ('{"train": ["int", ["0"]]}', "KeyError: 'valid'"),
        ('{"train": ["int", ["a"]], "valid": ["int", ["1"]]}', "is not a split file"),
        ('{"train": ["int", ["0", "1"]], "valid": ["int", ["1"]]}', "contains an image twice"),
        ('{"train": ["int", ["0"]], "valid": ["int", ["8"]]}', "contains image 8, but the set has 8"),
        ('{"train": ["int", ["-1"]], "valid": ["int", ["1"]]}', "contains image -1"),
        ('{"train": ["int", ["0"]], "valid": ["int", []]}', "has an empty part"),
    ],
)
def test_faulty_files(content: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(UserError, match=fault):
        read_split(str(tmp_path / "split.json"), 8)


def test_no_file() -> None:
    with pytest.raises(UserError, match=r"split_file=/nowhere: cannot be read.*cifar-split.txt in AutoDL-Projects"):
        read_split("/nowhere", 8)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset.fraction=0.01: leaves one part of the split of 7 images empty"):
        splits(7, Digits(fraction=0.01), seed=0)


def test_classes_are_split_in_the_same_proportion() -> None:
    """PC-DARTS' samples of ImageNet: 10 % and 2.5 % of each class, disjoint."""
    y = np.random.RandomState(0).permutation(np.repeat(np.arange(5), 80))

    class Counted:
        train_y = y

    source = Digits(split="classes", fraction=0.1, fraction_a=0.025)
    w, a = splits(Counted(), source, seed=3)
    assert np.bincount(y[w]).tolist() == [8] * 5
    assert np.bincount(y[a]).tolist() == [2] * 5
    assert not set(w) & set(a)
    assert w.tolist() == sorted(w)
    assert w.tolist() != splits(Counted(), source, seed=4)[0].tolist()


@pytest.mark.parametrize("split", ["halves", "seeded"])
def test_a_share_for_the_architecture(split: str) -> None:
    w, a = splits(200, Digits(split=split, fraction=0.3, fraction_a=0.1), seed=0)  # type: ignore[arg-type]
    assert (len(w), len(a)) == (60, 20)
    assert not set(w) & set(a)
    whole = splits(200, Digits(split=split, fraction=0.3), seed=0)  # type: ignore[arg-type]
    assert w.tolist() == whole[0].tolist()
    assert set(a) < set(whole[1])
    with pytest.raises(
        UserError, match=r"dataset.fraction_a=0.8: is not between 0 and the share left by dataset.fraction=0.3"
    ):
        Digits(fraction=0.3, fraction_a=0.8).check()
