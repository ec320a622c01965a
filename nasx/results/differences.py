"""Settings that differ between groups of runs: keys of config.yaml with unequal values.

A group is a list of run folders. Config groups (method, space, search, …) are shown by the name of the component;
`_target_` and keys that do not affect results (seed, identity, the source of the trained cell) are omitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nasx.config import overrides
from nasx.tracking import records

OWN = frozenset({"format", "kind", "identity", "seed", "from", "choices", "allow"})
DERIVED = frozenset({"experiment", "launch", "pair"})
"""Config groups that only set other keys, which are shown instead."""
ABSENT, UNKNOWN = "(none)", "?"
"""Values of a missing setting, and of a group without readable configurations."""


class Row(NamedTuple):
    """A setting and its value in each group; several values in a group are joined by ` / `."""

    key: str
    values: tuple[str, ...]


def configuration(folder: str) -> dict[str, str]:
    """Return a mapping from dotted setting to its value as on the command line; empty if config.yaml is unreadable."""
    return _configuration(Path(folder).absolute())


@lru_cache(maxsize=4096)
def _configuration(folder: Path) -> dict[str, str]:
    held = records.configuration(folder) or {}
    choices = held.get("choices") if isinstance(held.get("choices"), Mapping) else {}
    found: dict[str, object] = {str(k): v for k, v in (choices or {}).items() if k not in DERIVED}
    settings = records.flatten({k: v for k, v in held.items() if k not in OWN})
    found |= {key: value for key, value in settings.items() if not key.endswith("_target_")}
    return {key: overrides.format_value(value) for key, value in found.items()}


def rows(groups: Sequence[Sequence[str]]) -> list[Row]:
    """Return the settings that differ between groups of run folders.

    They are in the order of config.yaml, configuration groups first.
    """
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
