"""`nasx whatif`: branches of a search from a kept checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
import yaml
from folders import equal, rows, state

from nasx.cli import diagnose, whatif
from nasx.config import identity, paths
from nasx.diagnostics.onset import Onset, onset
from nasx.errors import UserError
from nasx.report import branches
from nasx.searcher.branch import branch_state
from nasx.tracking import checkpoints, records
from nasx.tracking.lock import Lock

PARENT = (*jobs.TINY_NB201, "search.epochs=3", "search.keep_every=1", "search.diagnose_steps=2", "name=told")
CHANGES = {
    "weight_decay": ("search.weight_decay=0.5",),
    "arch_lr": ("search.arch_lr=0.1", "search.momentum=0.5"),
    "method": ("method=lambda", "method.strength=0.5"),
    "wrapper": ("method=sdarts", "search.diagnose_steps=0"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/told, a search that kept every epoch."""
    place = tmp_path_factory.mktemp("whatif")
    done = jobs.nasx(place, *PARENT)
    assert done.code == 0, done
    assert "keeps 3 checkpoints" in done.err + (place / "runs" / "told" / "log.txt").read_text()
    return place


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


# ------------------------------------------------------------------------------------------------ kept checkpoints
def test_kept_checkpoints_are_those_of_the_epochs_and_no_part_of_the_identity(here: Path) -> None:
    folder = here / "runs" / "told"
    kept = checkpoints.kept(folder)
    assert list(kept) == [1, 2, 3]
    assert len(checkpoints.found(folder)) == 2
    assert kept[3].read_bytes() == checkpoints.found(folder)[-1].read_bytes()
    saved = records.configuration(folder)
    assert saved is not None
    base = {"search": {**saved["search"]}}
    names = {identity.identity({"search": {**base["search"], "keep_every": n}}, "search") for n in (0, 1, 7)}
    assert names == {identity.identity(base, "search")}


def test_no_checkpoint_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 4):
        checkpoints.save(tmp_path, {"epoch": epoch}, epoch)
    assert checkpoints.kept(tmp_path) == {}
    checkpoints.save(tmp_path, {"epoch": 5}, 5, 5)
    for epoch in (6, 7, 8):
        checkpoints.save(tmp_path, {"epoch": epoch}, epoch)
    assert list(checkpoints.kept(tmp_path)) == [5]
    assert [path.stem for path in checkpoints.found(tmp_path)] == ["000000007", "000000008"]
    assert checkpoints.last(tmp_path) == {"epoch": 8}


# ---------------------------------------------------------------------------------------------------- the branch
def test_a_branch_without_a_change_ends_with_the_bits_of_its_parent(here: Path) -> None:
    parent, branch = here / "runs" / "told", here / "runs" / "again"
    done = jobs.nasx(here, "whatif", "told", "epoch=1", "name=again", "out=runs", "threads=1")
    assert done.code == 0, done
    equal(parent, branch)
    origin = record(branch)["branch"]
    assert origin == {
        "run": "told",
        "identity": record(parent)["identity"],
        "epoch": 1,
        "checkpoint": checkpoints.checksum(checkpoints.kept(parent)[1]),
        "changed": {},
    }
    assert record(branch)["passes"] == record(parent)["passes"]
    assert record(branch)["identity"] != record(parent)["identity"]
    assert record(branch)["family"] != record(parent)["family"]


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_branch_has_its_parents_rows_up_to_the_epoch(here: Path, name: str) -> None:
    parent, branch = here / "runs" / "told", here / "runs" / name
    done = jobs.nasx(here, "whatif", "told", "epoch=2", *CHANGES[name], f"name={name}", "out=runs", "threads=1")
    assert done.code == 0, done
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (parent, branch)]
    assert len(lines[0]) == len(lines[1]) == 3
    assert lines[0][:2] == lines[1][:2]
    assert rows(parent)[2] != rows(branch)[2]
    ended = state(branch)
    if name == "weight_decay":
        assert ended["w_opt"]["param_groups"][0]["weight_decay"] == 0.5
        assert record(branch)["branch"]["changed"] == {"search.weight_decay": [5e-4, 0.5]}
    if name == "arch_lr":
        assert ended["a_opt"]["param_groups"][0]["lr"] == 0.1
        assert ended["w_opt"]["param_groups"][0]["momentum"] == 0.5
    if name == "wrapper":  # around the parent's own method
        saved = records.configuration(branch)
        told = records.configuration(parent)
        assert saved is not None
        assert told is not None
        assert saved["method"]["inner"] == told["method"]


def test_a_killed_branch_resumes_by_the_same_command(here: Path) -> None:
    words = ("whatif", "told", "epoch=1", "search.weight_decay=0.1", "threads=1", "out=runs")
    done = jobs.nasx(here, *words, "name=whole")
    assert done.code == 0, done
    job = jobs.Job(here, *words, "name=killed", "checkpoint_s=0.001")
    job.until(lambda: any((here / "runs" / "killed").glob("checkpoints/000000009.ckpt")))
    job.kill()
    assert not (here / "runs" / "killed" / "result.json").exists()
    done = jobs.nasx(here, *words, "name=killed", "checkpoint_s=0.001")
    assert done.code == 0, done
    equal(here / "runs" / "killed", here / "runs" / "whole")
    assert record(here / "runs" / "killed")["family"] == record(here / "runs" / "whole")["family"]


# ------------------------------------------------------------------------------------------------------ refusals
def test_a_method_of_a_folder_of_ones_own_may_not_change_the_space_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text((paths.conf_dir() / "method" / "pc_darts.yaml").read_text())
    monkeypatch.setenv("NASX_CONFIG_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"method=mine: sets space.partial=4, which would change the shape"):
        whatif._same_space("mine", {"partial": 4, "edge_norm": True}, {"partial": 1, "edge_norm": True})
    whatif._same_space("mine", {"partial": 4}, {"partial": 4})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["epoch=4"], r"epoch=4: .* has no checkpoint for this epoch; choose one of the kept epochs 1, 2, 3"),
        (["epoch=3"], r"epoch=3: is not before the end of the branch, which has 3 epochs"),
        (["epoch=1", "space=darts"], r"space=darts: would change the shape of the supernet"),
        (["epoch=1", "space.channels=8"], r"space.channels=8: would change the shape of the supernet"),
        (["epoch=1", "dataset.size=32"], r"dataset.size=32: would change the images"),
        (["epoch=1", "search.batch=4"], r"search.batch=4: would change the images of an epoch"),
        (["epoch=1", "search=nats"], r"search=nats: would change the whole protocol"),
        (["epoch=1", "seed=1"], r"seed=1: cannot differ between a branch and its parent"),
        (["epoch=1", "search.weight_decy=1"], r"search.weight_decy: SearchSettings has no such setting.*weight_decay"),
        (["epoch=1", "search.lr=-1"], r"search.lr=-1"),
        (["epoch=1", "method=lamda"], r"method=lamda: unknown method 'lamda'.*did you mean lambda"),
        (["epoch=1", "method=pc_darts"], r"method=pc_darts: sets space.partial=4, which would change the shape"),
        (["epoch=1", "search.lr=0.1,0.2"], r"lists several values"),
        (["epoch=1", "method.order=${oc.env:HOME}"], r"uses an OmegaConf resolver"),
        (["epoch=1", "auto"], r"needs either epoch=E or auto"),
        ([], r"needs either epoch=E or auto"),
        (["auto", "search.lr=1"], r"auto: decides which settings to change"),
        (["auto"], r"neither its eigenvalue nor its share of skip connections shows a collapse"),
    ],
)
def test_what_a_branch_cannot_do_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(here)
    before = sorted((here / "runs").iterdir())
    with pytest.raises(UserError, match=message):
        whatif.main(["told", "out=runs", *words])
    assert sorted((here / "runs").iterdir()) == before


def test_a_parent_that_is_at_work_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(here / "runs" / "told", tmp_path / "busy")
    lock = Lock(tmp_path / "busy")
    try:
        with pytest.raises(UserError, match=r"busy: is in use by process"):
            whatif.main(["busy", "epoch=1"])
    finally:
        lock.close()


def test_a_parent_that_names_a_strangers_class_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "foreign"
    shutil.copytree(here / "runs" / "told", folder)
    held = yaml.safe_load((folder / "config.yaml").read_text())
    held |= {"allow": ["mine"], "out": "/nowhere", "logger": {"_target_": "mine.Logger"}}
    (folder / "config.yaml").write_text(yaml.safe_dump({**held, "method": {"_target_": "mine.Method"}}))
    with pytest.raises(UserError, match=r"uses classes from mine, which are not trusted"):
        whatif.main(["foreign", "epoch=1"])
    del held["logger"]
    (folder / "config.yaml").write_text(yaml.safe_dump(held))
    asked = whatif.request(["foreign", "epoch=1"])
    cfg = whatif.branch(folder, whatif.opened(folder, asked.allow), 1, (), asked).cfg
    assert (cfg["allow"], cfg["out"], cfg["logger"]) == ([], "outputs", {"_target_": "nasx.tracking.loggers.NoLogger"})


def test_a_checkpoint_of_another_supernet_is_refused(here: Path) -> None:
    folder = here / "runs" / "told"
    saved, _ = diagnose.open_search(folder)
    path = checkpoints.kept(folder)[1]
    origin = {"epoch": 1, "checkpoint": checkpoints.checksum(path)}
    wider = {**saved, "space": {**saved["space"], "channels": 8}}
    with (
        diagnose.restored_job(folder, wider, "cpu", 1, ()) as job,
        pytest.raises(checkpoints.Unfit, match="the names or shapes of the checkpoint's weights differ"),
    ):
        branch_state(path, origin, job.loop, torch.device("cpu"))
    random = {**saved, "method": {"_target_": "nasx.methods.random.Random", "samples": 1}}
    with (
        diagnose.restored_job(folder, random, "cpu", 1, ()) as job,
        pytest.raises(checkpoints.Unfit, match="the method does not train a supernet"),
    ):
        branch_state(path, origin, job.loop, torch.device("cpu"))
    with diagnose.restored_job(folder, saved, "cpu", 1, ()) as job:
        job.loop.updates_per_epoch = 12
        with pytest.raises(checkpoints.Unfit, match="was 6 in the parent, but is 12 in this search"):
            branch_state(path, origin, job.loop, torch.device("cpu"))
        with pytest.raises(UserError, match="is missing, damaged or not the checkpoint"):
            branch_state(path, {**origin, "checkpoint": "0" * 64}, job.loop, torch.device("cpu"))


# --------------------------------------------------------------------------------------------------------- auto
def row(epoch: int, skips: int, eigenvalue: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "epoch": epoch,
        "cells": {"normal": {"skip_ratio": skips / 8}, "reduce": {"skip_ratio": 1.0}},
    }
    return found | ({} if eigenvalue is None else {"eigenvalue": eigenvalue})


def test_the_onset_is_the_last_epoch_of_fewest_skips_before_more_than_half_stay() -> None:
    counts = [3, 2, 1, 2, 1, 2, 5, 3, 4, 5, 6, 6]  # over half in epoch 7, and from epoch 10 to the end
    found = onset([row(i, n) for i, n in enumerate(counts, 1)])
    assert found is not None
    assert found.epoch == 5
    assert "from 0.12 in epoch 5 to over 0.5 in epoch 10" in found.reason


@pytest.mark.parametrize("counts", [[1, 2, 3, 4], [5, 6, 7], [1, 6, 6, 2], []])
def test_a_collapse_that_does_not_last_has_no_onset(counts: list[int]) -> None:
    """Never over half, over half from the first epoch on, healed, or no rows."""
    assert onset([row(i, n) for i, n in enumerate(counts, 1)]) is None


def test_the_eigenvalue_counts_where_it_rose_first() -> None:
    values = [1.0] * 22 + [3.0] * 18
    grown = [row(i, 2 if i < 38 else 7, value) for i, value in enumerate(values, 1)]
    found = onset(grown)
    assert found is not None
    assert "eigenvalue" in found.reason
    assert 11 <= found.epoch < 23
    steady = onset([{**each, "eigenvalue": 1.0} for each in grown])
    assert steady == Onset(37, steady.reason if steady else "")


def first_epoch() -> None:
    whatif.onset = lambda rows: Onset(1, "the test says so")  # type: ignore[assignment]


@pytest.mark.slow
def test_auto_runs_each_remedy_once_and_compares(here: Path) -> None:
    words = ("whatif", "told", "auto", "out=runs", "threads=1")
    done = jobs.nasx(here, *words, prepare=first_epoch)
    assert done.code == 0, done
    [found] = json.loads((here / "runs" / "whatif-told.json").read_text())
    names = ["no change", "stopping there", "weight decay x 10", "sdarts", "lambda", "beta_darts", "arch_lr / 10"]
    assert list(found["ends"]) == names
    assert (found["epoch"], found["measure"]) == (1, "cifar10.valid")
    changed = {name: record(here / found["ends"][name]["folder"])["branch"]["changed"] for name in names[2:]}
    assert changed["weight decay x 10"] == {"search.weight_decay": [5e-4, 5e-3]}
    assert changed["arch_lr / 10"] == {"search.arch_lr": [3e-4, 3e-5]}
    assert changed["sdarts"]["method._target_"][1] == "nasx.methods.sdarts.Sdarts"
    assert (here / "runs" / "whatif-told.svg").exists()
    assert all(name in done.out for name in names)
    before = {name: (here / found["ends"][name]["folder"] / "result.json").stat().st_mtime_ns for name in names[2:]}
    again = jobs.nasx(here, *words, prepare=first_epoch)
    assert again.code == 0, again
    assert before == {
        name: (here / found["ends"][name]["folder"] / "result.json").stat().st_mtime_ns for name in names[2:]
    }


def end(accuracy: float | None, *, collapsed: bool | None = None, passes: float = 100) -> branches.Outcome:
    return branches.Outcome("runs/x", "", accuracy, 0.5, collapsed, passes, 1.0)


def test_better_is_a_higher_accuracy_and_without_a_benchmark_an_end_without_collapse() -> None:
    ends = {branches.ITSELF: end(80.0, collapsed=True), "up": end(81.0, passes=150), "down": end(79.0)}
    known = branches.Outcomes("runs/x", 3, "cifar10.valid", ends)
    assert [known.better(name) for name in ends] == [None, True, False]
    assert (known.gain("down"), known.extra("up")) == (-1.0, 0.5)
    ends = {
        branches.ITSELF: end(None, collapsed=True),
        "saved": end(None, collapsed=False),
        "lost": end(None, collapsed=True),
        branches.STOPPED: end(None),
    }
    unknown = branches.Outcomes("runs/x", 3, "", ends)
    assert [unknown.better(name) for name in ends] == [None, True, False, None]
    lines = list(branches.lines([known, known]))
    assert lines[1]["gain"] == "+1.00 ± 0.00"
    assert lines[1]["better"] == "2 of 2"
    assert lines[1]["passes"] == "+50 %"


def test_a_remedy_that_no_search_could_take_is_left_out_of_the_figure(tmp_path: Path) -> None:
    """Refused for one search, and what the other one did anyway."""
    itself = branches.Outcome("", accuracy=50.0)
    first = branches.Outcomes(
        "runs/a", 1, "cifar10.valid", {"no change": itself, "lambda": branches.Outcome("", refused="no")}
    )
    second = branches.Outcomes("runs/b", 1, "cifar10.valid", {"no change": itself})
    assert len(branches.picture([first, second], tmp_path / "figure")) == 2
