"""`nasx status`: each state from its files, columns, remaining time, and real runs while they write."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import jobs
import pytest
from run_states import NOW, finished, made, told

from nasx.cli import status
from nasx.core import system
from nasx.errors import UserError
from nasx.tracking import lock, records, run_folder

EXTRA = {"kind": "search", "search": {"epochs": 50}}


# --------------------------------------------------------------------------------------------------- one run
@pytest.mark.parametrize(
    ("holds", "state", "epoch", "updates"),
    [
        ({}, "not begun", 0, 0),
        ({"rows": 3}, "stopped", 3, 300),
        ({"rows": 3, "saved": 350}, "stopped", 3, 350),
        ({"saved": 40}, "stopped", 0, 40),
        ({"rows": 3, "files": {"fault.txt": "search: became NaN\n"}}, "failed", 3, 300),
        ({"files": {"fault.txt": "search: no memory\n"}}, "failed", 0, 0),
        ({"rows": 50, "files": finished()}, "finished", 50, 5000),
        ({"files": finished(updates=0)}, "finished", 0, 0),
        ({"rows": 2, "files": {"result.json": '{"status": "fini'}}, "damaged", 2, 200),
        ({"rows": 2, "files": {"result.json": "[]"}}, "damaged", 2, 200),
    ],
)
def test_the_files_tell_the_state(holds: dict[str, Any], state: str, epoch: int, updates: int, tmp_path: Path) -> None:
    found = told(made(tmp_path / "run", **holds))
    assert (found.state, found.epoch, found.epochs, found.updates) == (state, epoch, 50, updates)
    assert (found.name, found.kind, found.changed, found.left_s) == ("run", "search", NOW - 60, None)


@pytest.mark.parametrize(
    "files",
    [
        {"config.yaml": "kind: ["},
        {"config.yaml": "3"},
        {"config.yaml": "kind: search\nsearch: 4\n"},
        {"metrics.jsonl": "[]\n7\n"},
        {"metrics.jsonl": '{"epoch": "x", "updates": null, "wall_s": []}\n'},
        {"fault.txt": ""},
        {"checkpoints/000000abc.ckpt": ""},
        {"lock": ""},
    ],
)
def test_torn_and_foreign_files_are_no_fault(files: dict[str, str], tmp_path: Path) -> None:
    found = told(made(tmp_path / "run", files=files))
    assert found.state in ("stopped", "not begun")
    assert found.epoch == 0
    assert found.cells(NOW)[3] in ("0/50", "0/?")


def test_a_run_whose_lock_is_held_is_running(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    made(tmp_path / "run", rows=4, files={"fault.txt": "of the start before"})
    found = told(tmp_path / "run")
    assert (found.state, found.epoch) == ("running", 4)
    assert found.left_s == 46 * 10 - 60, "46 epochs of ten seconds, the last row a minute ago"
    holder.kill()
    holder.wait()
    assert told(tmp_path / "run").state == "failed"


def test_looking_who_holds_a_run_takes_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    folder = tmp_path / "run"
    assert str(lock.holder(folder)).startswith(f"process {holder.pid} on ")
    with pytest.raises(UserError, match="is in use"):
        run_folder.Run(folder, {"seed": 0}, EXTRA)
    holder.kill()
    holder.wait()
    before = (folder / "lock").read_bytes()
    assert lock.holder(folder) is None
    assert (folder / "lock").read_bytes() == before
    with run_folder.Run(folder, {"seed": 0}, EXTRA):
        pass
    assert lock.holder(folder) is None
    assert lock.holder(tmp_path) is None, "no lock file is made"
    assert not (tmp_path / "lock").exists()


def test_a_file_system_without_locks_has_no_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(system, "lock_file", refuses)
    assert lock.holder(made(tmp_path / "run")) is None


# ------------------------------------------------------------------------------------------------- time left
def rows(*pairs: tuple[int, float]) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "wall_s": wall_s} for epoch, wall_s in pairs]


@pytest.mark.parametrize(
    ("given", "epochs", "since_s", "expected"),
    [
        (rows((1, 10.0)), 5, 0, 40.0),
        (rows((1, 10.0), (2, 40.0)), 5, 0, 90.0),  # the first epoch warmed up: the second alone counts
        (rows((1, 10.0), (2, 40.0)), 5, 25, 65.0),
        (rows((1, 10.0), (2, 20.0)), 5, 1000, 0.0),
        (rows((1, 10.0), (2, 20.0)), 5, -1000, 30.0),  # the clock was put back
        (rows(*((i, 100.0 * i) for i in range(1, 6)), *((i, 450.0 + 10 * i) for i in range(6, 16))), 20, 0, 50.0),
        (rows((5, 50.0)), 5, 0, None),  # a choice may follow, of no known length
        ([], 5, 0, None),
        (rows((1, 10.0)), None, 0, None),
        ([{"epoch": 1}], 5, 0, None),
        (rows((2, 10.0), (2, 20.0)), 5, 0, None),
    ],
)
def test_time_left_is_that_of_the_last_epochs(
    given: list[dict[str, Any]], epochs: int | None, since_s: float, expected: float | None
) -> None:
    assert status.left(given, epochs, since_s) == expected


# ---------------------------------------------------------------------------------------------------- a folder
def test_a_line_a_run_and_a_total(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    made(tmp_path / "run", rows=4)
    made(tmp_path / "deep" / "done", rows=50, files=finished(), age_s=7200)
    made(tmp_path / "broken", kind="retrain", rows=2, files={"fault.txt": "retrain, update 250:\n became NaN\n"})
    made(tmp_path / ".sweeps" / "no-run")
    made(tmp_path / "run" / "export")
    found = [status.state(Path(folder), tmp_path, NOW) for folder in records.run_folders(tmp_path)]
    assert status.text(found, tmp_path, NOW).splitlines() == [
        "run        kind     state     epoch  updates  changed     left",
        "broken     retrain  failed     2/50      200  1m 00s ago",
        "deep/done  search   finished  50/50     5000  2h 00m ago",
        "run        search   running    4/50      400  1m 00s ago  6m 40s",
        "3 runs: 1 finished, 1 running, 1 failed; the last run in progress ends in 6m 40s",
        "failed: broken",
        "  retrain, update 250: became NaN",
    ]


def test_one_runs_own_folder_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(made(tmp_path / "alone", rows=2))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:5] == ["alone", "search", "stopped", "2/50", "200"]
    assert lines[2] == "1 run: 1 stopped"


def test_no_runs_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status.main([]) == 0
    assert capsys.readouterr().out == "no runs under outputs\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], r"nasx status nowhere: does not exist; name the folder"),
        (["a", "b"], r"nasx status a b: takes one folder, but 2 are given; name one"),
        (["out=runs"], r"has no option out"),
    ],
)
def test_what_is_asked_for_must_be_there(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        status.main(words)


# ------------------------------------------------------------------------------------------------- real runs
@pytest.mark.slow
def test_a_search_is_seen_running_stopped_and_finished(tmp_path: Path) -> None:
    words = (*jobs.TINY_NB201, "search.epochs=3")

    def line() -> str:
        return next(x for x in jobs.nasx(tmp_path, "status", "runs").out.splitlines() if x.startswith("darts-nb201"))

    job = jobs.Job(tmp_path, *words)
    job.until(lambda: any(path.read_text().count("\n") for path in (tmp_path / "runs").glob("*/metrics.jsonl")))
    os.kill(job.pid, signal.SIGSTOP)  # SIGSTOP: it stays as it is while we look
    seen = line()
    job.kill()
    assert re.search(r"  search  running +[123]/3 +\d+  \d+s ago +\d+s$", seen), seen
    assert re.search(r"  search  stopped +[123]/3 +\d+  \d+s ago$", line())
    assert jobs.nasx(tmp_path, *words).code == 0
    assert re.search(r"  search  finished +3/3 +18  \d+s ago$", line())
