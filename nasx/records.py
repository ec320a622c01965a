"""The run folder: a run is its folder, written so that a kill at any moment loses nothing.

    config.yaml     resolved configuration, group choices and identity
    metrics.jsonl   one JSON object an epoch
    result.json     the one record of a finished run
    checkpoints/    the last two, see folders/checkpoints.py
    log.txt         what was printed          lock   of the process that writes here, see folders/lock.py
    fault.txt       why the last start failed, where it did

Every file appears whole or not at all (folders/files.py), but for metrics.jsonl, whose last line may be torn by a kill.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nasx.errors import UserError
from nasx.folders import checkpoints
from nasx.folders.files import read_json, read_yaml, unwritable, write_atomic
from nasx.folders.lock import Lock


def canonical(value: Any) -> str:
    """JSON with sorted keys: the text that identities are hashed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Metrics rows of a run, up to a torn line (killed while writing); lines that are no objects are left out."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if type(row) is dict:
            rows.append(row)
    return rows


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unused(folder: Path) -> bool:
    """Whether no start has come so far that anything was kept: the folder is anybody's who asks for its name."""
    return not (checkpoints.found(folder) or read_rows(folder) or (folder / "result.json").exists()
                or any(folder.glob("*/config.yaml")))


def differing(folder: Path, identity: Mapping[str, Any], extra: Collection[str]) -> UserError | None:
    """Why a folder belongs to another configuration, None where it belongs to this one or to none that is known.

    `extra` are keys of config.yaml that are no part of the identity.
    """
    held = read_yaml(folder / "config.yaml")
    if held is None or unused(folder):
        return None
    there, asked = {k: v for k, v in held.items() if k not in extra}, json.loads(canonical(identity))
    if there == asked:
        return None
    old, new = flatten(there), flatten(asked)
    none = "(absent)"
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k, none) != new.get(k, none)]
    shown = ", ".join(f"{k}: {old.get(k, none)} there, {new.get(k, none)} asked for" for k in keys[:12])
    more = f", and {len(keys) - 12} more" if len(keys) > 12 else ""
    return UserError(str(folder), f"belongs to a run with another configuration ({shown}{more})",
                     "choose another name=NAME, or leave name out to let nasx name the run")


class Run:
    """One run folder, held by one process at a time.

    `identity` is the configuration that changes the numbers. Opening a folder that belongs to another configuration
    raises a UserError that shows the differing keys, unless nothing was kept there yet; opening one that another
    process holds says which.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(canonical(identity))
        self.told: Callable[[Mapping[str, Any]], None] = lambda row: None
        """Called with each metrics row that was written."""
        self._lock: Lock | None = None
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        if not os.access(folder, os.W_OK):
            raise UserError(str(folder), "is read-only", "choose another folder with out=FOLDER")
        self._lock = Lock(folder)
        try:
            self._tidy()
            self._claim(extra)
        except BaseException:
            self.close()
            raise

    def _tidy(self) -> None:
        """Remove what a killed process has left half-written, and why the last start failed.

        Only the holder of the lock writes here.
        """
        for folder in (self.folder, self.folder / "checkpoints"):
            for part in folder.glob(".*.part"):
                with contextlib.suppress(OSError):
                    part.unlink()
        with contextlib.suppress(OSError):
            (self.folder / "fault.txt").unlink()

    def _claim(self, extra: Mapping[str, Any]) -> None:
        path = self.folder / "config.yaml"
        if read_yaml(path) is None or unused(self.folder):
            if not unused(self.folder):
                raise UserError(str(path), "is missing or torn, and nothing else says whose the files here are",
                                "put a copy of the file back, or move the folder away to start this run anew")
            write_atomic(path, yaml.safe_dump({**extra, **self.identity}, sort_keys=False, allow_unicode=True))
            return
        if other := differing(self.folder, self.identity, extra):
            raise other

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _held(self) -> Path:
        """The folder, to write into. Raises UserError where it is no longer this process's."""
        if self._lock is not None:
            self._lock.check()
        return self.folder

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------- records
    @property
    def result(self) -> dict[str, Any] | None:
        """The record of the finished run, or None."""
        return read_json(self.folder / "result.json")

    def fail(self, error: Exception) -> None:
        """Leave word of why this start failed, for `nasx status`; the next start removes it."""
        with contextlib.suppress(UserError):  # the disk may be what failed, or the lock
            if self.result is None:
                write_atomic(self._held() / "fault.txt", f"{error or type(error).__name__}\n")

    def decide(self, genotype: object) -> None:
        """Write the genotype's text."""
        write_atomic(self._held() / "genotype.txt", f"{genotype}\n")

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the record; from here on the run is finished. Its checkpoints stay."""
        write_atomic(self._held() / "result.json", json.dumps(result, indent=1, default=str) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Metrics rows so far."""
        return read_rows(self.folder)

    def keep_rows(self, count: int) -> None:
        """Forget metrics rows written after the checkpoint that a resume starts from, and a torn line.

        Raises UserError where there are fewer than `count`.
        """
        path, rows = self._held() / "metrics.jsonl", self.rows()
        if len(rows) < count:
            raise UserError(str(path), f"holds {len(rows)} whole rows of the {count} that the checkpoint counts",
                            "put a copy of the file back, or move the folder away to start this run anew")
        kept = "".join(json.dumps(row) + "\n" for row in rows[:count])
        if not path.exists() or path.read_bytes() != kept.encode():
            write_atomic(path, kept)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one metrics row; it is on the disk before a checkpoint counts it."""
        path = self._held() / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(path, error) from error
        self.told(row)

    # ------------------------------------------------------------------------------------------ checkpoints
    def save(self, state: Mapping[str, Any], step: int) -> None:
        """Write checkpoint `step` (tensors and plain values only) and keep the last two."""
        checkpoints.save(self._held(), state, step)

    def load(self, device: Any = "cpu") -> dict[str, Any] | None:
        """The newest readable checkpoint whose metrics rows are all there: see `checkpoints.last`."""
        return checkpoints.last(self.folder, device, rows=len(self.rows()))


class Guest(Run):
    """A run folder in the hands of another process: nothing of it is read, written or locked here."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock = folder, None

    def fail(self, error: Exception) -> None:
        pass

    def finish(self, result: Mapping[str, Any]) -> None:
        pass

    def keep_rows(self, count: int) -> None:
        pass

    def append(self, row: Mapping[str, Any]) -> None:
        pass

    def save(self, state: Mapping[str, Any], step: int) -> None:
        pass

    def load(self, device: Any = "cpu") -> dict[str, Any] | None:
        return None


def run_folders(root: str | os.PathLike[str]) -> Iterator[str]:
    """Every folder at or below `root` that looks like a run's, sorted; not within runs, nor in hidden folders."""
    for folder, children, files in os.walk(root):
        children[:] = sorted(child for child in children if not child.startswith("."))
        if "result.json" in files or "config.yaml" in files:
            children.clear()
            yield os.path.normpath(folder)


def locate(name: str, out: str) -> Path | None:
    """The folder that a run's name means: NAME or OUT/NAME, first one that holds a run; None where neither is there."""
    there = [path for path in (Path(name), Path(out) / name) if path.is_dir()]
    return next((path for path in there if (path / "config.yaml").is_file() or (path / "result.json").is_file()),
                there[0] if there else None)


def finished(folder: Path) -> dict[str, Any] | None:
    """The record in `folder` if its run is finished."""
    result = read_json(folder / "result.json")
    return result if result is not None and result.get("status") == "finished" else None


def now() -> str:
    """Local time with offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
