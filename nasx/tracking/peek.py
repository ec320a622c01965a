"""Functions that read parts of files, because a folder of runs may contain millions of rows and many configurations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from nasx.core.files import SAFE

BLOCK = 8192


def last_lines(path: Path, count: int) -> list[bytes]:
    """Return the last lines of a file (at most `count`, including an incomplete one) without reading all of it."""
    with path.open("rb") as file:
        end, size = file.seek(0, 2), BLOCK
        while True:
            file.seek(max(end - size, 0))
            lines = file.read().splitlines()
            if size >= end:
                return lines[-count:]
            if len(lines) > count:  # the beginning of the first line is missing
                return lines[1:][-count:]
            size *= 4


def scalars(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (keys, text) for each scalar in the mappings of a YAML document, in order, without the contents of lists.

    The document is parsed lazily, aliases are not followed, and no objects are constructed. Raises yaml.YAMLError.
    """
    keys: list[str | None] = []  # current key of each open mapping; None if the next scalar is a key
    within = 0
    for event in yaml.parse(text, Loader=SAFE):
        opens = isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent)
        closes = isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent)
        if within:
            within += opens - closes
        elif isinstance(event, yaml.MappingStartEvent) and (not keys or keys[-1] is not None):
            keys.append(None)
            continue
        elif isinstance(event, yaml.MappingEndEvent):
            keys.pop()
        elif opens:
            within = 1
        elif isinstance(event, yaml.ScalarEvent) and keys and keys[-1] is None:
            keys[-1] = event.value
            continue
        elif isinstance(event, yaml.ScalarEvent) and keys:
            yield tuple(str(key) for key in keys), event.value
        elif not isinstance(event, yaml.AliasEvent):
            continue
        if not within and keys:
            keys[-1] = None
