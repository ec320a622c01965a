"""Check the settings of a space, and whether it contains a cell, without torch: see spaces/rules.py."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace

from nasx.config import schema
from nasx.errors import UserError, raised_by
from nasx.spaces import rules


def settings(node: Mapping[str, object]) -> tuple[str, object]:
    """The name of a space's rules and its settings as attributes; an empty name where they cannot be known.

    Spaces of the user's own may have other operations: they are asked when they are made.
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
    """Return the faults that the constructor of the space would raise; the types of its settings have been checked."""
    kind, space = settings(node)
    return raised_by(partial(rules.SPACES[kind], space)) if kind in rules.SPACES else []


def missing_from(node: Mapping[str, object], cell: object) -> list[UserError]:
    """Return the parts of a cell, as read by `published.check`, that are not in the space."""
    kind, space = settings(node)
    return raised_by(partial(rules.CELLS[kind], space, cell)) if kind in rules.CELLS else []
