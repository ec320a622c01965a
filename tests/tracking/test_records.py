"""The run folder under faults: incomplete, damaged, hostile and missing files, a full disk, a second process."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import pickle
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch

from nasx.core import files, versions
from nasx.errors import UserError
from nasx.tracking import checkpoints, records, run_folder

IDENTITY = {"seed": 0, "search": {"lr": 0.025, "betas": [0.5, 0.999]}, "space": {"layers": 5}}
EXTRA = {"kind": "search", "choices": {"method": "darts"}, "identity": "00000000"}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[run_folder.Run]:
    with run_folder.Run(tmp_path / "run", IDENTITY, EXTRA) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _log_reaches_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("nasx"), "propagate", True)


def paths(run: run_folder.Run) -> list[Path]:
    return sorted((run.folder / "checkpoints").iterdir())


def saved(run: run_folder.Run, *steps: int) -> None:
    for step in steps:
        run.save({"w": torch.full((2, 3), float(step)), "updates": step}, step)


# ------------------------------------------------------------------------------------------------ the folder
def test_a_folder_says_what_it_holds(run: run_folder.Run) -> None:
    held = files.read_yaml(run.folder / "config.yaml")
    assert held == {"format": versions.FORMAT, **EXTRA, **IDENTITY}
    assert run.result is None
    run.finish({"status": "finished", "value": 1.5})
    assert records.finished(run.folder) == {"format": versions.FORMAT, "status": "finished", "value": 1.5, "seal": {}}


def test_the_same_configuration_opens_it_again(run: run_folder.Run) -> None:
    run.close()
    with run_folder.Run(run.folder, json.loads(json.dumps(IDENTITY)), {**EXTRA, "identity": "x"}):
        pass


def test_a_name_under_which_nothing_was_kept_is_free(run: run_folder.Run) -> None:
    run.fail(UserError("retrain", "does not fit", "lower it"))
    run.close()
    with run_folder.Run(run.folder, {"seed": 1}, EXTRA) as other:
        assert files.read_yaml(run.folder / "config.yaml") == {"format": versions.FORMAT, **EXTRA, "seed": 1}
        other.append({"epoch": 1})
    with pytest.raises(UserError, match="belongs to a run with a different configuration"):
        run_folder.Run(run.folder, IDENTITY, EXTRA)


def test_another_configuration_is_refused_with_the_differing_keys(run: run_folder.Run) -> None:
    saved(run, 1)
    run.close()
    before = (run.folder / "config.yaml").read_bytes()
    other = {
        "seed": 1,
        "search": {"lr": 0.1, "betas": [0.5, 0.999], "null": None, "none": {}},
        "space": {"layers": 5, "new": True},
    }
    with pytest.raises(UserError) as told:
        run_folder.Run(run.folder, other, EXTRA)
    text = str(told.value)
    assert "search.lr: 0.025 in the folder, 0.1 requested, " in text
    assert "\n" not in text  # lines would read as several faults
    assert "seed: 0 in the folder, 1 requested" in text
    assert "space.new: (absent) in the folder, True requested" in text
    assert "search.null: (absent) in the folder, None requested" in text
    assert "search.none: (absent) in the folder, {} requested" in text
    assert "betas" not in text
    assert "layers" not in text
    assert "name=" in told.value.remedy
    assert (run.folder / "config.yaml").read_bytes() == before
    with run_folder.Run(run.folder, IDENTITY, EXTRA):  # the refusal holds no lock
        pass


def test_a_torn_configuration_is_written_again(run: run_folder.Run) -> None:
    run.close()
    (run.folder / "config.yaml").write_text("seed: [")
    with run_folder.Run(run.folder, IDENTITY, EXTRA):
        assert files.read_yaml(run.folder / "config.yaml") == {"format": versions.FORMAT, **EXTRA, **IDENTITY}
    (run.folder / "result.json").write_text("{}")
    (run.folder / "config.yaml").unlink()
    with pytest.raises(UserError, match="nothing else shows which run the files belong to"):  # not this one's answer
        run_folder.Run(run.folder, IDENTITY, EXTRA)


def test_checkpoints_that_no_configuration_goes_with_are_not_taken(run: run_folder.Run) -> None:
    saved(run, 1)
    run.close()
    for harm in (lambda path: path.write_text("seed: ["), Path.unlink):
        harm(run.folder / "config.yaml")
        with pytest.raises(UserError, match=r"config\.yaml: is missing or truncated, and nothing else shows which run"):
            run_folder.Run(run.folder, {"seed": 1}, EXTRA)
    assert [path.name for path in paths(run)] == ["000000001.ckpt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"cannot be written.*out=FOLDER"):
        run_folder.Run(tmp_path / "locked" / "run", IDENTITY, EXTRA)


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*out=FOLDER"):
        run_folder.Run(tmp_path / "file" / "run", IDENTITY, EXTRA)


def test_an_existing_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root passes every real check
    with pytest.raises(UserError, match=r"read-only.*out=FOLDER"):
        run_folder.Run(tmp_path / "run", IDENTITY, EXTRA)


# ------------------------------------------------------------------------------------------------ the files
def test_leftovers_of_a_kill_are_removed_by_the_next_start_alone(run: run_folder.Run) -> None:
    parts = [
        run.folder / ".result.json.17.part",
        run.folder / ".search.png.part",
        run.folder / "checkpoints" / ".000000002.ckpt.17.part",
    ]
    for part in parts:
        part.write_bytes(b"half")
    (run.folder / "export").mkdir()
    kept = run.folder / "export" / ".model.safetensors.17.part"
    kept.write_bytes(b"of another command")
    with pytest.raises(UserError, match="is in use"):
        run_folder.Run(run.folder, IDENTITY, EXTRA)
    assert all(part.exists() for part in parts), "who has no lock removes nothing"
    run.close()
    with run_folder.Run(run.folder, IDENTITY, EXTRA):
        assert not any(part.exists() for part in parts)
        assert kept.exists()


def test_why_a_start_failed_is_kept_until_the_next_one(run: run_folder.Run) -> None:
    run.fail(UserError("search.lr=9", "is too much", "lower it"))
    assert (run.folder / "fault.txt").read_text() == "search.lr=9: is too much; lower it\n"
    run.close()
    with run_folder.Run(run.folder, IDENTITY, EXTRA) as again:
        assert not (run.folder / "fault.txt").exists()
        again.finish({"status": "finished"})
        again.fail(UserError("a sweep", "another seed failed"))
        assert not (run.folder / "fault.txt").exists(), "a finished run has not failed"


def test_a_bug_is_kept_with_its_line_and_its_trace(run: run_folder.Run) -> None:
    (run.folder / "log.txt").write_text("before\n")
    with pytest.raises(AttributeError) as caught:
        records.parsed(3)  # type: ignore[arg-type]
    run.fail(caught.value)
    said = (run.folder / "fault.txt").read_text()
    assert re.fullmatch(
        r"AttributeError: 'int' object has no attribute 'splitlines' \(nasx/tracking/records\.py:\d+ in parsed\)\n",
        said,
    )
    log = (run.folder / "log.txt").read_text()
    assert log.startswith("before\nTraceback")
    assert "in parsed" in log


def test_a_session_keeps_why_it_failed(tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, *jobs.TINY_NB201, "search.lr=1e30", "search.clip=null")
    assert done.code == 2, done
    assert "became NaN or infinite" in (jobs.folder(tmp_path) / "fault.txt").read_text()


def test_a_file_is_the_old_one_until_it_is_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    files.write_atomic(path, "old")
    for call in ("write", "fsync", "replace"):
        with monkeypatch.context() as patch:

            def fails(*_: object) -> None:
                raise OSError(errno.EIO, "Input/output error")

            patch.setattr(os, call, fails)
            with pytest.raises(UserError, match="cannot be written"):
                files.write_atomic(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path], "nothing half-written stays"
    files.write_atomic(path, b"new")
    assert path.read_text() == "new"


def test_a_full_disk_is_reported_and_the_old_checkpoint_stays(run: run_folder.Run) -> None:
    saved(run, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written.*again to resume"):
            saved(run, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    loaded = run.load()
    assert loaded is not None
    assert loaded["updates"] == 1
    saved(run, 2)
    assert run.load()["updates"] == 2  # type: ignore[index]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "quota"), (errno.EFBIG, "ulimit"), (errno.EACCES, "out=FOLDER")],
)
def test_what_cannot_be_written_has_a_remedy(number: int, remedy: str) -> None:
    assert remedy in files.unwritable(Path("x"), OSError(number, os.strerror(number))).remedy


def test_metrics_rows_survive_a_torn_line(run: run_folder.Run) -> None:
    run.append({"epoch": 1, "loss": 0.1})
    run.append({"epoch": 2, "loss": 1 / 3})
    path = run.folder / "metrics.jsonl"
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) - 5, whole.index(b"\n") + 2):
        path.write_bytes(whole[:length] + (b"" if length == len(whole) - 1 else b"\xff\x00"))
        assert records.read_rows(run.folder)[0] == {"epoch": 1, "loss": 0.1}
        assert len(records.read_rows(run.folder)) == (2 if length == len(whole) - 1 else 1)
        run.keep_rows('{"epoch": 1, "loss": 0.1}\n')
        run.append({"epoch": 2, "loss": 1 / 3})
        assert path.read_bytes() == whole, "a resume writes what an uninterrupted run writes"


@pytest.mark.parametrize("line", ["[1]", "3", "null", '"text"', "true"])
def test_rows_that_are_no_objects_are_left_out(run: run_folder.Run, line: str) -> None:
    (run.folder / "metrics.jsonl").write_text(f'{{"epoch": 1}}\n{line}\n{{"epoch": 2}}\n' + "[" * 100_000 + "\n")
    assert run.rows() == [{"epoch": 1}, {"epoch": 2}]


def test_a_row_is_on_the_disk_before_a_checkpoint_counts_it(
    run: run_folder.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, whole, path = [], os.fsync, run.folder / "metrics.jsonl"

    def notes(handle: int) -> None:
        whole(handle)
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            synced.append(path.read_text())

    monkeypatch.setattr(os, "fsync", notes)
    run.append({"epoch": 1})
    run.append({"epoch": 2})
    assert synced == ['{"epoch": 1}\n', '{"epoch": 1}\n{"epoch": 2}\n']


def test_rows_after_the_checkpoint_are_forgotten(run: run_folder.Run) -> None:
    for epoch in (1, 2, 3):
        run.append({"epoch": epoch})
    run.keep_rows('{"epoch": 1}\n{"epoch": 2}\n')
    assert run.rows() == records.read_rows(run.folder) == [{"epoch": 1}, {"epoch": 2}]
    run.keep_rows("")
    assert run.rows() == records.read_rows(run.folder) == []


def test_a_record_of_another_state_is_not_finished(run: run_folder.Run) -> None:
    (run.folder / "result.json").write_text('{"status": "running"}')
    assert records.finished(run.folder) is None


# ---------------------------------------------------------------------------------------------- checkpoints
def test_the_last_two_checkpoints_are_kept(run: run_folder.Run) -> None:
    assert run.load() is None
    saved(run, 3, 12, 120)
    assert [path.name for path in paths(run)] == ["000000012.ckpt", "000000120.ckpt"]
    loaded = run.load()
    assert loaded is not None
    assert loaded["updates"] == 120
    assert torch.equal(loaded["w"], torch.full((2, 3), 120.0))


DAMAGE = {
    "empty": lambda data: b"",
    "no header": lambda data: data[10:],
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "header alone": lambda data: data[: len(checkpoints.MAGIC) + 65],
    "a flipped bit": lambda data: data[:-400] + bytes([data[-400] ^ 1]) + data[-399:],
    "a flipped checksum": lambda data: data[: len(checkpoints.MAGIC)] + b"x" + data[len(checkpoints.MAGIC) + 1 :],
    "something else": lambda data: b"PK\x03\x04" + data,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    run: run_folder.Run, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved(run, 1, 2)
    newest = paths(run)[-1]
    newest.write_bytes(DAMAGE[damage](newest.read_bytes()))
    loaded = run.load()
    assert loaded is not None
    assert loaded["updates"] == 1
    assert str(newest) in caplog.text
    assert "the previous checkpoint is used" in caplog.text


def test_a_damaged_checkpoint_that_is_later_takes_no_ones_place(run: run_folder.Run) -> None:
    saved(run, 6, 9)
    paths(run)[-1].write_bytes(b"")
    (run.folder / "checkpoints" / "000000008.ckpt").write_bytes(b"")  # a kill before the third was removed
    assert run.load()["updates"] == 6  # type: ignore[index]
    saved(run, 7)
    assert [path.name for path in paths(run)] == ["000000006.ckpt", "000000007.ckpt"]


def test_a_checkpoint_that_is_gone_or_cannot_be_read_is_damaged(run: run_folder.Run) -> None:
    (run.folder / "checkpoints" / "000000002.ckpt").mkdir()  # as root every file can be read
    assert checkpoints.read(run.folder / "checkpoints" / "000000002.ckpt") is None
    assert checkpoints.read(run.folder / "checkpoints" / "000000003.ckpt") is None


def test_none_readable_says_what_to_move_away(run: run_folder.Run) -> None:
    saved(run, 1, 2)
    for path in paths(run):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=r"contains no readable checkpoint \(2 files found\); move the folder elsewhere"
    ):
        run.load()


def test_leftovers_of_a_kill_are_not_read(run: run_folder.Run) -> None:
    saved(run, 1)
    (run.folder / "checkpoints" / ".000000002.ckpt.17.part").write_bytes(b"half a checkpoint")
    loaded = run.load()
    assert loaded is not None
    assert loaded["updates"] == 1


class Payload:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


def planted(path: Path, body: bytes) -> None:
    """A checkpoint with a valid header around `body`."""
    path.write_bytes(checkpoints.MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


@pytest.mark.parametrize("form", ["pickle", "torch", "torch_legacy"])
def test_a_hostile_checkpoint_is_refused_and_nothing_runs(
    run: run_folder.Run, form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(run, 1)
    trace, body = tmp_path / "executed", io.BytesIO()
    if form == "pickle":
        body.write(pickle.dumps({"w": Payload(trace)}, protocol=2))
    else:
        torch.save({"w": Payload(trace)}, body, _use_new_zipfile_serialization=form == "torch")
    planted(run.folder / "checkpoints" / "000000002.ckpt", body.getvalue())
    loaded = run.load()
    assert loaded is not None
    assert loaded["updates"] == 1
    assert "cannot be read safely" in caplog.text
    assert not trace.exists()
    (run.folder / "checkpoints" / "000000001.ckpt").unlink()
    with pytest.raises(UserError, match=r"contains no readable checkpoint \(1 file found\)"):
        run.load()
    assert not trace.exists()
