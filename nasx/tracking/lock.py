"""One writer a run folder, on one host or on several: the file `lock`, held by flock and touched every BEAT_S seconds.

flock is released by the kernel when its holder ends, however it ends, and holds among all processes that reach the file
by one mount of one kernel. NFS and most cluster file systems pass it on to other hosts and mounts, some do not. So a
start that gets it and finds the name of a holder elsewhere (another host or mount, or this host before it went down)
watches the file for PATIENCE_S seconds, and is refused when the file is touched meanwhile. No clocks are compared. An
orderly end empties the file: no process waits after it.

The file is never opened through a link, and is emptied only where its text is that of a lock: a file of that name that
is another program's, or a second name of one, stays as it is.

A holder may lose its lock in two ways: the file is removed, or the process was asleep (a suspended machine) where
flock is not passed on. `check`, before every write, ends it then: its successor's files stay whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
import weakref
from functools import partial
from pathlib import Path

from nasx.core import system
from nasx.core.files import unwritable
from nasx.errors import UserError

log = logging.getLogger("nasx")
TRY_S = 0.3
"""How long a start tries for flock: `holder` has it for some microseconds when it looks."""
BEAT_S = 10.0
TAKEOVER_S = 35.0
"""Three beats and what a busy file server may need."""


class Lock:
    """The lock of a folder, held from here to `close`. Raises UserError if another process holds it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "lock"
        try:
            self.handle = system.open_file(self.path, os.O_RDWR | os.O_CREAT | system.NONBLOCK, 0o644)
        except OSError as error:
            raise unwritable(self.path, error) from error
        who = f"process {os.getpid()} on {socket.gethostname()}"
        self.text = f"{who}\n{lock_domain(self.handle)} {secrets.token_hex(8)}\n".encode()
        try:
            self._take()
        except BaseException as error:
            os.close(self.handle)
            if isinstance(error, OSError):  # a file system without locks, a full disk
                raise unwritable(self.path, error) from error
            raise
        self.ended = threading.Event()
        system.after_fork_in_child(partial(_forked, weakref.ref(self)))
        self.heart = threading.Thread(target=self._beat, name="nasx-lock", daemon=True)
        self.heart.start()

    def _take(self) -> None:
        try:
            flock(self.handle)
        except BlockingIOError as error:
            raise in_use(self.folder, _text(self.handle)) from error
        there = _text(self.handle)
        if not b"process ".startswith(there.replace(b"\0", b"")[:8]):  # torn, or zeros: what a power loss may leave
            raise UserError(
                str(self.path), "is not a lock file of nasx", "choose another folder, or move the file away"
            )
        if held_elsewhere(there, self.handle):
            log.warning(
                "%s: %s did not end orderly, or cannot be seen from here: watching it for %.0f s",
                self.folder,
                holder_name(there),
                TAKEOVER_S,
            )
            if touched_within(self.path, TAKEOVER_S):
                raise in_use(self.folder, there)
        os.ftruncate(self.handle, 0)
        os.lseek(self.handle, 0, os.SEEK_SET)
        os.write(self.handle, self.text)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_S):
            with contextlib.suppress(OSError):  # a file server away for a while
                system.touch(self.handle, self.path)

    def check(self) -> None:
        """Raises UserError if this process no longer holds the folder."""
        try:
            there = self.path.read_bytes()
        except FileNotFoundError:
            there = b""
        except OSError:  # unknown; the next write fails
            return
        if there != self.text:
            raise UserError(
                str(self.folder),
                "is no longer held by this process: "
                + (f"{holder_name(there)} has taken it over" if there else "its lock file was removed"),
                "the same command resumes from the last checkpoint if no other process does",
            )

    def close(self) -> None:
        """Let it go."""
        if self.handle < 0:  # in a forked worker
            return
        self.ended.set()
        self.heart.join()
        with contextlib.suppress(OSError):
            if _text(self.handle) == self.text:
                os.ftruncate(self.handle, 0)
        os.close(self.handle)


def _forked(held: weakref.ref[Lock]) -> None:
    """A forked worker closes its copy of the handle: else the lock would outlive a killed holder as long as it does."""
    lock = held()
    if lock is not None and not lock.ended.is_set():
        os.close(lock.handle)
        lock.handle = -1


def holder(folder: Path) -> str | None:
    """Which process holds a folder (`process N on HOST`), None if none does, as far as is known without waiting.

    Asked by a shared lock that is let go at once, never waiting. /proc/locks would not touch the lock at all, but does
    not show holders in other containers or on other hosts, nor tells which file it means on Btrfs and overlays. A start
    in that moment only tries again (TRY_S), and two who look do not see each other.
    """
    try:
        handle = system.open_file(folder / "lock", os.O_RDONLY | system.NONBLOCK)  # a pipe of that name would wait
    except OSError:
        return None
    try:
        there = _text(handle)
        try:
            system.lock_file(handle, shared=True)
        except BlockingIOError:
            return holder_name(there)
        fresh = time.time() - os.fstat(handle).st_mtime < TAKEOVER_S  # only reported: the two clocks may differ
        return holder_name(there) if held_elsewhere(there, handle) and fresh else None
    except OSError:  # a pipe or a folder of that name; a file system without locks, where no run can be
        return None
    finally:
        os.close(handle)


def _text(handle: int) -> bytes:
    """The text of a lock, from its beginning."""
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, 300)


def flock(handle: int) -> None:
    """Lock an open file for this process alone. Raises BlockingIOError where another keeps it for TRY_S."""
    end = time.monotonic() + TRY_S
    while True:
        try:
            system.lock_file(handle)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def touched_within(path: Path, seconds: float) -> bool:
    """Whether the file is touched within `seconds`; it is opened again each time, so that NFS queries its server."""

    def changed() -> int:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns

    first, end = changed(), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(seconds / 20)
        if changed() != first:
            return True
    return False


def kernel() -> str:
    """An identifier of the running kernel: containers of one host share it, a restarted host has a new one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def lock_domain(handle: int) -> str:
    """The kernel and the mount by which an open file is reached: flock holds among those who share both."""
    return f"{kernel()}/{os.fstat(handle).st_dev}"


def held_elsewhere(text: bytes, handle: int) -> bool:
    """Whether the text of a lock names a holder that reaches it by another kernel or mount than this open file."""
    said = text.decode(errors="replace").splitlines()[1:2]
    return bool(said) and said[0].partition(" ")[0] != lock_domain(handle)


def holder_name(text: bytes) -> str:
    """The holder in the words of its lock."""
    return text.decode(errors="replace").partition("\n")[0].strip() or "another process"


def in_use(folder: Path, text: bytes) -> UserError:
    return UserError(
        str(folder),
        f"is in use by {holder_name(text)}",
        "wait for it, or stop it; the same command then resumes its work",
    )
