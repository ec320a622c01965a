"""Run a search, then look up or retrain its architecture."""

from __future__ import annotations

from pathlib import Path

from nasx.config import identity, instantiate
from nasx.config.job_info import JobInfo
from nasx.core.plain import Config, Result
from nasx.jobs.retrain import retrain
from nasx.jobs.search import search_in_process


def run(cfg: Config, info: JobInfo) -> Result:
    """Run a search, then look up or retrain its architecture, and return the record of the last run.

    With `then=auto`, the architecture is retrained unless the benchmark contains both it and the dataset.
    """
    found, then = search_in_process(cfg, info), cfg["then"]
    benchmark, source = (instantiate.build(cfg[group], cfg["allow"]) for group in ("benchmark", "dataset"))
    if then == "lookup" or (then == "auto" and found["lookup"] is not None and benchmark.dataset_key(source.name)):
        return found
    return retrain(identity.retrained(cfg, Path(cfg["out"]) / found["name"]), info)
