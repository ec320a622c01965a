"""Exception for errors that a user can fix, and conversion of system errors to it.

Any other exception reaches the terminal as a traceback and is a bug in nasx.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Callable
from typing import Any


def printable(text: str) -> str:
    """Replace with ? each character in untrusted `text` that could control a terminal or cannot be encoded."""
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" or unicodedata.category(letter)[0] != "C" else "?" for letter in text)


def cleaned(value: object) -> Any:
    """Apply `printable` to all strings in an untrusted record, including dictionary keys."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    return [cleaned(item) for item in value] if isinstance(value, list | tuple) else value


def named(error: BaseException) -> str:
    """Format an exception as its type and the first line of its message: `KeyError: 'cell'`."""
    first, *_ = (*str(error).splitlines(), "")
    return f"{type(error).__name__}: {first}".rstrip(": ")


class UserError(Exception):
    """An error that a user can fix, with its location, a description of the fault, and a remedy.

    The message is ``where: fault; remedy``, and ``where`` is a setting (``search.epochs=-1``), a file or a command.
    `join` combines several errors into one.
    """

    def __init__(self, where: str, fault: str, remedy: str = "") -> None:
        self.where, self.fault, self.remedy = where, fault, remedy
        super().__init__(f"{where}: {fault}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickling, because launchers send errors to the process that prints them."""
        return type(self), (self.where, self.fault, self.remedy), {"args": self.args}

    @classmethod
    def join(cls, faults: list[UserError]) -> UserError:
        """Combine `faults` into one error with one line per fault; a single fault is returned unchanged."""
        if len(faults) == 1:
            return faults[0]
        joined = cls(faults[0].where, faults[0].fault, faults[0].remedy)
        joined.args = ("\n".join(str(fault) for fault in faults),)
        return joined


def raised_by(check: Callable[[], object]) -> list[UserError]:
    """Call `check` and return a list with the UserError that it raises, or an empty list."""
    try:
        check()
    except UserError as error:
        return [error]
    return []


REMEDIES = {
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.ENOMEM: "free some memory",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def of_system(error: BaseException) -> UserError | None:
    """Convert a system error (files, memory, packages) to a UserError; return None if `error` is a bug."""
    known = f"{type(error).__name__}: {error}".rstrip(": ")
    match error:
        case OSError(filename=None, errno=errno.ENOENT) if fault := working_folder():
            return fault
        case OSError():
            where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "the system"
            return UserError(
                where,
                f"the operation failed ({error.strerror or known})",
                REMEDIES.get(error.errno or 0, "") or "set NASX_DEBUG=1 to see the traceback",
            )
        case MemoryError():
            return UserError(
                "memory", f"is exhausted ({known})", "free some memory, or reduce the batch size or image size"
            )
        case RecursionError():
            return UserError("the input", f"is nested too deeply ({known})", "set NASX_DEBUG=1 to see the traceback")
        case ImportError() if not str(error.name or "").startswith("nasx"):
            return UserError(
                error.name or "a package",
                f"cannot be imported ({error})",
                "install it again; set NASX_DEBUG=1 to see the traceback",
            )
    return None


def working_folder() -> UserError | None:
    """Return a UserError if the current folder no longer exists, otherwise None."""
    try:
        os.getcwd()
    except OSError:
        return UserError("the current folder", "no longer exists", "change to an existing folder")
    return None
