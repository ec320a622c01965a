"""Killed, stopped and restarted runs equal an uninterrupted run bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

import jobs
import pytest
from folders import equal, reached

COMMANDS = {
    "darts": (*jobs.TINY_NB201, "method=darts", "method.order=1", "search.diagnose_steps=2", "checkpoint_s=0.001"),
    "idarts": (*jobs.TINY_NB201, "method=idarts", "method.T=3", "checkpoint_s=0.001"),
}
"""One update a step, and several with second derivatives; checkpoint_s=0.001 writes a checkpoint after every step."""


class Run(NamedTuple):
    """A command and the folder of its run."""

    command: tuple[str, ...]
    folder: Path


@pytest.fixture(scope="module")
def untouched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nobody interrupts."""
    here = tmp_path_factory.mktemp("untouched")
    command = COMMANDS[request.param]
    done = jobs.nasx(here, *command)
    assert done.code == 0, done
    return Run(command, jobs.folder(here))


# --------------------------------------------------------------------------------------------------- killed
@pytest.mark.parametrize("untouched", COMMANDS, indirect=True)
@pytest.mark.sample(1)
def test_killed_at_several_points_and_resumed(untouched: Run, tmp_path: Path) -> None:
    for update in (1, 6, 9):  # in the first epoch, about its end, in the second
        job = jobs.Job(tmp_path, *untouched.command)
        job.until(lambda update=update: reached(tmp_path, update))
        job.kill()
        assert not (jobs.folder(tmp_path) / "result.json").exists()
    done = jobs.nasx(tmp_path, *untouched.command)
    assert done.code == 0, done
    equal(jobs.folder(tmp_path), untouched.folder)
    assert "resuming at update" in (jobs.folder(tmp_path) / "log.txt").read_text() + done.err


@pytest.mark.parametrize("untouched", ["darts"], indirect=True)
def test_a_kill_while_a_checkpoint_is_written_costs_that_one_only(untouched: Run, tmp_path: Path) -> None:
    job = jobs.Job(tmp_path, *untouched.command)
    job.until(lambda: reached(tmp_path, 4))
    job.kill()
    newest = sorted((jobs.folder(tmp_path) / "checkpoints").glob("*.ckpt"))[-1]
    data = newest.read_bytes()
    newest.write_bytes(data[: len(data) // 2])  # what a file system without journal leaves
    newest.with_name(f".{newest.name}.1.part").write_bytes(data[:100])  # what the kill leaves
    with (jobs.folder(tmp_path) / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "upda')
    done = jobs.nasx(tmp_path, *untouched.command)
    assert done.code == 0, done
    assert f"{newest.name}: damaged" in done.err
    equal(jobs.folder(tmp_path), untouched.folder)


@pytest.mark.parametrize("untouched", ["darts"], indirect=True)
@pytest.mark.slow
def test_killed_before_the_first_checkpoint(untouched: Run, tmp_path: Path) -> None:
    job = jobs.Job(tmp_path, *untouched.command)
    job.until(lambda: any((tmp_path / "runs").glob("*/config.yaml")))
    job.kill()
    done = jobs.nasx(tmp_path, *untouched.command)
    assert done.code == 0, done
    equal(jobs.folder(tmp_path), untouched.folder)


# -------------------------------------------------------------------------------------------------- stopped
@pytest.mark.parametrize("untouched", ["darts"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(
    untouched: Run, number: signal.Signals, tmp_path: Path
) -> None:
    command = [word.replace("checkpoint_s=0.001", "checkpoint_s=300") for word in untouched.command]
    job = jobs.Job(tmp_path, *command)
    job.until(lambda: any((tmp_path / "runs").glob("*/log.txt")))  # the search has begun
    os.kill(job.pid, number)
    done = job.wait()
    assert done.code == 128 + number, done
    assert f"stopped by {number.name}; the same command resumes it:\n  nasx search " in done.err
    assert "Traceback" not in done.err
    assert reached(tmp_path, 1)
    assert not (jobs.folder(tmp_path) / "result.json").exists()
    if number is signal.SIGTERM:
        done = jobs.nasx(tmp_path, *command)
        assert done.code == 0, done
        equal(jobs.folder(tmp_path), untouched.folder)


# ------------------------------------------------------------------------------------------------- finished
@pytest.mark.parametrize("untouched", ["darts"], indirect=True)
def test_a_finished_run_is_not_repeated(untouched: Run) -> None:
    def contents() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in untouched.folder.rglob("*") if p.is_file() and p.name != "lock"}

    before = contents()
    done = jobs.nasx(untouched.folder.parent.parent, *untouched.command)
    assert done.code == 0, done
    assert (untouched.folder / "genotype.txt").read_text().strip() in done.out
    assert contents() == before


@pytest.mark.parametrize("untouched", ["darts"], indirect=True)
def test_another_configuration_in_the_same_folder_is_refused(untouched: Run) -> None:
    here, name = untouched.folder.parent.parent, untouched.folder.name
    before = (untouched.folder / "config.yaml").read_bytes()
    done = jobs.nasx(here, *untouched.command, f"name={name}", "seed=1", "search.lr=0.05")
    assert done.code == 2, done
    assert "search.lr: 0.025 in the folder, 0.05 requested" in done.err
    assert "seed: 0 in the folder, 1 requested" in done.err
    assert (untouched.folder / "config.yaml").read_bytes() == before
