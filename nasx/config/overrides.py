"""Values and keys as they are written on the command line."""

from __future__ import annotations

import re

from nasx.core.plain import Config


def format_value(value: object) -> str:
    """A value as one writes it on the command line."""
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, list | tuple):
        return "[" + ",".join(format_value(item) for item in value) + "]"
    return words.get(value, str(value)) if value is None or isinstance(value, bool) else str(value)


def with_value(cfg: Config, key: str, value: object) -> Config:
    """Return a configuration with another value of a dotted key; all else is shared with `cfg`."""
    first, _, rest = key.partition(".")
    return {**cfg, first: with_value(cfg[first], rest, value) if rest else value}


def first_part(text: str) -> str:
    """The group or the first part of the key that an override sets."""
    return re.split(r"[=.@]", text.lstrip("+~"), maxsplit=1)[0]
