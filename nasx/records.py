"""The run folder: a run is its folder, written so that a kill at any moment loses nothing.

    config.yaml     resolved configuration, group choices and identity
    metrics.jsonl   one JSON object an epoch
    result.json     the one record of a finished run
    checkpoints/    the last two, each with a checksum; a damaged one is skipped with a warning
    log.txt         what was printed          lock   held while a process writes here
    fault.txt       why the last start failed, where it did

Every file appears whole or not at all: written beside its place, flushed, fsynced, renamed, and the folder fsynced.
Checkpoints hold tensors and plain values only and are read by torch's safe loader. torch is imported only when a
checkpoint is written or read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nasx.errors import UserError

log = logging.getLogger("nasx")
MAGIC = b"nasx checkpoint 1\n"
KEPT = 2
LOCK_S = 0.3
"""How long a start tries for a lock: `nasx status` holds one for some microseconds when it looks."""
SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader, that of libyaml where it is there: ten times as fast."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` so that `path` holds either the old content or all of the new one.

    Raises UserError where the disk is full or the folder cannot be written; the old file is then untouched.
    """
    blob = data.encode() if isinstance(data, str) else data
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


def canonical(value: Any) -> str:
    """JSON with sorted keys: the text that identities are hashed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where it is missing, torn or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if type(value) is dict else None


def read_yaml(path: Path) -> dict[str, Any] | None:
    """The mapping in a YAML file (plain values only), or None where it is missing, torn or no mapping."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=SAFE)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return value if type(value) is dict else None


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Metrics rows of a run; a torn last line (killed while writing) and lines that are no objects are left out."""
    path, rows = folder / "metrics.jsonl", []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
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
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class Run:
    """One run folder, held by one process at a time.

    `identity` is the configuration that changes the numbers. Opening a folder that belongs to another configuration
    raises a UserError that shows the differing keys; opening one that another process holds says which.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(canonical(identity))
        self.told: Callable[[Mapping[str, Any]], None] = lambda row: None
        """Called with each metrics row that was written."""
        self._lock: int | None = None
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        if not os.access(folder, os.W_OK):
            raise UserError(str(folder), "is read-only", "choose another folder with out=FOLDER")
        self._acquire()
        try:
            self._tidy()
            self._claim(extra)
        except BaseException:
            self.close()
            raise

    def _acquire(self) -> None:
        """Take the folder's lock; the kernel releases it when its holder ends, however it ends."""
        path = self.folder / "lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            _lock(handle)
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise UserError(str(self.folder), f"is in use by {holder}",
                            "wait for it, or stop it; the same command then resumes its work") from error
        except OSError as error:  # a file system without locks, a full disk
            os.close(handle)
            raise unwritable(path, error) from error
        self._lock = handle

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
        held = read_yaml(path)
        if held is None:
            write_atomic(path, yaml.safe_dump({**extra, **self.identity}, sort_keys=False, allow_unicode=True))
            return
        there = {k: v for k, v in held.items() if k not in extra}
        if there == self.identity:
            return
        old, new = flatten(there), flatten(self.identity)
        keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
        none = "(absent)"
        shown = "\n".join(f"  {k}: {old.get(k, none)} there, {new.get(k, none)} asked for" for k in keys[:12])
        raise UserError(str(self.folder), f"belongs to a run with another configuration:\n{shown}\n",
                        "choose another name=NAME, or leave name out to let nasx name the run")

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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
        with contextlib.suppress(UserError):  # the disk may be what failed
            if self.result is None:
                write_atomic(self.folder / "fault.txt", f"{error or type(error).__name__}\n")

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the record; from here on the run is finished. Its checkpoints stay."""
        write_atomic(self.folder / "result.json", json.dumps(result, indent=1, default=str) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Metrics rows so far."""
        return read_rows(self.folder)

    def keep_rows(self, count: int) -> None:
        """Forget metrics rows written after the checkpoint that a resume starts from, and a torn line.

        Raises UserError where there are fewer than `count`.
        """
        path, rows = self.folder / "metrics.jsonl", self.rows()
        if len(rows) < count:
            raise UserError(str(path), f"holds {len(rows)} whole rows of the {count} that the checkpoint counts",
                            "put a copy of the file back, or move the folder away to start this run anew")
        kept = "".join(json.dumps(row) + "\n" for row in rows[:count])
        if not path.exists() or path.read_bytes() != kept.encode():
            write_atomic(path, kept)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one metrics row; it is on the disk before a checkpoint counts it."""
        path = self.folder / "metrics.jsonl"
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
        import torch

        blob = io.BytesIO()
        torch.save(dict(state), blob)
        data = blob.getvalue()
        digest = hashlib.sha256(data).hexdigest().encode()
        write_atomic(self.folder / "checkpoints" / f"{step:09d}.ckpt", MAGIC + digest + b"\n" + data)
        for old in checkpoints(self.folder)[:-KEPT]:
            old.unlink(missing_ok=True)

    def load(self, device: Any = "cpu") -> dict[str, Any] | None:
        """The newest readable checkpoint whose metrics rows are all there: see `last_checkpoint`."""
        return last_checkpoint(self.folder, device, rows=len(self.rows()))


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


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest last."""
    return sorted((folder / "checkpoints").glob("[0-9]*.ckpt"))


def last_checkpoint(folder: Path, device: Any = "cpu", rows: int | None = None) -> dict[str, Any] | None:
    """The newest readable checkpoint of a run, or None where there is none yet.

    A damaged one, and one that counts more than `rows` metrics rows (None: not asked), is skipped with a warning and
    the one before is used. Raises UserError where checkpoints exist but none can be used.
    """
    found, short = checkpoints(folder), 0
    for path in reversed(found):
        state = read_checkpoint(path, device)
        if state is None:
            continue
        counted = state.get("rows", 0)
        if rows is None or counted <= rows:
            return state
        short = counted
        log.warning("%s: counts %d metrics rows, but metrics.jsonl holds %d whole ones; the checkpoint before is used",
                    path, counted, rows)
    if short:
        raise UserError(str(folder / "metrics.jsonl"),
                        f"holds {rows} whole rows, fewer than any readable checkpoint counts ({short})",
                        "put a copy of the file back, or move the folder away to start this run anew")
    if found:
        raise UserError(str(folder / "checkpoints"), f"none of {len(found)} checkpoints can be read",
                        "move the folder away to start this run anew")
    return None


def read_checkpoint(path: Path, device: Any = "cpu") -> dict[str, Any] | None:
    """One checkpoint; None, with a warning, where it is damaged."""
    import pickle

    import torch

    data = path.read_bytes()
    head = len(MAGIC) + 65
    digest, body = data[len(MAGIC):head - 1], data[head:]
    if not data.startswith(MAGIC) or hashlib.sha256(body).hexdigest().encode() != digest:
        log.warning("%s: damaged (its checksum differs); the checkpoint before is used", path)
        return None
    try:
        return torch.load(io.BytesIO(body), map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        log.warning("%s: cannot be read safely (%s); the checkpoint before is used", path, error)
        return None


def _lock(handle: int) -> None:
    """Lock an open file for this process alone. Raises BlockingIOError where another keeps it for LOCK_S."""
    end = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


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
