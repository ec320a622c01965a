"""Standard streams that never end the work: their reader may go away, their disk may fill up.

After the first error of a stream the rest of what is written to it is discarded. A descriptor that was closed before
the start is opened on /dev/null, so that no file of a run gets its number.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

from nasx.errors import UserError


class Stream(io.FileIO):
    """The unbuffered end of a standard stream; `fault` is the error after which it discards everything."""

    fault: OSError | None = None

    def write(self, data: Any, /) -> Any:
        """How many bytes were taken, None where none can be at this moment (a pipe that does not block)."""
        if self.fault is None:
            try:
                return super().write(data)
            except OSError as error:
                self.fault = error
        return len(data)


@contextlib.contextmanager
def guarded() -> Iterator[Stream | None]:
    """Within the block standard output and error are such streams; gives that of the output.

    None where the streams are not those of the process (a test's) or are guarded already. Standard output shows ? for
    signs that its encoding lacks.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
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


def _raw(stream: Any) -> Any:
    """The unbuffered end of a text stream (its buffer itself under PYTHONUNBUFFERED), None where it has none."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _over(stream: Any, number: int) -> Any:
    """A text stream over a `Stream` in the place of one that Python has made for the descriptor `number`."""
    raw = _raw(stream)
    if stream is not None:
        if type(raw) is not io.FileIO or raw.fileno() != number:
            return stream
        stream.flush()
    end: Any = Stream(number, "w", closefd=False)
    return io.TextIOWrapper(
        end if raw is not None and raw is stream.buffer else io.BufferedWriter(end),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors=getattr(stream, "errors", "replace"),
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )


def lost(stream: Stream | None) -> UserError | None:
    """Why output was lost, None where nothing was, or nobody was there to read it."""
    if stream is None or stream.fault is None or stream.fault.errno == errno.EPIPE:
        return None
    return UserError(
        "standard output",
        f"cannot be written ({stream.fault.strerror})",
        "what the command has computed is in its files; give the command again to read it",
    )
