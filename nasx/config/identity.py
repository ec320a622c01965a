"""The identity of a run's configuration, the name of its folder, and its differences from the published settings."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from nasx.config.commands import COMMANDS, NON_IDENTITY_KEYS, NON_IDENTITY_SETTINGS
from nasx.core import versions
from nasx.core.plain import Config

METADATA_KEYS = ("format", "kind", "choices", "identity")
"""Keys of a run's config.yaml that are not settings."""
NO_BUDGET = {"budget": versions.INTRODUCED_GROUPS["budget"]}
"""Replacement for the budget when `nasx run` or `nasx study` retrains a cell after a search: their budget limits the
search alone, at a fixed width. A budget determines the width of a network only if its architecture is given."""
SHORT = 8
"""Number of digits of the identity in a folder name. The configurations of runs with the same name are compared."""


def kind_of(cfg: Mapping[str, object]) -> str:
    """Return `retrain` if the configuration gives an architecture, else `search`."""
    return "retrain" if cfg.get("from") or cfg.get("genotype") else "search"


def identifying(cfg: Config, kind: str | None = None) -> dict[str, object]:
    """Return the part of a configuration that affects the numbers of a run of this kind (search, retrain or study).

    It is the same for a search by `nasx run` and by `nasx search`, so that both use one folder. A parent run is
    identified by its name, not by its path.
    """
    kind = kind or kind_of(cfg)
    drop = {*NON_IDENTITY_KEYS, *COMMANDS[kind].unread} | ({"from", "genotype"} if kind == "search" else set())
    before = versions.INTRODUCED_GROUPS
    kept = {k: value for k, value in cfg.items() if k not in drop and not (k in before and value == before[k])}
    if kept.get("from"):
        kept["from"] = Path(str(kept["from"])).name
    for group, name in (key.split(".") for key in sorted(NON_IDENTITY_SETTINGS)):
        if isinstance(kept.get(group), Mapping):
            kept[group] = {key: value for key, value in kept[group].items() if key != name}
    return kept


def retrained(cfg: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Return the configuration with which `nasx run` retrains the cell found by the search in `folder`."""
    name = f"{cfg['name']}-retrain" if cfg["name"] else None
    return {**cfg, **NO_BUDGET, "from": str(folder), "genotype": None, "name": name}


def changed(cfg: Mapping[str, object], published: Mapping[str, object]) -> dict[str, list[object]]:
    """Return the settings in which a run differs from the published configuration: dotted key -> [published, used]."""
    kind = kind_of(cfg)
    if cfg.get("budget") == NO_BUDGET["budget"]:
        published = {**published, **NO_BUDGET}
    old, new = (_flat(identifying({**tree, "seed": 0}, kind)) for tree in (published, cfg))
    return differences(old, new, ("from", "genotype"))


def differences(
    old: Mapping[str, object], new: Mapping[str, object], ignored: Collection[str]
) -> dict[str, list[object]]:
    """Return the keys whose values differ, except for keys in `ignored`: key -> [old, new], where None means absent."""
    keys = sorted((old.keys() | new.keys()).difference(ignored))
    return {key: [old.get(key), new.get(key)] for key in keys if old.get(key) != new.get(key)}


def _flat(node: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def identity(cfg: Mapping[str, object], kind: str | None = None) -> str:
    """Return the first 128 bits, in hexadecimal, of the SHA-256 of the `identifying` part of a configuration."""
    settings = _canonical(versions.stable(identifying(cfg, kind)))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def family(cfg: Config, kind: str) -> str:
    """Return the identity shared by all runs with the same settings, regardless of seed and parent."""
    shared = {**{k: v for k, v in cfg.items() if k not in METADATA_KEYS}, "seed": None, "from": None}
    if cfg.get("branch"):  # the parent of a branch depends on the seed; its epoch is a setting
        shared["branch"] = {"epoch": cfg["branch"]["epoch"]}
    return identity(shared, kind)


def run_name(
    cfg: Mapping[str, object], choices: Mapping[str, object], kind: str | None = None, known: str | None = None
) -> str:
    """Return the name of a run's folder: `name`, else <method>-<space>-<dataset>-s<seed>-<start of the identity>.

    The identity is truncated to `SHORT` digits. For a retraining, <method> is replaced by `retrain`; for a study, by
    <study>_<method>. `known` is the identity if it has already been computed.
    """
    if cfg.get("name"):
        return str(cfg["name"])
    first = {"search": choices.get("method"), "study": f"{choices.get('study')}_{choices.get('method')}"}.get(
        kind or kind_of(cfg), "retrain"
    )
    parts = (
        first,
        choices.get("space"),
        choices.get("dataset"),
        f"s{cfg.get('seed', 0)}",
        (known or identity(cfg, kind))[:SHORT],
    )
    return "-".join(re.sub(r"[^\w.]+", "_", str(part)) for part in parts)


def _canonical(value: object) -> object:
    """Return a value with integral floats converted to integers, so that 5 and 5.0 are the same setting."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 2**53:
        return int(value)
    return value
