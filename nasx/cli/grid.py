"""Jobs of a command line as plain configurations, equal to those that Hydra composes.

Composing a configuration takes about a tenth of a second, and a sweep may have thousands of jobs. Therefore, only the
combinations of *choices* are composed: overrides that may change more than their own key (the choice of a group, an
added or deleted key, a mapping, an interpolation). All other overrides set their keys in an already composed
configuration, and jobs share all values that they do not change.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    OverrideType,
    ParsedElementType,
    RangeSweep,
    Transformer,
)
from omegaconf import DictConfig, OmegaConf

from nasx.config import identity as config_identity
from nasx.config.compose import mapping, resolved
from nasx.config.overrides import with_value
from nasx.core.plain import Config
from nasx.errors import UserError
from nasx.tracking import run_folder

MAX_JOBS = 100_000
"""Maximum number of jobs per command. All are checked before the first starts, and Hydra lists them in memory."""


class Axis(NamedTuple):
    """The values of one override, as separate overrides and as Python values."""

    key: str
    texts: Sequence[str]
    values: Sequence[object]
    composes: bool
    """Whether a value may change more than its own key."""


class Job(NamedTuple):
    """The overrides of one job, and the configuration and choices that they produce."""

    overrides: list[str]
    values: Config
    choices: Mapping[str, str]


# ---------------------------------------------------------------------------------------------------- axes
def first_job(overrides: Sequence[Override]) -> tuple[str, ...]:
    """Return the overrides of the first job; if a key is given twice, the last override takes effect."""
    return tuple({override.get_key_element(): _text(override) for override in overrides}.values())


def _text(override: Override) -> str:
    if not override.is_sweep_override():
        return str(override.input_line)
    given = override._value
    value = given.start if isinstance(given, IntervalSweep | RangeSweep) else next(iter(override.sweep_iterator()))
    return f"{override.get_key_element()}={Transformer.str(value)}"


def axes(overrides: Sequence[Override], groups: Collection[str], *, every: bool) -> list[Axis]:
    """Return one axis per key, in Hydra's order. Unless `every` is true, ranges are reduced to their bounds."""
    return list({override.get_key_element(): _axis(override, groups, every) for override in overrides}.values())


def _axis(override: Override, groups: Collection[str], every: bool) -> Axis:
    key, given = override.get_key_element(), override._value
    if not override.is_sweep_override():
        return Axis(key, [str(override.input_line)], [None], True)
    if isinstance(given, IntervalSweep):
        listed: list[ParsedElementType] = [given.start, given.end]
    elif isinstance(given, RangeSweep) and not every:
        listed = [given.start, max(given.start or 0, (given.stop or 0) - (given.step or 1))]
    else:
        listed = list(override.sweep_iterator())
    values = [Override._convert_value(value) for value in listed]
    sets = (
        override.type is OverrideType.CHANGE
        and override.package is None
        and key not in groups
        and all(part.isidentifier() for part in key.split("."))
        and not any(map(_composes, values))
    )
    return Axis(key, [f"{key}={Transformer.str(value)}" for value in listed], values, not sets)


def _composes(value: object) -> bool:
    """Return whether a value is a mapping or contains an interpolation, and must therefore be composed."""
    if isinstance(value, list):
        return any(map(_composes, value))
    return isinstance(value, Mapping) or (isinstance(value, str) and "${" in value)


def count(override: Override) -> int:
    """Return the number of values of an override, at most `MAX_JOBS` + 1, without expanding ranges."""
    given = override._value
    if not isinstance(given, RangeSweep):
        return len(list(override.sweep_iterator())) if override.is_choice_sweep() else 1
    try:
        span = ((given.stop or 0) - (given.start or 0)) / (given.step or 0)
    except (ZeroDivisionError, OverflowError):
        return MAX_JOBS + 1
    return max(math.ceil(span), 0) if span < MAX_JOBS else MAX_JOBS + 1


def lists_nothing(override: Override) -> UserError | None:
    """Return a UserError if an override lists no values (such as a glob without a match), otherwise None."""
    if count(override):
        return None
    return UserError(str(override.input_line), "lists no values", "nasx list shows the choices of each group")


def too_many(overrides: Sequence[Override]) -> UserError | None:
    """Return a UserError if there are more than `MAX_JOBS` combinations, otherwise None."""
    if math.prod(map(count, overrides)) <= MAX_JOBS:
        return None
    return UserError("--multirun", f"would start more than {MAX_JOBS:,} jobs", "split it into several sweeps")


# ---------------------------------------------------------------------------------------------------- jobs
def combinations(found: Sequence[Axis]) -> Iterator[list[int]]:
    """Yield one index per axis for every combination of choices; axes of other overrides get index 0."""
    return map(list, itertools.product(*(range(len(axis.texts)) if axis.composes else (0,) for axis in found)))


def texts(found: Sequence[Axis], at: Sequence[int]) -> tuple[str, ...]:
    """Return the override of each axis at its index in `at`."""
    return tuple(axis.texts[place] for axis, place in zip(found, at, strict=True))


def jobs(found: Sequence[Axis], at: Sequence[int], cfg: DictConfig, *, every: bool) -> Iterator[Job]:
    """Yield the jobs of one combination of choices, whose composed configuration is `cfg`.

    If `every` is true, yield all combinations of the other values. Otherwise, yield the first combination, and one job
    for each further value of each key, because the sweeper chooses combinations as it runs. Raises UserError if `cfg`
    cannot be resolved.
    """
    base, choices = resolved(cfg)
    free = [i for i, axis in enumerate(found) if not axis.composes and _there(base, axis.key.split("."))]
    sizes = [range(len(found[i].texts)) for i in free]
    first = (0,) * len(free)
    others = ((*first[:k], place, *first[k + 1 :]) for k, size in enumerate(sizes) for place in size[1:])
    wanted = itertools.product(*sizes) if every else itertools.chain([first], others)
    fixed = "${" not in str([value for key, value in mapping(cfg, resolve=False).items() if key != "hydra"])
    for places in wanted:
        own = list(texts(found, at))
        values: Config = base
        changed = {i: place for i, place in zip(free, places, strict=True) if place}
        for i, place in changed.items():
            own[i] = found[i].texts[place]
            values = with_value(values, found[i].key, found[i].values[place])
        if changed and not fixed:
            values = _resolved(cfg, {found[i].key: found[i].values[place] for i, place in changed.items()})
        yield Job(own, values, choices)


def _there(values: Mapping[str, object], path: Sequence[str]) -> bool:
    node: object = values
    for part in path:
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _resolved(cfg: DictConfig, changed: Config) -> Config:
    """Return a resolved copy of `cfg` with the keys in `changed` set, to which other keys may refer."""
    own = copy.deepcopy(cfg)
    for key, value in changed.items():
        OmegaConf.update(own, key, value)
    return resolved(own).cfg


# ------------------------------------------------------------------------------------------------- folders
class Run(NamedTuple):
    """One run of a job: its folder, kind, identity and configuration."""

    folder: Path
    kind: str
    identity: str
    values: Mapping[str, object]


def runs(command: str, values: Config, choices: Mapping[str, object]) -> list[tuple[Run, ...]]:
    """Return the runs of a job, one tuple per seed: a single run, or for `nasx run` also the retraining, if any."""

    def run(kind: str, cfg: Config) -> Run:
        identity = config_identity.identity(cfg, kind)
        return Run(Path(cfg["out"]) / config_identity.run_name(cfg, choices, kind, identity), kind, identity, cfg)

    kind = command if command in ("retrain", "study") else "search"
    found: list[tuple[Run, ...]] = []
    for seed in range(values["seed"], values["seed"] + values["seeds_per_job"]):
        first = run(kind, {**values, "seed": seed})
        again = command == "run" and values["then"] != "lookup"
        found.append(
            (first, run("retrain", config_identity.retrained(first.values, first.folder))) if again else (first,)
        )
    return found


class Folders:
    """Run folders of a sweep, checked for conflicts before the first job starts."""

    def __init__(self, command: str, found: Sequence[Axis]) -> None:
        self.command, self.swept = command, [i for i, axis in enumerate(found) if len(axis.texts) > 1]
        self.jobs: dict[tuple[Path, ...], str] = {}
        self.seen: dict[Path, tuple[str, str]] = {}

    def faults(self, job: Job) -> Iterator[UserError]:
        """Yield an error for each folder of `job` that an earlier job also uses or that has another configuration."""
        said = " ".join(job.overrides[i] for i in self.swept)
        for unit in runs(self.command, job.values, job.choices):
            folders = tuple(run.folder for run in unit)
            earlier = self.jobs.get(folders)
            for run in unit:
                other, identity = self.seen.setdefault(run.folder, (said, run.identity))
                if identity != run.identity:
                    remedy = "run one of them in a separate command with its own name (name=NAME)"
                    remedy = "leave name out: nasx then names each run" if job.values.get("name") else remedy
                    yield UserError(said, f"would share the run folder {run.folder} with {other}", remedy)
                elif earlier is not None:
                    remedy = "sweep over settings that affect the result, and give each value once"
                    yield UserError(said, f"is the same run as {earlier}, in {run.folder}", remedy)
                elif saved_identity(run.folder) != identity:
                    asked = config_identity.identifying(run.values, run.kind)
                    if fault := run_folder.differing(run.folder, asked, config_identity.METADATA_KEYS):
                        yield fault
            self.jobs.setdefault(folders, said)


def saved_identity(folder: Path) -> str | None:
    """Return the identity in the header of a folder's config.yaml; None if it is missing or short (older runs)."""
    try:
        with (folder / "config.yaml").open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    found = re.search(rb"^identity: '?([0-9a-f]{32})'?$", head, re.M)
    return found and found[1].decode()
