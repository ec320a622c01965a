"""Exception class for errors that a user can fix, and its use for errors of the operating system.

Any other exception reaches the terminal as a traceback and is a bug in nasx.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Callable
from typing import Any


def printable(text: str) -> str:
    """Return untrusted `text` with ? for each character that could control a terminal or cannot be written."""
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" or unicodedata.category(letter)[0] != "C" else "?" for letter in text)


def cleaned(value: object) -> Any:
    """Return a plain value with `printable` applied to all strings, keys included, to show an untrusted record."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    return [cleaned(item) for item in value] if isinstance(value, list | tuple) else value


def named(error: BaseException) -> str:
    """Return the type and the first line of the message of an exception: `KeyError: 'cell'`."""
    first, *_ = (*str(error).splitlines(), "")
    return f"{type(error).__name__}: {first}".rstrip(": ")


class UserError(Exception):
    """An error that a user can fix: its location, a description of the fault, and the remedy.

    The message is ``where: fault; remedy``. ``where`` is a configuration key (``search.epochs=-1``), a file, or a
    command. `join` combines several errors that were found together.
    """

    def __init__(self, where: str, fault: str, remedy: str = "") -> None:
        self.where, self.fault, self.remedy = where, fault, remedy
        super().__init__(f"{where}: {fault}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[object, ...]:
        """Make the error picklable: launchers send it to the process that prints it."""
        return type(self), (self.where, self.fault, self.remedy), {"args": self.args}

    @classmethod
    def join(cls, faults: list[UserError]) -> UserError:
        """Return one error with all of `faults`, one per line (a single fault is returned unchanged)."""
        if len(faults) == 1:
            return faults[0]
        joined = cls(faults[0].where, faults[0].fault, faults[0].remedy)
        joined.args = ("\n".join(str(fault) for fault in faults),)
        return joined


def raised_by(check: Callable[[], object]) -> list[UserError]:
    """Return a list with the UserError that `check` raises, or an empty list if it raises none."""
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
    """Return the UserError for an error of the system (files, memory, packages), or None if `error` is a bug."""
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
    """Return an error if the current folder no longer exists, else None."""
    try:
        os.getcwd()
    except OSError:
        return UserError("the current folder", "no longer exists", "change to an existing folder")
    return None
