"""Run searches in this process, as the command does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from composing import composed

from nasx.config import check
from nasx.config.job_info import JobInfo
from nasx.jobs import search as jobs_search

TINY = [
    "dataset=digits",
    "dataset.size=16",
    "space.channels=2",
    "search.batch=4",
    "search.epochs=4",
    "search.updates_per_epoch=10",
    "search.evaluate_every=0",
    "search.evaluate_images=16",
    "search.arch_lr=0.1",
    "quiet=true",
    "device=cpu",
    "threads=1",
]
NB201 = [*TINY, "space=nb201", "space.layers=1"]
"""A search of forty small updates."""


class Killed(Exception):
    """Stands for the end of the process."""


def configured(*words: str) -> tuple[dict[str, Any], JobInfo]:
    """Return (configuration, info) of a search, as the command passes them to nasx.jobs.search."""
    cfg, choices = composed("search", *words)
    return cfg, JobInfo(choices=choices, overrides=list(words), command="nasx search")


def search(words: list[str]) -> dict[str, Any]:
    """Check a line and run its search; return what the job returns."""
    cfg, info = configured(*words)
    check.check(cfg, info.choices, words)
    return jobs_search.search(cfg, info)


def recorded(out: Path, *words: str, base: list[str] = NB201, name: str = "run") -> dict[str, Any]:
    """Run a search in `out/name`, unchecked; return its record."""
    jobs_search.search(*configured(*base, *words, f"out={out}", f"name={name}"))
    record: dict[str, Any] = json.loads((out / name / "result.json").read_text())
    return record
