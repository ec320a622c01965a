"""Files that appear whole or not at all, and the bounded reading of those that may be torn, missing or hostile.

`write_atomic` writes every file that nasx makes (`append` and `stream` the two that grow). It writes a temporary file
of a random name in the target's folder, fsyncs it, renames it, and fsyncs the folder: a reader, and whoever comes after
a kill or a power loss, finds the old content or all of the new one. Nothing is written through a link.

A writer holds flock on its temporary file. One that nobody holds was left by a killed writer; the next writer in that
folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from nasx.core.system import CLOSE_EARLY, NONBLOCK, lock_file, open_file, replace, sync_file, sync_folder
from nasx.errors import UserError

SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader, that of libyaml where it is there: ten times as fast."""
TEMPORARY = re.compile(r"\.nasx-[0-9a-f]{16}\.part")
"""Names of temporary files."""
ELSEWHERE = "choose a folder that you may write to with out=FOLDER"
_cleaned: set[str] = set()
"""Folders that this process has looked through for temporary files of killed writers."""


# ------------------------------------------------------------------------------------------------------ write
def write_atomic(path: Path, data: bytes | str | Callable[[BinaryIO], object], remedy: str = ELSEWHERE) -> None:
    """Write `data` so that `path` holds either the old content or all of the new one; makes the folders it needs.

    `data` may be a function that writes to a binary file, where the content is large. Raises UserError where the disk
    is full or the folder cannot be written, with `remedy` unless a better one is known; the old file is then untouched,
    and no folder is made.
    """
    made: list[Path] = []
    try:
        made = make_folder(path.parent)
        remove_left(path.parent)
        while not _placed(path, data.encode(errors="replace") if isinstance(data, str) else data):
            pass
    except OSError as error:
        remove_empty(made)
        raise unwritable(path, error, remedy) from error


def _placed(path: Path, data: bytes | Callable[[BinaryIO], object]) -> bool:
    """Write `path` once. False where another writer took the temporary file for one that was left, and removed it."""
    part = path.with_name(f".nasx-{secrets.token_hex(8)}.part")
    handle = open_file(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, handle)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                lock_file(handle)
            if isinstance(data, bytes):
                _write(handle, data)
            else:
                with os.fdopen(handle, "wb", closefd=False) as file:
                    data(file)
            os.fsync(handle)
            if CLOSE_EARLY:
                opened.close()
            try:
                replace(part, path)
            except FileNotFoundError:
                return False
        except BaseException:
            if CLOSE_EARLY:
                opened.close()
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
    sync_folder(path.parent)
    return True


def _write(handle: int, blob: bytes) -> None:
    view = memoryview(blob)
    while view:
        view = view[os.write(handle, view) :]


def remove_left(folder: Path) -> None:
    """Remove the temporary files of killed writers in `folder`, once in the life of a process."""
    if (name := os.path.abspath(folder)) in _cleaned:
        return
    _cleaned.add(name)
    with contextlib.suppress(OSError):  # one may write into a folder that one may not list
        for left in filter(TEMPORARY.fullmatch, os.listdir(folder)):
            _remove(folder / left)


def _remove(left: Path) -> None:
    """Remove a temporary file, unless a writer holds it."""
    with contextlib.suppress(OSError):  # a link, another's file, a writer that lives
        handle = open_file(left, os.O_RDWR | NONBLOCK)
        try:
            lock_file(handle)
            if not CLOSE_EARLY:
                os.unlink(left)
        finally:
            os.close(handle)
        if CLOSE_EARLY:  # a writer that has taken the name in between holds it open
            os.unlink(left)


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it that are missing, each durable; returns what was made, the innermost first."""
    if folder.is_dir():
        return []
    made = make_folder(folder.parent) if folder.parent != folder else []
    try:
        os.mkdir(folder)
        made.insert(0, folder)
        sync_folder(folder.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) and folder.is_dir():  # another process was quicker
            return made
        remove_empty(made)
        raise
    return made


def remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made in vain, innermost first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def sync_all(path: Path) -> None:
    """Make a file, or a folder with all that is in it, durable."""
    for folder, _, names in os.walk(path):
        for name in names:
            sync_file(Path(folder, name))
        sync_folder(Path(folder))
    if not path.is_dir():
        sync_file(path)


def append(path: Path, text: str) -> None:
    """Add `text` to a file; it is on the disk when this returns. Raises UserError."""
    try:
        handle = open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            _write(handle, text.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error


def stream(path: Path) -> TextIOWrapper:
    """A text file that is open at its end, such as a log. Raises OSError."""
    return open(open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8")


def no_link(path: Path) -> Path:
    """`path`. Raises UserError where it is a link: what nasx owns is never reached through one."""
    if path.is_symlink():
        raise unwritable(path, OSError(errno.ELOOP, os.strerror(errno.ELOOP)))
    return path


def unwritable(path: Path, error: OSError, remedy: str = ELSEWHERE) -> UserError:
    """A UserError that says why `path` cannot be written and what to do."""
    if error.errno == errno.ELOOP:
        return UserError(
            str(path),
            "is a link, and nasx writes through none here",
            "remove the link, or put what it names in its place",
        )
    remedies = {
        errno.ENOSPC: "free some space and run the same command: it resumes",
        errno.EFBIG: "raise the file size limit (ulimit -f) and run the same command: it resumes",
        errno.EDQUOT: "free some of your quota and run the same command: it resumes",
    }
    return UserError(
        str(path), f"cannot be written ({error.strerror or error})", remedies.get(error.errno or 0, remedy)
    )


# ------------------------------------------------------------------------------------------------------- read
def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where it is missing, torn or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if type(value) is dict else None


def read_yaml(path: Path) -> dict[str, Any] | None:
    """The mapping in a YAML file (plain values only), or None where it is missing, torn, unbounded or no mapping."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def parse_yaml(text: str) -> dict[str, Any] | None:
    """The mapping in YAML text, or None where it is torn, unbounded or not a mapping."""
    try:
        value = load_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    return value if type(value) is dict else None


LETTERS, NODES = 1 << 22, 100_000
"""Bounds of a YAML text: its letters, and its nodes with every alias written out. A search's own file has 200."""


def compose_yaml(text: str, loader: Any = SAFE) -> yaml.Node | None:
    """The nodes of a YAML text. Raises YAMLError where it is none, or larger than the bounds: aliases multiply."""
    if len(text) > LETTERS:
        raise yaml.YAMLError(f"it is longer than {LETTERS} letters")
    node: yaml.Node | None = yaml.compose(text, loader)
    if node is not None and _nodes(node, {}) > NODES:
        raise yaml.YAMLError(f"its aliases stand for more than {NODES} values")
    return node


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes there are in `node`, itself and every alias's included; a node within itself has no end."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = NODES + 1
    inner = (
        (x for pair in node.value for x in pair)
        if isinstance(node, yaml.MappingNode)
        else (node.value if isinstance(node, yaml.SequenceNode) else ())
    )
    known[id(node)] = 1 + sum(_nodes(x, known) for x in inner)
    return known[id(node)]


def load_yaml(text: str) -> Any:
    """The plain values of a YAML text. Raises YAMLError like `compose_yaml`, ValueError and RecursionError."""
    node = compose_yaml(text)
    return None if node is None else SAFE("").construct_document(node)
