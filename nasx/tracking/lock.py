"""Lock that gives a run folder a single writer across hosts: the file `lock`, held by flock, touched every BEAT_S s.

The kernel releases flock when the process that holds it exits, for any reason. flock excludes all processes that open
the file through the same mount of the same kernel. NFS and most cluster file systems extend flock to other hosts and
mounts, but some do not. A process that acquires the lock and reads the name of a holder elsewhere (another host or
mount, or this host before a reboot) therefore watches the file for TAKEOVER_S seconds, and gives up if it is touched.
Clocks are not compared. A holder that exits normally empties the file, so that the next process does not wait.

The file is never opened through a link, and is overwritten only if it is empty or contains the text of a lock: another
program's file, or a hard link to one, is left unchanged.

A holder loses its lock if the file is removed, or if the process is suspended (a sleeping machine) and flock is not
extended to the host that takes over. `check`, which is called before every write, then raises an error, so that the
process does not write to the files of its successor.
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
"""Seconds for which flock is retried, because `holder` takes it for a few microseconds."""
BEAT_S = 10.0
TAKEOVER_S = 35.0
"""Seconds for which another holder's file is watched: three times BEAT_S, and a margin for a busy file server."""


class Lock:
    """Lock on a folder, held from construction until `close`. Raises UserError if another process holds it."""

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
        if not b"process ".startswith(there.replace(b"\0", b"")[:8]):  # incomplete or all zeros after a power loss
            remedy = "choose another folder, or move the file elsewhere"
            raise UserError(str(self.path), "is not a nasx lock file", remedy)
        if held_elsewhere(there, self.handle):
            lost = f"{holder_name(there)} did not exit cleanly, or is not visible from here"
            log.warning("%s: %s; watching its lock file for %.0f s", self.folder, lost, TAKEOVER_S)
            if touched_within(self.path, TAKEOVER_S):
                raise in_use(self.folder, there)
        os.ftruncate(self.handle, 0)
        os.lseek(self.handle, 0, os.SEEK_SET)
        os.write(self.handle, self.text)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_S):
            with contextlib.suppress(OSError):  # the file server may be temporarily unavailable
                system.touch(self.handle, self.path)

    def check(self) -> None:
        """Raise UserError if this process no longer holds the lock."""
        try:
            there = self.path.read_bytes()
        except FileNotFoundError:
            there = b""
        except OSError:  # the holder is unknown; the next write fails
            return
        if there != self.text:
            why = f"{holder_name(there)} has taken it over" if there else "its lock file was removed"
            remedy = (
                "run the same command again to resume from the last checkpoint, unless another process is using "
                "the folder"
            )
            raise UserError(str(self.folder), f"is no longer held by this process: {why}", remedy)

    def close(self) -> None:
        """Release the lock."""
        if self.handle < 0:  # in a forked worker
            return
        self.ended.set()
        self.heart.join()
        with contextlib.suppress(OSError):
            if _text(self.handle) == self.text:
                os.ftruncate(self.handle, 0)
        os.close(self.handle)


def _forked(held: weakref.ref[Lock]) -> None:
    """Close a forked worker's copy of the handle, which would otherwise keep the lock after the holder is killed."""
    lock = held()
    if lock is not None and not lock.ended.is_set():
        os.close(lock.handle)
        lock.handle = -1


def holder(folder: Path) -> str | None:
    """Return the process that holds a folder (`process N on HOST`) or None, as far as known without waiting.

    A shared lock is taken and released at once; a process that starts at that moment retries (TRY_S), and two shared
    locks do not exclude each other. /proc/locks is not read: it lacks holders in other containers and on other hosts,
    and does not identify the file on Btrfs and overlay file systems.
    """
    try:
        handle = system.open_file(folder / "lock", os.O_RDONLY | system.NONBLOCK)  # opening a pipe would block
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
    except OSError:  # a pipe or a folder with that name; a file system without locks, which cannot contain a run
        return None
    finally:
        os.close(handle)


def _text(handle: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, 300)


def flock(handle: int) -> None:
    """Take an exclusive lock on an open file. Raises BlockingIOError if another process holds it for TRY_S seconds."""
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
    """Return whether a file is touched within `seconds`. Each check reopens it, so that NFS queries its server."""

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
    """Return an identifier of the running kernel; the containers on a host share it, and a reboot changes it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def lock_domain(handle: int) -> str:
    """Return an identifier of the running kernel and the mount of an open file.

    flock is exclusive among processes that share both.
    """
    return f"{kernel()}/{os.fstat(handle).st_dev}"


def held_elsewhere(text: bytes, handle: int) -> bool:
    """Return whether the text of a lock names a holder whose kernel or mount differs from that of the open file."""
    said = text.decode(errors="replace").splitlines()[1:2]
    return bool(said) and said[0].partition(" ")[0] != lock_domain(handle)


def holder_name(text: bytes) -> str:
    """Return the holder named in the text of a lock."""
    return text.decode(errors="replace").partition("\n")[0].strip() or "another process"


def in_use(folder: Path, text: bytes) -> UserError:
    remedy = "wait for it to finish, or stop it and run the same command again to resume its work"
    return UserError(str(folder), f"is in use by {holder_name(text)}", remedy)
