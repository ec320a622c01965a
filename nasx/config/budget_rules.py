"""Checks of a search's budget or a retrained network's width, without importing torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from nasx.config import schema
from nasx.config.instantiate import build
from nasx.config.stages import count
from nasx.core import budgets
from nasx.core.plain import Config
from nasx.core.quantities import value_at
from nasx.errors import UserError, raised_by
from nasx.spaces import latency, rules


def faults(cfg: Config, command: str) -> Iterator[UserError]:
    """Yield errors for inconsistent `budget` settings; nothing if there is no budget."""
    node, space = cfg.get("budget"), cfg.get("space") or {}
    if not isinstance(node, Mapping) or node.get("quantity") not in budgets.UNITS:
        return
    if schema.text_constant(space.get("_target_"), "data") not in ("", "images"):
        yield UserError(
            f"budget={node['quantity']}",
            "applies only to image networks, but this space contains text networks",
            "set budget=none",
        )
        return
    if _without_search(cfg, command):
        yield from _width(cfg, node)
        return
    if node["target"] != "???":
        yield from _target(node, "but the mean differs between stages" if count(cfg) > 1 else "")
    yield from rules.benchmark_size(schema.text_constant(space.get("_target_"), "read_as"), "budget", node)
    if node["layers"] and space.get("untied") and node["layers"] != space.get("layers"):
        yield UserError(
            f"budget.layers={node['layers']}",
            f"the genotypes of this space have a cell for each of {space.get('layers')} layers",
            "leave budget.layers out",
        )
    if node["quantity"] == "latency":
        yield from _latency(cfg, node)


def _target(node: Config, absolute: str) -> list[UserError]:
    return raised_by(partial(budgets.target, node["target"], node["quantity"], absolute=absolute))


def _without_search(cfg: Mapping[str, object], command: str) -> bool:
    """Return whether the command trains a given architecture, so that the budget determines its width."""
    return command == "retrain" or (command == "study" and value_at(cfg, "study.searches") == 0)


SEARCHED = {
    "form": "hinge",
    "weight": None,
    "enforce": False,
    "layers": None,
    "channels": None,
    "stem": "cifar",
    "image": None,
}
"""Budget setting that only a search reads -> the value at which it has no effect."""


def _width(cfg: Mapping[str, object], node: Mapping[str, object]) -> Iterator[UserError]:
    """Yield errors in a budget that determines the width of a given architecture."""
    if node["quantity"] == "latency":
        yield UserError(
            "budget=latency",
            "cannot choose the width of a network: a latency table covers only one width",
            "use budget=macs or budget=params; nasx fit FOLDER latency=3ms measures networks of several widths",
        )
        return
    yield from _target(node, "but the architecture is given")
    for key, neutral in SEARCHED.items():
        if node[key] != neutral:
            yield UserError(
                f"budget.{key}={node[key]}",
                "applies only to searches; nasx retrain uses the cost of its own network",
                f"leave budget.{key} out",
            )
    if cfg.get("relaxed"):
        yield UserError(f"budget={node['quantity']}", "has no effect on a supernet (relaxed=true)", "set budget=none")


def fixed_width(cfg: Mapping[str, object], command: str, overrides: Sequence[str]) -> Iterator[UserError]:
    """Yield an error for each cost limit that makes `retrain.channels` on the command line ineffective."""
    given = next((text for text in overrides if re.fullmatch(r"retrain\.channels=[0-9]+", text)), None)
    if given is None or command == "search":
        return
    if limit := value_at(cfg, "retrain.max_macs"):
        yield UserError(
            given, f"has no effect: retrain.max_macs={limit} sets the number of channels", "add retrain.max_macs=null"
        )
    if _without_search(cfg, command) and (quantity := value_at(cfg, "budget.quantity")):
        yield UserError(given, f"has no effect: budget={quantity} sets the number of channels", f"leave out {given}")


def _latency(cfg: Config, node: Config) -> Iterator[UserError]:
    """Check that `budget.device` is a device in NAS-Bench-201, or a suitable file written by `nasx latency`."""
    table, space = cfg.get("benchmark") or {}, str((cfg.get("space") or {}).get("_target_"))
    where = f"budget.device={node['device']}"
    if str(node["device"]).endswith(latency.SUFFIX):
        yield from _measured(space, node)
        return
    if str(table.get("_target_")) != "nasx.benchmarks.nb201.Nb201" or not space.startswith("nasx.spaces.nb201."):
        yield UserError(
            where,
            "latencies of this device are available only for NAS-Bench-201 cells",
            "use space=nb201, or measure your own: nasx latency, then budget.device=FILE.json",
        )
        return
    for key in ("layers", "channels", "image"):
        if node[key] is not None:
            yield UserError(
                f"budget.{key}={node[key]}",
                "the benchmark measured its latencies with 5 cells per stage, 16 channels and 32 x 32 images",
                f"leave budget.{key} out",
            )
    try:
        build({**table, "devices": [node["device"]]}).check()
    except UserError as error:
        yield UserError(where, error.fault, error.remedy)


def _measured(space: str, node: Config) -> Iterator[UserError]:
    """Check that a latency table was measured for the search's space and network size."""
    where = f"budget.device={node['device']}"
    try:
        table = latency.read(node["device"])
    except UserError as error:
        yield error
        return
    if table.about["space"] != space:
        yield UserError(where, f"was measured for {table.about['space']}", "measure this space: nasx latency")
    for key, own in latency.differing(table, {key: node[key] for key in ("layers", "channels", "image")}):
        yield UserError(f"budget.{key}={node[key]}", f"the table was made with {key}={own}", f"leave budget.{key} out")
