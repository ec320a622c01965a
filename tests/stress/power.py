"""The file operations of one command: counted, interrupted by a kill, or replayed to the state after a power loss.

`watch` interposes the functions of `os` with which nasx writes (core/files.py and lock.py use no others). With `kill`,
the process ends with `os._exit` before operation number `kill` (from 0), a write optionally after half of its bytes.
With `notes`, every operation is appended to that file, which `Disk` replays:

- The data of a file is durable as of the last fsync of that file, the entries of a folder (a file made, renamed,
  removed; a folder made) as of the last fsync of that folder. Nothing else is durable, not even the order.
- `Disk.lost(None)` is the state in which nothing unsynced survives; with a generator, a random subset of the unsynced
  operations survives: each later write to a file completely, in part, or not at all (its place is zeros), and each
  change of a folder or not, except changes that build upon a lost one of the same name.

Everything that exists before the command is durable.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILLED = 137
Op = tuple[Any, ...]
Tree = dict[str, bytes | None]
"""Path relative to the root -> content, None for a folder."""


# ------------------------------------------------------------------------------------------------------- watch
def watch(root: str, notes: str | None = None, kill: int | None = None, half: bool = False) -> None:
    """From now on, interpose on the file operations of this process at and below `root`."""
    whole = {
        name: getattr(os, name)
        for name in ("open", "close", "write", "fsync", "replace", "mkdir", "unlink", "rmdir", "ftruncate")
    }
    top, done = os.path.realpath(root), 0
    tokens: dict[int, int] = {}
    log = None if notes is None else whole["open"](notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def inside(path: Any) -> str | None:
        """Return the path relative to the root; None if it is elsewhere."""
        if not isinstance(path, (str, os.PathLike)):
            return None
        text = os.path.join(os.path.realpath(os.path.dirname(os.fspath(path)) or "."), os.path.basename(path))
        text = top if os.path.realpath(text) == top else text
        return os.path.relpath(text, top) if text == top or text.startswith(top + os.sep) else None

    def counted(op: Op, act: Callable[[], Any], part: Callable[[], Any] | None = None) -> Any:
        """Do one operation, unless the process must die before it."""
        nonlocal done
        if done == kill:
            if half and part is not None:
                part()
            os._exit(KILLED)
        done += 1
        found = act()
        if log is not None:
            whole["write"](log, pickle.dumps(op))
        return found

    def opens(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        name = inside(path)
        if name is None:
            return int(whole["open"](path, flags, mode, **more))
        makes = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        token = len(tokens) + 1_000_000 * len(names)

        def act() -> int:
            handle = int(whole["open"](path, flags, mode, **more))
            tokens[handle] = token
            return handle

        names.append(name)
        if makes:
            return int(counted(("open", name, token, True), act))
        handle = act()
        if log is not None:
            whole["write"](log, pickle.dumps(("open", name, token, False)))
        return handle

    names: list[str] = []

    def closes(handle: int) -> None:
        tokens.pop(handle, None)
        whole["close"](handle)

    def writes(handle: int, data: Any) -> int:
        if handle not in tokens:
            return int(whole["write"](handle, data))
        blob, place = bytes(data), os.lseek(handle, 0, os.SEEK_CUR)
        if _appends(handle):
            place = os.fstat(handle).st_size
        return int(
            counted(
                ("write", tokens[handle], place, blob),
                lambda: whole["write"](handle, data),
                lambda: whole["write"](handle, blob[: len(blob) // 2]),
            )
        )

    def syncs(handle: int) -> None:
        if handle not in tokens:
            return whole["fsync"](handle)  # type: ignore[no-any-return]
        return counted(("fsync", tokens[handle]), lambda: whole["fsync"](handle))  # type: ignore[no-any-return]

    def cuts(handle: int, size: int) -> None:
        if handle not in tokens:
            return whole["ftruncate"](handle, size)  # type: ignore[no-any-return]
        return counted(  # type: ignore[no-any-return]
            ("truncate", tokens[handle], size), lambda: whole["ftruncate"](handle, size)
        )

    def named(kind: str) -> Callable[..., Any]:
        def does(path: Any, *rest: Any, **more: Any) -> Any:
            name = inside(path)
            if name is None or any(value is not None for value in more.values()):  # relative to a handle: shutil's
                return whole[kind](path, *rest, **more)
            return counted(
                (kind, name, *(inside(x) for x in rest[:1] if kind == "replace")),
                lambda: whole[kind](path, *rest, **more),
            )

        return does

    for name, new in {
        "open": opens,
        "close": closes,
        "write": writes,
        "fsync": syncs,
        "ftruncate": cuts,
        **{kind: named(kind) for kind in ("replace", "mkdir", "unlink", "rmdir")},
    }.items():
        setattr(os, name, new)


def _appends(handle: int) -> bool:
    import fcntl

    return bool(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_APPEND)


def read(notes: Path) -> list[Op]:
    """Return the operations that a command has noted; those that only open something do not count."""
    found = []
    with notes.open("rb") as file:
        while True:
            try:
                found.append(pickle.load(file))
            except EOFError:
                return found


def counts(op: Op) -> bool:
    """Return whether an operation changes something, so that a kill can precede it."""
    return op[0] != "open" or bool(op[3])


# -------------------------------------------------------------------------------------------------------- disk
@dataclass
class File:
    """The content of a file, its durable content, and the writes in between."""

    now: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(place, bytes); None: cut off there."""


@dataclass
class Folder:
    """The entries of a folder, its durable entries, and the changes in between."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[dict[str, File | Folder | None]] = field(default_factory=list)
    """Entries that a change has set (None: removed)."""


class Disk:
    """A file system that starts with a tree of files, all of it durable, and takes operations."""

    def __init__(self, tree: Mapping[str, bytes | None]) -> None:
        self.root, self.open = Folder(), {}
        for path, content in sorted(tree.items()):
            held = Folder() if content is None else File(bytearray(content), content)
            above, name = self._at(path)
            above.now[name] = above.durable[name] = held
        self.open: dict[int, File | Folder] = {}

    def _at(self, path: str) -> tuple[Folder, str]:
        folder = self.root
        *above, name = path.split(os.sep)
        for part in above:
            found = folder.now[part]
            assert isinstance(found, Folder)
            folder = found
        return folder, name

    def _change(self, path: str, held: File | Folder | None, **more: File | Folder | None) -> None:
        folder, name = self._at(path)
        change = {name: held, **more}
        folder.pending.append(change)
        _apply(folder.now, change)

    def do(self, op: Op) -> None:
        """Perform one operation."""
        match op:
            case ("open", path, token, makes):
                if makes:
                    self._change(path, File())
                folder, name = (None, "") if path == "." else self._at(path)
                self.open[token] = self.root if folder is None else folder.now[name]
            case ("write", token, place, data):
                self._write(token, place, data)
            case ("truncate", token, size):
                self._write(token, size, None)
            case ("fsync", token):
                held = self.open[token]
                if isinstance(held, File):
                    held.durable = bytes(held.now)
                else:
                    held.durable = dict(held.now)
                held.pending.clear()
            case ("mkdir", path):
                self._change(path, Folder())
            case ("unlink" | "rmdir", path):
                self._change(path, None)
            case ("replace", old, new):
                folder, name = self._at(old)
                assert os.path.dirname(old) == os.path.dirname(new)
                self._change(new, folder.now[name], **{name: None})

    def _write(self, token: int, place: int, data: bytes | None) -> None:
        held = self.open[token]
        assert isinstance(held, File)
        held.pending.append((place, data))
        _put(held.now, place, data)

    def now(self) -> Tree:
        """Return what is there, as a kill leaves it."""
        return dict(_walk(self.root, lambda folder: folder.now, lambda file: bytes(file.now)))

    def lost(self, draw: random.Random | None) -> Tree:
        """Return what a power loss leaves: see the top of this module."""
        return dict(_walk(self.root, lambda folder: _entries(folder, draw), lambda file: _content(file, draw)))


def _put(data: bytearray, place: int, blob: bytes | None) -> None:
    if blob is None:
        del data[place:]
    data.extend(b"\0" * (place - len(data)))
    if blob is not None:
        data[place : place + len(blob)] = blob


def _apply(entries: dict[str, File | Folder], change: Mapping[str, File | Folder | None]) -> None:
    for name, held in change.items():
        if held is None:
            entries.pop(name, None)
        else:
            entries[name] = held


def _entries(folder: Folder, draw: random.Random | None) -> dict[str, File | Folder]:
    entries, blocked = dict(folder.durable), set[str]()
    for change in folder.pending if draw is not None else ():
        assert draw is not None
        if blocked & change.keys() or draw.random() < 0.5:
            blocked |= change.keys()
        else:
            _apply(entries, change)
    return entries


def _content(file: File, draw: random.Random | None) -> bytes:
    data = bytearray(file.durable)
    for place, blob in file.pending if draw is not None else ():
        assert draw is not None
        fate = draw.random()
        if fate < 0.4:
            _put(data, place, blob)
        elif fate < 0.6 and blob is not None:
            _put(data, place, blob[: draw.randrange(len(blob) + 1)])
        elif fate < 0.8 and blob is not None:
            _put(data, place, bytes(len(blob)))  # its length was written, its bytes were not
    return bytes(data)


def _walk(
    folder: Folder,
    entries: Callable[[Folder], dict[str, File | Folder]],
    content: Callable[[File], bytes],
    above: str = "",
) -> Iterator[tuple[str, bytes | None]]:
    for name, held in entries(folder).items():
        path = os.path.join(above, name)
        if isinstance(held, Folder):
            yield path, None
            yield from _walk(held, entries, content, path)
        else:
            yield path, content(held)


# -------------------------------------------------------------------------------------------------------- trees
def tree(root: Path) -> Tree:
    """Return what is in a folder."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }


def put(found: Mapping[str, bytes | None], root: Path) -> None:
    """Write a tree to a new folder."""
    root.mkdir(parents=True)
    for path, content in sorted(found.items()):
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)
