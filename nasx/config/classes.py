"""Check, by reading its source, that a user's class has the interface that its config group requires.

Nothing is imported, so members that do not appear in the source (such as those of a base class created at run time) are
not checked.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

from nasx.config import schema
from nasx.errors import UserError

BASES = {"method": "nasx.core.bilevel.Method", "inner": "nasx.core.bilevel.Method", "space": "nasx.spaces.base.Space"}
"""Last part of a configuration key -> required base class of the component under that key."""
PLAIN = ("ABC", "object", "Generic", "Protocol")
"""Base classes that require no members."""


def faults(where: str, target: str) -> Iterator[UserError]:
    """Yield errors in the class `target`, which the configuration names under the key `where`."""
    module, _, name = target.rpartition(".")
    line = ancestry(module, name)
    if line is None:
        return
    asked, key = BASES.get(where.rpartition(".")[2]), f"{where}._target_={target}"
    if asked is not None and asked not in [f"{home}.{node.name}" for home, node in line]:
        base = asked.rpartition(".")[2]
        yield UserError(
            key,
            f"{name} is not a subclass of {asked}",
            f"declare it as class {name}({base}), and import {base} from {asked.rpartition('.')[0]}",
        )
        return
    seen: dict[str, ast.FunctionDef | None] = {}
    for home, node in line:
        for given, how in members(node).items():
            first = seen.setdefault(given, how)
            if how is None or not abstract(how):
                continue
            wanted = ast.unparse(how.returns) if how.returns else "None"
            asks = f"{given}({', '.join(arg.arg for arg in how.args.args)})"
            if first is not None and abstract(first):
                yield UserError(
                    key,
                    f"{name} has no {given}, which {home}.{node.name} requires",
                    f"define {asks} in {schema.locate(module)}",
                )
            elif first is not None and wanted != "None" and returns_nothing(first):
                yield UserError(key, f"{given} returns nothing", f"it must return {wanted}")


def ancestry(module: str, name: str) -> list[tuple[str, ast.ClassDef]] | None:
    """Return (module, class) for a class and all its bases, in the order in which Python looks up a member.

    Returns None if the source of one of them cannot be read.
    """
    found = schema.class_definition(module, name)
    if found is None:
        return None
    home, node = found
    line = [(home, node)]
    for base in node.bases:
        if schema.last(base) not in PLAIN:
            above = ancestry(home, schema.last(base))
            if above is None:
                return None
            line += above
    places = {(home, node.name): i for i, (home, node) in enumerate(line)}  # the last one: a shared base comes last
    return [line[i] for i in sorted(places.values())]


def members(node: ast.ClassDef) -> Mapping[str, ast.FunctionDef | None]:
    """Return the members that a class itself defines, by name: the node of a method, or None for other attributes."""
    found: dict[str, ast.FunctionDef | None] = {}
    for line in node.body:
        match line:
            case ast.FunctionDef(name=name):
                found[name] = line
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                found[name] = None
            case ast.Assign(targets=[ast.Name(id=name)]):
                found[name] = None
    return found


def abstract(how: ast.FunctionDef) -> bool:
    return any(schema.last(mark) == "abstractmethod" for mark in how.decorator_list)


def returns_nothing(how: ast.FunctionDef) -> bool:
    """Return whether a function can only return None: its source has no `return VALUE`, `yield` or `raise`."""
    return not any(
        isinstance(node, ast.Raise | ast.Yield | ast.YieldFrom)
        or (isinstance(node, ast.Return) and node.value is not None)
        for node in ast.walk(how)
    )


def merge_replaced(
    found: Sequence[UserError], choices: Mapping[str, object], overrides: Sequence[str]
) -> list[UserError]:
    """Merge the errors in `found` about settings that remain from a chosen file after its `_target_` is overridden."""
    kept = list(found)
    for text in overrides:
        said = re.fullmatch(r"\+*(\w+)\._target_=([\w.]+)", text)
        if said is None:
            continue
        group, stay = said[1], {}
        for fault in kept:  # including the error for a pair that sets the key
            key = re.search(rf"\b{group}\.(\w+)", f"{fault.where}: {fault.fault}")
            if key and key[1] != "_target_" and "has no such setting" in fault.fault:
                stay[fault] = key[1]
        if stay:
            there = f"keeps settings of {group}={choices.get(group)} that this class does not have"
            kept = [fault for fault in kept if fault not in stay]
            kept.append(
                UserError(
                    text,
                    f"{there} ({', '.join(stay.values())})",
                    f"write a file CONF/{group}/NAME.yaml "
                    f"with _target_: {said[2]} and its settings, and pass --config-dir CONF {group}=NAME",
                )
            )
    return kept
