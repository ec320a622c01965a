"""Compare predicted and measured peak memory of steps on the device: runtime.py memory.py [NAME...]

The last line of the output contains the rows as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"  # 32 MiB of workspace would hide everything else

import arithmetic
import torch
from searches import batches, composed, started

from nasx.searcher.memory import Memory

arithmetic.skipped()
SETTINGS: dict[str, tuple[str, ...]] = {
    "nb201": ("space=nb201", "space.layers=2"),
    "bf16": ("space=nb201", "space.layers=1", "engine.precision=bf16"),
    "checkpoint": ("space=nb201", "space.layers=2", "engine.checkpoint=true"),
    "naive": ("space=nb201", "space.layers=1", "engine=naive"),
    "second order": ("space=nb201", "space.layers=1", "method.order=2"),
    "random_ws": ("space=nb201", "space.layers=1", "method=random_ws"),
    "lambda": ("space=nb201", "space.layers=1", "method=lambda", "search.batch=128"),
    "darts": ("space=darts", "space.layers=3"),
    "pc_darts": ("space=darts", "method=pc_darts", "search.batch=64", "space.layers=3"),
    "nb1shot1": ("space=nb1shot1_1", "method=drnas", "space.layers=3"),
}
"""Kinds of spaces, passes and engines; fewer cells than usual where they are enough."""


def row(name: str) -> dict[str, Any]:
    """Return the peak memory of the third step in bytes, and its prediction."""
    space, method, settings, engine = composed(*SETTINGS[name], groups=("space", "method", "search", "engine"))
    search = started(space, method, settings, engine)
    for i in range(3):
        train, val = batches(space, method, 10 * i, settings.batch, 32)
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        method.step(search, train, val)
        search.updates += method.steps_w
    predicted = Memory(space, method, settings, engine, 10, (3, 32, 32)).peak()
    return {"name": name, "measured": torch.cuda.max_memory_allocated(), "predicted": predicted.total}


def main() -> None:
    rows = []
    for name in sys.argv[1:] or SETTINGS:
        rows.append(row(name))
        print(rows[-1], flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
