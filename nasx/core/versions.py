"""Formats of run folders, and settings added by later versions, so that an upgrade keeps all runs usable.

The identity of a run is a hash of its settings in the form of the first version. A setting added by a later version is
left out of the hash as long as its value reproduces the earlier behavior. Runs and unfinished sweeps of an earlier
version therefore keep their names, are continued by the same command and share a row in tables.

To add a setting, list it in `INTRODUCED` with that value. Every other value, even the new version's default, gives a
new identity.
"""

from __future__ import annotations

from collections.abc import Mapping

from nasx.core.plain import Config

FORMAT = 1
"""Format number of run folders, in config.yaml and result.json. Files from 0.1.0 have none and can be read too."""
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
"""Name of a component's class in 0.1.0 -> current name."""
_FIRST = {new: old for old, new in RENAMED.items()}
ADDED_TO_SEARCH: dict[str, object] = {
    "arch_momentum": 0,
    "schedule": "cosine",
    "diagnose_order": 1,
    "probe_every": 0,
    "keep_every": 0,
}
INTRODUCED: dict[str, dict[str, object]] = {
    "nasx.config.settings.EngineSettings": {"calibrate": 0},
    "nasx.config.settings.SearchSettings": ADDED_TO_SEARCH,
    "nasx.config.settings.TextSearchSettings": ADDED_TO_SEARCH,
    "nasx.config.settings.StudySettings": {"vary": {}},
    "nasx.spaces.nb201.space.Nb201": {"edge_norm": False, "derive_none": True},
    "nasx.methods.gdas.Gdas": {"gradient": "straight_through"},
    "nasx.methods.sdarts.Sdarts": {"random_start": False, "ascent": "train"},
    "nasx.methods.tse.Tse": {"gradient": "first_order"},
    "nasx.data.images.Cifar10": {"size": None},
    "nasx.data.images.Cifar100": {"size": None},
    "nasx.data.images.Svhn": {"size": None},
    "nasx.data.images.ImageNet16": {"size": None},
}
"""Class of a component -> setting added since 0.1.0 -> the value that reproduces 0.1.0."""
NO_BUDGET: Config = {"_target_": "nasx.searcher.budget.NoBudget"}
INTRODUCED_GROUPS = {"budget": NO_BUDGET, "epoch": None, "relaxed": False}
"""Group or key added since 0.1.0 -> the component or value that reproduces 0.1.0."""
REVISED = {"nasx.data.images.Folder": 1}
"""Class of a component whose computation changed while its settings did not -> the first format with the change.

`Folder`: the rules for training and test images changed."""
UNREAD = {"nasx.methods.sdarts.Sdarts": (("random_start", "ascent"), {"perturbation": "random"})}
"""Class of a component -> (settings added since 0.1.0, the values of other settings that make them have no effect)."""
RENAMED_KEYS = {"doubtful": "warning", "moving": "not_converged"}
"""Key of a verdict in records of 0.1.0 -> current name."""


def renamed_keys(value: Mapping[str, object]) -> dict[str, object]:
    """Return a verdict from a record of any version, with its keys renamed to their current names."""
    return {RENAMED_KEYS.get(key, key): item for key, item in value.items()}


def present(target: str) -> str:
    """Return the current name of a class, given its name in a file from any version."""
    return RENAMED.get(target, target)


def stable(value: object, number: int = FORMAT) -> object:
    """Convert a configuration to the form of the first version: original class names, without neutral settings.

    A later setting is neutral if its value reproduces the behavior before it was added. A component whose computation
    has changed is marked, unless the configuration comes from a file with an earlier format `number`.
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


def completed(config: Config) -> dict[str, object]:
    """Convert a configuration from any version: rename classes, and add missing settings with their earlier values."""
    target = present(str(config.get("_target_")))
    whole = INTRODUCED.get(target, {}) | dict(config) | ({"_target_": target} if "_target_" in config else {})
    return {key: _completed(item) for key, item in whole.items()}


def _completed(value: object) -> object:
    if isinstance(value, list):
        return [_completed(item) for item in value]
    return completed(value) if isinstance(value, Mapping) else value


def newer(held: Mapping[str, object]) -> str:
    """Return an error text for content written by a later version; "" if this version can read it."""
    number = held.get("format", 0)
    if type(number) is int and number <= FORMAT:
        return ""
    return f"has format {number}; this version of nasx reads formats up to {FORMAT}"
