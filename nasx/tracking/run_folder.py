"""Run folder that one process writes; a kill at any moment loses no recorded data.

    config.yaml     resolved configuration, group choices and identity
    metrics.jsonl   one JSON object per epoch
    result.json     the record of a finished run, with the sha256 of metrics.jsonl and genotype.txt (its seal)
    checkpoints/    the last two and the kept checkpoints, with the metrics rows so far (tracking/checkpoints.py)
    log.txt         printed messages          lock   lock of the process that writes here (tracking/lock.py)
    engine.json     the fastest way to compute steps, if it was measured (searcher/calibration.py)
    fault.txt       the reason why the last start failed, if it did

Every file is written atomically (core/files.py), except metrics.jsonl, whose last line may be incomplete after a kill;
metrics.jsonl is then restored from the checkpoint. Neither the folder nor any file in it is written through a link.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from nasx.config import own_code
from nasx.core import files, versions
from nasx.core.files import read_json, read_yaml, unwritable, write_atomic
from nasx.core.plain import Result, Row, State
from nasx.errors import UserError, named, printable
from nasx.tracking import checkpoints, records
from nasx.tracking.lock import Lock
from nasx.tracking.records import GENOTYPE, METRICS, canonical, content, digest, flatten, parsed, read_rows

if TYPE_CHECKING:
    import torch

log = logging.getLogger("nasx")


def unused(folder: Path) -> bool:
    """Return whether the folder contains no data of a run, so that any run of this name can use it."""
    return not (
        checkpoints.found(folder)
        or read_rows(folder)
        or (folder / "result.json").exists()
        or any(folder.glob("*/config.yaml"))
    )


def differing(folder: Path, identity: Mapping[str, object], extra: Collection[str]) -> UserError | None:
    """Return the error if a folder belongs to another configuration; None if it does not, or is unused.

    `extra` contains the keys of config.yaml that are not part of the identity.
    """
    held = read_yaml(folder / "config.yaml")
    if held is None or unused(folder):
        return None
    if later := versions.newer(held):
        return UserError(str(folder / "config.yaml"), later, records.NEWER)
    there, asked = {k: v for k, v in held.items() if k not in extra}, json.loads(canonical(identity))
    if versions.stable(there, held.get("format", 0)) == versions.stable(asked):
        return None
    old, new = flatten(versions.completed(there)), flatten(versions.completed(asked))
    none = "(absent)"
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k, none) != new.get(k, none)]
    shown = ", ".join(f"{k}: {old.get(k, none)} in the folder, {new.get(k, none)} requested" for k in keys[:12])
    more = f", and {len(keys) - 12} more" if len(keys) > 12 else ""
    fault = f"belongs to a run with a different configuration ({shown}{more})"
    if not keys:
        fault = "was created by a version of nasx that gives different results for the same configuration"
    return UserError(str(folder), fault, "choose another name=NAME, or leave name out to let nasx name the run")


class Run:
    """One run folder, held by one process at a time.

    `identity` is the part of the configuration that affects results. Opening a folder that belongs to another
    configuration raises a UserError that shows the differing keys, unless the folder is unused. Opening a folder that
    another process holds also raises a UserError.
    """

    _lock: Lock | None = None
    _lines: list[str] | None = None
    """Lines of metrics.jsonl; None before the first call of `keep_rows` or `append`."""
    _genotype: str | None = None

    def __init__(self, folder: Path, identity: Mapping[str, object], extra: Mapping[str, object]) -> None:
        self.folder = folder
        self.identity = json.loads(canonical(identity))
        self.on_row: Callable[[Mapping[str, object]], None] = lambda row: None
        """Function called with each metrics row after the row is written."""
        inner = files.no_link(files.no_link(folder) / "checkpoints")
        config = folder / "config.yaml"
        if config.exists() and not inner.is_dir() and "identity" not in (read_yaml(config) or {}) and unused(folder):
            fault = "holds a config.yaml, but is not the folder of a run"
            raise UserError(str(folder), fault, "choose another name=NAME or out=FOLDER")
        try:
            files.make_folder(inner)
        except OSError as error:
            raise unwritable(folder, error) from error
        if not os.access(folder, os.W_OK):
            raise UserError(str(folder), "is read-only", "choose another folder with out=FOLDER")
        self._lock = Lock(folder)
        try:
            for left in (folder / "fault.txt", *folder.glob(".*.part"), *inner.glob(".*.part")):
                with contextlib.suppress(OSError):  # left by the last start, which may have been killed
                    left.unlink()
            self._claim(extra)
        except BaseException:
            self.close()
            raise

    def _claim(self, extra: Mapping[str, object]) -> None:
        path = self.folder / "config.yaml"
        if read_yaml(path) is None or unused(self.folder):
            if not unused(self.folder):
                fault = "is missing or truncated, and nothing else shows which run the files belong to"
                remedy = "restore the file from a backup, or move the folder elsewhere to restart this run"
                raise UserError(str(path), fault, remedy)
            held = {"format": versions.FORMAT, **extra, **self.identity}
            write_atomic(path, yaml.safe_dump(held, sort_keys=False, allow_unicode=True))
            return
        if other := differing(self.folder, self.identity, {"format", *extra}):
            raise other

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _held(self) -> Path:
        """Return the folder for writing. Raises UserError if this process no longer holds its lock."""
        if self._lock is not None:
            self._lock.check()
        return self.folder

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------- records
    @property
    def result(self) -> dict[str, object] | None:
        """The record of the finished run; None if there is none."""
        return read_json(self.folder / "result.json")

    def fail(self, error: Exception) -> None:
        """Write the reason for a failure to fault.txt, for `nasx status`; write the traceback of a bug to log.txt."""
        with contextlib.suppress(UserError):  # the disk or the lock may be the cause
            if self.result is None:
                said = str(error)
                if not isinstance(error, UserError):
                    self.write_trace(error)
                    found = own_code.raised(error, ["nasx"])
                    said = f"{found.text} ({found.line} in {found.function})" if found else named(error)
                write_atomic(self._held() / "fault.txt", f"{said}\n")

    def write_trace(self, error: Exception) -> bool:
        """Append the traceback of an exception to log.txt; return whether it was written."""
        try:
            files.append(self._held() / "log.txt", printable("".join(traceback.format_exception(error))))
        except UserError:
            return False
        return True

    def decide(self, genotype: object) -> None:
        """Write the genotype to genotype.txt."""
        self._genotype = f"{genotype}\n"
        write_atomic(self._held() / GENOTYPE, self._genotype)

    def note(self, name: str, content: Mapping[str, object]) -> None:
        """Write `content` to the JSON file `name` of the run."""
        write_atomic(self._held() / name, json.dumps(content, indent=1) + "\n")

    def finish(self, result: Mapping[str, object]) -> dict[str, object]:
        """Write and return the sealed record, which marks the run as finished. Checkpoints are kept."""
        folder = self._held()
        texts = {GENOTYPE: self._genotype, METRICS: None if self._lines is None else "".join(self._lines)}
        held = {name: text for name, text in texts.items() if text is not None}
        for name, text in held.items():
            if content(folder / name) != text.encode():  # damaged during the run
                write_atomic(folder / name, text)
        seal = {name: digest(text.encode()) for name, text in held.items()}
        sealed = {"format": versions.FORMAT, **result, "seal": seal}
        write_atomic(folder / "result.json", json.dumps(sealed, indent=1, default=str) + "\n")
        return sealed

    def done(self) -> Result | None:
        """Return the record of the run; None if the run is not finished. Restore damaged files that it seals.

        Raises UserError if the record cannot be read.
        """
        record = records.finished(self.folder)
        if record is not None:
            self._repair(record)
        return record

    def _repair(self, record: Result) -> None:
        """Restore files that differ from the seal: the genotype from the record, the rows from the last checkpoint."""
        for name in records.broken(self.folder, record):
            text = f"{record.get('genotype')}\n" if name == GENOTYPE else None
            if name == METRICS:
                with contextlib.suppress(UserError):  # no checkpoint can be read
                    text = (checkpoints.last(self.folder) or {}).get("metrics")
            known = text is not None and digest(text.encode()) == record["seal"][name]
            if text is not None and known:
                write_atomic(self._held() / name, text)
            ends = "it was restored" if known else "its original content cannot be recovered"
            log.warning("%s: %s; %s", self.folder, records.damage([name]), ends)

    def rows(self) -> list[Row]:
        """Return the metrics rows so far."""
        return read_rows(self.folder) if self._lines is None else parsed("".join(self._lines))

    def keep_rows(self, text: str) -> None:
        """Set metrics.jsonl to `text`, the rows of a checkpoint.

        Rows written after that checkpoint are computed again; damaged or lost rows are restored.
        """
        path = self._held() / METRICS
        there = content(path)
        if not (there or b"").startswith(text.encode()):
            log.warning("%s: is damaged or lacks rows; restoring it from the checkpoint", path)
        if there != text.encode():
            write_atomic(path, text)
        self._lines = text.splitlines(keepends=True)

    def append(self, row: Mapping[str, object]) -> None:
        """Append a metrics row and sync it to disk."""
        path = self._held() / METRICS
        if self._lines is None:
            self._lines = (content(path) or b"").decode(errors="replace").splitlines(keepends=True)
        line = json.dumps(row) + "\n"
        files.append(path, line)
        self._lines.append(line)
        self.on_row(row)

    # ------------------------------------------------------------------------------------------ checkpoints
    def save(self, state: State, step: int, epoch: int | None = None) -> None:
        """Write checkpoint `step` (tensors and plain values only) with the metrics rows; keep only the last two.

        If `epoch` is given, also write a checkpoint of that epoch that is never removed.
        """
        lines = self._lines or []
        checkpoints.save(self._held(), {**state, "rows": len(lines), "metrics": "".join(lines)}, step, epoch)

    def load(self, device: torch.device | str = "cpu") -> State | None:
        """Return the newest readable checkpoint with its metrics rows; see `checkpoints.last`."""
        rows = self.rows()
        state = checkpoints.last(self.folder, device, rows=len(rows))
        if state is not None and "metrics" not in state:  # format 1
            state["metrics"] = "".join(json.dumps(row) + "\n" for row in rows[: state.get("rows", 0)])
        return state


class ReadOnlyRun(Run):
    """A run folder that another process writes: this process does not read, write or lock it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _nothing(self, *_: object, **__: object) -> None:
        return None

    fail = note = keep_rows = append = save = load = _nothing

    def write_trace(self, error: Exception) -> bool:
        return False

    def finish(self, result: Mapping[str, object]) -> dict[str, object]:
        return dict(result)

    def rows(self) -> list[Row]:
        return []
