"""Compare two run folders bit for bit, except for times."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from nasx.core import files
from nasx.tracking import checkpoints, records

CLOCK = {"wall_s", "seconds", "elapsed_s", "started", "compile_s"}


def timeless(value: Any) -> Any:
    """Return `value` without clock values, at any depth."""
    return {k: timeless(v) for k, v in value.items() if k not in CLOCK} if isinstance(value, dict) else value


def rows(folder: Path) -> list[dict[str, Any]]:
    return [timeless(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def state(folder: Path) -> dict[str, Any]:
    """Return the last checkpoint: weights, architecture, optimizers, positions, counters."""
    data = sorted((folder / "checkpoints").glob("[0-9]*.ckpt"))[-1].read_bytes()
    found = torch.load(io.BytesIO(data[len(checkpoints.MAGIC) + 65 :]), weights_only=True)
    return {**timeless(found), "metrics": [timeless(row) for row in records.parsed(found["metrics"])]}


def same(one: Any, two: Any, where: str = "state") -> None:
    """Assert that values are equal, tensors to the last bit."""
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


def equal(one: Path, two: Path) -> None:
    """Assert that two folders contain the same run."""
    same(state(one), state(two))
    same(rows(one), rows(two))
    for key in ("supernet", "test_accuracy"):
        same(*((files.read_json(folder / "result.json") or {}).get(key) for folder in (one, two)))
    assert (one / "genotype.txt").read_bytes() == (two / "genotype.txt").read_bytes()


def reached(here: Path, update: int) -> bool:
    """Return whether there is a checkpoint of `update` or a later one."""
    return any(int(path.stem) >= update for path in (here / "runs").glob("*/checkpoints/[0-9]*.ckpt"))
