"""Checks of a space's settings, and of whether the space contains a cell, without torch: see spaces/rules.py."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace

from nasx.config import schema
from nasx.errors import UserError, raised_by
from nasx.spaces import rules


def settings(node: Mapping[str, object]) -> tuple[str, object]:
    """Return the name of a space's rules, and an object with its settings as attributes; an empty name if unknown.

    User-defined spaces are unknown: they may have other operations, which their constructors check.
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
    """Return the errors that the constructor of the space would raise. The types of its settings must be valid."""
    kind, space = settings(node)
    return raised_by(partial(rules.SPACES[kind], space)) if kind in rules.SPACES else []


def missing_from(node: Mapping[str, object], cell: object) -> list[UserError]:
    """Return errors for the parts of a cell, as returned by `published.check`, that the space does not contain."""
    kind, space = settings(node)
    return raised_by(partial(rules.CELLS[kind], space, cell)) if kind in rules.CELLS else []
