"""Find all errors in a composed configuration before anything runs, without importing torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from nasx.config import budget_rules, classes, objectives, search_rules, space_rules, stage_rules
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
from nasx.data import bounds
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.benchmarks.base import Benchmark

CHECKED_GROUPS = ("dataset", "logger", "benchmark")
"""Config groups whose components may define `check()`, which raises UserError for missing files or packages."""


def check(
    cfg: Mapping[str, object],
    choices: Mapping[str, object] | None = None,
    overrides: Sequence[str] = (),
    command: str = "search",
    default_of: DefaultLookup = no_default,
) -> None:
    """Raise a single UserError that combines all errors found by `faults`, if there are any."""
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
    """Return all errors in the plain configuration `cfg`, which must not contain the section `hydra`.

    `choices` maps each config group to its chosen file, `overrides` are the command-line overrides, `default_of`
    returns the value that the chosen files set for a key, and `known` caches errors between calls. A component of nasx
    that defines `check()` is imported and checked only if no other error was found in it.
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
        with contextlib.suppress(TypeError):  # values of the wrong type are reported above
            found += look(cfg, command)
    if isinstance(cfg.get("space"), Mapping) and not any(fault.where.startswith("space") for fault in found):
        found += space_rules.faults(cfg["space"])
    if not found and command != "retrain" and "stages" in cfg:
        found += stage_rules.faults(cfg, overrides, (*HOMES, *allowed_packages(cfg)))
    if not found and "search" in TRAINING_GROUPS[command]:
        found += search_rules.stopping(cfg)
    for group in CHECKED_GROUPS:
        if isinstance(cfg.get(group), Mapping) and not any(fault.where.startswith(group) for fault in found):
            key = json.dumps([group, cfg[group], allowed_packages(cfg)], sort_keys=True, default=str)
            found += known.of_check(key, partial(_check_component, cfg, group))
    if not found and "dataset" in COMMANDS[command].groups:  # components outside nasx are built only in the job
        dataset = None if foreign_packages(cfg["dataset"]) else build(cfg["dataset"])
        recorded = cfg.get("objective") is not None and not foreign_packages(cfg["benchmark"])
        found += _built_faults(cfg, command, dataset, build(cfg["benchmark"]) if recorded else None)
    return list({str(fault): fault for fault in found}.values())


def check_foreign(cfg: Config, command: str) -> None:
    """Check components outside nasx at the start of a job, as `faults` checks nasx's own. Raises UserError."""
    allow = tuple(cfg.get("allow") or ())
    foreign = [group for group in CHECKED_GROUPS if foreign_packages(cfg.get(group))]
    for group in foreign:
        _check_component(cfg, group, allow)
    dataset, benchmark = (build(cfg[name], allow) if name in foreign else None for name in ("dataset", "benchmark"))
    if found := list(_built_faults(cfg, command, dataset, benchmark)):
        raise UserError.join(found)


def _built_faults(cfg: Config, command: str, dataset: object, benchmark: Benchmark | None) -> Iterator[UserError]:
    """Yield errors for settings that are too large for the dataset's images, and for an objective that is not recorded.

    If the image size is known only from the dataset's files, these settings are checked when the dataset is opened.
    """
    shape: tuple[int, ...] | None = getattr(dataset, "known_shape", lambda: None)()
    if shape is not None:
        for group in TRAINING_GROUPS[command]:
            node = cfg.get(group) or {}
            yield from bounds.faults(shape, group, cutout=node.get("cutout") or 0, batch=node.get("batch") or 0)
    if benchmark is not None:
        yield from objectives.faults(cfg, command, benchmark)


def _unread(command: str, overrides: Sequence[str]) -> Iterator[UserError]:
    """Yield an error for each override of a config group that the command does not read."""
    other = {
        "search": "nasx run searches and retrains; nasx retrain retrains the cell of a finished search",
        "retrain": "set it in the search (nasx search), or use nasx run, which searches and retrains",
    }
    for text in overrides:
        key = first_part(text)
        if key in COMMANDS[command].unread:
            yield UserError(text, f"nasx {command} does not use the settings of {key}", other.get(command, ""))


def _keys(cfg: Mapping[str, object], command: str, default_of: DefaultLookup) -> Iterator[UserError]:
    """Yield errors for unknown top-level keys and for top-level settings with invalid values."""
    entry, fields = COMMANDS[command], settings(command)
    plain = {key: value for key, value in cfg.items() if key not in (*entry.groups, "hydra")}
    known = [*fields, *entry.groups, *(DELTAS if entry.groups else ())]
    for key in plain:
        if key not in fields:
            yield UserError(key, f"nasx {command} has no such setting", choices_text(key, known))
    yield from value_faults("", fields, plain, default_of)


def _check_component(cfg: Config, group: str, allow: Sequence[str] = ()) -> None:
    """Call a component's `check()`, if it has one and may be built. Raises UserError for missing data or packages."""
    if not foreign_packages(cfg[group], allow) and (check := getattr(build(cfg[group], allow), "check", None)):
        check()
