"""Checks that a job can run in several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

from nasx.config import objectives, schema, stages
from nasx.core.plain import Config
from nasx.errors import UserError


def faults(cfg: Config, command: str) -> Iterator[UserError]:
    """Yield an error for each reason why a job cannot run in `devices` processes, or in those started by torchrun."""
    devices, started = cfg.get("devices") or 1, int(os.environ.get("WORLD_SIZE", "1"))
    place, remedy = f"devices={devices}", "leave devices out"
    if started > 1:
        place, remedy = f"torchrun with {started} processes", "start the command without torchrun"
    if max(devices, started) == 1:
        return
    if schema.text_constant((cfg.get("space") or {}).get("_target_"), "data") == "text":
        # each segment continues from the previous one
        yield UserError(place, "jobs with text data run in only one process", remedy)
    if command == "retrain" and cfg.get("relaxed"):
        yield UserError(place, "jobs with relaxed=true run in only one process", remedy)
    if command == "search" or (command == "run" and started > 1):
        for found, fault in _alone(cfg):
            if found:
                yield UserError(place, fault, remedy)


def _alone(cfg: Config) -> Iterator[tuple[bool, str]]:
    """Yield (whether the search has the feature, error text) for each feature that requires a single process."""
    method, engine, search = (cfg.get(key) or {} for key in ("method", "engine", "search"))
    count, every = cfg.get("seeds_per_job") or 1, search.get("diagnose_every") or 0
    name = str(method.get("_target_")).rpartition(".")[2]
    yield not objectives.trains_supernet(method), f"{name} trains no supernet, so there is nothing to share"
    yield count > 1, f"seeds_per_job={count} puts several searches into one process"
    yield stages.count(cfg) > 1, "the stages of a search run in a single process"
    yield engine.get("compile") == "on", "engine.compile=on does not support multiple processes"
    yield engine.get("graphs") == "on", "engine.graphs=on does not support multiple processes"
    yield every > 0, f"search.diagnose_every={every} needs the outputs of a whole batch in one process"
