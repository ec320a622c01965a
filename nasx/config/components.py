"""Checks of components (nodes with `_target_`): names, types and values, without importing the components.

An unknown choice of a group (`space=typo`) is reported by `unknown_choice` in nasx/cli/preflight.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from nasx.config import classes, field_names, plugins, schema
from nasx.config.commands import COMMANDS, DELTAS, HOMES
from nasx.config.fault_cache import FaultCache
from nasx.config.instantiate import target_fault
from nasx.config.overrides import format_value
from nasx.config.paths import conf_dir
from nasx.core.plain import Config
from nasx.core.spelling import nearest, suggest
from nasx.errors import UserError

# -------------------------------------------------------------------------------------------------- checks
DefaultLookup = Callable[[str], str | None]
"""Function that maps a dotted key to its value in the chosen files, in command-line syntax; None if no file sets it."""


def no_default(key: str) -> None:
    """Return None for every key: the `DefaultLookup` for a configuration whose files are unknown."""


def unknown_key(cfg: Config, key: str, command: str) -> UserError | None:
    """Return an error if the composed configuration does not have a dotted key; None if the key exists."""
    entry, node, path = COMMANDS[command], cfg, ""
    for part in key.split("."):
        if part in node:
            path, node = f"{path}{part}.", node[part] if isinstance(node[part], Mapping) else {}
            continue
        elsewhere = [f"{group}.{part}" for group in entry.read if part in (cfg.get(group) or ())]
        theirs = field_names.remedy(part, cfg, entry.read)
        if path:
            whole = str(node.get("_target_", ""))
            target = whole.rpartition(".")[2]
            component = schema.component(whole) if whole else None
            if component is not None and part in component.fields:
                return UserError(
                    key, f"{target} has this setting, but its YAML file does not", f"add the line `{part}: VALUE` to it"
                )
            names = [name for name in node if name != "_target_"]
            remedy = theirs or choices_text(part, names)
            if elsewhere and not nearest(part, names):
                remedy = f"did you mean {' or '.join(elsewhere)}?"
            return UserError(key, f"{target or path[:-1]} has no such setting", remedy)
        known = [*(name for name in cfg if name not in (*DELTAS, *entry.unread)), *(DELTAS if entry.groups else ())]
        if elsewhere and part == key:
            return UserError(key, f"nasx {command} has no such setting", f"did you mean {' or '.join(elsewhere)}?")
        rows = f"filter={part}=... chooses the rows; " * (command == "table" and not nearest(part, known))
        return UserError(key, f"nasx {command} has no such setting", theirs or rows + choices_text(part, known))
    return None


def choices_text(key: str, known: Iterable[str]) -> str:
    names = list(known)
    return suggest(key, names, "it has") if names else "it has none"


def value_faults(
    prefix: str, fields: Mapping[str, schema.Field], values: Mapping[str, object], default_of: DefaultLookup
) -> Iterator[UserError]:
    """Yield errors for missing values and for values that do not match the type of their field."""
    missing = [key for key, value in values.items() if value == "???"]
    for key in missing:
        yield UserError(f"{prefix}{key}", "needs a value", f"write {prefix}{key}=...")
    for key, must in schema.faults(fields, {k: v for k, v in values.items() if k not in missing}).items():
        given, default_text = format_value(values[key]), default_of(f"{prefix}{key}") or _literal(fields[key].default)
        yield UserError(
            f"{prefix}{key}={given}",
            must,
            f"change {prefix}{key}"
            if default_text in (None, given)
            else f"the default is {prefix}{key}={default_text}",
        )


def _literal(text: str | None) -> str | None:
    """Convert a default from source text to command-line syntax."""
    if text is None:
        return None
    try:
        return format_value(ast.literal_eval(text))
    except ValueError:
        return text


def component_faults_of(
    cfg: Mapping[str, object], choices: Mapping[str, object], command: str, default_of: DefaultLookup, known: FaultCache
) -> Iterator[UserError]:
    allowed = (*HOMES, *allowed_packages(cfg))
    for group in COMMANDS[command].groups:
        node = cfg.get(group)
        if not isinstance(node, Mapping):
            yield UserError(
                group if node is None else f"{group}={format_value(node)}",
                f"no {group} is chosen",
                f"choose one, for example {group}={choices.get(group) or '...'}; nasx list shows all",
            )
        elif "_target_" not in node:
            yield UserError(group, "has no _target_", "its file needs a line _target_: package.Class")
        else:
            yield from known.of_node(
                node, allowed, partial(component_faults, group, node, allowed, choices, default_of)
            )


def allowed_packages(cfg: Mapping[str, object]) -> tuple[str, ...]:
    """Return the packages other than nasx whose classes are allowed: those in `allow` and those of plugins."""
    allow = cfg.get("allow") or ()
    return (*map(str, allow if isinstance(allow, list | tuple) else ()), *plugins.packages())


def component_faults(
    where: str,
    node: Config,
    allowed: Sequence[str] = HOMES,
    choices: Config | None = None,
    default_of: DefaultLookup = no_default,
) -> Iterator[UserError]:
    """Yield the errors in a component node and its nested components; `choices` maps config groups to chosen files."""
    target = node["_target_"]
    refused = target_fault(where, target, allowed)
    if refused is not None:
        yield refused
        return
    component = schema.component(target)
    assert component is not None
    if not target.startswith("nasx."):
        yield from classes.faults(where, target)
    given = {key: value for key, value in node.items() if key != "_target_"}
    if not component.open:
        for key in given:
            if key not in component.fields:
                fault = f"{component.name} has no such setting"
                yield _set_by(choices or {}, where, key, fault) or UserError(
                    f"{where}.{key}", fault, choices_text(key, component.fields)
                )
    for key, field in component.fields.items():
        if key not in given and field.default is None:
            what = schema.describe(field.annotation)
            yield UserError(f"{where}.{key}", f"{component.name} needs a value", f"it must be {what}")
    inner = {key: value for key, value in given.items() if isinstance(value, Mapping) and "_target_" in value}
    for key, value in inner.items():
        yield from component_faults(f"{where}.{key}", value, allowed, default_of=default_of)
    yield from value_faults(
        f"{where}.", component.fields, {k: v for k, v in given.items() if k not in inner}, default_of
    )


def _set_by(choices: Mapping[str, object], where: str, key: str, fault: str) -> UserError | None:
    """Return an error that names the chosen file of another group if that file sets `where`.`key`, else None.

    For example, a method's file may set a key that only some spaces have.
    """
    conf = conf_dir()
    for group, choice in choices.items():
        file = conf / group / f"{choice}.yaml"
        text = file.read_text(encoding="utf-8") if group != where and file.is_file() else ""
        if re.search(rf"^{where}:.*\n(?:[ #].*\n|\n)*?  {re.escape(key)}:", text, re.M):
            texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((conf / where).glob("*.yaml"))}
            fit = [name for name in texts if key in plugins.fields(name, texts)]
            return UserError(
                f"{group}={choice}",
                f"sets {where}.{key}, but {fault}",
                f"use another {where} or {group}; the setting is available with {where}={', '.join(fit)}",
            )
    return None
