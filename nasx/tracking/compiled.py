"""The cache of torch's compiler in the user's cache folder, without incomplete files left by a killed compiler.

torch writes a library under its final name and loads any file with that name. After a kill during compilation, every
later run with the same shapes would therefore fail with "file too short" (torch 2.15).
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

from filelock import FileLock, Timeout

from nasx.core import files


def keep_compiled() -> None:
    """Set the cache folder to one that survives a reboot, unless it is already set, and remove incomplete files."""
    folder = Path(os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(files.user_cache() / "compiled")))
    for path in [*folder.glob("*/*.so"), *folder.glob("*/*.o")]:
        if complete(path):
            continue
        lock = folder / "locks" / f"{path.name.partition('.')[0]}.lock"  # torch holds this lock during compilation
        with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
            path.unlink(missing_ok=True)


def complete(path: Path) -> bool:
    """Return whether a file is complete according to its ELF header, which linkers write last; True if unknown."""
    try:
        with path.open("rb") as stream:
            head, size = stream.read(64), os.fstat(stream.fileno()).st_size
    except OSError:
        return True
    if len(head) < 64 or not any(head):
        return False
    if head[:6] != b"\x7fELF\x02\x01":  # not 64-bit little-endian ELF: cannot be checked
        return True
    (table,), (each, count) = struct.unpack_from("<Q", head, 40), struct.unpack_from("<HH", head, 58)
    return bool(size >= table + each * count)
