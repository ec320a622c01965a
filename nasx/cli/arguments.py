"""Commands without a configuration: `nasx <command> WORD ... key=value ...`.

Such a command is a module with a docstring whose first paragraph is its help, and `main(words) -> int | None`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from nasx.config import trust
from nasx.core import spelling
from nasx.errors import UserError


class Words(NamedTuple):
    """What a line says: the words without `=`, and the options as text, defaults filled in."""

    plain: tuple[str, ...]
    options: dict[str, str]

    def number(self, name: str) -> int:
        """An option as an integer. Raises UserError."""
        try:
            return int(self.options[name])
        except ValueError:
            raise UserError(f"{name}={self.options[name]}", "is no integer", f"for example {name}=1") from None

    def several(self, name: str) -> tuple[str, ...]:
        """An option's values, which commas part, with or without brackets round them."""
        return tuple(filter(None, re.split(r"[\s,]+", self.options[name].strip("[] "))))

    @property
    def allowed(self) -> tuple[str, ...]:
        """The packages whose classes may be built: those of allow= and of NASX_ALLOW."""
        return (*self.several("allow"), *trust.from_environment())

    def flag(self, name: str) -> bool:
        """An option as true or false. Raises UserError."""
        value = self.options[name].lower()
        if value not in ("true", "false"):
            raise UserError(f"{name}={self.options[name]}", "is neither true nor false", f"use {name}=true")
        return value == "true"


def read(command: str, words: Sequence[str], options: Mapping[str, str | None], *, plain: str | None = None) -> Words:
    """Split a command's words by what it knows.

    `options` maps names to defaults (None: must be given); `plain` names the words without `=` that the command takes
    (None: it takes none). Raises UserError for an unknown or missing option, with the nearest name.
    """
    where, found, rest = f"nasx {command}", dict(options), []
    for word in undashed(words, options, [k for k, v in options.items() if v in ("true", "false")]):
        name, equals, value = word.partition("=")
        if equals and name.lstrip("-").isidentifier():
            name = name.lstrip("-")
            if name not in options:
                raise UserError(f"{where} {word}", f"has no option {name}", _instead(where, name, value, options, plain)
                                + f"; see {where} --help")
            if not value:
                raise UserError(f"{where} {word}", "has no value", f"give {name}=VALUE")
            found[name] = value
        elif word.startswith("-") or plain is None:
            raise UserError(f"{where} {word}", "is not understood", f"see {where} --help")
        else:
            rest.append(word)
    if missing := [name for name, value in found.items() if value is None]:
        raise UserError(where, f"needs {' and '.join(f'{name}=...' for name in missing)}", f"see {where} --help")
    return Words(tuple(rest), {name: value for name, value in found.items() if value is not None})


FOLDERS = ("out", "runs", "folder", "from")
"""Options that name runs, here or in another command."""


def _instead(where: str, name: str, value: str, options: Collection[str], plain: str | None) -> str:
    """What to write in the place of an option that a command does not have."""
    if name in FOLDERS and "runs" in options:
        return f"the folder of the runs is runs={value}"
    if name in FOLDERS and plain:
        return f"{plain} is a word without {name}=: {where} {value}".rstrip()
    has = [f"it has {', '.join(options)}"] * bool(options) + [f"it takes {plain}"] * bool(plain)
    return (" and ".join(has) or "it has none") + spelling.did_you_mean(name, options)


def undashed(words: Sequence[str], keys: Collection[str], flags: Collection[str] = ()) -> list[str]:
    """`--paper idarts` and `--paper=idarts` as `paper=idarts`, for the settings `keys`; `--error` as `error=true` for
    those of them that are true or false, `flags`."""
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:] in keys:
            if not equals and name[2:] in flags:
                value = rest.pop(0) if rest and rest[0].lower() in ("true", "false") else "true"
            elif not equals:
                if not rest:
                    raise UserError(word, "needs a value", f"write {name[2:]}=VALUE")
                value = rest.pop(0)
            word = f"{name[2:]}={value}"
        found.append(word)
    return found


def filtered(text: str) -> str:
    """`filter=method=darts,space=nb201`, also in brackets, as Hydra reads it: filter=[method:darts,space:nb201]."""
    key, _, value = text.partition("=")
    if key != "filter" or re.search(r"[{'\"]", value) or value == "null":
        return text
    return f"filter=[{value.strip('[]').replace('=', ':')}]"
