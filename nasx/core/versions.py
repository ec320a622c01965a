"""Formats of a run's files, and the settings that later versions have added: an upgrade orphans no run.

The identity of a run is a hash of its settings as the first version had them. A setting that a later version adds is
left out of it while its value computes what was computed before. So the runs and half-done sweeps of an earlier version
keep their names, are continued by the same command and stand in the same row of a table.

Adding a setting: list it in `INTRODUCED` with that value. A value that computes something else gives a new identity,
the default of the new version included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT = 1
"""Format of a run folder, in its config.yaml and result.json. Those of 0.1.0 hold no number, and are read too."""
RENAMED = {
    "nasx.loggers.NoLogger": "nasx.tracking.loggers.NoLogger",
    "nasx.loggers.TensorBoard": "nasx.tracking.loggers.TensorBoard",
    "nasx.loggers.Wandb": "nasx.tracking.loggers.Wandb",
    "nasx.settings.EngineSettings": "nasx.config.settings.EngineSettings",
    "nasx.settings.RetrainSettings": "nasx.config.settings.RetrainSettings",
    "nasx.settings.SearchSettings": "nasx.config.settings.SearchSettings",
    "nasx.settings.StudySettings": "nasx.config.settings.StudySettings",
    "nasx.settings.TextRetrainSettings": "nasx.config.settings.TextRetrainSettings",
    "nasx.settings.TextSearchSettings": "nasx.config.settings.TextSearchSettings",
    "nasx.spaces.darts.Darts": "nasx.spaces.darts.space.Darts",
    "nasx.spaces.nb1shot1.Nb1Shot1": "nasx.spaces.nb1shot1.space.Nb1Shot1",
    "nasx.spaces.nb201.Nb201": "nasx.spaces.nb201.space.Nb201",
    "nasx.spaces.recurrent.Recurrent": "nasx.spaces.recurrent.space.Recurrent",
    "nasx.stages.Stages": "nasx.config.stages.Stages",
}
"""Class of a component by its name in 0.1.0 -> its present name."""
_FIRST = {new: old for old, new in RENAMED.items()}
INTRODUCED: dict[str, dict[str, Any]] = {
    "nasx.config.settings.SearchSettings": {"arch_momentum": 0, "probe_every": 0, "keep_every": 0},
    "nasx.config.settings.TextSearchSettings": {"arch_momentum": 0, "probe_every": 0, "keep_every": 0},
    "nasx.spaces.nb201.space.Nb201": {"edge_norm": False},
    "nasx.methods.gdas.Gdas": {"gradient": "straight_through"},
    "nasx.methods.sdarts.Sdarts": {"random_start": False, "ascent": "train"},
    "nasx.data.images.Cifar10": {"size": None},
    "nasx.data.images.Cifar100": {"size": None},
    "nasx.data.images.Svhn": {"size": None},
    "nasx.data.images.ImageNet16": {"size": None},
}
"""Class of a component -> setting added since 0.1.0 -> the value that computes what 0.1.0 computed."""
REVISED = {"nasx.data.images.Folder": 1}
"""Class of a component that has kept its settings and computes otherwise -> the format since which it does.

`Folder`: other rules say which folders, files and arrays are training or test images."""
UNREAD = {"nasx.methods.sdarts.Sdarts": (("random_start", "ascent"), {"perturbation": "random"})}
"""Class of a component -> settings added since 0.1.0 that change nothing where others have the values given here."""

RENAMED_KEYS = {"doubtful": "warning", "moving": "not_converged"}
"""Key of a record's verdict as 0.1.0 wrote it -> its present name."""


def renamed_keys(value: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of a record of any version, with present keys."""
    return {RENAMED_KEYS.get(key, key): item for key, item in value.items()}


def present(target: str) -> str:
    """The present name of a class, which a file of an earlier version may name as it was then."""
    return RENAMED.get(target, target)


def stable(value: Any, number: int = FORMAT) -> Any:
    """A configuration as the first version would have written it: without the added settings whose values compute what
    was computed before they were added, with the class names of then.

    A component that computes otherwise since some format is marked, where `number`, the format of the file that holds
    the configuration, is not an earlier one.
    """
    if isinstance(value, list | tuple):
        return [stable(item, number) for item in value]
    if not isinstance(value, Mapping):
        return value
    target = present(str(value.get("_target_")))
    added = INTRODUCED.get(target, {})
    idle, where = UNREAD.get(target, ((), {}))
    unread = idle if all(value.get(key) == wanted for key, wanted in where.items()) else ()
    marked = {"revised": REVISED[target]} if number >= REVISED.get(target, number + 1) else {}
    named = {"_target_": _FIRST.get(target, target)} if "_target_" in value else {}
    return (
        marked
        | {
            key: stable(item, number)
            for key, item in value.items()
            if not (key in added and (item == added[key] or key in unread))
        }
        | named
    )


def completed(value: Any) -> Any:
    """A configuration of any version with present class names, and the settings that it lacks at the values that it was
    computed with."""
    if isinstance(value, list):
        return [completed(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    target = present(str(value.get("_target_")))
    whole = INTRODUCED.get(target, {}) | dict(value) | ({"_target_": target} if "_target_" in value else {})
    return {key: completed(item) for key, item in whole.items()}


def newer(held: Mapping[str, Any]) -> str:
    """Why a file's content cannot be read: a later version has written it; "" where it can."""
    number = held.get("format", 0)
    if type(number) is int and number <= FORMAT:
        return ""
    return f"has format {number}; this version of nasx reads formats up to {FORMAT}"
