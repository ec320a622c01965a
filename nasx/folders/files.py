"""Files that appear whole or not at all, and the reading of those that may be torn or missing.

A file is written beside its place, flushed, fsynced, renamed, and its folder is fsynced: a reader, and whoever comes
after a kill or a power cut, finds the old content or all of the new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import yaml

from nasx.errors import UserError

SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader, that of libyaml where it is there: ten times as fast."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` so that `path` holds either the old content or all of the new one.

    Raises UserError where the disk is full or the folder cannot be written; the old file is then untouched.
    """
    blob = data.encode(errors="replace") if isinstance(data, str) else data
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> UserError:
    """A UserError that says why `path` cannot be written and what to do."""
    remedy = {errno.ENOSPC: "free some space and run the same command: it resumes",
              errno.EFBIG: "raise the file size limit (ulimit -f) and run the same command: it resumes",
              errno.EDQUOT: "free some of your quota and run the same command: it resumes"}
    return UserError(str(path), f"cannot be written ({error.strerror or error})",
                     remedy.get(error.errno or 0, "choose a folder that you may write to with out=FOLDER"))


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where it is missing, torn or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if type(value) is dict else None


def read_yaml(path: Path) -> dict[str, Any] | None:
    """The mapping in a YAML file (plain values only), or None where it is missing, torn or no mapping."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def parse_yaml(text: str) -> dict[str, Any] | None:
    """The mapping in YAML text, or None where it is torn or not a mapping."""
    try:
        value = yaml.load(text, Loader=SAFE)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    return value if type(value) is dict else None
