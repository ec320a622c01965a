"""Standard streams whose errors, such as a closed pipe or a full disk, never stop a run.

After the first error of a stream, all further output to it is discarded. A standard descriptor that is closed at the
start is opened on /dev/null, so that no file of a run gets its number.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from nasx.errors import UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Stream(io.FileIO):
    """The raw layer of a standard stream; `fault` is the error after which it discards all output."""

    fault: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write or discard `data`; return the number of bytes handled, or None if a non-blocking pipe is full."""
        if self.fault is None:
            try:
                return super().write(data)
            except OSError as error:
                self.fault = error
        return memoryview(data).nbytes


@contextlib.contextmanager
def guarded() -> Iterator[Stream | None]:
    """Guard standard output and standard error within the block; yield the raw stream of standard output.

    Yields None if standard output is replaced (by a test) or already guarded. Standard output prints ? for characters
    that its encoding lacks.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    out, err = sys.stdout, sys.stderr
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")
    sys.stdout, sys.stderr = _over(out, 1), _over(err, 2)
    raw = _raw(sys.stdout)
    try:
        yield raw if sys.stdout is not out and isinstance(raw, Stream) else None
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = out, err


def _raw(stream: object) -> object:
    """Return the raw layer of a text stream (its buffer under PYTHONUNBUFFERED); None if it has none."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _over(stream: TextIO | None, number: int) -> TextIO:
    """Return a guarded text stream for descriptor `number`, or `stream` itself if it is replaced or guarded."""
    raw = _raw(stream)
    if stream is not None:
        if type(raw) is not io.FileIO or raw.fileno() != number:
            return stream
        stream.flush()
    end = Stream(number, "w", closefd=False)
    return io.TextIOWrapper(
        end if stream is not None and raw is stream.buffer else io.BufferedWriter(end),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors=getattr(stream, "errors", "replace"),
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )


def lost(stream: Stream | None) -> UserError | None:
    """Return the error for lost output; None if nothing was lost, or the reader closed the pipe."""
    if stream is None or stream.fault is None or stream.fault.errno == errno.EPIPE:
        return None
    return UserError(
        "standard output",
        f"cannot be written ({stream.fault.strerror})",
        "the results are in the files that the command wrote; run it again to print them",
    )
