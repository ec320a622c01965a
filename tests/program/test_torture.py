"""tests/stress/torture.py, short, on digits: killed at random moments, equal results; planted differences are found."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import torture

KILLS = 4


class Forked:
    """A command forked from a process that has torch already: it starts in a moment, and draws no pictures."""

    def __init__(self, here: Path, words: Sequence[str]) -> None:
        self.job = jobs.Job(here, *words)
        self.pid = self.job.pid

    def running(self) -> bool:
        return self.job.process.is_alive()

    def kill(self) -> None:
        self.job.kill()

    def end(self) -> tuple[int, str]:
        done = self.job.wait()
        return -1 if done.code is None else done.code, done.err


@pytest.fixture
def start(tmp_path: Path) -> Callable[[Sequence[str]], Forked]:
    (tmp_path / "here").mkdir()
    assert jobs.nasx(tmp_path / "here", "--version").code == 0  # the first fork waits for the imports
    return lambda words: Forked(tmp_path / "here", words)


@pytest.mark.parametrize("name", ["nb201-darts", "retrain-nb201", "sweep"])
@pytest.mark.sample(1)
def test_killed_at_random_moments_every_run_ends_as_if_untouched(
    name: str, start: Callable[[Sequence[str]], Forked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torture, "SWEPT", ("darts,random", "0,1"))
    [case] = [case for case in torture.cases("digits", updates=2) if case.name == name]
    case = case._replace(words=(*case.words, "dataset.size=16"), runs=4 if name == "sweep" else 1)
    row = torture.torture(case, tmp_path / "base", KILLS, start, seed=0)
    assert row["faults"] == []
    assert row["kills"] == sum(row["phases"].values()) == KILLS
    assert row["ends"] > 0
    assert row["values"] > 100 * row["ends"]


def test_an_inexact_resume_is_found(start: Callable[[Sequence[str]], Forked], tmp_path: Path) -> None:
    """Of two seeds the folders differ in nearly everything: what is compared is compared."""
    [case] = [case for case in torture.cases("digits", updates=2) if case.name == "nb201-darts"]
    for out, seed in (("one", 0), ("two", 1)):
        ended = start([*case.words, f"out={tmp_path / out}", "name=run", "dataset.size=16", f"seed={seed}"]).end()
        assert ended == (0, "")
    values, differ = torture.compared(tmp_path / "one" / "run", tmp_path / "two" / "run")
    parts = {name.split(".")[1] for name in differ}
    assert parts == {"checkpoint", "rows", "genotype", "result"}
    assert len(differ) > values / 4


# ------------------------------------------------------------------------------------------ every single write
WORDS = (
    *jobs.TINY_NB201,
    "search.epochs=1",
    "search.updates_per_epoch=2",
    "checkpoint_s=0.001",
    "method=darts",
    "method.order=1",
    "out=killed",
    "name=run",
)


def until(count: int) -> None:
    """Let this process live until its `count`-th opening for writing, renaming or removing of a file of a run."""
    done = 0

    def look(event: str, values: tuple[Any, ...]) -> None:
        nonlocal done
        writes = event in ("os.rename", "os.remove", "os.mkdir") or (event == "open" and values[2] & 3)
        if writes and "killed" in os.fspath(values[0] if type(values[0]) is not int else ""):
            done += 1
            if done == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


@pytest.mark.parametrize(
    "counts", [range(5, 1000, 13), pytest.param(range(1, 1000), marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.slow
def test_killed_at_its_writes_one_after_the_other(counts: range, tmp_path: Path) -> None:
    """What a kill leaves between any two writes is enough to go on from."""
    assert jobs.nasx(tmp_path, *WORDS[:-2], "out=whole", "name=run", pictures=True).code == 0
    for count in counts:
        here = tmp_path / f"{count}"
        here.mkdir()
        if jobs.nasx(here, *WORDS, pictures=True, prepare=partial(until, count)).code != -signal.SIGKILL:
            break
        ended = jobs.nasx(here, *WORDS, pictures=True)
        assert ended.code == 0, (count, ended)
        _, differ = torture.compared(tmp_path / "whole" / "run", here / "killed" / "run")
        assert differ == [], count
        left = {path.name for path in (here / "killed" / "run").rglob("*")}
        assert left == {path.name for path in (tmp_path / "whole" / "run").rglob("*")}, count
    assert count > 30, "a search writes more often than that"
