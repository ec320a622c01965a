"""`devices=2`: the command starts its processes; killed and stopped ones end all, and resume bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from elastic import WORDS, disturbed, ended, nasx
from folders import equal

from nasx.core import files
from nasx.errors import UserError
from nasx.jobs import launch
from nasx.tracking import environment


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on two processes that nobody disturbs."""
    here = tmp_path_factory.mktemp("whole")
    code, out, err = ended(nasx(here, *WORDS, "name=whole", "devices=2"))
    assert code == 0, err
    assert out.count("finished") == err.count("epoch 1/2") == 1, err  # one process speaks
    assert "Warning" not in err
    assert (files.read_json(here / "runs" / "whole" / "result.json") or {})["processes"] == 2
    return here / "runs" / "whole"


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_same_command_resumes_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    code, err = disturbed(tmp_path, 1, signal.SIGKILL)
    assert code == 2
    assert err == (
        "nasx: process 1 of 2: was killed by SIGKILL, and the others were terminated; run the same "
        "command again to resume from the last checkpoint\n"
    )
    code, _, err = ended(nasx(tmp_path, *WORDS, "name=torn", "devices=2"))
    assert code == 0, err
    assert "resuming at update" in err
    equal(whole, tmp_path / "runs" / "torn")
    code, out, _ = ended(nasx(tmp_path, *WORDS, "name=torn", "devices=3"))  # finished: at once, whatever is asked
    assert code == 0
    assert "finished" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whom", "number", "code"),
    [
        (None, signal.SIGTERM, 143),
        (None, signal.SIGINT, 130),
        (None, signal.SIGUSR1, 138),
        (1, signal.SIGTERM, 143),
        (0, signal.SIGKILL, 2),
        (None, signal.SIGKILL, -9),
    ],
    ids=str,
)
def test_stopped_or_killed_wherever_it_may_be(
    whom: int | None, number: signal.Signals, code: int, whole: Path, tmp_path: Path
) -> None:
    found, err = disturbed(tmp_path, whom, number)
    assert found == code, err
    if code >= 128:
        assert f"stopped by {number.name}; the same command resumes it:" in err
    found, _, err = ended(nasx(tmp_path, *WORDS, "name=torn", "devices=2"))
    while "is in use by" in err:  # processes without a starter finish their step and their checkpoint first
        found, _, err = ended(nasx(tmp_path, *WORDS, "name=torn", "devices=2"))
    assert found == 0, err
    equal(whole, tmp_path / "runs" / "torn")


@pytest.mark.slow
def test_three_processes_resume_to_the_same_bits_too(tmp_path: Path) -> None:
    """Sums of three depend on their order, which must not change with a start."""
    code, _, err = ended(nasx(tmp_path, *WORDS, "name=whole", "devices=3", "quiet=true"))
    assert code == 0, err
    disturbed(tmp_path, 2, signal.SIGKILL, count=3)
    code, _, err = ended(nasx(tmp_path, *WORDS, "name=torn", "devices=3", "quiet=true"))
    assert code == 0, err
    equal(*(tmp_path / "runs" / name for name in ("whole", "torn")))


@pytest.mark.slow
def test_a_sweep_and_another_number_of_processes(tmp_path: Path) -> None:
    words = [word for word in WORDS if "updates_per_epoch" not in word] + ["retrain.updates_per_epoch=3"]
    code, _, err = ended(nasx(tmp_path, *words, "--multirun", "seed=0,1", "devices=2", "quiet=true"))
    assert code == 0, err
    assert "sweep: 2 of 2 jobs finished" in err
    assert len(list((tmp_path / "runs").glob("retrain-darts-digits-s*/result.json"))) == 2
    disturbed(tmp_path, None, signal.SIGTERM)
    code, _, err = ended(nasx(tmp_path, *WORDS, "name=torn", "devices=1", "threads=1"))
    assert code == 0, err
    assert "resuming at update" in err


@pytest.mark.slow
def test_an_error_of_a_process_is_raised_where_the_command_was_given(tmp_path: Path) -> None:
    code, _, err = ended(nasx(tmp_path, *WORDS, "name=few", "devices=2", "retrain.accumulate=15"))
    assert code == 2
    assert err == (
        "nasx: retrain.batch=15, retrain.accumulate=15: micro-batches of 1 image are too small for 2 processes; lower "
        "retrain.accumulate, raise retrain.batch, or start fewer processes\n"
    )
    assert (tmp_path / "runs" / "few" / "fault.txt").exists()


def test_the_cause_of_an_end(tmp_path: Path) -> None:
    import pickle

    found = launch.worker_failure(tmp_path, {1: -signal.SIGKILL}, 4)
    assert isinstance(found, UserError)
    assert "process 1 of 4: was killed by SIGKILL" in str(found)
    for i, error in enumerate((environment.StopRequested(15), UserError("a", "b", "c"))):
        (tmp_path / str(i)).write_bytes(pickle.dumps(error))
        os.utime(tmp_path / str(i), (10 - i, 10 - i))
    assert str(launch.worker_failure(tmp_path, {0: 1}, 2)) == "a: b; c"  # the first
    (tmp_path / "1").unlink()
    stopped = launch.worker_failure(tmp_path, {0: 1}, 2)
    assert isinstance(stopped, environment.StopRequested)
    assert stopped.exit_code == 143
    (tmp_path / "0").unlink()
    assert "process 0 of 2 ended with exit code 3" in str(launch.worker_failure(tmp_path, {0: 3}, 2))
