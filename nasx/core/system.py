"""Platform differences: file locks; opening, renaming and syncing files; CPUs, memory and signals.

This is the only module that uses functions specific to Unix or Windows (tests/project/test_architecture.py). On Unix,
locks use flock. Windows has msvcrt.locking, with three differences:

1. It locks bytes instead of files, and other processes cannot read locked bytes: nasx locks the byte at `LOCK_BYTE`,
   far beyond the end of every locked file.
2. It has no shared lock. If two processes query the holder of a run at the same time, both may get "another process".
3. An open file cannot be renamed or removed: with `CLOSE_EARLY` it is closed first, and `replace` waits for readers. A
   folder cannot be opened or synced; NTFS has its own journal.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
    import resource

    UNIX = True
except ImportError:
    import msvcrt

    UNIX = False

LOCK_BYTE = 1 << 30
"""Offset of the byte that is locked on Windows."""
READERS_S = 2.0
"""Longest wait for readers of a file to be replaced, in seconds (Windows only)."""
NONBLOCK = getattr(os, "O_NONBLOCK", 0)
"""Flag of `open_file` that opens a pipe without waiting for its other end."""
CLOSE_EARLY = not UNIX
"""Whether a file must be closed before it is renamed or removed."""


# ------------------------------------------------------------------------------------------------------ files
def open_file(path: str | Path, flags: int, mode: int = 0o666) -> int:
    """Open a file in binary mode, never through a link; return its descriptor. Raises OSError."""
    if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    for name in ("O_NOFOLLOW", "O_BINARY"):
        flags |= getattr(os, name, 0)
    return os.open(path, flags, mode)


def lock_file(handle: int, *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file until it is closed; with `wait`, wait for another holder.

    Raises BlockingIOError if another process holds the lock, OSError if the file system does not support locks.
    """
    if UNIX:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        return
    place = os.lseek(handle, 0, os.SEEK_CUR)
    os.lseek(handle, LOCK_BYTE, os.SEEK_SET)
    try:
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
                return
            except PermissionError as error:
                if not wait:
                    raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK)) from error
                time.sleep(0.1)
    finally:
        os.lseek(handle, place, os.SEEK_SET)


def open_folder(folder: Path) -> int:
    """Open a folder (on Windows: a permanent file in it) for locking; return the descriptor. Raises OSError."""
    if UNIX:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return open_file(folder / ".nasx-lock", os.O_RDWR | os.O_CREAT)


def replace(part: Path, path: str | Path) -> None:
    """Rename `part` to `path`; on Windows, wait for readers of the old file. Raises OSError."""
    end = time.monotonic() + READERS_S
    while True:
        try:
            return os.replace(part, path)
        except PermissionError:
            if UNIX or time.monotonic() > end:
                raise
            time.sleep(0.01)


def sync_folder(folder: Path) -> None:
    """Make renames, creations and removals in a folder durable (fsync). Raises OSError."""
    if not UNIX:
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system cannot fsync folders
            raise
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the content of a file durable (fsync). Raises OSError."""
    handle = open_file(path, os.O_RDONLY if UNIX else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def touch(handle: int, path: Path) -> None:
    """Set the access and modification times of an open file at `path` to now. Raises OSError."""
    os.utime(handle if os.utime in os.supports_fd else path)


# ---------------------------------------------------------------------------------------------------- process
def cpus() -> int:
    """Return the number of CPUs available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_memory() -> int:
    """Return the physical memory in bytes; `sys.maxsize` if the system does not report it, as on Windows."""
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


HEAP = 1 << 31
"""Bytes of address space reserved for tensors in huge pages; physical memory is used only once it is written."""


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for later tensors, in huge pages; return whether it does. Later calls do nothing.

    By default, glibc returns large blocks to the system, which must zero every page for the next tensor. Nothing
    changes on other systems, if the address space is limited (ulimit -v), or if the user has chosen an allocator or its
    settings.
    """
    chosen = any(name.startswith(("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES")) for name in os.environ)
    if not UNIX or chosen or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    trim_threshold, top_pad, mmap_max, hugepage = -1, -2, -4, 14  # M_* from malloc.h, MADV_HUGEPAGE from mman.h
    sbrk, malloc = libc.sbrk, libc.malloc
    sbrk.restype = malloc.restype = ctypes.c_void_p
    sbrk.argtypes, malloc.argtypes, libc.free.argtypes = [ctypes.c_ssize_t], [ctypes.c_size_t], [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = sbrk(0)
    for setting, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 1 << 26)):
        libc.mallopt(setting, value)
    libc.free(malloc(min(HEAP, physical_memory() // 8)))
    first = -(-start // resource.getpagesize()) * resource.getpagesize()
    libc.madvise(first, max(sbrk(0) - first, 0), hugepage)
    return True


def peak_memory_mb() -> float | None:
    """Return the peak memory of this process in MiB; None on Windows."""
    if not UNIX:
        return None
    kib = 2**10 if sys.platform == "darwin" else 1  # in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / kib / 2**10


@contextlib.contextmanager
def memory_limit(extra: int) -> Iterator[None]:
    """Make the block raise MemoryError if it allocates more than `extra` additional bytes (Linux only)."""
    statm = Path("/proc/self/statm")
    if not UNIX or not statm.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(statm.read_text().split()[0]) * resource.getpagesize() + extra
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def signals(*names: str) -> tuple[signal.Signals, ...]:
    """Return the named signals that this system supports."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def new_session() -> None:
    """Start a new session, so that Ctrl-C in the terminal does not reach this process; no effect on Windows."""
    if hasattr(os, "setsid"):
        os.setsid()


def after_fork_in_child(call: Callable[[], object]) -> None:
    """Register `call` to run in each process forked from this one; no effect on Windows, which does not fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)
