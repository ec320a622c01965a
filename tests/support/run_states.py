"""Run folders in every state, and what `nasx status` says about them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nasx.cli import status

NOW = 1_800_000_000.0


def made(
    folder: Path,
    *,
    kind: str = "search",
    rows: int = 0,
    saved: int = 0,
    wall_s: float = 10.0,
    files: dict[str, str] | None = None,
    age_s: float = 60.0,
) -> Path:
    """A run of 50 epochs with `rows` rows of 100 updates, a checkpoint at `saved`, last changed `age_s` before NOW."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    texts = {
        "config.yaml": f"kind: {kind}\n{kind}: {{epochs: 50}}\n",
        "lock": "process 1 on somewhere\n",
        **(files or {}),
    }
    if rows:
        texts["metrics.jsonl"] = "".join(
            json.dumps({"epoch": i, "updates": 100 * i, "wall_s": wall_s * i}) + "\n" for i in range(1, rows + 1)
        )
    if saved:
        texts[f"checkpoints/{saved:09d}.ckpt"] = "what is in it is not read"
    for name, text in texts.items():
        (folder / name).write_text(text)
        os.utime(folder / name, (NOW - age_s, NOW - age_s))
    return folder


def told(folder: Path) -> status.State:
    return status.state(folder, folder.parent, NOW)


def finished(**facts: Any) -> dict[str, str]:
    return {"result.json": json.dumps({"status": "finished", "kind": "search", "updates": 5000, **facts})}
