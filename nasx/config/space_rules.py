"""Checks of the settings of a space, and of whether it contains a cell, without torch: see spaces/rules.py."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace

from nasx.config import schema
from nasx.errors import UserError, raised_by
from nasx.spaces import rules


def settings(node: Mapping[str, object]) -> tuple[str, object]:
    """Return the name of a space's rules and its settings as attributes; an empty name if they are unknown.

    The user's own spaces may have other operations: their constructors check them.
    """
    target = str(node.get("_target_"))
    component = schema.component(target) if target.startswith("nasx.spaces.") else None
    if component is None:
        return "", None
    values = {}
    for name in component.fields:
        try:
            values[name] = schema.tuples(node[name]) if name in node else schema.default(target, name)
        except ValueError:
            return "", None
    return schema.text_constant(target, "read_as"), SimpleNamespace(**values)


def faults(node: Mapping[str, object]) -> list[UserError]:
    """Return the faults that the constructor of the space would raise. The types of its settings must be valid."""
    kind, space = settings(node)
    return raised_by(partial(rules.SPACES[kind], space)) if kind in rules.SPACES else []


def missing_from(node: Mapping[str, object], cell: object) -> list[UserError]:
    """Return the faults for parts of a cell, as returned by `published.check`, that are not in the space."""
    kind, space = settings(node)
    return raised_by(partial(rules.CELLS[kind], space, cell)) if kind in rules.CELLS else []
