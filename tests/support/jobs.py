"""Run whole commands in separate processes, which tests kill and restart.

The processes are forked from a server that has already imported torch (multiprocessing's fork server), so a command
starts fast; they run `nasx.cli.main.main`, as the installed script does. The server is single-threaded and has computed
nothing, so a fork is equivalent to a fresh start.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

if "forkserver" not in multiprocessing.get_all_start_methods():
    pytest.skip("commands are forked from a process that has imported torch", allow_module_level=True)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch",
        "torch._dynamo",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_svg",
        "pandas",
        "pygraphviz",
        "pydantic",
        "nasx.jobs.search",
        "nasx.train.trainer",
        "nasx.cli.preflight",
        "nasx.report.cells",
        "nasx.report.curves",
        "nasx.cli.table",
        "nasx.data.images",
        "nasx.methods.darts",
        "nasx.spaces.nb201.supernet",
        "nasx.spaces.darts.network",
    ]
)
TINY = (
    "dataset=digits",
    "dataset.size=16",
    "space.channels=4",
    "search.batch=8",
    "search.epochs=2",
    "search.updates_per_epoch=6",
    "search.evaluate_images=64",
    "threads=1",
    "out=runs",
)
"""A search that takes seconds: twelve updates on digits of 16 x 16 pixels."""
TINY_NB201 = ("search", "space=nb201", "space.layers=1", *TINY)
TINY_DARTS = ("search", "space=darts", "space.layers=3", *TINY)


def nothing() -> None:
    """The default preparation of a command."""


class Done:
    """A command that has ended: exit code, standard output and standard error."""

    def __init__(self, code: int | None, folder: Path, number: int) -> None:
        self.code = code
        self.out = (folder / f"{number}.out").read_text(encoding="utf-8")
        self.err = (folder / f"{number}.err").read_text(encoding="utf-8")

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"


class Job:
    """`nasx WORDS` in the folder `here`, already running; `pictures` would take longer than the search.

    `prepare` is called in its process before it begins (a function at the top level of a module, or a partial of one).
    """

    count = 0

    def __init__(
        self,
        here: Path,
        *words: str,
        env: dict[str, str] | None = None,
        pictures: bool = False,
        prepare: Callable[[], object] = nothing,
    ) -> None:
        Job.count += 1
        self.number, self.notes = Job.count, here.parent / f"{here.name}.notes"
        self.notes.mkdir(exist_ok=True)
        self.process: BaseProcess = CONTEXT.Process(
            target=_main,
            args=(str(here), str(self.notes / f"{self.number}"), words, env or {}, pictures, prepare),
            daemon=True,
        )
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self, seconds: float = 300) -> Done:
        """Wait for its end; a job that takes longer is killed and fails the test."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {seconds} s\n{Done(None, self.notes, self.number)}")
        return Done(self.process.exitcode, self.notes, self.number)

    def until(self, ready: Callable[[], bool], seconds: float = 300) -> None:
        """Wait until `ready()`, checked every millisecond, or until the job has ended."""
        end = time.monotonic() + seconds
        while not ready() and self.process.is_alive():
            assert time.monotonic() < end, f"not ready after {seconds} s"
            time.sleep(0.001)

    def kill(self) -> None:
        """kill -9, at any moment."""
        self.process.kill()
        self.process.join()


def nasx(
    here: Path,
    *words: str,
    env: dict[str, str] | None = None,
    pictures: bool = False,
    prepare: Callable[[], object] = nothing,
) -> Done:
    """Run `nasx WORDS` in the folder `here` to its end."""
    return Job(here, *words, env=env, pictures=pictures, prepare=prepare).wait()


def result(here: Path, runs: str = "runs") -> dict[str, Any]:
    """Return the record of the only run under `runs`."""
    [path] = (here / runs).glob("*/result.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def folder(here: Path, runs: str = "runs") -> Path:
    """Return the only run folder under `runs`."""
    [path] = [path for path in (here / runs).iterdir() if not path.name.startswith(".")]
    return path


def _main(
    here: str, note: str, words: tuple[str, ...], env: dict[str, str], pictures: bool, prepare: Callable[[], object]
) -> None:
    """Run in the new process."""
    os.chdir(here)
    os.environ.update({"NASX_DATA": str(Path(here) / "no-data"), "COLUMNS": "160", **env})
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        with open(f"{note}.{name}", "w", encoding="utf-8") as file:
            os.dup2(file.fileno(), stream.fileno())
    torch.set_num_threads(1)
    multiprocessing.process.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # may have children
    prepare()
    from nasx.cli import main
    from nasx.jobs import search

    if not pictures:
        search.pictures = lambda folder: None
    try:
        main.main(list(words))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:  # noqa: BLE001 (a bug in the command: printed as by Python)
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()  # as at the end of an interpreter; faults go to standard error
    sys.stderr.flush()
    os._exit(code)
