"""Instantiation of the components in a configuration, and the check of the classes that it may name."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasx.config import own_code, plugins, schema, trust
from nasx.config.commands import HOMES
from nasx.config.paths import conf_dir
from nasx.core import versions
from nasx.core.plain import Config
from nasx.core.spelling import suggest
from nasx.errors import UserError


def target_fault(where: str, target: object, allowed: Sequence[str]) -> UserError | None:
    """Return the error in a `_target_`, or None if it may be instantiated. Nothing is imported."""
    key = f"{where}._target_={target}"
    if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target):
        return UserError(key, "is not a class path", "write package.module.Class")
    if versions.present(target) != target:
        return UserError(key, "was renamed", f"write {versions.present(target)}")
    head, *_ = target.split(".")
    if head in sys.stdlib_module_names or not any(target.startswith(f"{name}.") for name in allowed):
        own = head != "nasx" and head not in sys.stdlib_module_names
        return UserError(
            key,
            "is not a component of nasx",
            f"to allow your own package, add allow='[{head}]'" if own else "nasx list shows the components",
        )
    component = schema.component(target)
    if component is not None and not any(f"{component.module}.".startswith(f"{name}.") for name in allowed):
        return UserError(
            key, f"is defined in {component.module}, which is not allowed", "nasx list shows the components"
        )
    if component is not None and head == "nasx" and target not in trust.components(conf_dir()):
        return UserError(key, "is not a class that a configuration may name", "nasx list shows the components")
    if component is None:
        module, _, name = target.rpartition(".")
        body = schema.tree(module)
        if body is None:
            return UserError(
                key,
                f"module {module} not found",
                "check the name; its package must be installed, or in the current folder",
            )
        names = [node.name for node in body.body if isinstance(node, ast.ClassDef)]
        return UserError(
            key,
            f"{module} has no class {name}",
            suggest(name, names, "it has")
            if names
            else f"define it in {schema.locate(module)}, which contains no classes",
        )
    return None


def foreign_packages(node: object, allow: Sequence[str] = ()) -> list[str]:
    """Return the sorted packages whose classes a configuration names, except nasx and those in `allow`."""
    if not isinstance(node, Mapping):
        return []
    own = str(node.get("_target_", "nasx.")).partition(".")[0]
    found = {own, *(name for value in node.values() for name in foreign_packages(value))}
    return sorted(found - {"nasx", *sys.stdlib_module_names, *(name.partition(".")[0] for name in allow)})


def build(node: Config, allow: Sequence[str] = ()) -> Any:
    """Instantiate the component of a node with `_target_`: nested components are built first, lists become tuples.

    Raises UserError if the target is not allowed. The values must already have passed `check`.
    """
    allow = (*allow, *plugins.packages())
    target = versions.present(node["_target_"])
    refused = target_fault("component", target, (*HOMES, *allow))
    if refused is not None:
        raise refused
    module, _, name = target.rpartition(".")
    if not target.startswith("nasx.") and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    given = {
        key: build(value, allow) if isinstance(value, Mapping) and "_target_" in value else schema.tuples(value)
        for key, value in node.items()
        if key != "_target_"
    }
    found = getattr(importlib.import_module(module), name)
    if not trust.is_class(found, name, [module] if target.startswith("nasx.") else allow):
        raise UserError(
            f"component._target_={target}",
            f"is imported into {module}, not defined there",
            "name the module that defines the class",
        )
    if not target.startswith("nasx."):
        own_code.remember(found, module)
    return found(**given)
