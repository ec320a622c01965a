"""A damaged metrics.jsonl, genotype.txt or result.json: checkpoints have the rows, records the hashes."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from folders import equal, reached

from nasx.cli import report, status, table
from nasx.core import files
from nasx.errors import UserError
from nasx.report import run_summary
from nasx.results import collect
from nasx.tracking import checkpoints, records, run_folder

IDENTITY = {"seed": 0}
EXTRA = {"kind": "search", "choices": {"method": "darts"}, "identity": "00000000"}
WORDS = (*jobs.TINY_NB201, "method=darts", "method.order=1", "search.epochs=3", "name=run")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[run_folder.Run]:
    with run_folder.Run(tmp_path / "run", IDENTITY, EXTRA) as opened:
        opened.keep_rows("")
        yield opened


@pytest.fixture(autouse=True)
def _log_reaches_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("nasx"), "propagate", True)


def written(run: run_folder.Run, *epochs: int) -> None:
    """A row and a checkpoint for each epoch."""
    for epoch in epochs:
        run.append({"epoch": epoch, "loss": 1 / epoch})
        run.save({"updates": epoch}, epoch)


def flipped(path: Path, place: int = 15) -> None:
    """One bit of a file turned over."""
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


# ------------------------------------------------------------------------------------------- an unfinished run
@pytest.mark.parametrize(
    "harm",
    [
        flipped,
        Path.unlink,
        lambda path: path.write_bytes(b"\0" * 40),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
    ],
)
def test_damaged_rows_are_written_again_from_the_checkpoint(
    harm: Any, run: run_folder.Run, caplog: pytest.LogCaptureFixture
) -> None:
    written(run, 1, 2, 3)
    path = run.folder / "metrics.jsonl"
    whole = path.read_bytes()
    harm(path)
    state = run.load()
    assert state is not None
    assert (state["updates"], state["rows"], state["metrics"]) == (3, 3, whole.decode())
    run.keep_rows(state["metrics"])
    assert path.read_bytes() == whole
    assert f"{path}: is damaged or lacks rows; restoring it from the checkpoint" in caplog.text
    written(run, 4)
    assert [row["epoch"] for row in run.rows()] == [1, 2, 3, 4]


def test_rows_that_no_checkpoint_holds_yet_are_dropped_in_silence(
    run: run_folder.Run, caplog: pytest.LogCaptureFixture
) -> None:
    written(run, 1)
    run.append({"epoch": 2})
    state = run.load()
    assert state is not None
    run.keep_rows(state["metrics"])
    assert [row["epoch"] for row in records.read_rows(run.folder)] == [1]
    assert caplog.text == ""


@pytest.mark.slow
def test_a_flipped_bit_in_the_rows_does_not_end_a_search(tmp_path: Path) -> None:
    for name in ("whole", "harmed"):
        (tmp_path / name).mkdir()
    assert jobs.nasx(tmp_path / "whole", *WORDS).code == 0
    here = tmp_path / "harmed"
    job = jobs.Job(here, *WORDS)
    job.until(lambda: reached(here, 13))
    job.kill()
    flipped(here / "runs" / "run" / "metrics.jsonl", 2)
    done = jobs.nasx(here, *WORDS)
    assert done.code == 0, done
    assert "restoring it from the checkpoint" in done.err
    equal(here / "runs" / "run", tmp_path / "whole" / "runs" / "run")


# ------------------------------------------------------------------------------------------- checkpoints of format 1
def older(run: run_folder.Run, *counts: int) -> None:
    """A checkpoint of format 1 for each number of rows that it counts."""
    for step, rows in enumerate(counts, 1):
        blob = io.BytesIO()
        torch.save({"updates": step, "rows": rows}, blob)
        data = blob.getvalue()
        digest = hashlib.sha256(data).hexdigest().encode()
        path = run.folder / "checkpoints" / f"{step:09d}.ckpt"
        path.write_bytes(b"nasx checkpoint 1\n" + digest + b"\n" + data)


def test_a_checkpoint_of_format_1_has_the_rows_of_the_file(run: run_folder.Run) -> None:
    run.append({"epoch": 1, "loss": 0.5})
    run.append({"epoch": 2})
    older(run, 1)
    assert run.load() == {"updates": 1, "rows": 1, "metrics": '{"epoch": 1, "loss": 0.5}\n'}


def test_lost_rows_send_a_resume_to_the_checkpoint_before(
    run: run_folder.Run, caplog: pytest.LogCaptureFixture
) -> None:
    run.append({"epoch": 1})
    older(run, 1, 2)
    loaded = run.load()
    assert loaded is not None
    assert (loaded["updates"], loaded["rows"]) == (1, 1)
    assert (
        "expects 2 metrics rows, but metrics.jsonl has 1 complete row; the previous checkpoint is used" in caplog.text
    )
    run.append({"epoch": 2})
    assert run.load()["updates"] == 2  # type: ignore[index]


def test_rows_that_every_checkpoint_misses_are_reported(run: run_folder.Run) -> None:
    older(run, 1, 2)
    with pytest.raises(
        UserError,
        match=r"metrics\.jsonl: has fewer complete rows \(0\) than the readable checkpoints expect .*; restore",
    ):
        run.load()


def test_a_newer_checkpoint_is_named_as_such(run: run_folder.Run, caplog: pytest.LogCaptureFixture) -> None:
    written(run, 1, 2)
    path = checkpoints.found(run.folder)[-1]
    path.write_bytes(b"nasx checkpoint 9\n" + path.read_bytes()[18:])
    assert run.load()["updates"] == 1  # type: ignore[index]
    assert "was written by a newer version of nasx" in caplog.text


# ------------------------------------------------------------------------------------------- a finished run
def finished(run: run_folder.Run) -> dict[str, Any]:
    written(run, 1, 2)
    run.decide("a genotype")
    run.finish({"status": "finished", "kind": "search", "genotype": "a genotype", "choices": {}, "name": "run"})
    found = run.done()
    assert found is not None
    return found


def test_a_record_seals_genotype_and_rows(run: run_folder.Run) -> None:
    record = finished(run)
    assert record["seal"] == {
        name: hashlib.sha256((run.folder / name).read_bytes()).hexdigest() for name in ("genotype.txt", "metrics.jsonl")
    }
    assert records.broken(run.folder, record) == []
    assert records.broken(run.folder, {**record, "seal": {"../x": "y"}}) == []
    assert records.broken(run.folder, {"seal": 3}) == []


def test_rows_that_are_damaged_while_a_run_works_are_right_at_its_end(run: run_folder.Run) -> None:
    written(run, 1)
    whole = (run.folder / "metrics.jsonl").read_bytes()
    flipped(run.folder / "metrics.jsonl")
    run.decide("x")
    (run.folder / "genotype.txt").write_text("y")
    run.finish({"status": "finished"})
    assert (run.folder / "metrics.jsonl").read_bytes() == whole
    assert (run.folder / "genotype.txt").read_text() == "x\n"
    assert records.broken(run.folder, run.done() or {}) == []


@pytest.mark.parametrize("name", ["genotype.txt", "metrics.jsonl"])
def test_a_broken_seal_is_mended_where_the_text_is_known(
    name: str, run: run_folder.Run, caplog: pytest.LogCaptureFixture
) -> None:
    record, path = finished(run), run.folder / name
    whole = path.read_bytes()
    flipped(path, 3)
    assert records.broken(run.folder, record) == [name]
    assert run.done() == record
    assert path.read_bytes() == whole
    assert f"{name} changed after the run had finished" in caplog.text
    path.write_bytes(b"edited")
    if name == "metrics.jsonl":
        for checkpoint in checkpoints.found(run.folder):
            checkpoint.unlink()
        caplog.clear()
        run.done()
        assert path.read_bytes() == b"edited"
        assert "its original content cannot be recovered" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\x01", '{"status": "finis'])
def test_a_record_that_cannot_be_read_is_an_error(text: str, run: run_folder.Run) -> None:
    path = run.folder / "result.json"
    path.write_text(text)
    with pytest.raises(
        UserError, match=r"result\.json: cannot be read as a record.*move the folder elsewhere to start"
    ):
        records.finished(run.folder)
    written(run, 1)
    with pytest.raises(UserError, match=r"or remove it: the same command then continues from the last checkpoint"):
        run.done()
    path.unlink()
    assert run.done() is None


def test_a_finished_run_whose_record_is_damaged_is_not_started_again(tmp_path: Path) -> None:
    assert jobs.nasx(tmp_path, *WORDS).code == 0
    folder = tmp_path / "runs" / "run"
    whole = {path: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".jsonl", ".txt")}
    (folder / "result.json").write_bytes(b"\0" * 100)
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    done = jobs.nasx(tmp_path, *WORDS)
    assert done.code == 2
    assert "cannot be read as a record" in done.err
    assert (folder / "metrics.jsonl").read_bytes() == whole[folder / "metrics.jsonl"]


@pytest.mark.slow
def test_tables_reports_and_status_name_a_broken_seal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert jobs.nasx(tmp_path, *WORDS).code == 0
    folder = tmp_path / "runs" / "run"
    before = (folder / "genotype.txt").read_bytes()
    for say in (0, 1):
        told = table.main({"out": "runs"})
        report.main(["runs"])
        status.main(["runs"])
        printed = capsys.readouterr().out
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        for text in (told, page, printed):
            assert ("genotype.txt changed after the run had finished" in text) == bool(say), text[-2000:]
        (folder / "genotype.txt").write_text("|none~0|\n")
    assert "finished" in printed
    frame = collect.collect("runs")
    assert list(frame["broken"]) == ["genotype.txt"]
    cfg = {"out": "runs", "name": "run"}
    monkeypatch.setattr(run_summary, "checked_folder", lambda cfg, choices, kind: folder)
    assert run_summary.again({**cfg, "seeds_per_job": 1, "draw": "cell"}, {}, "search") is None, (
        "there is something to mend"
    )
    done = jobs.nasx(tmp_path, *WORDS)
    assert done.code == 0
    assert "it was restored" in done.err
    assert (folder / "genotype.txt").read_bytes() == before
    assert files.read_json(folder / "result.json") is not None
    assert json.loads((folder / "result.json").read_text())["seal"]
