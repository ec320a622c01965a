"""The one exception class for faults that a user can mend.

Everything else that reaches the terminal as a traceback is a bug of nasx.
"""

from __future__ import annotations

import unicodedata
from typing import Any


def printable(text: str) -> str:
    """`text` with ? for what would steer a terminal or cannot be written: it may come from a foreign file."""
    return "".join(letter if letter in "\n\t" or unicodedata.category(letter)[0] != "C" else "?" for letter in text)


def cleaned(value: Any) -> Any:
    """A plain value whose texts are `printable`, keys of mappings included: what is shown of a foreign record."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    return [cleaned(item) for item in value] if isinstance(value, list | tuple) else value


class UserError(Exception):
    """A fault with its place, what is wrong, and what would mend it.

    Printed as ``where: fault; remedy``. ``where`` is a configuration key (``search.epochs=-1``), a file, or a
    command; several faults found together are joined by `join`.
    """

    def __init__(self, where: str, fault: str, remedy: str = "") -> None:
        self.where, self.fault, self.remedy = where, fault, remedy
        super().__init__(f"{where}: {fault}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        """Launchers send a job's error to the process that tells it."""
        return type(self), (self.where, self.fault, self.remedy), {"args": self.args}

    @classmethod
    def join(cls, faults: list[UserError]) -> UserError:
        """One error that carries all of `faults`, one a line (a single fault is returned as it is)."""
        if len(faults) == 1:
            return faults[0]
        joined = cls(faults[0].where, faults[0].fault, faults[0].remedy)
        joined.args = ("\n".join(str(fault) for fault in faults),)
        return joined
