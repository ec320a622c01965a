"""Downloads of published files with pooch; they resume after an interruption and are verified before the first read.

pooch verifies the sha256 before it moves a file into place, but it does not resume downloads. The downloader `Resumed`
keeps a partial download in a .part file, whose name contains the checksum, and requests the remaining bytes (HTTP
Range, RFC 9110, section 14). A server that does not support ranges sends the whole file again.

A download is aborted if it exceeds the published size, or `SLACK` times the size if that is only approximate.
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
from typing import TYPE_CHECKING

from nasx.benchmarks.offers import File
from nasx.benchmarks.store import Say, sha256
from nasx.core.files import no_link, unwritable
from nasx.core.system import CLOSE_EARLY, lock_file, open_file, replace
from nasx.errors import UserError

if TYPE_CHECKING:
    from requests import Response

BLOCK = 1 << 16
TIMEOUT_S = (15, 60)
"""Timeouts in seconds for connecting and for each read."""
SLACK = 2
"""Largest accepted ratio of a file's actual size to its approximate size."""
ELSEWHERE = "set NASX_DATA to a folder that you can write to"


def fetch(file: File, address: str, folder: Path, by_hand: str, say: Say) -> Path:
    """Download a file to `folder` unless it is already there, verify it, and return its path.

    `by_hand` is an instruction for a manual download, which error messages include. Raises UserError if `address`
    cannot be reached or does not serve this file, if the checksum differs (the download is then removed), or if the
    file cannot be written.
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
    except ValueError as error:  # raised by pooch for a wrong checksum
        raise UserError(
            address,
            f"served a file whose sha256 is not {file.sha256}",
            f"the download was removed: run the same command again, or {by_hand}",
        ) from error
    except OSError as error:
        fault = unwritable(arriving.part, error, ELSEWHERE)
        raise UserError(
            fault.where, f"{fault.fault} while downloading {address}", f"{fault.remedy}; or {by_hand}"
        ) from error
    finally:
        logging.getLogger("pooch").setLevel(level)
    return target


def verified(file: File, path: Path) -> Path:
    """Verify a manually downloaded file and return its path.

    Raises UserError if it cannot be read, or if its size or sha256 differs from that of `file`. Files without a
    published sha256 are not checked.
    """
    remedy = f"download {file.address} again"
    try:
        size = path.stat().st_size
        found = sha256(path) if file.sha256 and size == file.size else None
    except OSError as error:
        raise UserError(f"from={path}", f"cannot be read ({error.strerror or error})", remedy) from error
    if file.sha256 and size != file.size:
        raise UserError(f"from={path}", f"has {size:,} bytes, but {file.name} has {file.size:,}", remedy)
    if found != file.sha256:
        raise UserError(f"from={path}", f"has the sha256 {found}, but {file.name} has {file.sha256}", remedy)
    return path


class Resumed:
    """A downloader for pooch that resumes an interrupted download."""

    def __init__(self, file: File, folder: Path, say: Say, by_hand: str) -> None:
        self.file, self.say, self.by_hand = file, say, by_hand
        self.part = folder / f"{file.name}.{(file.sha256 or 'unchecked')[:16]}.part"
        self.most = file.size if file.sha256 else SLACK * file.size

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download `url` to `output_file`. Raises exceptions of requests, Interrupted, OSError, or UserError."""
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
                    self.say(f"{self.file.name}: the connection was lost after {size:,} bytes; resuming")
            if not CLOSE_EARLY:
                replace(self.part, output_file)
        if CLOSE_EARLY:
            replace(self.part, output_file)

    def kept(self) -> str:
        """Return the beginning of a remedy, which states how many bytes were received; empty if there are none."""
        with contextlib.suppress(OSError):
            if size := self.part.stat().st_size:
                return f"run the same command again to resume the download ({size:,} bytes were received), or "
        return ""

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open and lock the .part file; on exit, remove it if it is empty.

        Raises UserError if another process has locked it.
        """
        handle = open_file(self.part, os.O_RDWR | os.O_CREAT)
        try:
            with contextlib.suppress(OSError):  # not every file system supports locks
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
        """Request the bytes from offset `at` to the end and append them to the .part file."""
        import requests

        headers = {
            "Accept-Encoding": "identity",
            "User-Agent": "nasx",
        }  # no compression, so that sizes and ranges refer to the file
        with requests.get(
            url, headers=headers | ({"Range": f"bytes={at}-"} if at else {}), stream=True, timeout=TIMEOUT_S
        ) as response:
            code, part = response.status_code, response.headers.get("Content-Range", "")
            if at and code == 416 and part == f"bytes */{at}":  # the .part file is already complete
                return None
            if at and code in (206, 416) and not part.startswith(f"bytes {at}-"):  # not the requested range
                os.ftruncate(handle, 0)
                return self._receive(url, handle, 0)
            if code not in (200, 206):
                raise UserError(url, f"returned {code} {response.reason}".rstrip(), self.by_hand)
            if at and code == 200:
                os.ftruncate(handle, 0)
                at = 0
            size = at + int(response.headers.get("Content-Length") or 0)
            self._fits(url, handle, at, size if size > at else None)
            self._append(url, handle, response, size if size > at else self.file.size)
        return None

    def _fits(self, url: str, handle: int, at: int, size: int | None) -> None:
        """Check the size (None: unknown) and the free disk space before the download. Raises UserError or OSError."""
        if size is not None and (size > self.most or (self.file.sha256 and size != self.file.size)):
            os.ftruncate(handle, 0)
            raise UserError(url, f"serves {size:,} bytes, but {self.file.name} has {self.file.size:,}", self.by_hand)
        if shutil.disk_usage(self.part.parent).free < (size or self.file.size) - at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _append(self, url: str, handle: int, response: Response, size: int) -> None:
        """Append the body of a response to the .part file, with a progress bar if stderr is a terminal.

        Raises Interrupted or UserError.
        """
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
        if self.file.sha256 and at < self.file.size:  # possible if the response states no length
            raise Interrupted


class Interrupted(Exception):
    """Raised if the connection is lost during a download."""


def _reason(error: Exception) -> str:
    """Return a short explanation of why a download failed."""
    from requests import exceptions

    inner: BaseException | None = error
    found = ""
    for _ in range(10):  # requests wraps urllib3's errors, which wrap system errors
        if inner is None:
            break
        if isinstance(inner, OSError) and not isinstance(inner, exceptions.RequestException):
            found = inner.strerror or " ".join(str(inner).split())[:200]
        reason = getattr(inner, "reason", None) or next((x for x in inner.args if isinstance(x, BaseException)), None)
        inner = reason if isinstance(reason, BaseException) else inner.__cause__ or inner.__context__
    said = f" ({found})" if found else ""
    match error:
        case Interrupted():
            return "the connection was lost before the file was complete"
        case exceptions.ProxyError():
            return f"the proxy refuses the connection or cannot be reached{said}"
        case exceptions.SSLError():
            return (
                f"its certificate cannot be verified{said}; behind a proxy, set REQUESTS_CA_BUNDLE to the proxy's "
                "certificate"
            )
        case exceptions.Timeout():
            return "did not respond in time"
        case exceptions.ConnectionError():
            return f"cannot be reached{said}"
        case _:
            return f"cannot be requested ({' '.join(str(error).split())[:200]})"
