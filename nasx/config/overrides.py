"""Keys and values in command-line syntax."""

from __future__ import annotations

import re

from nasx.core.plain import Config


def format_value(value: object) -> str:
    """Return a value in command-line syntax."""
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, list | tuple):
        return "[" + ",".join(format_value(item) for item in value) + "]"
    return words.get(value, str(value)) if value is None or isinstance(value, bool) else str(value)


def with_value(cfg: Config, key: str, value: object) -> Config:
    """Return a copy of `cfg` with a new value for a dotted key; all other nodes are shared with `cfg`."""
    first, _, rest = key.partition(".")
    return {**cfg, first: with_value(cfg[first], rest, value) if rest else value}


def first_part(text: str) -> str:
    """Return the config group that an override chooses, or the first part of the dotted key that it sets."""
    return re.split(r"[=.@]", text.lstrip("+~"), maxsplit=1)[0]
