"""Find all faults of a composed configuration before anything runs, without importing torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from nasx.config import budget_rules, classes, limits, objectives, space_rules, stage_rules
from nasx.config.commands import COMMANDS, DELTAS, HOMES, TRAINING_GROUPS, settings
from nasx.config.components import (
    DefaultLookup,
    allowed_packages,
    choices_text,
    component_faults_of,
    no_default,
    value_faults,
)
from nasx.config.fault_cache import FaultCache
from nasx.config.instantiate import build, foreign_packages
from nasx.config.overrides import first_part
from nasx.config.rules import COMBINATIONS
from nasx.core.plain import Config
from nasx.errors import UserError


def check(
    cfg: Mapping[str, object],
    choices: Mapping[str, object] | None = None,
    overrides: Sequence[str] = (),
    command: str = "search",
    default_of: DefaultLookup = no_default,
) -> None:
    """Raise one UserError with all `faults`."""
    if found := faults(cfg, choices, overrides, command, default_of):
        raise UserError.join(found)


def faults(
    cfg: Config,
    choices: Mapping[str, object] | None = None,
    overrides: Sequence[str] = (),
    command: str = "search",
    default_of: DefaultLookup = no_default,
    known: FaultCache | None = None,
) -> list[UserError]:
    """Return all faults of the plain configuration `cfg`, which has no section `hydra`.

    `choices` are the chosen group files, `overrides` those of the command line, `default_of` returns the value that
    these files give a key, and `known` caches faults. A component of nasx whose `check()` reads the disk is imported
    and called only if nothing else is wrong with it.
    """
    known = known or FaultCache()
    components = list(component_faults_of(cfg, choices or {}, command, default_of, known))
    found = [
        *_unread(command, overrides),
        *budget_rules.fixed_width(cfg, command, overrides),
        *_keys(cfg, command, default_of),
        *classes.merge_replaced(components, choices or {}, overrides),
    ]
    for look in COMBINATIONS:
        with contextlib.suppress(TypeError):  # a value of a wrong type, which is reported above
            found += look(cfg, command)
    if isinstance(cfg.get("space"), Mapping) and not any(fault.where.startswith("space") for fault in found):
        found += space_rules.faults(cfg["space"])
    if not found and command != "retrain" and "stages" in cfg:
        found += stage_rules.faults(cfg, overrides, (*HOMES, *allowed_packages(cfg)))
    for group in ("dataset", "logger", "benchmark"):
        if isinstance(cfg.get(group), Mapping) and not any(fault.where.startswith(group) for fault in found):
            key = json.dumps([group, cfg[group], allowed_packages(cfg)], sort_keys=True, default=str)
            found += known.of_look(key, partial(_look, cfg, group))
    if not found and "dataset" in COMMANDS[command].groups:  # components of others are made by the job alone
        if not foreign_packages(cfg["dataset"]):
            found += limits.faults(cfg, build(cfg["dataset"]), TRAINING_GROUPS[command])
        if cfg.get("objective") is not None and not foreign_packages(cfg["benchmark"]):
            found += objectives.faults(cfg, command, build(cfg["benchmark"]))
    return list({str(fault): fault for fault in found}.values())


def _unread(command: str, overrides: Sequence[str]) -> Iterator[UserError]:
    """Yield overrides of groups that the command does not read."""
    other = {
        "search": "nasx run searches and retrains; nasx retrain retrains a finished search",
        "retrain": "give it to the search: nasx search, or nasx run for both",
    }
    for text in overrides:
        key = first_part(text)
        if key in COMMANDS[command].unread:
            yield UserError(text, f"nasx {command} does not use the settings of {key}", other.get(command, ""))


def _keys(cfg: Mapping[str, object], command: str, default_of: DefaultLookup) -> Iterator[UserError]:
    """Yield unknown keys and invalid values at the top level."""
    entry, fields = COMMANDS[command], settings(command)
    plain = {key: value for key, value in cfg.items() if key not in (*entry.groups, "hydra")}
    known = [*fields, *entry.groups, *(DELTAS if entry.groups else ())]
    for key in plain:
        if key not in fields:
            yield UserError(key, f"nasx {command} has no such setting", choices_text(key, known))
    yield from value_faults("", fields, plain, default_of)


def _look(cfg: Config, group: str) -> None:
    """Call `check()` of a component of nasx, which raises UserError for missing data or packages."""
    look = None if foreign_packages(cfg[group]) else getattr(build(cfg[group]), "check", None)
    if look is not None:
        look()
