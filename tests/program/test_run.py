"""Whole searches from the command line: folder, record, table and retraining."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch

from nasx.benchmarks.nb201 import EMBEDDED
from nasx.benchmarks.nb201 import Nb201 as Table
from nasx.cli import main
from nasx.core import files
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import records

FIELDS = {
    "kind",
    "name",
    "status",
    "command",
    "started",
    "finished",
    "choices",
    "protocol",
    "seed",
    "identity",
    "overrides",
    "labels",
    "genotype",
    "operations",
    "lookup",
    "supernet",
    "test_accuracy",
    "parent",
    "params",
    "updates",
    "passes",
    "wall_s",
    "peak_mb",
    "hardware",
    "versions",
    "commit",
}
FILES = {
    "config.yaml",
    "result.json",
    "metrics.jsonl",
    "genotype.txt",
    "log.txt",
    "checkpoints",
    "lock",
    "cell.png",
    "cell.svg",
    "search.png",
    "search.svg",
}
SWEEP = (*jobs.TINY_NB201, "method=darts", "search.epochs=1", "search.updates_per_epoch=2")


@pytest.mark.slow
def test_an_epoch_of_idarts_has_as_many_architecture_steps_as_one_of_darts(tmp_path: Path) -> None:
    """T weight steps come with each (released code: one architecture step a batch of the pass)."""
    whole = ("search.epochs=1", "search.updates_per_epoch=null", "search.batch=300", "search.evaluate_images=16")
    updates = {}
    for name, method in (("darts", "method=darts"), ("idarts", "method=idarts method.T=2 method.K=0")):
        done = jobs.nasx(tmp_path, *jobs.TINY_NB201, *whole, *method.split(), f"out={name}")
        assert done.code == 0, done
        updates[name] = jobs.result(tmp_path, name)["updates"]
    assert updates == {"darts": 3, "idarts": 6}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, jobs.Done]:
    """Three seeds of a tiny search of NAS-Bench-201 in one command."""
    here = tmp_path_factory.mktemp("sweep")
    return here, jobs.nasx(here, "search", "--multirun", *SWEEP[1:], "seed=0,1,2", pictures=True)


def folders(here: Path) -> list[Path]:
    return sorted(path.parent for path in (here / "runs").glob("*/result.json"))


def record(folder: Path) -> dict[str, Any]:
    found = records.finished(folder)
    assert found is not None
    return found


# --------------------------------------------------------------------------------------------------- nb201
@pytest.mark.slow
def test_a_sweep_leaves_one_folder_a_seed(sweep: tuple[Path, jobs.Done]) -> None:
    here, done = sweep
    assert done.code == 0, done
    assert "sweep: 3 of 3 jobs finished" in done.err
    assert [record(folder)["seed"] for folder in folders(here)] == [0, 1, 2]
    assert {path.name for path in here.iterdir()} == {"runs"}, "nothing lands beside the folder of all runs"
    for folder in folders(here):
        assert folder.name.startswith(f"darts-nb201-digits-s{record(folder)['seed']}-")
        assert {path.name for path in folder.iterdir()} >= FILES


def test_a_record_says_what_was_done(sweep: tuple[Path, jobs.Done]) -> None:
    for folder in folders(sweep[0]):
        found = record(folder)
        assert found.keys() >= FIELDS
        assert (found["kind"], found["status"], found["protocol"]) == ("search", "finished", "nb201-v1")
        assert (found["name"], found["updates"]) == (folder.name, 2)
        assert {"method": "darts", "space": "nb201", "dataset": "digits"}.items() <= found["choices"].items()
        assert found["versions"].keys() >= {"nasx", "torch", "python"}
        assert found["hardware"]["device"] == "cpu"
        assert found["test_accuracy"] is found["parent"] is None
        assert 0 <= found["supernet"]["valid_accuracy"] <= 1
        held = files.read_yaml(folder / "config.yaml")
        assert held is not None
        assert (held["choices"], held["identity"]) == (found["choices"], found["identity"])
        assert held["search"]["updates_per_epoch"] == 2
        assert not {"out", "threads", "name", "hydra"} & held.keys(), "where and how is no part of a run"


def test_the_genotype_is_the_look_up_of_the_table(sweep: tuple[Path, jobs.Done]) -> None:
    table = Table(path=str(EMBEDDED))
    for folder in folders(sweep[0]):
        found = record(folder)
        genotype = Nb201().parse(found["genotype"])
        assert str(genotype) == found["genotype"] == (folder / "genotype.txt").read_text().strip()
        assert genotype.operations() == found["operations"]
        score = table.query(genotype)
        assert score is not None
        assert found["lookup"] == json.loads(json.dumps(score.as_record()))
        [row] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert (row["epoch"], row["updates"], row["genotype"]) == (1, 2, found["genotype"])
        assert row["lookup"] == found["lookup"]
        assert row["valid_accuracy"] == found["supernet"]["valid_accuracy"]


def test_the_table_has_one_row_for_all_seeds(sweep: tuple[Path, jobs.Done]) -> None:
    here, _ = sweep
    done = jobs.nasx(here, "table", "out=runs", "format=csv")
    assert done.code == 0, done
    rows = [row for row in csv.DictReader(done.out.splitlines()) if row.get("method") == "darts"]
    assert len(rows) == 1, done
    assert rows[0]["n"] == "3"
    mean = sum(record(folder)["lookup"]["cifar10"]["valid"] for folder in folders(here)) / 3
    assert float(rows[0]["cifar10.valid_mean"]) == pytest.approx(mean, abs=0.005), rows[0]


def test_the_same_sweep_again_only_adds_what_is_missing(sweep: tuple[Path, jobs.Done]) -> None:
    here, _ = sweep
    before = {folder: (folder / "result.json").read_bytes() for folder in folders(here)}
    done = jobs.nasx(here, "search", "--multirun", *SWEEP[1:], "seed=1,2,3")
    assert done.code == 0, done
    after = {folder: (folder / "result.json").read_bytes() for folder in folders(here)}
    assert len(after) == 4
    assert before.items() <= after.items()


def test_a_finished_run_that_is_asked_again_draws_what_is_missing(sweep: tuple[Path, jobs.Done]) -> None:
    here, _ = sweep
    folder = folders(here)[1]
    drawn = {name: (folder / name).read_bytes() for name in ("cell.png", "cell.svg", "search.png", "search.svg")}
    result = (folder / "result.json").stat().st_mtime_ns
    (folder / "cell.svg").unlink()
    (folder / "search.png").unlink()
    (folder / ".search.png.part").write_bytes(b"killed while drawing")
    done = jobs.nasx(here, *SWEEP, "seed=1", pictures=True)
    assert done.code == 0, done
    assert {name: (folder / name).read_bytes() for name in drawn} == drawn
    assert not (folder / ".search.png.part").exists()
    assert (folder / "result.json").stat().st_mtime_ns == result


QUIET = """
import sys
from pathlib import Path
from nasx.report import run_summary as ending
ending.draw(Path(sys.argv[1]), curves=True)
print(sorted({"matplotlib", "pygraphviz", "numpy", "nasx.report.curves"} & set(sys.modules)))
"""


def test_where_all_pictures_are_there_nothing_is_imported(sweep: tuple[Path, jobs.Done]) -> None:
    folder = folders(sweep[0])[2]
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.*g")}
    assert len(before) == 4
    done = subprocess.run([sys.executable, "-c", QUIET, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.*g")} == before


@pytest.mark.slow
def test_a_retraining_that_is_asked_again_draws_its_cells(cells: tuple[Path, jobs.Done]) -> None:
    here, _ = cells
    words = [
        "retrain",
        f"from={jobs.folder(here).name}",
        "out=runs",
        "name=again",
        "retrain.epochs=1",
        "retrain.layers=3",
        "retrain.channels=4",
        "retrain.batch=256",
        "retrain.updates_per_epoch=1",
        "dataset.size=16",
        "retrain.auxiliary=0",
        "threads=1",
    ]
    assert jobs.nasx(here, *words).code == 0
    folder = here / "runs" / "again"
    names = {f"cell-{cell}.{kind}" for cell in ("normal", "reduce") for kind in ("svg", "png")}
    assert {path.name for path in folder.glob("cell*")} == names
    (folder / "cell-reduce.png").unlink()
    done = jobs.nasx(here, *words)
    assert done.code == 0, done
    assert {path.name for path in folder.glob("cell*")} == names
    shutil.rmtree(folder)  # the other tests find one run


def test_the_same_command_elsewhere_gives_the_same_bits(sweep: tuple[Path, jobs.Done], tmp_path: Path) -> None:
    assert jobs.nasx(tmp_path, *SWEEP, "seed=1", "name=again", "out=elsewhere").code == 0
    one, two = record(folders(sweep[0])[1]), record(tmp_path / "elsewhere" / "again")
    for key in ("genotype", "identity", "lookup", "supernet", "updates", "passes"):
        assert one[key] == two[key], key


def test_random_search_looks_cells_up(tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, *jobs.TINY_NB201, "method=random")
    assert done.code == 0, done
    found = jobs.result(tmp_path)
    score = Table(path=str(EMBEDDED)).query(Nb201().parse(found["genotype"]))
    assert score is not None
    assert found["lookup"]["cifar10"]["valid"] == score.as_record()["cifar10"]["valid"]
    assert found["updates"] == 0


# --------------------------------------------------------------------------------------------------- darts
@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, jobs.Done]:
    """A tiny search of the DARTS space."""
    here = tmp_path_factory.mktemp("cells")
    return here, jobs.nasx(here, *jobs.TINY_DARTS, "search.epochs=1", "search.updates_per_epoch=2", "search.cutout=0")


def test_a_search_of_the_darts_space(cells: tuple[Path, jobs.Done]) -> None:
    here, done = cells
    assert done.code == 0, done
    found = jobs.result(here)
    assert str(Darts().parse(found["genotype"])) == found["genotype"]
    assert found["lookup"] is None
    assert "retrain" in done.out
    assert f"nasx retrain from={jobs.folder(here).relative_to(here)}" in done.out
    assert sum(found["operations"].values()) == 16
    [row] = [json.loads(line) for line in (jobs.folder(here) / "metrics.jsonl").read_text().splitlines()]
    assert row["genotype"] == found["genotype"]


def test_what_was_found_is_trained_from_scratch(cells: tuple[Path, jobs.Done]) -> None:
    here, _ = cells
    parent = jobs.folder(here)
    words = [
        "retrain",
        f"from={parent.name}",
        "out=runs",
        "name=trained",
        "retrain.epochs=1",
        "retrain.layers=3",
        "retrain.channels=4",
        "retrain.batch=256",
        "dataset.size=16",
        "retrain.auxiliary=0",
        "threads=1",
    ]
    done = jobs.nasx(here, *words)
    assert done.code == 0, done
    found = record(here / "runs" / "trained")
    assert (found["kind"], found["parent"]) == ("retrain", parent.name)
    assert found["genotype"] == record(parent)["genotype"]
    assert 0 <= found["test_accuracy"] <= 1
    assert (found["test_accuracy"] * 360) % 1 == pytest.approx(0, abs=1e-6), "a share of the 360 test images"
    done = jobs.nasx(here, "table", "out=runs")
    assert done.code == 0, done
    # the table rounds: percent with two decimals
    assert f"{100 * found['test_accuracy']:.2f}" in done.out


# ------------------------------------------------------------------------------------------------ real images
def cifar10() -> Path | None:
    root = Path(os.environ.get("NASX_DATA") or Path.home() / ".cache" / "nasx")
    there = [root / "cifar-10-batches-bin" / "data_batch_1.bin", root / "cifar-10-batches-py" / "data_batch_1"]
    return root if any(path.is_file() for path in there) else None


@pytest.mark.skipif(cifar10() is None, reason="CIFAR-10 is not under NASX_DATA")
def test_a_few_updates_on_real_cifar10(tmp_path: Path) -> None:
    words = [
        "search",
        "space=nb201",
        "method=darts",
        "space.layers=1",
        "space.channels=4",
        "search.batch=8",
        "search.epochs=1",
        "search.updates_per_epoch=3",
        "dataset.fraction=0.998",
        "threads=1",
        "out=runs",
    ]
    done = jobs.nasx(tmp_path, *words, env={"NASX_DATA": str(cifar10())})
    assert done.code == 0, done
    found = jobs.result(tmp_path)
    assert found["choices"]["dataset"] == "cifar10"
    assert str(Nb201().parse(found["genotype"])) == found["genotype"]
    assert found["lookup"]["cifar10"]["valid"] > 0
    assert (found["supernet"]["valid_accuracy"] * 100) % 1 == pytest.approx(0, abs=1e-6), "100 images are left"


# ---------------------------------------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    ("words", "place", "remedy"),
    [
        (["method=idart"], "method=idart: unknown method 'idart'", "did you mean idarts?"),
        (["methd.lr=3"], "methd.lr: nasx search has no such setting", "did you mean method?"),
        (["search.epochs=0"], "search.epochs=0: must be above 0", "the default is search.epochs=50"),
        (["dataset.download=false"], "dataset=cifar10: no files found; looked in ", "offline: use dataset=digits"),
        (["dataset=digits", "out=file/runs"], "file/runs", "out=FOLDER"),
        (["dataset=digits", "device=cuda:99"], "device=cuda:99: is not available", "device=cpu"),
    ],
)
def test_a_fault_is_reported_before_anything_is_made(words: list[str], place: str, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = jobs.nasx(tmp_path, "search", *words)
    assert done.code == 2, done
    assert place in done.err
    assert remedy in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_loss_that_explodes_stops_the_search_and_keeps_it(tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, *jobs.TINY_NB201, "search.lr=1e30", "search.clip=null")
    assert done.code == 2, done
    assert "became NaN or infinite" in done.err
    assert "lower search.lr=1e+30" in done.err
    assert not (jobs.folder(tmp_path) / "result.json").exists()


# ------------------------------------------------------------------------------------------------ compiled
@pytest.mark.slow
def test_a_compiled_search_says_what_its_first_step_took_and_where_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda body, **_: body)  # the compiler's minutes are not what is tested here
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.chdir(tmp_path)
    main.dispatch([*SWEEP, "engine.compile=on", "name=compiled"])
    folder = tmp_path / "runs" / "compiled"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "nasx" / "compiled")
    assert f"is cached in {tmp_path / 'cache' / 'nasx' / 'compiled'}" in (folder / "log.txt").read_text()
    assert record(folder)["warm_up_s"] > 0
