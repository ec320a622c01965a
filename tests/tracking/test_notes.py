"""The logs of sweeps, during and after them, and their display by `nasx status`."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import jobs
import pytest
from run_states import NOW, finished, made, told

from nasx.cli import status
from nasx.tracking import lock, sweep_log

COMMAND = ["search", "--multirun", "seed=0,1,2,3"]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Notes of a sweep of five jobs: done in 100 s, failed, killed after four epochs of ten seconds, two to come."""
    folder = tmp_path / ".sweeps" / "20270115-080000-7"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"command": COMMAND, "jobs": 5}))
    runs = [tmp_path / f"run-{i}" for i in range(3)]
    made(runs[0], rows=50, files=finished(wall_s=100.0))
    made(runs[1], files={"fault.txt": "seed=1: brings bad luck"})
    made(runs[2], rows=4)
    sweep_log.record_job(folder / "job-0.json", ["seed=0"], [runs[0]], ended=True)
    sweep_log.record_job(folder / "job-1.json", ["seed=1"], [runs[1]], ended=True, fault="seed=1: brings bad luck")
    sweep_log.record_job(folder / "job-2.json", ["seed=2"], [runs[2]], ended=False)
    return folder


def test_a_killed_sweep_is_reported_with_what_goes_on(sweep: Path, tmp_path: Path) -> None:
    assert list(status.sweeps(tmp_path, NOW, {})) == [
        "sweep of 5 jobs, stopped: 1 done, 1 failed, 1 stopped, 2 waiting; the same command continues it:",
        "  nasx search --multirun seed=0,1,2,3",
        "  failed: seed=1\n    seed=1: brings bad luck",
    ]


def test_a_sweep_that_works_shows_what_is_left(sweep: Path, tmp_path: Path) -> None:
    held, run = lock.Lock(sweep), lock.Lock(tmp_path / "run-2")
    # 46 epochs of ten seconds less the minute since the last row: 400 s; two to come of 100 s
    assert next(status.sweeps(tmp_path, NOW, {})) == (
        "sweep of 5 jobs, running: 1 done, 1 failed, 1 running, 2 waiting; about 10m 00s left"
    )
    run.close()
    held.close()


@pytest.mark.parametrize("held", [False, True])
def test_the_states_of_runs_decide_those_of_jobs(held: bool, sweep: Path, tmp_path: Path) -> None:
    """The run of a job that was killed after its record, but before its note, was finished above and stopped below."""
    made(tmp_path / "run-2", rows=50, files=finished(wall_s=100.0))
    own = lock.Lock(sweep) if held else None
    what = "running: 2 done, 1 failed, 2 waiting; about 3m 20s left" if held else "stopped: 2 done, 1 failed, 2 waiting"
    assert next(status.sweeps(tmp_path, NOW, {})).startswith(f"sweep of 5 jobs, {what}")
    (tmp_path / "run-0" / "result.json").unlink()
    assert ": 1 done, 1 failed, 1 stopped, 2 waiting" in next(status.sweeps(tmp_path, NOW, {}))
    given = {tmp_path / "run-0": told(tmp_path / "run-2")}
    assert ": 2 done, 1 failed, 2 waiting" in next(status.sweeps(tmp_path, NOW, given)), "the states of the runs above"
    if own:
        own.close()


def test_a_sweep_is_shown_until_it_has_come_to_its_end(sweep: Path, tmp_path: Path) -> None:
    for number in range(1, 5):
        sweep_log.record_job(sweep / f"job-{number}.json", [], ended=True)
    assert list(status.sweeps(tmp_path, NOW, {})) == []


def test_only_the_newest_of_those_that_ended_is_reported(sweep: Path, tmp_path: Path) -> None:
    newer = tmp_path / ".sweeps" / "20270115-070000-8"  # a clock that was put back does not make it older
    os.utime(sweep / "sweep.json", (NOW, NOW))
    with sweep_log.sweep(newer, [*COMMAND, "x=1"], None):
        sweep_log.record_job(newer / "job-0.json", ["seed=0"], ended=False)
        os.utime(newer / "sweep.json", (NOW + 1, NOW + 1))
        assert [line for line in status.sweeps(tmp_path, NOW, {}) if "sweep of" in line] == [
            "sweep of 1 jobs, running: 1 running"
        ]  # its folder is not there yet
    assert [line for line in status.sweeps(tmp_path, NOW, {}) if line.startswith("  nasx")] == [
        "  nasx search --multirun seed=0,1,2,3 x=1"
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"jobs": null}'])
def test_torn_notes_are_no_fault(text: str, sweep: Path, tmp_path: Path) -> None:
    (sweep / "sweep.json").write_text(text)
    (sweep / "job-9.json").write_text(text)
    (sweep / "job-8.json").write_text('{"overrides": 1, "runs": 2, "ended": 3, "fault": 4}')
    assert "sweep of 3 jobs, stopped" in next(status.sweeps(tmp_path, NOW, {}))


@pytest.mark.parametrize(
    ("taken", "live", "waiting", "expected"),
    [
        ([100.0, 50.0], [], 2, 150.0),
        ([100.0], [30.0], 2, 230.0),
        ([100.0], [30.0, 50.0], 2, 140.0),
        ([], [40.0], 1, 90.0),  # of fifty epochs ten are done: fifty seconds in all
        ([100.0], [None], 0, 100.0),
        ([], [None], 3, None),
        ([], [], 3, None),
    ],
)
def test_what_is_left_of_a_sweep(
    taken: list[float], live: list[float | None], waiting: int, expected: float | None
) -> None:
    runs = [[status.State("run", "search", "running", 10, 50, 0, 0.0, left, "")] for left in live]
    assert status.sweep_left(taken, runs, waiting) == expected


# ------------------------------------------------------------------------------------------------ whole sweeps
def test_a_sweep_is_seen_while_it_works_when_it_was_killed_and_at_its_end(tmp_path: Path) -> None:
    words = [*jobs.TINY_NB201, "--multirun", "seed=0,1,2", "method=darts", "search.epochs=3"]

    def told() -> str:
        return jobs.nasx(tmp_path, "status", "runs").out

    job = jobs.Job(tmp_path, *words)
    job.until(lambda: len(list((tmp_path / "runs").glob("*/metrics.jsonl"))) == 2)
    os.kill(job.pid, signal.SIGSTOP)  # it stays as it is while we look
    seen = told()
    job.kill()
    assert "sweep of 3 jobs, running: 1 done, 1 running, 1 waiting; about " in seen
    assert (
        "sweep of 3 jobs, stopped: 1 done, 1 stopped, 1 waiting; the same command continues it:\n  nasx search "
        in told()
    )
    done = jobs.nasx(tmp_path, *words)
    assert done.code == 0, done
    assert "sweep: 3 of 3 jobs finished" in done.err
    assert "sweep" not in told()


def test_a_sweep_that_is_asked_to_stop_says_how_far_it_came(tmp_path: Path) -> None:
    job = jobs.Job(tmp_path, *jobs.TINY_NB201, "--multirun", "seed=0,1,2", "search.epochs=50")
    job.until(lambda: any((tmp_path / "runs").glob("*/metrics.jsonl")))
    os.kill(job.pid, signal.SIGTERM)
    done = job.wait()
    assert done.code == 128 + signal.SIGTERM, done
    assert "sweep: 0 of 3 jobs finished\n\nstopped by SIGTERM; the same command resumes it:\n  nasx search" in done.err


@pytest.mark.slow
def test_a_failed_job_is_tried_again_and_the_others_are_not(tmp_path: Path) -> None:
    words = [*jobs.TINY_NB201, "--multirun", "method=random", "seed=0,1,2"]
    assert jobs.nasx(tmp_path, *words).code == 0
    runs = sorted(path.parent for path in (tmp_path / "runs").glob("*/result.json"))
    before = {run: (run / "result.json").stat().st_mtime_ns for run in runs}
    (runs[1] / "result.json").unlink()
    (runs[1] / "metrics.jsonl").write_text('{"epoch": 1}\n')  # a fault of this job alone
    (runs[1] / "config.yaml").unlink()
    failed = jobs.nasx(tmp_path, *words)
    assert failed.code == 1, failed
    assert "sweep: 2 of 3 jobs finished\n  failed: " in failed.err
    assert "nothing else shows which run the files belong to" in failed.err
    (runs[1] / "metrics.jsonl").unlink()
    again = jobs.nasx(tmp_path, *words)
    assert again.code == 0, again
    after = {run: (run / "result.json").stat().st_mtime_ns for run in runs}
    assert [run for run in runs if before[run] != after[run]] == [runs[1]]


def test_a_place_for_no_sweep_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = jobs.nasx(tmp_path, *jobs.TINY_NB201, "--multirun", "seed=0,1", "out=file/runs")
    assert done.code == 2, done
    assert "cannot be written" in done.err
    assert "out=FOLDER" in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_two_sweeps_of_one_command_share_the_work(tmp_path: Path) -> None:
    """What the other one is at fails in the first, and is finished by who holds it."""
    words = [*jobs.TINY_NB201, "--multirun", "seed=0,1", "search.updates_per_epoch=20"]
    one, two = (jobs.Job(tmp_path, *words) for _ in range(2))
    ended: list[Any] = [one.wait(), two.wait()]
    told = "".join(done.err for done in ended)
    assert {done.code for done in ended} <= {0, 1}, ended
    assert "Traceback (most recent call last)" not in told.replace("is in use", ""), ended
    time.sleep(0)
    again = jobs.nasx(tmp_path, *words)
    assert again.code == 0, again
    assert "sweep: 2 of 2 jobs finished" in again.err
