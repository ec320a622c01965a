"""Check that `objective=` names a number that the run will record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from nasx.config import schema
from nasx.core import quantities, spelling
from nasx.core.plain import Config
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.benchmarks.base import Benchmark


def faults(cfg: Mapping[str, object], command: str, benchmark: Benchmark) -> Iterator[UserError]:
    """Yield an error if the run does not record its objective; `benchmark` is the benchmark in `cfg`."""
    objective = cfg.get("objective")
    if objective is None:
        return
    known = dict.fromkeys(quantity.name for quantity in recorded(cfg, command, benchmark))
    if objective not in known:
        yield UserError(
            f"objective={objective}",
            f"is not a value that nasx {command} records here",
            spelling.suggest(str(objective), known, "it records"),
        )


def recorded(cfg: Config, command: str, benchmark: Benchmark) -> Iterator[quantities.Quantity]:
    """Yield the quantities recorded by a run of a checked configuration (by both runs for `nasx run then=auto`)."""
    kinds = {"run": {"lookup": ["search"], "retrain": ["retrain"]}.get(cfg.get("then", ""), ["search", "retrain"])}.get(
        command, [command]
    )
    answers = (
        [
            f"{name}.{part}"
            for name, parts in benchmark.references().items()
            for part, values in parts.items()
            if values.get("optimum") is not None
        ]
        if "search" in kinds
        else []
    )
    held_out = (cfg.get("retrain") or {}).get("held_out", False) and "retrain" in kinds
    facts = {schema.text_constant(cfg["space"]["_target_"], "data") or "images", "held_out" if held_out else "tested"}
    facts |= {"trained"} if trains_supernet(cfg.get("method") or {}) else set()
    facts |= {"looked_up"} if answers else set()
    facts |= {"budgeted"} if "quantity" in (cfg.get("budget") or {}) else set()
    return quantities.recorded(kinds, facts, answers, getattr(benchmark, "devices", ()))


def trains_supernet(method: Config) -> bool:
    """Return whether a method, or the innermost method that it wraps, trains a supernet."""
    while isinstance(method.get("inner"), Mapping):
        method = method["inner"]
    return schema.constant(str(method.get("_target_")), "trains") is not False
