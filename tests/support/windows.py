"""What nasx would find on Windows: no fcntl, no resource, none of the names in `os` and `signal` that only Unix has,
and files that can be neither renamed nor removed while they are open.

`install()` imports nasx again, so that its modules see stand-ins for `os` and `signal`; all other packages keep theirs,
which were built for this system. `python -m pytest -p windows FILES` runs tests that way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

WITHOUT = {
    "os": "O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_DIRECTORY pread pwrite fork forkpty setsid killpg getuid geteuid getpgid "
    "sched_getaffinity register_at_fork mkfifo getloadavg uname statvfs chown nice sysconf openpty",
    "signal": "SIGHUP SIGUSR1 SIGUSR2 SIGQUIT SIGKILL SIGALRM SIGCHLD SIGSTOP SIGCONT SIGPIPE SIGTSTP "
    "alarm setitimer pause sigwait pthread_kill pthread_sigmask",
}
O_BINARY = 1 << 30
LK_NBLCK = 2


class StandIn(ModuleType):
    """A module that lacks some names and defines others."""

    def __init__(self, whole: ModuleType, lacks: str, **has: Any) -> None:
        super().__init__(whole.__name__)
        self.__dict__.update(has, _whole=whole, _lacks=lacks.split())

    def __getattr__(self, name: str) -> Any:
        if name in self._lacks:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._whole, name)  # at each use, because tests replace functions of the original


def denied(path: Any) -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def unless_open(*paths: Any) -> None:
    """Raise PermissionError if this process has one of the files open."""
    for path in filter(os.path.isfile, paths):
        for handle in map(int, os.listdir("/proc/self/fd")):
            try:
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    raise denied(path)
            except OSError as error:
                if error.errno == errno.EACCES:
                    raise


def opened(path: Any, flags: int, mode: int = 0o777) -> int:
    if os.path.isdir(path):
        raise denied(path)
    return os.open(path, flags & ~O_BINARY, mode)


def replaced(source: Any, target: Any) -> None:
    unless_open(source, target)
    os.replace(source, target)


def unlinked(path: Any) -> None:
    unless_open(path)
    os.unlink(path)


def synced(handle: int) -> None:
    if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    os.fsync(handle)


def touched(path: Any) -> None:
    if isinstance(path, int):
        raise TypeError("utime: path should be string, bytes or os.PathLike, not int")
    os.utime(path)


def locking(handle: int, mode: int, count: int) -> None:
    """msvcrt.locking, as far as nasx uses it."""
    assert (mode, count) == (LK_NBLCK, 1)
    assert os.lseek(handle, 0, os.SEEK_CUR) > 1 << 20, "what is locked cannot be read by others"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise denied(handle) from error


MSVCRT = ModuleType("msvcrt")
MSVCRT.__dict__.update(LK_NBLCK=LK_NBLCK, locking=locking)
SEEN: Mapping[str, ModuleType | None] = {
    "os": StandIn(
        os,
        WITHOUT["os"],
        O_BINARY=O_BINARY,
        open=opened,
        replace=replaced,
        unlink=unlinked,
        fsync=synced,
        utime=touched,
        supports_fd=os.supports_fd - {os.utime},
    ),
    "signal": StandIn(signal, WITHOUT["signal"]),
    "msvcrt": MSVCRT,
    "fcntl": None,
    "resource": None,
}


@contextmanager
def seen() -> Iterator[None]:
    """In the block, imports give the stand-ins."""
    before = {name: sys.modules[name] for name in SEEN if name in sys.modules}
    sys.modules.update(SEEN)  # type: ignore[arg-type]  # None: cannot be imported
    try:
        yield
    finally:
        for name in SEEN:
            del sys.modules[name]
        sys.modules.update(before)


class Finder(MetaPathFinder):
    """Give the modules of nasx the stand-ins."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] != "nasx" or (spec := PathFinder.find_spec(name, path)) is None:
            return None
        loader: Any = spec.loader
        whole = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with seen():
                whole(module)

        loader.exec_module = exec_module
        return spec


def install() -> None:
    """Make nasx believe that this process runs on Windows."""
    import torchvision.datasets  # noqa: F401 (other packages are imported first, so they keep the original modules)

    for name in [name for name in sys.modules if name.partition(".")[0] == "nasx"]:
        del sys.modules[name]
    sys.meta_path.insert(0, Finder())


if "pytest" in sys.modules and "windows" in sys.argv:
    install()
