"""Killed, stopped and started again: the result is that of a run that nobody touched, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch

from nasx import records

COMMANDS = {
    "darts": (*jobs.TINY_NB201, "method=darts", "method.order=1", "checkpoint_s=0"),
    "idarts": (*jobs.TINY_NB201, "method=idarts", "method.T=3", "checkpoint_s=0"),
}
"""Two methods: one update a step and several; a checkpoint after every step."""
TIMES = {"wall_s", "seconds"}
"""What a clock says is no part of a result."""


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return value


def rows(folder: Path) -> list[dict[str, Any]]:
    return [without_times(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def state(folder: Path) -> dict[str, Any]:
    """The last checkpoint, without what the clock says."""
    paths = sorted((folder / "checkpoints").glob("*.ckpt"))
    data = paths[-1].read_bytes()
    found: dict[str, Any] = torch.load(__import__("io").BytesIO(data[len(records.MAGIC) + 65:]), weights_only=True)
    return {k: v for k, v in found.items() if k not in ("elapsed_s", "started")}


def same(one: Any, two: Any, where: str = "") -> None:
    """Equal values, tensors to the last bit."""
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, where
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for i, (x, y) in enumerate(zip(one, two, strict=True)):
            same(x, y, f"{where}[{i}]")
    else:
        assert one == two, where


@pytest.fixture(scope="module", params=COMMANDS)
def untouched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """(command, folder of the uninterrupted run)."""
    here = tmp_path_factory.mktemp("untouched")
    command = COMMANDS[request.param]
    done = jobs.nasx(here, *command)
    assert done.code == 0, done
    return command, jobs.folder(here)


def checkpoints(here: Path) -> list[Path]:
    return sorted((here / "runs").glob("*/checkpoints/*.ckpt"))
