"""Values and keys as they are written on the command line."""

from __future__ import annotations

import re


def format_value(value: object) -> str:
    """A value as one writes it on the command line."""
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, list | tuple):
        return "[" + ",".join(format_value(item) for item in value) + "]"
    return words.get(value, str(value)) if value is None or isinstance(value, bool) else str(value)


def first_part(text: str) -> str:
    """The group or the first part of the key that an override sets."""
    return re.split(r"[=.@]", text.lstrip("+~"), maxsplit=1)[0]
