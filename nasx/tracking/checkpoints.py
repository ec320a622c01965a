"""Checkpoints of a run: the last two, written atomically with a checksum, and read with torch's safe loader.

    checkpoints/NNNNNNNNN.ckpt      the format, the sha256 of the rest, and torch's file; N: updates so far
    checkpoints/epoch-NNNN.ckpt     the same, after every `search.keep_every`-th epoch; never removed

Checkpoints are written after each epoch and every `checkpoint_s` seconds (session.py), and contain tensors and plain
values only. From format 2 on, a checkpoint contains the text of its metrics rows (`metrics`); format 1 has
only their number (`rows`). A damaged checkpoint is reported, and the previous one is used. torch is imported only when
a checkpoint is written or read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nasx.core import spelling
from nasx.core.files import write_atomic
from nasx.core.plain import State
from nasx.core.system import sync_folder
from nasx.errors import UserError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("nasx")
MAGIC = b"nasx checkpoint 2\n"
READABLE = (b"nasx checkpoint 1\n", MAGIC)
"""First lines of the formats that can be read; all have the same length."""
MAX_KEPT = 2


class Unfit(UserError):
    """Error raised if a search cannot continue from a kept checkpoint."""


def save(folder: Path, state: State, step: int, epoch: int | None = None) -> None:
    """Write checkpoint `step` of the run in `folder` (tensors and plain values only); keep only the last two.

    If `epoch` is given, the kept checkpoint of that epoch is written first, so that it exists in every run that has
    progressed further.
    """
    import torch

    blob = io.BytesIO()
    torch.save(dict(state), blob)
    data = blob.getvalue()
    data = MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data
    path = folder / "checkpoints" / f"{step:09d}.ckpt"
    if epoch is not None:
        write_atomic(path.with_name(f"epoch-{epoch:04d}.ckpt"), data)
    write_atomic(path, data)
    there = found(folder)
    kept = [old for old in there if old.name <= path.name][-MAX_KEPT:]
    for old in sorted(set(there) - set(kept)):  # a later checkpoint was damaged, or its rows were lost
        with contextlib.suppress(OSError):
            os.unlink(old)
    if len(there) > len(kept):
        sync_folder(path.parent)


def found(folder: Path) -> list[Path]:
    """Return the paths of the checkpoints of a run, newest last."""
    return sorted((folder / "checkpoints").glob("[0-9]*.ckpt"))


def kept(folder: Path) -> dict[int, Path]:
    """Return a mapping from epochs to the paths of their kept checkpoints, in epoch order."""
    paths = (folder / "checkpoints").glob("epoch-*.ckpt")
    found = {int(path.stem[6:]): path for path in paths if path.stem[6:].isdecimal()}
    return dict(sorted(found.items()))


def checksum(path: Path) -> str:
    """Return the sha256 in the header of a checkpoint; `read` compares it with the content."""
    with path.open("rb") as file:
        return file.read(len(MAGIC) + 64)[len(MAGIC) :].decode("ascii", errors="replace")


def last(folder: Path, device: torch.device | str = "cpu", rows: int | None = None) -> State | None:
    """Return the newest readable checkpoint of a run; None if there are no checkpoints yet.

    A damaged checkpoint, or one of format 1 that counts more than `rows` metrics rows (None: not checked), is skipped
    with a warning, and the previous one is used. Raises UserError if checkpoints exist but none can be used.
    """
    paths, short = found(folder), 0
    for path in reversed(paths):
        state = read(path, device)
        if state is None:
            continue
        counted = state.get("rows", 0)
        if rows is None or "metrics" in state or counted <= rows:
            return state
        short = counted
        few = f"expects {spelling.counted(counted, 'metrics row')}, but metrics.jsonl has "
        few += spelling.counted(rows, "complete row")
        log.warning("%s: %s; the previous checkpoint is used", path, few)
    if short:
        fault = f"has fewer complete rows ({rows}) than the readable checkpoints expect ({short})"
        remedy = "restore the file from a backup, or move the folder elsewhere to restart this run"
        raise UserError(str(folder / "metrics.jsonl"), fault, remedy)
    if paths:
        fault = f"contains no readable checkpoint ({spelling.counted(len(paths), 'file')} found)"
        raise UserError(str(folder / "checkpoints"), fault, "move the folder elsewhere to restart this run")
    return None


def read(path: Path, device: torch.device | str = "cpu") -> State | None:
    """Read a checkpoint; return None, with a warning, if it is damaged or has been removed."""
    import torch

    try:
        data = path.read_bytes()
        head = len(MAGIC) + 65
        digest, body = data[len(MAGIC) : head - 1], data[head:]
        if data.startswith(MAGIC[:16]) and not data.startswith(READABLE):
            fault = "was written by a newer version of nasx"
        elif not data.startswith(READABLE) or hashlib.sha256(body).hexdigest().encode() != digest:
            fault = "damaged (its checksum differs)"
        else:
            state = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
            if type(state) is dict and (type(state.get("rows", 0)), type(state.get("metrics", ""))) == (int, str):
                return state
            fault = "cannot be read safely (it does not contain the state of a run)"
    except OSError as error:
        fault = f"cannot be read ({error.strerror or error})"
    except Exception as error:  # noqa: BLE001 (a file not written by nasx may raise any error in torch)
        said, _, _ = str(error).partition("\n")
        fault = f"cannot be read safely ({said or type(error).__name__})"
    log.warning("%s: %s; the previous checkpoint is used", path, fault)
    return None
