"""Run `nasx bench` and small searches in their own processes, with tables in a folder of the test."""

from __future__ import annotations

from pathlib import Path

import jobs

TINY = [
    "dataset=digits",
    "dataset.size=8",
    "space.layers=3",
    "space.channels=2",
    "search.epochs=1",
    "search.batch=16",
    "search.updates_per_epoch=2",
    "search.evaluate_every=0",
    "quiet=true",
    "device=cpu",
    "threads=1",
]


def call(folder: Path, *words: str) -> jobs.Done:
    return jobs.nasx(folder, *words, env={"NASX_DATA": str(folder / "data"), "NASX_DEBUG": ""})


def said(folder: Path, *words: str) -> str:
    done = call(folder, *words)
    assert done.code == 0, done
    return done.out
