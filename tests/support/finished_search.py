"""A finished search that exists only as a folder."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import yaml
from composing import composed

from nasx.config import identity

CELL = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
WORDS = ("space=nb201", "dataset=digits", "name=one")


def asked(tmp_path: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return composed("search", *WORDS, f"out={tmp_path}", *words)


def made(tmp_path: Path) -> Path:
    """Make the folder of a finished search with its pictures."""
    cfg, choices = asked(tmp_path)
    folder = tmp_path / "one"
    folder.mkdir()
    record = {
        "kind": "search",
        "status": "finished",
        "name": "one",
        "finished": "today",
        "genotype": CELL,
        "lookup": None,
        "command": "nasx search",
        "wall_s": 1.0,
        "updates": 2,
        "passes": 3,
        "peak_mb": 4.0,
        "hardware": {"device": "cpu", "name": "a processor", "threads": 1},
    }
    (folder / "result.json").write_text(json.dumps(record))
    (folder / "genotype.txt").write_text(f"{CELL}\n")
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"kind": "search", "choices": choices, "identity": "x", **identity.identifying(cfg, "search")})
    )
    drawn(folder, "cell")
    return folder


def drawn(folder: Path, name: str) -> None:
    """Write complete pictures with nothing on them."""
    (folder / f"{name}.svg").write_text("<svg></svg>\n")
    (folder / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\0IEND" + zlib.crc32(b"IEND").to_bytes(4, "big"))
