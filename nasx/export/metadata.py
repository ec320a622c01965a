"""Metadata of exported networks, read without torch. The keys are listed in model.py; runtime.py reads ONNX files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasx.core import versions
from nasx.errors import UserError

Facts = Mapping[str, Any]
"""The metadata of an export; export/model.py lists its keys."""
FORMAT = "nasx 1"
FILE = "model.safetensors"
PLAIN = ("format", "genotype", "recipe", "commit", "run", "nasx")
"""Keys with plain-text values; the values of all other keys are JSON."""
REMEDY = "export the run again: nasx export from=..."


def facts(path: str | Path) -> tuple[Path, Facts]:
    """Return the path and the metadata of model.safetensors, given the file or its folder. Raises UserError."""
    from safetensors import SafetensorError, safe_open

    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        run = path if (Path(path) / "result.json").is_file() else "RUN"
        raise UserError(str(file), "does not exist", f"create it with nasx export from={run}")
    if file.suffix == ".onnx":
        raise UserError(str(file), "is not a torch network", "open it with nasx.export.runtime.load")
    try:
        with safe_open(file, "np") as content:
            held = content.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(str(file), f"cannot be read as safetensors ({error})", REMEDY) from error
    return file, read(file, held)


def read(file: Path, held: Mapping[str, str]) -> Facts:
    """Convert the text metadata `held` of a file to plain values. Raises UserError if it is damaged."""
    if held.get("format") != FORMAT:
        raise UserError(str(file), f"is not an export of this version of nasx (format {held.get('format')})", REMEDY)
    try:
        values = {name: value if name in PLAIN else json.loads(value) for name, value in held.items()}
    except (ValueError, RecursionError) as error:
        raise UserError(str(file), f"its metadata is damaged ({error})", REMEDY) from error
    completed: Facts = versions.completed(values)
    return completed
