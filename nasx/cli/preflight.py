"""Check a command line before Hydra acts on it.

`check_line` checks the configuration of every job and reports all faults at once. Hydra alone would stop at the first
fault, and for a typo it would suggest `+key=`, which adds a key that nothing reads.

A sweep is checked as a whole: each combination of choices is composed once, and the other values are set in it (see
`grid`). No two jobs may share a run folder, and no job may use a folder with a different configuration. If a sweeper
chooses values as it runs (optuna), the first job and each further value of each key are checked.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from nasx.cli import grid, listing
from nasx.cli.arguments import Line, quote_override
from nasx.config import (
    check,
    commands,
    components,
    experiments,
    provenance,
    sweeps,
    trust,
)
from nasx.config.compose import Loader, make_loader, mapping, options, resolved
from nasx.config.fault_cache import FaultCache
from nasx.core import spelling
from nasx.errors import UserError
from nasx.tracking import lineage, records

MAX_FAULTS = 20
"""Number of faults after which no further jobs of a sweep are checked."""


# ------------------------------------------------------------------------------------------------- rewrite
def normalize(command: str, line: Line) -> Line:
    """Rewrite overrides that nasx accepts but Hydra's grammar does not, and add overrides inherited from a parent run.

    Raises UserError for overrides that call resolvers.
    """
    if found := [text.partition("=") for text in line.overrides if trust.calls_resolver(text) and text[:6] != "hydra."]:
        raise UserError.join([trust.resolver_fault(key, value) for key, _, value in found])
    texts = [quote_override(resolve_keep(_home(text), line.overrides)) for text in line.overrides]
    texts = [text for text in texts if text not in ("experiment=null", "launch=null", "debug=null")]
    texts = ["~pair" if text == "pair=null" else text for text in texts]
    if command in ("retrain", "study"):
        texts += lineage.inherited_overrides(command, texts, line.value("--config-dir"))
    if commands.COMMANDS[command].groups:
        texts = trust.with_allow(texts)
    return line._replace(overrides=tuple(texts))


def _home(text: str) -> str:
    """Expand ~ in an `out=` override; return any other override unchanged. Raises UserError if `out` is empty."""
    key, equals, value = text.partition("=")
    if key != "out" or not equals:
        return text
    name = value.strip("'\"")
    if not name:
        raise UserError(text, "is empty", "name a folder, for example out=outputs")
    return lineage.override("out", os.path.expanduser(name)) if name.startswith("~") else text


def resolve_keep(text: str, texts: Sequence[str]) -> str:
    """Replace a finished run (its folder, or its name under `out`) in `space.keep=` with the genotype that it found."""
    key, _, value = text.partition("=")
    out = next((t.partition("=")[2] for t in texts if t.startswith("out=")), "outputs").strip("'\"")
    name = value.strip("'\"")
    if key != "space.keep" or not re.fullmatch(r"[\w.,/+=-]+", name):
        return text
    if (folder := records.locate(name, out)) is None:
        return text
    try:
        return f"{key}={(folder / 'genotype.txt').read_text(encoding='utf-8').strip()}"
    except OSError:
        raise UserError(text, f"{folder} contains no finished search", "run its command again to finish it") from None


# ------------------------------------------------------------------------------------------------- compose
class Composed(NamedTuple):
    """A composed configuration (None if Hydra cannot compose it), its faults, and the default values in its files."""

    cfg: DictConfig | None
    resolves: bool
    """Whether the configuration is trusted and all its interpolations can be resolved."""
    faults: list[UserError]
    default_of: components.DefaultLookup


def check_line(command: str, line: Line, loader: Loader | None = None) -> tuple[str, int | None]:
    """Check all jobs of a command line. Raises one UserError with all faults.

    Returns `out` of the first job, and the number of jobs (None if a sweeper decides as it runs).
    """
    loader, grouped = loader or make_loader(line.value("--config-dir")), bool(commands.COMMANDS[command].groups)
    groups = ({*loader.list_groups(""), *commands.DELTAS} - {"hydra"}) if grouped else set()
    compose = cache(partial(_compose, command, loader, frozenset(groups)))
    parsed, faults = _parsed(command, line, loader)
    first = compose(grid.first_job(parsed))
    every = first.cfg is None or sweeps.is_exhaustive(first.cfg)
    if first.cfg is not None and line.runs and grouped:
        faults += sweeps.faults(first.cfg, parsed, multirun=line.multirun)
        parsed += sweeps.sweeper_params(first.cfg, parsed, OverridesParser.create(loader))
    if every and (many := grid.too_many(parsed)):
        raise UserError.join([*faults, *first.faults, many])
    axes = grid.axes(parsed, groups, every=every)
    folders = grid.Folders(command, axes) if line.multirun and every and grouped else None
    found, known = {str(fault): fault for fault in faults}, FaultCache()
    for at in grid.combinations(axes):
        own = compose(grid.texts(axes, at))
        found |= {str(fault): fault for fault in own.faults}
        whole = own.cfg if own.resolves and line.runs else None
        for job in () if whole is None else grid.jobs(axes, at, whole, every=every):
            task = [text for text in job.overrides if not text.startswith("hydra")]
            faults = [
                *check.faults(job.values, job.choices, task, command, own.default_of, known),
                *lineage.parent_faults(job.values, command),
            ]
            if folders is not None and not faults and not found:
                faults += folders.faults(job)
            found |= {str(fault): fault for fault in faults}
            if len(found) >= MAX_FAULTS:
                break
    if found:
        raise UserError.join(list(found.values()))
    assert first.cfg is not None  # otherwise a fault was raised above
    return str(first.cfg.get("out", ".")), sweeps.count(first.cfg, [len(axis.texts) for axis in axes])


def _parsed(command: str, line: Line, loader: Loader) -> tuple[list[Override], list[UserError]]:
    """Return the parsed overrides of a line, and an error for each argument that is not a valid override."""
    parsed, faults, parser = [], [], OverridesParser.create(loader)
    for text in line.overrides:
        try:
            [override] = parser.parse_overrides([text])
        except HydraException as error:
            faults.append(_unreadable(text, loader, command, error))
            continue
        if override.is_sweep_override() and not line.multirun and line.runs:
            one = f"write {override.get_key_element()}='[...]' for a list"
            faults.append(UserError(text, "lists several values", f"add --multirun to run once per value, or {one}"))
        elif lists_nothing := grid.lists_nothing(override):
            faults.append(lists_nothing)
        else:
            parsed.append(override)
    return parsed, faults


def _unreadable(text: str, loader: Loader, command: str, error: HydraException) -> UserError:
    """Return the error for an argument that cannot be parsed as an override."""
    if "=" not in text and not text.startswith("~"):
        entry = commands.COMMANDS[command]
        taken = (*entry.read, *commands.DELTAS) if entry.groups else ()
        near = " or ".join(f"{group}={text}" for group in taken if text in options(loader, group))
        near = near or (f"out={text}" if os.path.isdir(text) else "")
        remedy = f"did you mean {near}?" if near else "settings are written key=value, for example method=darts"
        return UserError(text, "is not a setting", remedy)
    reason = str(error).partition("\n")[0].rstrip(".")
    return UserError(text, f"cannot be read ({reason})", lineage.QUOTES)


def _compose(command: str, loader: Loader, groups: Collection[str], texts: tuple[str, ...]) -> Composed:
    """Compose one combination of choices and collect the faults found while composing."""
    overrides = OverridesParser.create(loader).parse_overrides(list(texts))
    chosen = [o for o in overrides if _group(o) in groups]
    faults = [fault for override in chosen for fault in _choice(loader, override)]
    faulty = {fault.where for fault in faults}
    kept = [_text(o) for o in chosen if _text(o) not in faulty]
    rest = [o for o in overrides if o not in chosen]
    cfg: DictConfig | None = None
    resolves = False
    try:
        if not faulty and not any(o.is_add() or o.is_force_add() for o in rest):
            with contextlib.suppress(UserError):
                cfg = loader.load_configuration(command, list(texts), RunMode.RUN)
        if cfg is None:  # something is wrong: compose without overrides that set values, and check each of these
            base = loader.load_configuration(
                command, [*kept, *(_text(o) for o in rest if o.is_hydra_override())], RunMode.RUN
            )
            wrong, good = _key_faults(base, rest, command)
            faults += wrong
            kept += good
            cfg = loader.load_configuration(command, kept, RunMode.RUN)
        distrusted = list(trust.faults(cfg, texts, loader.base_config(command, cfg, texts)))
        faults += distrusted
        resolves = not distrusted and bool(resolved(cfg))  # otherwise nothing is resolved or built
    except UserError as error:
        faults.append(error)
    return Composed(cfg, resolves, faults, provenance.default_lookup(command, kept, loader.config_dir))


def _key_faults(base: DictConfig, overrides: Sequence[Override], command: str) -> tuple[list[UserError], list[str]]:
    """Check overrides that set values; return the faults, and the overrides without a fault."""
    plain = {str(key): value for key, value in mapping(base, resolve=False).items() if key != "hydra"}
    faults, good = [], []
    for override in overrides:
        fault = None if override.is_hydra_override() else components.unknown_key(plain, override.key_or_group, command)
        if fault is None and override.is_add() and not (override.is_force_add() or override.is_hydra_override()):
            fault = UserError(_text(override), "is already defined", f"remove the +: {_text(override)[1:]}")
        if fault is None:
            good.append(_text(override))
        else:
            faults.append(fault)
    return faults, good


def _text(override: Override) -> str:
    """Return an override as the user wrote it."""
    return str(override.input_line)


def _group(override: Override) -> str:
    """Return the key of an override, which may be a group, or an empty string if the key is dotted."""
    return "" if "." in override.key_or_group else override.key_or_group


def _choice(loader: Loader, override: Override) -> Iterator[UserError]:
    """Yield the faults of an override that selects the choice of a group, such as an unknown choice."""
    group, known = override.key_or_group, options(loader, override.key_or_group)
    if override.is_add():
        yield UserError(_text(override), f"{group} is already defined", f"remove the +: {_text(override).lstrip('+')}")
        return
    if override.is_delete():
        if group in commands.GROUPS:
            yield UserError(_text(override), f"{group} cannot be removed", f"choose from {', '.join(known)}")
        return
    value = override.value()
    if value in (None, "") and group not in commands.DELTAS:
        yield UserError(_text(override), "needs a name", f"choose from {', '.join(known)}")
        return
    for choice in value if isinstance(value, list) else [value]:
        if choice is not None and str(choice) not in known:
            yield unknown_choice(_text(override), group, str(choice), known)


def unknown_choice(text: str, group: str, choice: str, known: Sequence[str]) -> UserError:
    """Return the error for an unknown choice of a group."""
    moved = experiments.present(choice)
    kind = next((kind for kind, own in listing.KINDS.items() if own == group), "")
    many = len(known) > listing.FEW and kind
    few = f"nasx list {kind} prints all {len(known)}" if many else f"choose from {', '.join(known)}"
    near = spelling.nearest(moved, known)
    remedy = f"did you mean {near}?" if near else f"{few}; your own {group} needs --config-dir FOLDER"
    return UserError(text, f"unknown {group} {choice!r}", remedy)
