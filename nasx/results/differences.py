"""In which settings groups of runs differ: the keys of their config.yaml that do not have the same values everywhere.

A group is a list of run folders. Choices of groups (method, space, search, …) stand for themselves; `_target_` and what
says nothing of the numbers (seed, identity, whose cell is trained) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nasx.config import overrides
from nasx.tracking import records

OWN = frozenset({"format", "kind", "identity", "seed", "from", "choices", "allow"})
DERIVED = frozenset({"experiment", "launch", "pair"})
"""Choices that only set other keys, which are shown themselves."""
ABSENT, UNKNOWN = "(none)", "?"
"""The value of a setting that a configuration does not have, and in a group of which no configuration can be read."""


class Row(NamedTuple):
    """A setting and its value in each group, several values of a group joined by ` / `."""

    key: str
    values: tuple[str, ...]


def configuration(folder: str) -> dict[str, str]:
    """Dotted setting -> value as one writes it on the command line; empty where config.yaml cannot be read."""
    return _configuration(Path(folder).absolute())


@lru_cache(maxsize=4096)
def _configuration(folder: Path) -> dict[str, str]:
    held = records.configuration(folder) or {}
    choices = held.get("choices") if isinstance(held.get("choices"), Mapping) else {}
    found: dict[str, Any] = {str(k): v for k, v in (choices or {}).items() if k not in DERIVED}
    found |= {
        key: value
        for key, value in records.flatten({k: v for k, v in held.items() if k not in OWN}).items()
        if not key.endswith("_target_")
    }
    return {key: overrides.format_value(value) for key, value in found.items()}


def rows(groups: Sequence[Sequence[str]]) -> list[Row]:
    """The settings that differ between groups of run folders, in the order of the files, choices first."""
    held = [[configuration(folder) for folder in group] for group in groups]
    keys = dict.fromkeys(key for group in held for run in group for key in run)
    found = []
    for key in keys:
        values = tuple(
            " / ".join(sorted({run.get(key, ABSENT) for run in group if run})) if any(group) else UNKNOWN
            for group in held
        )
        if len(set(values) - {UNKNOWN}) > 1:
            found.append(Row(key, values))
    return found
