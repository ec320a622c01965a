"""Settings that differ between groups of runs: keys of config.yaml that have different values.

A group of runs is a list of run folders. Hydra config groups (method, space, search, …) are shown by the name of the
selected option. `_target_` and keys that are not settings (seed, identity, source of the trained cell) are omitted.
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
"""Hydra config groups that only set other keys, which are shown instead."""
ABSENT, UNKNOWN = "(none)", "?"
"""Texts for a missing setting, and for a group of runs without a readable configuration."""


class Row(NamedTuple):
    """A setting and its value in each group of runs; several values in a group are joined by ` / `."""

    key: str
    values: tuple[str, ...]


def configuration(folder: str) -> dict[str, str]:
    """Return dotted key -> value, formatted as on the command line; empty if config.yaml is unreadable."""
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

    Hydra config groups come first, followed by the other settings in the order of config.yaml.
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
