"""Read many image files with threads, report all unreadable ones in one error, and cache the results.

Each image folder has a cache file (.npz) in NASX_DATA/folders, in which each image is identified by the path, size and
modification time of its file. A folder is decoded only once; after an error, only new and repaired files are decoded.
If the cache is not writable, the images are decoded each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from nasx.core import spelling
from nasx.core.files import NPZ_FAULTS, write_atomic
from nasx.core.system import cpus
from nasx.data import decode
from nasx.data.listing import Files
from nasx.errors import UserError

T = TypeVar("T")
SHOWN = 10
"""Maximum number of files listed in an error message; a longer list is written to a file."""
CHUNK = 256
"""Number of files submitted to the threads at a time; Ctrl-C waits until these are read."""


def kept_at(cache: Path, root: Path, *what: object) -> Path:
    """Return the path of the cache file for the images below `root` that are read with the settings `what`."""
    key = hashlib.sha256(repr((str(root.resolve()), decode.VERSION, *what)).encode())
    return cache / f"{key.hexdigest()[:32]}.npz"


def stamps(files: Files) -> np.ndarray:
    """Return a hash of each file's path, size and modification time, uint64 (n, 2); 0 for missing files."""
    found = np.zeros((len(files.names), 2), np.uint64)
    for i, (name, path) in enumerate(zip(files.names, files.paths(), strict=True)):
        try:
            status = path.stat()
        except OSError:
            continue
        text = repr((bytes(name), status.st_size, status.st_mtime_ns)).encode()
        found[i] = np.frombuffer(hashlib.sha256(text).digest()[:16], np.uint64)
    return found


def load(path: Path) -> dict[str, np.ndarray]:
    """Load the arrays of a cache file; return an empty dict if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return dict(content)
    except NPZ_FAULTS:
        return {}


def keep(path: Path, **arrays: np.ndarray) -> None:
    """Write a cache file atomically; write errors are ignored."""
    with contextlib.suppress(UserError):  # numpy's type stub also matches `arrays` with allow_pickle
        write_atomic(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def read(files: Sequence[Path], reader: Callable[[Path], T]) -> Iterator[T | decode.UnreadableError]:
    """Yield the result of `reader` for each file, in order; an UnreadableError is yielded instead of raised."""

    def attempt(path: Path) -> T | decode.UnreadableError:
        try:
            return reader(path)
        except decode.UnreadableError as error:
            return error

    share = cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    with ThreadPoolExecutor(max(share, 1)) as pool:
        for i in range(0, len(files), CHUNK):
            yield from pool.map(attempt, files[i : i + CHUNK])


def unreadable(where: str, bad: Mapping[Path, str], root: Path, total: int, log: Path) -> UserError:
    """Return one UserError for all unreadable files and the reasons; a long list is written to the file `log`."""
    lines = [f"{path.relative_to(root)} ({reason})" for path, reason in bad.items()]
    more = ""
    if len(lines) > SHOWN:
        more = f", and {len(lines) - SHOWN:,} more"
        with contextlib.suppress(UserError):
            write_atomic(log, "".join(f"{line}\n" for line in lines))
            more += f", all listed in {log}"
    return UserError(
        where,
        f"{len(lines):,} of {spelling.counted(total, 'image')} cannot be read: {', '.join(lines[:SHOWN])}{more}",
        "repair or remove them and run the same command again; decoded images are cached",
    )


def verified(files: Files, where: str, cache: Path) -> np.ndarray:
    """Decode the images that were not verified before, and return the conversions of all images.

    The conversions are decode.Odd as uint8 (n,). Raises one UserError for all unreadable images.
    """
    place, keys, paths = kept_at(cache, files.folder, "verified"), stamps(files), files.paths()
    known = load(place)
    if not {"keys", "odd"} <= known.keys() or known["keys"].shape != (*known["odd"].shape, 2):
        known = {"keys": keys[:0], "odd": np.zeros(0, np.uint8)}
    before = {key.tobytes(): int(odd) for key, odd in zip(known["keys"], known["odd"], strict=True)}
    odd = np.array([before.get(key.tobytes(), -1) for key in keys], np.int16)
    new = np.flatnonzero(odd < 0)
    if not new.size:
        return odd.astype(np.uint8)
    bad: dict[Path, str] = {}
    for i, found in zip(new, read([paths[i] for i in new], lambda path: decode.rgb(path)[1]), strict=True):
        if isinstance(found, decode.UnreadableError):
            bad[paths[i]] = str(found)
        else:
            odd[i] = found
    keep(place, keys=keys[odd >= 0], odd=odd[odd >= 0].astype(np.uint8))
    if bad:
        raise unreadable(where, bad, files.folder, len(paths), place.with_suffix(".unreadable.txt"))
    return odd.astype(np.uint8)
