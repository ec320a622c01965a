"""Read the files of runs: metrics rows, configurations, and records of finished runs (run_folder.py writes them)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nasx.config import identity
from nasx.config.job_info import JobInfo
from nasx.core import versions
from nasx.core.files import read_json, read_yaml
from nasx.core.plain import Config, Result, Row
from nasx.errors import UserError
from nasx.tracking import checkpoints

log = logging.getLogger("nasx")
GENOTYPE, METRICS = "genotype.txt", "metrics.jsonl"
SEALED = (GENOTYPE, METRICS)
"""Files whose sha256 a record contains."""
NEWER = "install the version of nasx that wrote it, or a later one"


def canonical(value: object) -> str:
    """Return `value` as JSON with sorted keys, the input of identity hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def read_rows(folder: Path) -> list[Row]:
    """Return the metrics rows of a run up to the first incomplete line; skip lines that are not JSON objects."""
    try:
        text = (folder / METRICS).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return parsed(text)


def parsed(text: str) -> list[Row]:
    """Return the rows in the text of a metrics.jsonl; see `read_rows`."""
    rows: list[Row] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if type(row) is dict:
            rows.append(row)
    return rows


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten a nested configuration to dotted keys."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def run_folders(root: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the run folders at or below `root`, sorted, without descending into runs or hidden folders."""
    for folder, children, names in os.walk(root):
        children[:] = sorted(child for child in children if not child.startswith("."))
        if "result.json" in names or "config.yaml" in names:
            children.clear()
            yield os.path.normpath(folder)


def locate(name: str, out: str) -> Path | None:
    """Return the folder of a run: NAME or OUT/NAME, preferably one that contains a run; None if neither exists."""
    there = [path for path in (Path(name), Path(out) / name) if path.is_dir()]
    return next(
        (path for path in there if (path / "config.yaml").is_file() or (path / "result.json").is_file()),
        there[0] if there else None,
    )


def is_run(folder: Path) -> bool:
    """Return whether a folder contains a configuration or a record."""
    return (folder / "config.yaml").exists() or (folder / "result.json").exists()


def finished(folder: Path) -> Result | None:
    """Return the record in `folder` if its run is finished, else None. Raises UserError if the record is unreadable."""
    path = folder / "result.json"
    result = read_json(path)
    if result is None and os.path.lexists(path):
        rest = (
            "restore it from a backup, or remove it: the same command then continues from the last checkpoint"
            if checkpoints.found(folder)
            else "restore it from a backup, or move the folder elsewhere to start the run again"
        )
        raise UserError(str(path), "cannot be read as a record: it is damaged, or you lack permission to read it", rest)
    if later := versions.newer(result or {}):
        raise UserError(str(path), later, NEWER)
    return result if result is not None and result.get("status") == "finished" else None


def head(
    kind: str, name: str, cfg: Mapping[str, object], info: JobInfo, started: str, **facts: object
) -> dict[str, object]:
    """Return the entries with which every run's record begins; `facts` follow `choices`."""
    return {
        "kind": kind,
        "name": name,
        "status": "finished",
        "command": info.command,
        "started": started,
        "finished": now(),
        "choices": dict(info.choices),
        **facts,
        "overrides": list(info.overrides),
        "seed": cfg["seed"],
        "identity": identity.identity(cfg, kind),
    }


def configuration(folder: Path) -> Config | None:
    """Return the configuration of a run from any version (see `versions.completed`); None if it cannot be read."""
    held = read_yaml(folder / "config.yaml")
    return None if held is None else versions.completed(held)


def broken(folder: Path, record: Mapping[str, object]) -> list[str]:
    """Return the files of a finished run that differ from the seal in its record; empty if there is no seal."""
    seal = record.get("seal")
    return [
        name
        for name in SEALED
        if isinstance(seal, Mapping) and name in seal and digest(content(folder / name) or b"") != seal[name]
    ]


def damage(names: Sequence[str]) -> str:
    """Describe the damage to the files that `broken` returned."""
    return f"{' and '.join(names)} changed after the run had finished (sha256 differs from the record's)"


def environments(starts: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the names of environment values that affect results and differ between the starts of a run.

    The host and user-defined code are ignored; see nasx.config.own_code.
    """
    names = dict.fromkeys(name for start in starts for name in start if name not in ("host", "update", "code"))
    return [name for name in names if len({str(start.get(name)) for start in starts}) > 1]


def content(path: Path) -> bytes | None:
    """Return the bytes of a file; None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def now() -> str:
    """Return the local time with UTC offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
