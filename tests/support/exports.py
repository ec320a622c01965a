"""A small retraining to export, its record, and what `nasx evaluate` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = (
    "retrain",
    "space=darts",
    "genotype=DARTS_V2",
    "dataset=digits",
    "retrain.layers=3",
    "retrain.channels=4",
    "retrain.batch=32",
    "retrain.epochs=2",
    "retrain.updates_per_epoch=6",
    "retrain.lr=0.1",
    "threads=1",
    "device=cpu",
    "quiet=true",
    "out=runs",
)


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def printed(text: str) -> dict[str, str]:
    return {words[0]: words[1] for words in (line.split(maxsplit=1) for line in text.splitlines())}
