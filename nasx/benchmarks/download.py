"""Download a published file by pooch, resumed after an interruption, and checked before anybody reads it.

pooch verifies the sha256 and moves the file to its place only then; it does not resume. `Resumed` is its downloader
here: it keeps what has arrived in a file of its own (.part, named by the checksum) and asks the server for the rest
(HTTP Range, RFC 9110, section 14). A server that cannot resume sends the whole file again.

What is received is bounded: by the pinned size, or by `SLACK` times a rough one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasx.benchmarks.offers import File
from nasx.benchmarks.store import Say, sha256
from nasx.core.files import no_link, unwritable
from nasx.core.system import CLOSE_EARLY, lock_file, open_file, replace
from nasx.errors import UserError

if TYPE_CHECKING:
    from requests import Response

BLOCK = 1 << 16
TIMEOUT_S = (15, 60)
"""Of a connection, and of the next bytes of an answer."""
SLACK = 2
"""A file of a roughly known size may be so many times as large."""
ELSEWHERE = "set NASX_DATA to a folder that you may write to"


def fetch(file: File, address: str, folder: Path, by_hand: str, say: Say) -> Path:
    """The file in `folder`, downloaded from `address` unless it already exists, its size and sha256 verified.

    `by_hand` is the remedy that faults of the network end with. Raises UserError: the address cannot be reached or does
    not serve this file, the checksum is another one (nothing is kept then), the disk is full.
    """
    import pooch
    import requests

    target, arriving = folder / file.name, Resumed(file, folder, say, by_hand)
    level = logging.getLogger("pooch").level
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        pooch.retrieve(
            address,
            file.sha256 and f"sha256:{file.sha256}",
            fname=no_link(target).name,
            path=folder,
            downloader=arriving,
        )
    except (requests.exceptions.RequestException, Interrupted) as error:
        raise UserError(address, _reason(error), f"{arriving.kept()}{by_hand}") from error
    except ValueError as error:  # pooch's word for another checksum
        raise UserError(
            address,
            f"served a file with another checksum than sha256 {file.sha256}",
            f"nothing of it was kept: run the same command again, or {by_hand}",
        ) from error
    except OSError as error:
        fault = unwritable(arriving.part, error, ELSEWHERE)
        raise UserError(fault.where, f"{fault.fault} for {address}", f"{fault.remedy}; or {by_hand}") from error
    finally:
        logging.getLogger("pooch").setLevel(level)
    return target


def verified(file: File, path: Path) -> Path:
    """`path`, a file that was brought by hand. Raises UserError where it is not `file`."""
    remedy = f"download {file.address} again"
    try:
        size = path.stat().st_size
        found = sha256(path) if file.sha256 and size == file.size else None
    except OSError as error:
        raise UserError(f"from={path}", f"cannot be read ({error.strerror or error})", remedy) from error
    if file.sha256 and size != file.size:
        raise UserError(f"from={path}", f"has {size:,} bytes, and {file.name} has {file.size:,}", remedy)
    if found != file.sha256:
        raise UserError(f"from={path}", f"has the sha256 {found}, and {file.name} has {file.sha256}", remedy)
    return path


class Resumed:
    """A downloader for pooch that goes on where an earlier one was interrupted."""

    def __init__(self, file: File, folder: Path, say: Say, by_hand: str) -> None:
        self.file, self.say, self.by_hand = file, say, by_hand
        self.part = folder / f"{file.name}.{(file.sha256 or 'unchecked')[:16]}.part"
        self.most = file.size if file.sha256 else SLACK * file.size

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Download `url` to `output_file`. Raises what requests raises, OSError, or UserError."""
        with self._opened() as handle:
            while True:
                before = os.lseek(handle, 0, os.SEEK_END)
                try:
                    if not (self.file.sha256 and before == self.file.size):
                        self._receive(url, handle, before)
                    break
                except Interrupted:
                    if (size := os.lseek(handle, 0, os.SEEK_END)) <= before:
                        raise
                    self.say(f"{self.file.name}: the connection was lost after {size:,} bytes; going on from there")
            if not CLOSE_EARLY:
                replace(self.part, output_file)
        if CLOSE_EARLY:
            replace(self.part, output_file)

    def kept(self) -> str:
        """The beginning of a remedy: what has arrived stays."""
        with contextlib.suppress(OSError):
            if size := self.part.stat().st_size:
                return f"{size:,} bytes have arrived, and the same command goes on from there; or "
        return ""

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The file of what has arrived, for one process at a time."""
        handle = open_file(self.part, os.O_RDWR | os.O_CREAT)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                try:
                    lock_file(handle)
                except BlockingIOError as error:
                    raise UserError(str(self.part), "is being downloaded by another process", "wait for it") from error
            yield handle
        finally:
            size = os.fstat(handle).st_size
            os.close(handle)
            if not size:
                self.part.unlink(missing_ok=True)

    def _receive(self, url: str, handle: int, at: int) -> None:
        """Ask for what is missing after `at` bytes and append it."""
        import requests

        headers = {"Accept-Encoding": "identity", "User-Agent": "nasx"}  # sizes and ranges of the file itself
        with requests.get(
            url, headers=headers | ({"Range": f"bytes={at}-"} if at else {}), stream=True, timeout=TIMEOUT_S
        ) as response:
            code, part = response.status_code, response.headers.get("Content-Range", "")
            if at and code == 416 and part == f"bytes */{at}":  # all had arrived
                return None
            if at and code in (206, 416) and not part.startswith(f"bytes {at}-"):  # of another part than asked for
                os.ftruncate(handle, 0)
                return self._receive(url, handle, 0)
            if code not in (200, 206):
                raise UserError(url, f"answered {code} {response.reason}".rstrip(), self.by_hand)
            if at and code == 200:
                os.ftruncate(handle, 0)
                at = 0
            size = at + int(response.headers.get("Content-Length") or 0)
            self._fits(url, handle, at, size if size > at else None)
            self._append(url, handle, response, size if size > at else self.file.size)
        return None

    def _fits(self, url: str, handle: int, at: int, size: int | None) -> None:
        """Refuse a file of another size, and one that the disk has no room for, before it is downloaded."""
        if size is not None and (size > self.most or (self.file.sha256 and size != self.file.size)):
            os.ftruncate(handle, 0)
            raise UserError(url, f"serves {size:,} bytes, and {self.file.name} has {self.file.size:,}", self.by_hand)
        if shutil.disk_usage(self.part.parent).free < (size or self.file.size) - at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _append(self, url: str, handle: int, response: Response, size: int) -> None:
        """Write the answer's bytes, with a progress bar on a terminal. Raises Interrupted."""
        import urllib3
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        at = os.lseek(handle, 0, os.SEEK_END)
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        ) as bar:
            task = bar.add_task(self.file.name, total=size, completed=at)
            try:
                for block in response.raw.stream(BLOCK, decode_content=False):
                    at += len(block)
                    if at > self.most:
                        os.ftruncate(handle, 0)
                        raise UserError(
                            url, f"serves more than the {self.file.size:,} bytes of {self.file.name}", self.by_hand
                        )
                    while block:
                        block = block[os.write(handle, block) :]
                    bar.update(task, completed=at)
            except urllib3.exceptions.HTTPError as error:
                raise Interrupted from error
        if self.file.sha256 and at < self.file.size:  # an answer without a length
            raise Interrupted


class Interrupted(Exception):
    """The connection was lost while the file arrived."""


def _reason(error: Exception) -> str:
    """Why an address could not be reached, in a few words."""
    from requests import exceptions

    inner: BaseException | None = error
    found = ""
    for _ in range(10):  # requests wraps urllib3's errors, which wrap those of the system
        if inner is None:
            break
        if isinstance(inner, OSError) and not isinstance(inner, exceptions.RequestException):
            found = inner.strerror or " ".join(str(inner).split())[:200]
        reason = getattr(inner, "reason", None) or next((x for x in inner.args if isinstance(x, BaseException)), None)
        inner = reason if isinstance(reason, BaseException) else inner.__cause__ or inner.__context__
    said = f" ({found})" if found else ""
    match error:
        case Interrupted():
            return "the connection was lost before the file had arrived"
        case exceptions.ProxyError():
            return f"the proxy refuses the connection, or cannot be reached{said}"
        case exceptions.SSLError():
            return f"its certificate cannot be verified{said}; a proxy's own one is named by REQUESTS_CA_BUNDLE"
        case exceptions.Timeout():
            return "does not answer in time"
        case exceptions.ConnectionError():
            return f"cannot be reached{said}"
        case _:
            return f"cannot be asked ({' '.join(str(error).split())[:200]})"
