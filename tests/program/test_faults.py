"""Faults of the machine during a run: the message, the kept files, and the resume by the same command."""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import logging
import math
import os
import pty
import random
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from folders import equal, reached
from search_jobs import configured

from nasx.core import files
from nasx.data import fetch
from nasx.errors import UserError
from nasx.jobs import search
from nasx.searcher.job import SearchJob
from nasx.searcher.loop import Loop
from nasx.tracking import checkpoints, progress

WORDS = (*jobs.TINY_NB201, "method=darts", "method.order=1", "checkpoint_s=0.001", "name=run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    here = tmp_path_factory.mktemp("whole")
    done = jobs.nasx(here, *WORDS)
    assert done.code == 0, done
    return here / "runs" / "run"


def ends(here: Path, whole: Path, *words: str, **how: Any) -> jobs.Done:
    """The same command goes on and ends with the same bits."""
    done = jobs.nasx(here, *WORDS, *words, **how)
    assert done.code == 0, done
    equal(here / "runs" / "run", whole)
    return done


def halted(here: Path, update: int = 4) -> jobs.Job:
    """A search that stands still after so many updates."""
    job = jobs.Job(here, *WORDS)
    job.until(lambda: reached(here, update))
    os.kill(job.pid, signal.SIGSTOP)
    return job


# ------------------------------------------------------------------------------------------------------ disk
@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB that nothing else writes to, at runs/ of the folder that is given."""
    (tmp_path / "runs").mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path / "runs")], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path / "runs")], check=True)


def test_a_disk_that_is_full_costs_nothing(disk: Path, whole: Path) -> None:
    job = halted(disk)
    with (disk / "runs" / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
        while other.write(b"x" * 4096):
            pass
    os.kill(job.pid, signal.SIGCONT)
    done = job.wait()
    assert done.code == 2, done
    assert "cannot be written (No space left on device); free some space, then run the same command" in done.err
    assert "Traceback" not in done.err
    last = checkpoints.last(disk / "runs" / "run")
    assert last is not None
    assert last["updates"] >= 4
    assert not list((disk / "runs").rglob("*.part"))
    again = jobs.nasx(disk, *WORDS)
    assert again.code == 2, again
    assert "No space left" in again.err
    assert "Traceback" not in again.err
    (disk / "runs" / "other").unlink()
    ends(disk, whole)


def test_a_log_on_a_full_disk_does_not_stop_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "stream", lambda path: os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"))
    monkeypatch.setattr(progress.log, "handlers", [logging.NullHandler()])  # of the program that uses nasx
    with progress.log_to_folder(tmp_path, quiet=False):
        progress.log.info("a line")
    assert re.fullmatch(r"[\d:]+ a line\n", capsys.readouterr().err), "the screen has it, and nothing of the fault"


def no_file_over(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_limit_of_file_sizes_is_reported(tmp_path: Path, whole: Path) -> None:
    done = jobs.nasx(tmp_path, *WORDS, prepare=partial(no_file_over, 50_000))
    assert done.code == 2, done
    assert "cannot be written (File too large); raise the file size limit (ulimit -f)" in done.err
    assert not checkpoints.found(tmp_path / "runs" / "run")
    ends(tmp_path, whole)


def ordinary() -> None:
    """Give up root's right to write anywhere (capability 1, CAP_DAC_OVERRIDE), where it is there."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of 32 capabilities, then of the next 32
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, data) == 0
    data[0] &= ~2
    data[1] &= ~2
    assert libc.capset(header, data) == 0


@pytest.mark.parametrize(
    ("how", "words"),
    [("closed", WORDS), ("read-only", WORDS), ("umask", WORDS), ("closed", (*WORDS[:-1], "--multirun", "seed=0,1"))],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    how: str, words: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if how == "read-only":
        request.getfixturevalue("disk")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "runs")], check=True)
    else:
        (tmp_path / "runs").mkdir(mode=0o555 if how == "closed" else 0o755)
    done = jobs.nasx(tmp_path, *words, prepare=partial(shut, how))
    assert done.code == 2, done
    assert "cannot be written" in done.err or "is read-only" in done.err
    assert "out=FOLDER" in done.err
    assert "Traceback" not in done.err
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def shut(how: str) -> None:
    """Become one who may not write there, or one whose umask lets nobody."""
    ordinary()
    if how == "umask":
        os.umask(0o777)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.sample(1)
def test_checkpoints_that_are_missing(every: bool, tmp_path: Path, whole: Path) -> None:
    halted(tmp_path, 7).kill()
    for path in checkpoints.found(tmp_path / "runs" / "run")[0 if every else -1 :]:
        path.unlink()
    done = ends(tmp_path, whole)
    assert (
        "there is no checkpoint: the run starts from scratch, and all metrics rows so far (1) are computed again"
        in done.err
    ) == every


# --------------------------------------------------------------------------------------------------- signals
def stuck() -> None:
    """Let the fifth step take an hour."""
    step = Loop._step

    def slow(self: Loop, left: int) -> None:
        step(self, left)
        if self.search.updates == 5:
            Path("stuck").touch()
            end = time.monotonic() + 3600
            while time.monotonic() < end:
                time.sleep(0.05)

    Loop._step = slow  # type: ignore[method-assign]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
@pytest.mark.sample(1)
def test_a_second_signal_ends_at_once(first: signal.Signals, tmp_path: Path, whole: Path) -> None:
    job = jobs.Job(tmp_path, *WORDS, prepare=stuck)
    job.until((tmp_path / "stuck").exists)
    os.kill(job.pid, first)
    job.process.join(0.3)
    assert job.process.is_alive(), "the first one lets the step finish"
    os.kill(job.pid, signal.SIGTERM)
    done = job.wait(60)
    assert done.code == 128 + signal.SIGTERM, done
    assert "stopped by SIGTERM; the same command resumes it" in done.err
    assert checkpoints.last(tmp_path / "runs" / "run")["updates"] == 4  # type: ignore[index]
    ends(tmp_path, whole)


def at_terminal(name: str) -> None:
    """Let this process work at a terminal, as the first of its session."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(name, os.O_RDWR), stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")


@pytest.mark.slow
def test_a_terminal_that_closes_leaves_a_checkpoint(tmp_path: Path, whole: Path) -> None:
    """The first write to it would fail: it must not come before the checkpoint."""
    ours, theirs = pty.openpty()
    words = [word.replace("checkpoint_s=0.001", "checkpoint_s=300") for word in WORDS]
    job = jobs.Job(tmp_path, *words, prepare=partial(at_terminal, os.ttyname(theirs)))
    seen = b""
    while b"train" not in seen and job.process.is_alive():  # the bar shows the first losses
        seen += os.read(ours, 4096) if select.select([ours], [], [], 1)[0] else b""
    os.close(theirs)
    os.close(ours)
    assert job.wait().code == 128 + signal.SIGHUP
    assert checkpoints.found(tmp_path / "runs" / "run")
    assert not (tmp_path / "runs" / "run" / "fault.txt").exists()
    ends(tmp_path, whole)


def test_what_nohup_ignores_stays_ignored(tmp_path: Path, whole: Path) -> None:
    job = jobs.Job(tmp_path, *WORDS, prepare=partial(signal.signal, signal.SIGHUP, signal.SIG_IGN))
    job.until(lambda: reached(tmp_path, 4))
    os.kill(job.pid, signal.SIGHUP)
    done = job.wait()
    assert done.code == 0, done
    equal(tmp_path / "runs" / "run", whole)


@pytest.mark.slow
def test_two_starts_of_one_command(tmp_path: Path, whole: Path) -> None:
    job = halted(tmp_path)
    done = jobs.nasx(tmp_path, *WORDS)
    assert done.code == 2, done
    assert f"run: is in use by process {job.pid} on " in done.err
    os.kill(job.pid, signal.SIGCONT)
    assert job.wait().code == 0
    equal(tmp_path / "runs" / "run", whole)


# ------------------------------------------------------------------------------------------------ surroundings
def jumping_clock() -> None:
    """Let the clock jump by up to a year, to and fro, whenever somebody looks."""
    right, draw = time.time, random.Random(0)
    time.time = lambda: right() + draw.uniform(-3e7, 3e7)


def umask(mask: int) -> None:
    os.umask(mask)


@pytest.mark.parametrize(
    ("env", "prepare"),
    [
        ({}, jumping_clock),
        ({"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "C"}, partial(umask, 0)),
        ({"TZ": "nonsense", "LC_ALL": "tr_TR.UTF-8"}, partial(umask, 0o077)),
    ],
    ids=["clock", "C", "Turkish"],
)
def test_clock_zone_locale_and_umask_change_nothing(
    env: dict[str, str], prepare: Callable[[], None], tmp_path: Path, whole: Path
) -> None:
    job = jobs.Job(tmp_path, *WORDS, env=env, prepare=prepare)
    job.until(lambda: reached(tmp_path, 5))
    job.kill()
    for path in (tmp_path / "runs").rglob("*"):
        os.utime(path, (4e9, 4e9))  # the clock is put back between the starts
    ends(tmp_path, whole, env={"TZ": "America/St_Johns"})


# -------------------------------------------------------------------------------------------------- downloads
class Breaks(http.server.BaseHTTPRequestHandler):
    """Sends half of what it has announced, then hangs up."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"x" * 500_000)
        self.wfile.flush()
        self.connection.shutdown(2)

    def log_message(self, *_: object) -> None:
        pass


def test_a_network_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Breaks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/cifar.tar.gz"
    with pytest.raises(UserError, match=r"cifar\.tar\.gz could not be downloaded from .*; nothing was kept; get"):
        fetch.fetch("cifar10", tmp_path / "data", url, "0" * 32, "cifar")
    assert list((tmp_path / "data").iterdir()) == []
    server.shutdown()


def test_what_a_killed_download_has_left_is_removed_the_next_day(tmp_path: Path) -> None:
    for name, age in (("old", 2), ("young", 0.5)):
        (tmp_path / f".download-{name}").mkdir()
        (tmp_path / f".download-{name}" / "half").write_bytes(b"x")
        then = time.time() - age * fetch.LEFT_S
        os.utime(tmp_path / f".download-{name}", (then, then))
    with pytest.raises(UserError):
        fetch.fetch("cifar10", tmp_path, "http://127.0.0.1:9/a.tar.gz", "0" * 32, "a")
    assert [path.name for path in tmp_path.iterdir()] == [".download-young"]


# ------------------------------------------------------------------------------------------------------- NaN
def test_a_weight_that_is_not_finite_is_in_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss was finite when the update was made: only the weights tell."""
    step = Loop._step

    def burst(self: Loop, left: int) -> None:
        step(self, left)
        if self.search.updates == 4:
            next(iter(self.search.w.values())).data.view(-1)[0] = math.inf

    monkeypatch.setattr(Loop, "_step", burst)
    words = [*jobs.TINY_NB201[1:-1], f"out={tmp_path}", "name=run", "device=cpu", "quiet=true", "checkpoint_s=1e-9"]
    with pytest.raises(UserError, match=r"search, update 4: a weight became NaN or infinite; lower search\.lr=0\.025"):
        search.search(*configured(*words))
    last = checkpoints.last(tmp_path / "run")
    assert last is not None
    assert last["updates"] == 3
    assert all(bool(x.isfinite().all()) for x in last["w"].values())


# ---------------------------------------------------------------------------------------------------- memory
def cramped(mb: int) -> None:
    """Leave so many MB of address space more than what the process has taken to begin."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + mb * 2**20, -1))


@pytest.mark.parametrize(
    ("words", "said", "mb"),
    [
        (
            (*jobs.TINY_NB201, "search.batch=4096", "dataset.size=32"),
            r"search\.batch=4096: does not fit into the memory of cpu: a step needs 2\.\d GB; set "
            r"engine\.checkpoint=true \(2\.\d GB\), .*set search\.batch=2048 \(1\.\d GB\), .*lower search\.batch",
            1300,  # less than a step, and enough for the threads and modules of a prediction
        ),
        (
            (
                "retrain",
                "space=nb201",
                "genotype=" + "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
                "dataset=digits",
                "retrain.batch=1400",
                "threads=1",
                "out=runs",
                "device=cpu",
            ),
            r"retrain\.batch=1400: does not fit into the memory of cpu; set retrain\.accumulate=2 .*, lower "
            r"retrain\.batch",
            400,
        ),
    ],
)
@pytest.mark.sample(1)
def test_memory_that_runs_out_names_what_to_lower(words: tuple[str, ...], said: str, mb: int, tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, *words, prepare=partial(cramped, mb))
    assert done.code == 2, done
    assert "Traceback" not in done.err
    assert re.search(said, done.err), done.err
    assert re.search(said, (jobs.folder(tmp_path) / "fault.txt").read_text())


def test_a_failed_step_is_freed_before_its_memory_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    def fail(self: Loop, left: int) -> None:
        activations = torch.zeros(3)
        kept.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Loop, "_step", fail)
    monkeypatch.setattr(SearchJob, "needs", lambda self: (f"freed: {kept[0]() is None}", []))
    words = [*jobs.TINY_NB201[1:-1], f"out={tmp_path}", "device=cpu", "quiet=true"]
    with pytest.raises(UserError, match="does not fit into the memory of cpu: freed: True"):
        search.search(*configured(*words))
