"""Retraining: one found or named architecture from scratch, in one process or several."""

from __future__ import annotations

from pathlib import Path

from nasx.config import identity
from nasx.core import distributed
from nasx.errors import UserError
from nasx.report import run_summary
from nasx.runs import records
from nasx.runs.session import Config, Result, session


def retrain(cfg: Config, info: Config) -> Result:
    """Train a found or named genotype from scratch, in `devices` processes; resumes an unfinished run."""
    count, folder = cfg["devices"], Path(cfg["out"]) / identity.run_name(cfg, info["choices"], "retrain")
    if count == 1 or records.finished(folder) is not None:
        return trained(cfg, info)
    if distributed.count() > 1:
        raise UserError(f"devices={count}", f"{distributed.count()} processes are started already", "leave devices out")
    from nasx.train import launch

    return launch.launch(count, trained, cfg, info)


def trained(cfg: Config, info: Config) -> Result:
    """The same in this process, which may be one of several."""
    from nasx.train.job import train

    with session(cfg, info, "retrain") as here:
        done = distributed.told(here.run.done() if distributed.owner() else None)
        result = train(here) if done is None else done
        if distributed.owner():
            run_summary.draw(here.run.folder)
            run_summary.show(result, here.run.folder)
        return result
