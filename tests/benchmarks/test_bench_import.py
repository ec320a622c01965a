"""Imports of NAS-Bench-201 from files in the official structures."""

from __future__ import annotations

import bz2
import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nb201_files import BEST, NAMES, SAMPLE, SEEDS, SPLITS, accuracy, official, write_folder, write_pth

from nasx.benchmarks import foreign_files
from nasx.benchmarks.base import DATASETS
from nasx.benchmarks.columns import Table
from nasx.benchmarks.isomorphism import cell_code
from nasx.benchmarks.nb201 import Nb201
from nasx.benchmarks.nb201_import import import_nb201
from nasx.errors import UserError


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "benchmarks" / "nb201.npz"


def check(file: Path) -> None:
    """The table holds what `accuracy` says, for every cell, set, split, budget and seed."""
    table = Nb201(path=str(file)).table()
    seen = 0
    for (trained_on, hp), seeds in SEEDS.items():
        for split in SPLITS[trained_on]:
            kind = "valid" if split == "x-valid" else "test"
            if split == "ori-test" and trained_on != "cifar10":
                continue
            columns = table.per_seed(NAMES[trained_on], kind, int(hp))
            assert tuple(sorted(columns)) == seeds
            for seed in seeds:
                for cell in SAMPLE:
                    assert columns[seed][cell_code(cell)] == pytest.approx(
                        accuracy(cell, trained_on, split, hp, seed), abs=1e-9
                    )
                    seen += 1
    assert seen == 6 * (3 + 3 + 2 + 2 + 1 + 1 + 2 + 1 + 1 + 1 + 1 + 1)
    assert [table.seconds(name)[cell_code(BEST)] for name in DATASETS] == [500.0, 500.0, 500.0]


def same(one: Path, two: Path) -> None:
    """Two tables hold the same columns."""
    a, b = Table.read(one).columns, Table.read(two).columns
    assert a.keys() == b.keys()
    for name, column in a.items():
        assert column.seeds == b[name].seeds
        np.testing.assert_array_equal(column.values, b[name].values)


def test_official_file(tmp_path: Path) -> None:
    path, said = write_pth(tmp_path / "NAS-Bench-201-v1_1-096897.pth", official()), []
    summary = import_nb201(path, tmp_path / "out.npz", say=said.append, complete=False)
    check(tmp_path / "out.npz")
    assert "GB of memory" in said[0]
    assert summary["source"] == "NAS-Bench-201 file NAS-Bench-201-v1_1-096897.pth"
    assert summary["cells"] == 6
    assert len(summary["sha256"]) == 64


def test_official_file_in_the_zip_format(tmp_path: Path) -> None:
    torch.save(official(), tmp_path / "nb201.pth")
    import_nb201(tmp_path / "nb201.pth", tmp_path / "out.npz", complete=False)
    check(tmp_path / "out.npz")


@pytest.mark.parametrize("protocol", [2, 4])
def test_nats_folder(tmp_path: Path, protocol: int) -> None:
    folder = write_folder(tmp_path / "NATS-tss-v1_0-3ffb9-simple", protocol)
    import_nb201(folder, tmp_path / "out.npz", complete=False)
    check(tmp_path / "out.npz")


def test_both_official_forms_give_the_same_table(tmp_path: Path) -> None:
    import_nb201(write_pth(tmp_path / "a.pth", official()), tmp_path / "a.npz", complete=False)
    import_nb201(write_folder(tmp_path / "b"), tmp_path / "b.npz", complete=False)
    same(tmp_path / "a.npz", tmp_path / "b.npz")


def test_cells_are_keyed_by_their_string_not_by_position(tmp_path: Path) -> None:
    import_nb201(write_pth(tmp_path / "a.pth", official()), tmp_path / "a.npz", complete=False)
    import_nb201(write_pth(tmp_path / "b.pth", official(SAMPLE[::-1])), tmp_path / "b.npz", complete=False)
    same(tmp_path / "a.npz", tmp_path / "b.npz")


# ------------------------------------------------------------------------------------------------ refusals
class Payload:
    """Unpickling this would create a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def broken(kind: str, folder: Path) -> Path:
    """A source that must be refused."""
    path = folder / f"{kind}.pth"
    content = official()
    first = content["arch2infos"][0]["full"]["all_results"]["cifar100", 777]
    if kind == "hostile":
        return write_pth(path, {**content, "extra": Payload(folder / "mark")})
    if kind == "hostile-folder":
        write_folder(folder / "nats")
        (folder / "nats" / "000003.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(Payload(folder / "mark"))))
        return folder / "nats"
    if kind == "truncated-folder":
        write_folder(folder / "nats")
        file = folder / "nats" / "000003.pickle.pbz2"
        file.write_bytes(file.read_bytes()[:-40])
        return folder / "nats"
    if kind == "empty-folder":
        (folder / "nats").mkdir()
        return folder / "nats"
    if kind == "array-folder":
        write_folder(folder / "nats")
        (folder / "nats" / "000000.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps({"200": np.zeros(3)})))
        return folder / "nats"
    if kind == "foreign-csv":
        (folder / "a.csv").write_text("name,score\nx,1\n")
        return folder / "a.csv"
    if kind == "truncated-csv":
        with gzip.open(folder / "b.csv.gz", "wt") as stream:
            stream.write("arch_str,cifar10_valid\n" + f"{BEST},91.55\n" * 1)
        (folder / "b.csv.gz").write_bytes((folder / "b.csv.gz").read_bytes()[:-9])
        return folder / "b.csv.gz"
    if kind == "twice-csv":
        (folder / "c.csv").write_text(f"arch_str,cifar10_valid\n{BEST},91.553333\n{BEST},91.553333\n")
        return folder / "c.csv"
    if kind == "text":
        path.write_text("<html>quota exceeded</html>")
        return path
    if kind == "unknown":
        (folder / "nb201.zip").write_bytes(b"PK")
        return folder / "nb201.zip"
    if kind == "truncated":
        write_pth(path, content)
        path.write_bytes(path.read_bytes()[:-2000])
        return path
    if kind == "weights":
        return write_pth(path, {"conv.weight": torch.zeros(3)})
    if kind == "not-a-count":
        first["eval_acc1es"]["x-test@199"] = 12.345
    if kind == "not-a-percentage":
        first["eval_acc1es"]["x-test@199"] = 123.0
    if kind == "swapped":
        content["meta_archs"][:2] = content["meta_archs"][1::-1]
    if kind == "other-cells":
        for info in content["arch2infos"].values():
            for result in info["full"]["all_results"].values():
                for split in result["eval_acc1es"]:
                    result["eval_acc1es"][split] = 50.0
    return write_pth(path, content)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("hostile", "refers to posix.mkdir"),
        ("hostile-folder", "refers to posix.mkdir"),
        ("truncated-folder", "000003"),
        ("empty-folder", "it contains no file NNNNNN"),
        ("array-folder", "refers to numpy"),  # the function depends on the version of Python
        ("foreign-csv", "no column arch_str or Arch"),
        ("truncated-csv", "EOFError"),
        ("twice-csv", "occurs twice"),
        ("text", "is not a NAS-Bench-201 file"),
        ("unknown", "not a supported source"),
        ("truncated", "is not a NAS-Bench-201 file"),
        ("weights", "KeyError"),
        ("not-a-count", "not multiples of 1/5000"),
        ("not-a-percentage", "123.0 percent"),
        ("swapped", "has the index of"),
        ("other-cells", "0 of its 36"),
        ("absent", "does not exist"),
    ],
)
@pytest.mark.sample(4)
def test_refused_with_the_reason_and_the_old_table_stays(kind: str, reason: str, tmp_path: Path, cache: Path) -> None:
    import_nb201(write_folder(tmp_path / "good"), complete=False)
    before = cache.read_bytes()
    path = tmp_path / "absent.pth" if kind == "absent" else broken(kind, tmp_path)
    with pytest.raises(UserError) as caught:
        import_nb201(path, complete=False)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert cache.read_bytes() == before
    assert [file.name for file in cache.parent.iterdir()] == ["nb201.npz"]
    assert not (tmp_path / "mark").exists()


def test_part_of_the_cells_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="6 of 15625 cells"):
        import_nb201(write_folder(tmp_path / "nats"))
    assert not cache.exists()


def test_a_cell_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_files, "MAX_CELL_BYTES", 10_000)
    with pytest.raises(UserError, match="more than 10000 bytes"):
        import_nb201(write_folder(tmp_path / "nats"), complete=False)


@pytest.mark.parametrize("stage", ["write", "replace"])
def test_failing_write_leaves_the_old_table(
    stage: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "nats")
    import_nb201(folder, complete=False)
    before = cache.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync" if stage == "write" else "replace", full)
    with pytest.raises(UserError, match="No space left"):
        import_nb201(folder, complete=False)
    assert cache.read_bytes() == before
    assert [file.name for file in cache.parent.iterdir()] == ["nb201.npz"]
