"""Record the state of a sweep and its jobs, for the summary at the end and for `nasx status` while it runs.

    OUT/.sweeps/<time>-<process>/
    sweep.json     the command, and the number of jobs that it starts (null if a sweeper decides it during the sweep)
    job-N.json     the overrides of job N, its runs (relative to OUT), whether it has ended, and its error
    lock           the lock of the process that executes the command; see lock.py

Jobs may run in other processes and on other machines, so each job writes its own file. The results are in the run
folders: a sweep that is started again writes a new folder like this one, and reuses the existing runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nasx.core import files
from nasx.errors import printable
from nasx.tracking.lock import Lock


class Job(NamedTuple):
    """The recorded state of a job."""

    overrides: list[str]
    runs: list[str]
    """Folders of the runs, relative to the folder that contains all runs."""
    ended: bool
    fault: str | None


@contextlib.contextmanager
def sweep(folder: Path, words: Sequence[str], jobs: int | None) -> Iterator[None]:
    """Record the sweep of the command `words` in `folder`, and lock `folder` within the block. Raises UserError."""
    try:
        files.make_folder(folder)
    except OSError as error:
        raise files.unwritable(folder, error) from error
    held = Lock(folder)
    try:
        files.write_atomic(folder / "sweep.json", json.dumps({"command": list(words), "jobs": jobs}))
        yield
    finally:
        held.close()


def record_job(
    path: Path, overrides: Sequence[str], runs: Sequence[Path] = (), *, ended: bool, fault: str | None = None
) -> None:
    """Record the state of a job, at its start and at its end."""
    names = [os.path.relpath(run, path.parent.parent.parent) for run in runs]
    files.write_atomic(path, json.dumps(Job(list(overrides), names, ended, fault)._asdict()))


def jobs(folder: Path) -> list[Job]:
    """Return the recorded jobs, sorted by number."""
    paths = sorted(folder.glob("job-*.json"), key=lambda path: (len(path.name), path.name))
    found: list[Job] = []
    for held in (files.read_json(path) or {} for path in paths):
        if held.keys() == set(Job._fields) and type(held["overrides"]) is type(held["runs"]) is list:
            texts, runs = ([str(text) for text in held[name]] for name in ("overrides", "runs"))
            found.append(Job(texts, runs, bool(held["ended"]), held["fault"] and str(held["fault"])))
    return found


# --------------------------------------------------------------------------------------------------- at its end
def best(folder: Path, found: Sequence[Job]) -> Job | None:
    """Return the job that ran Optuna's best trial; None for other sweepers and for several objectives."""
    params = (files.read_yaml(folder / "optimization_results.yaml") or {}).get("best_params")
    words = {f"{key}={value}" for key, value in params.items()} if isinstance(params, dict) else set()
    return next((job for job in found if words and words <= set(job.overrides)), None)


def summary(folder: Path, fault: BaseException | None) -> int:
    """Print how many jobs of a sweep finished, and the errors of failed jobs; return 1 if any failed, else 0.

    `fault` is the error that stopped the sweep: a job's error, or the launcher's if a job died without reporting one.
    """
    found = jobs(folder)
    planned = (files.read_json(folder / "sweep.json") or {}).get("jobs") or len(found)
    failed = [job for job in found if job.fault]
    died = fault is not None and not any(str(fault) in str(job.fault) for job in failed)
    done = sum(job.ended and not job.fault for job in found)
    print(f"sweep: {done} of {planned} jobs finished" + (", then the sweep stopped:" if died else ""), file=sys.stderr)
    if died:
        text = f"  {type(fault).__name__}: {fault}\n  nasx status shows which jobs still run"
        print(printable(text), file=sys.stderr)
    for job in failed:
        print(printable(f"  failed: {shlex.join(job.overrides)}\n    {job.fault}"), file=sys.stderr)
    if failed or died:
        print("run the same command again to repeat only the unfinished jobs", file=sys.stderr)
    return 1 if failed or died else 0
