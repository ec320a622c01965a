"""A configuration: where it lies, what is wrong with it, and which run it is.

`check` finds all faults of a composed configuration at once, before anything runs and without importing torch.
`build` makes a component. `identity` and `run_name` say which run a configuration is.

A component is a node with `_target_`. Only classes of nasx, and of packages that the user names in `allow`, may be
named there; this is enforced before anything is imported.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nasx.config import classes, limits, objectives, schema, setters, space_rules, stages, trust
from nasx.config.known import Known
from nasx.config.rules import COMBINATIONS, READS
from nasx.core import versions
from nasx.core.spelling import did_you_mean
from nasx.errors import UserError


class Command(NamedTuple):
    """A command's own keys (a class of nasx.config.settings), its groups, and groups of which it reads nothing."""

    settings: str
    groups: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


GROUPS = ("space", "method", "dataset", "search", "retrain", "benchmark", "engine", "stages", "stop",
          "logger")
"""Groups whose node is a component."""
DELTAS = ("pair", "experiment", "launch")
"""Groups whose files change the nodes of others."""
COMMANDS = {
    "search": Command("SearchJob", GROUPS, ("retrain",)),
    "retrain": Command("RetrainJob", GROUPS, ("method", "search", "benchmark", "stages", "stop")),
    "run": Command("RunJob", GROUPS),
    "study": Command("StudyJob", (*GROUPS, "study")),
    "table": Command("TableJob"),
    "list": Command("ListJob"),
}
HOMES = ("nasx.spaces", "nasx.methods", "nasx.data", "nasx.benchmarks", "nasx.config.settings", "nasx.config.stages",
         "nasx.diagnostics.stop",
         "nasx.runs.loggers")
"""Where components of nasx live; nothing else of it may be named in `_target_`."""
ELSEWHERE = frozenset({"out", "name", "device", "devices", "threads", "workers", "checkpoint_s", "allow", "draw",
                       "quiet", "seeds_per_job", "logger", "launch", "objective", "hydra", "then"})
"""Keys that say where and how a run goes, not what it computes: no part of its identity."""
FACTS = ("format", "kind", "choices", "identity")
"""Keys of a run's config.yaml that are no settings."""
SHORT = 8
"""Digits of an identity in a folder's name. What has the same name is told apart by its whole configuration."""
_RENAMED = {"from_": "from"}


def conf_dir() -> Path:
    """The folder of configurations: nasx/conf in an installed wheel, conf beside the package in a working copy."""
    here = Path(__file__).resolve().parent
    return next((path for path in (here / "conf", here.parent / "conf") if (path / "search.yaml").is_file()),
                here / "conf")


def show(value: Any) -> str:
    """A value as one writes it on the command line."""
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, list | tuple):
        return "[" + ",".join(show(item) for item in value) + "]"
    return words.get(value, str(value)) if value is None or isinstance(value, bool) else str(value)


# -------------------------------------------------------------------------------------------------- checks
Usual = Callable[[str], str | None]
"""Dotted key -> the value that files give it, as one writes it on the command line; None where they give none."""


def _nothing(key: str) -> None:
    """`Usual` where no files are known."""


def check(cfg: Mapping[str, Any], choices: Mapping[str, Any] | None = None, overrides: Sequence[str] = (),
          command: str = "search", usual: Usual = _nothing) -> None:
    """Raise one UserError with all `faults`."""
    if found := faults(cfg, choices, overrides, command, usual):
        raise UserError.join(found)


def faults(cfg: Mapping[str, Any], choices: Mapping[str, Any] | None = None, overrides: Sequence[str] = (),
           command: str = "search", usual: Usual = _nothing, known: Known | None = None) -> list[UserError]:
    """Every fault of the plain configuration `cfg` (`hydra` left out).

    `choices` are the group files that were chosen, `overrides` the words of the command line, `usual` tells what these
    files set a key to, `known` keeps what was found. Looks at the disk only where a data set of nasx does (its
    `check()`), and imports nothing but that component, if nothing else is wrong.
    """
    known = known or Known()
    components = list(_components(cfg, choices or {}, command, usual, known))
    found = [*_unread(command, overrides), *_keys(cfg, command, usual),
             *classes.replaced(components, choices or {}, overrides)]
    for look in COMBINATIONS:
        with contextlib.suppress(TypeError):  # a value of a wrong type, which is told above
            found += look(cfg, command)
    if isinstance(cfg.get("space"), Mapping) and not any(fault.where.startswith("space") for fault in found):
        found += space_rules.faults(cfg["space"])
    if not found and command != "retrain" and "stages" in cfg:
        found += stages.faults(cfg, overrides, (*HOMES, *_allow(cfg)))
    for group in ("dataset", "logger", "benchmark"):
        if isinstance(cfg.get(group), Mapping) and not any(fault.where.startswith(group) for fault in found):
            key = json.dumps([group, cfg[group], _allow(cfg)], sort_keys=True, default=str)
            found += known.of_look(key, partial(_look, cfg, group))
    if not found and "dataset" in COMMANDS[command].groups:  # components of others are made by the job alone
        if not foreign(cfg["dataset"]):
            found += limits.faults(cfg, build(cfg["dataset"]), READS[command])
        if cfg.get("objective") is not None and not foreign(cfg["benchmark"]):
            found += objectives.faults(cfg, command, build(cfg["benchmark"]))
    return list({str(fault): fault for fault in found}.values())


def head(text: str) -> str:
    """The group or the first part of the key that an override sets."""
    return re.split(r"[=.@]", text.lstrip("+~"), maxsplit=1)[0]


def _unread(command: str, overrides: Sequence[str]) -> Iterator[UserError]:
    """Overrides of groups that the command reads nothing of: they would do nothing."""
    other = {"search": "nasx run searches and retrains; nasx retrain retrains a finished search",
             "retrain": "give it to the search: nasx search, or nasx run for both"}
    for text in overrides:
        key = head(text)
        if key in COMMANDS[command].unread:
            yield UserError(text, f"nasx {command} reads no {key} settings", other.get(command, ""))


def settings(command: str) -> dict[str, schema.Field]:
    """A command's own settings at the top level."""
    component = schema.component(f"nasx.config.settings.{COMMANDS[command].settings}")
    assert component is not None, command
    return {_RENAMED.get(name, name): field for name, field in component.fields.items()}


def _keys(cfg: Mapping[str, Any], command: str, usual: Usual) -> Iterator[UserError]:
    """Keys at the top level."""
    entry, fields = COMMANDS[command], settings(command)
    plain = {key: value for key, value in cfg.items() if key not in (*entry.groups, "hydra")}
    known = [*fields, *entry.groups, *(DELTAS if entry.groups else ())]
    for key in plain:
        if key not in fields:
            yield UserError(key, f"nasx {command} has no such setting", _it_has(key, known))
    yield from _values("", fields, plain, usual)


def unknown(cfg: Mapping[str, Any], key: str, command: str) -> UserError | None:
    """The fault of a dotted key that the composed configuration does not have, None where it has it."""
    entry, node, path = COMMANDS[command], cfg, ""
    for part in key.split("."):
        if part in node:
            path, node = f"{path}{part}.", node[part] if isinstance(node[part], Mapping) else {}
            continue
        if path:
            target = str(node.get("_target_", "")).rpartition(".")[2]
            return UserError(key, f"{target or path[:-1]} has no such setting",
                             _it_has(part, [name for name in node if name != "_target_"]))
        read = [group for group in entry.groups if group not in entry.unread]
        elsewhere = [f"{group}.{part}" for group in read if part in (cfg.get(group) or ())]
        known = [*(name for name in cfg if name not in (*DELTAS, *entry.unread)), *(DELTAS if entry.groups else ())]
        if elsewhere and part == key:
            return UserError(key, f"nasx {command} has no such setting", f"did you mean {' or '.join(elsewhere)}?")
        return UserError(key, f"nasx {command} has no such setting", _it_has(part, known))
    return None


def _it_has(key: str, known: Iterable[str]) -> str:
    names = list(known)
    return (f"it has {', '.join(names)}" if names else "it has none") + did_you_mean(key, names)


def _values(prefix: str, fields: Mapping[str, schema.Field], values: Mapping[str, Any],
            usual: Usual) -> Iterator[UserError]:
    """Values that do not fit their field."""
    missing = {key for key, value in values.items() if value == "???"}
    for key in missing:
        yield UserError(f"{prefix}{key}", "needs a value", f"write {prefix}{key}=...")
    for key, must in schema.faults(fields, {k: v for k, v in values.items() if k not in missing}).items():
        given, alike = show(values[key]), usual(f"{prefix}{key}") or _literal(fields[key].default)
        yield UserError(f"{prefix}{key}={given}", must, f"change {prefix}{key}" if alike in (None, given) else
                        f"the default is {prefix}{key}={alike}")


def _literal(text: str | None) -> str | None:
    """A default as one writes it on the command line."""
    if text is None:
        return None
    try:
        return show(ast.literal_eval(text))
    except ValueError:
        return text


def _components(cfg: Mapping[str, Any], choices: Mapping[str, Any], command: str, usual: Usual,
                known: Known) -> Iterator[UserError]:
    allowed = (*HOMES, *_allow(cfg))
    for group in COMMANDS[command].groups:
        node = cfg.get(group)
        if not isinstance(node, Mapping):
            yield UserError(group if node is None else f"{group}={show(node)}", f"no {group} is chosen",
                            f"choose one, for example {group}={choices.get(group) or '...'}; nasx list shows all")
        elif "_target_" not in node:
            yield UserError(group, "does not say which class it is", "its file needs a line _target_: package.Class")
        else:
            yield from known.of_node(node, allowed, partial(component_faults, group, node, allowed, choices, usual))


def _allow(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    allow = cfg.get("allow") or ()
    return tuple(str(name) for name in allow) if isinstance(allow, list | tuple) else ()


def component_faults(where: str, node: Mapping[str, Any], allowed: Sequence[str] = HOMES,
                     choices: Mapping[str, Any] | None = None, usual: Usual = _nothing) -> Iterator[UserError]:
    """Faults of one component node, among the group files `choices`, and of the components inside it."""
    target = node["_target_"]
    refused = _refused(where, target, allowed)
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
                yield setters.set_by(conf_dir(), choices or {}, where, key, fault) or UserError(
                    f"{where}.{key}", fault, _it_has(key, component.fields))
    for key, field in component.fields.items():
        if key not in given and field.default is None:
            what = schema.describe(field.annotation)
            yield UserError(f"{where}.{key}", f"{component.name} needs a value", f"it must be {what}")
    inner = {key: value for key, value in given.items() if isinstance(value, Mapping) and "_target_" in value}
    for key, value in inner.items():
        yield from component_faults(f"{where}.{key}", value, allowed, usual=usual)
    yield from _values(f"{where}.", component.fields, {k: v for k, v in given.items() if k not in inner}, usual)


def _refused(where: str, target: Any, allowed: Sequence[str]) -> UserError | None:
    """The fault of a `_target_`, None where it may be built. Nothing is imported."""
    key = f"{where}._target_={target}"
    if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target):
        return UserError(key, "is no class", "write package.module.Class")
    head, *_ = target.split(".")
    if head in sys.stdlib_module_names or not any(target.startswith(f"{name}.") for name in allowed):
        own = head != "nasx" and head not in sys.stdlib_module_names
        return UserError(key, "only spaces, methods, data sets and benchmarks of nasx may be named here",
                         f"to allow a package of yours add allow='[{head}]'" if own else "nasx list shows them")
    component = schema.component(target)
    if component is not None and not any(f"{component.module}.".startswith(f"{name}.") for name in allowed):
        return UserError(key, f"is {component.module}'s, which is not allowed", "nasx list shows what may be named")
    if component is not None and head == "nasx" and target not in trust.components(conf_dir()):
        return UserError(key, "is not a class that a configuration may name", "nasx list shows what may be named")
    if component is None:
        module, _, name = target.rpartition(".")
        body = schema.tree(module)
        if body is None:
            return UserError(key, f"there is no module {module}", "check the name, and that its package is installed")
        names = [node.name for node in body.body if isinstance(node, ast.ClassDef)]
        return UserError(key, f"{module} has no class {name}", f"it has {', '.join(names)}{did_you_mean(name, names)}"
                         if names else f"define it in {schema.locate(module)}, which has none")
    return None


def _look(cfg: Mapping[str, Any], group: str) -> None:
    """A component's own look at the machine: missing data or packages are a fault now, not after the net is built."""
    look = None if foreign(cfg[group]) else getattr(build(cfg[group]), "check", None)  # others: by the job alone
    if look is not None:
        look()


def foreign(node: Any, allow: Sequence[str] = ()) -> list[str]:
    """Packages besides nasx whose classes a configuration names and `allow` does not, sorted."""
    if not isinstance(node, Mapping):
        return []
    own = str(node.get("_target_", "nasx.")).partition(".")[0]
    found = {own, *(name for value in node.values() for name in foreign(value))}
    return sorted(found - {"nasx", *sys.stdlib_module_names, *(name.partition(".")[0] for name in allow)})


# --------------------------------------------------------------------------------------------------- build
def build(node: Mapping[str, Any], allow: Sequence[str] = ()) -> Any:
    """The component of a node with `_target_`, made with plain values (tuples for lists, components inside built).

    Raises UserError where the target is not allowed. `check` has looked at the values before.
    """
    target = node["_target_"]
    refused = _refused("component", target, (*HOMES, *allow))
    if refused is not None:
        raise refused
    module, _, name = target.rpartition(".")
    if not target.startswith("nasx.") and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    given = {key: build(value, allow) if isinstance(value, Mapping) and "_target_" in value else schema.tuples(value)
             for key, value in node.items() if key != "_target_"}
    found = getattr(importlib.import_module(module), name)
    if not trust.same(found, name, [module] if target.startswith("nasx.") else allow):
        raise UserError(f"component._target_={target}", "is not the class of that name", "name its own module")
    return found(**given)


# ------------------------------------------------------------------------------------------------ identity
def kind_of(cfg: Mapping[str, Any]) -> str:
    """`retrain` where an architecture is given, else `search`."""
    return "retrain" if cfg.get("from") or cfg.get("genotype") else "search"


def identifying(cfg: Mapping[str, Any], kind: str | None = None) -> dict[str, Any]:
    """The part of a configuration that changes the numbers of a run of this kind (search or retrain).

    So `nasx run` and `nasx search` share the folder of the search. A parent run counts by its name, not by its path.
    """
    kind = kind or kind_of(cfg)
    drop = {*ELSEWHERE, *COMMANDS[kind].unread} | ({"from", "genotype"} if kind == "search" else set())
    kept = {key: value for key, value in cfg.items() if key not in drop}
    if kept.get("from"):
        kept["from"] = Path(str(kept["from"])).name
    if isinstance(kept.get("benchmark"), Mapping):  # latencies are looked up, and change nothing else
        kept["benchmark"] = {key: value for key, value in kept["benchmark"].items() if key != "devices"}
    return kept


def retrained(cfg: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration by which `nasx run` retrains what the search in `folder` has found."""
    name = f"{cfg['name']}-retrain" if cfg["name"] else None
    return {**cfg, "from": str(folder), "genotype": None, "name": name}


def changed(cfg: Mapping[str, Any], published: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Dotted settings in which a run differs from the published configuration: key -> [published, used]."""
    kind = kind_of(cfg)
    old, new = (_flat(identifying({**tree, "seed": 0}, kind)) for tree in (published, cfg))
    same = ("from", "genotype")
    return {key: [old.get(key), new.get(key)] for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and key not in same}


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def identity(cfg: Mapping[str, Any], kind: str | None = None) -> str:
    """128 bits, in hexadecimal, of the configuration that changes the numbers."""
    settings = _canonical(versions.stable(identifying(cfg, kind)))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def family(cfg: Mapping[str, Any], kind: str) -> str:
    """The identity that runs of one setting share, whatever their seed and parent."""
    return identity({**{k: v for k, v in cfg.items() if k not in FACTS}, "seed": None, "from": None}, kind)


def run_name(cfg: Mapping[str, Any], choices: Mapping[str, Any], kind: str | None = None,
             known: str | None = None) -> str:
    """The name of a run's folder: `name`, else <method>-<space>-<dataset>-s<seed>-<first digits of the identity>.

    A retraining has `retrain` in the place of the method, a study its own name before it. `known` is the identity,
    where that has been computed.
    """
    if cfg.get("name"):
        return str(cfg["name"])
    first = {"search": choices.get("method"), "study": f"{choices.get('study')}_{choices.get('method')}"
             }.get(kind or kind_of(cfg), "retrain")
    parts = (first, choices.get("space"), choices.get("dataset"), f"s{cfg.get('seed', 0)}",
             (known or identity(cfg, kind))[:SHORT])
    return "-".join(re.sub(r"[^\w.]+", "_", str(part)) for part in parts)


def _canonical(value: Any) -> Any:
    """Equal numbers alike: 5 and 5.0 are one setting."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 2**53:
        return int(value)
    return value
