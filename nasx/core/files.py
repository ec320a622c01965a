"""Atomic writes, and bounded reads of files that may be incomplete, missing or malicious.

`write_atomic` writes all files of nasx except the two that grow (`append`, `stream`). It writes a temporary file with a
random name in the target's folder, fsyncs it, renames it, and fsyncs the folder: readers see either the old or the new
content, even after a kill or a power loss. Nothing is written through a link.

A writer holds flock on its temporary file. An unlocked temporary file belongs to a killed writer; the next writer in
that folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import zipfile
import zlib
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from nasx.core.system import CLOSE_EARLY, NONBLOCK, lock_file, open_file, replace, sync_file, sync_folder
from nasx.errors import UserError

SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Safe YAML loader: libyaml's if available, which is ten times faster."""
TEMPORARY = re.compile(r"\.nasx-[0-9a-f]{16}\.part")
"""Pattern for the names of temporary files."""
NPZ_FAULTS = (
    *(OSError, ValueError, KeyError, EOFError, AttributeError, MemoryError, RecursionError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
"""Exceptions that numpy may raise for a damaged .npz file."""
ELSEWHERE = "choose a writable folder with out=FOLDER"
_cleaned: set[str] = set()
"""Folders that this process has searched for temporary files of killed writers."""


def user_cache() -> Path:
    """Return the user's cache folder for nasx: in XDG_CACHE_HOME if set, otherwise in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nasx"


# ------------------------------------------------------------------------------------------------------ write
def write_atomic(path: Path, data: bytes | str | Callable[[BinaryIO], object], remedy: str = ELSEWHERE) -> None:
    """Write `data` to `path` atomically, and create missing folders.

    `data` may be a function that writes large content to a binary file. Raises UserError if the disk is full or the
    folder is not writable, with `remedy` unless a better one is known; the old file is then unchanged, and no new
    folders remain.
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
    """Write `path`; return False if another writer has removed the temporary file as abandoned."""
    part = path.with_name(f".nasx-{secrets.token_hex(8)}.part")
    handle = open_file(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, handle)
        try:
            with contextlib.suppress(OSError):  # the file system may not support locks
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
    """Remove the temporary files of killed writers in `folder`, once per process."""
    if (name := os.path.abspath(folder)) in _cleaned:
        return
    _cleaned.add(name)
    with contextlib.suppress(OSError):  # a folder may be writable but not readable
        for left in filter(TEMPORARY.fullmatch, os.listdir(folder)):
            _remove(folder / left)


def _remove(left: Path) -> None:
    """Remove a temporary file, unless a writer holds it."""
    with contextlib.suppress(OSError):  # a link, another user's file, a live writer
        handle = open_file(left, os.O_RDWR | NONBLOCK)
        try:
            lock_file(handle)
            if not CLOSE_EARLY:
                os.unlink(left)
        finally:
            os.close(handle)
        if CLOSE_EARLY:  # another writer that has since taken the name holds the file open
            os.unlink(left)


def make_folder(folder: Path) -> list[Path]:
    """Create a folder and its missing parents durably; return the created folders, innermost first."""
    if folder.is_dir():
        return []
    made = make_folder(folder.parent) if folder.parent != folder else []
    try:
        os.mkdir(folder)
        made.insert(0, folder)
        sync_folder(folder.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) and folder.is_dir():  # created by another process
            return made
        remove_empty(made)
        raise
    return made


def remove_empty(folders: list[Path]) -> None:
    """Remove newly created `folders` (innermost first) that are still empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def sync_all(path: Path) -> None:
    """Make a file, or a folder and its contents, durable (fsync)."""
    for folder, _, names in os.walk(path):
        for name in names:
            sync_file(Path(folder, name))
        sync_folder(Path(folder))
    if not path.is_dir():
        sync_file(path)


def append(path: Path, text: str) -> None:
    """Append `text` to a file and sync the file to disk. Raises UserError if this fails."""
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
    """Open a text file for appending, such as a log. Raises OSError."""
    return open(open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8")


def no_link(path: Path) -> Path:
    """Return `path`. Raises UserError if it is a link: nasx never accesses its files through links."""
    if path.is_symlink():
        raise unwritable(path, OSError(errno.ELOOP, os.strerror(errno.ELOOP)))
    return path


def unwritable(path: Path, error: OSError, remedy: str = ELSEWHERE) -> UserError:
    """Return the UserError for a `path` that cannot be written, with the cause and a remedy."""
    if error.errno == errno.ELOOP:
        return UserError(
            str(path),
            "is a symbolic link; nasx does not write through links here",
            "remove the link, or replace it with its target",
        )
    remedies = {
        errno.ENOSPC: "free some space, then run the same command again to resume",
        errno.EFBIG: "raise the file size limit (ulimit -f), then run the same command again to resume",
        errno.EDQUOT: "free some of your quota, then run the same command again to resume",
    }
    return UserError(
        str(path), f"cannot be written ({error.strerror or error})", remedies.get(error.errno or 0, remedy)
    )


# ------------------------------------------------------------------------------------------------------- read
def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if the file is missing, incomplete or contains no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if type(value) is dict else None


def read_yaml(path: Path) -> dict[str, Any] | None:
    """Return the mapping of plain values in a YAML file; None if it is missing, invalid, too large or not a mapping."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def parse_yaml(text: str) -> dict[str, object] | None:
    """Return the mapping in a YAML text; None if it is invalid, too large or not a mapping."""
    try:
        value = load_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    return value if type(value) is dict else None


LETTERS, NODES = 1 << 22, 100_000
"""Limits for a YAML text: characters, and nodes after expanding aliases. A search's config.yaml has about 200 nodes."""


def compose_yaml(text: str, loader: object = SAFE) -> yaml.Node | None:
    """Compose the root node of a YAML text. Raises YAMLError if it is invalid or, with aliases expanded, too large."""
    if len(text) > LETTERS:
        raise yaml.YAMLError(f"it is longer than {LETTERS} characters")
    node: yaml.Node | None = yaml.compose(text, loader)
    if node is not None and _nodes(node, {}) > NODES:
        raise yaml.YAMLError(f"its aliases expand to more than {NODES} values")
    return node


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the nodes in `node`, including itself and expanded aliases; a recursive node exceeds the limit."""
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
    """Load the plain values in a YAML text. Raises YAMLError (see `compose_yaml`), ValueError or RecursionError."""
    node = compose_yaml(text)
    return None if node is None else SAFE("").construct_document(node)
