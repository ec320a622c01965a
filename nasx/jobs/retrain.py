"""Retraining: one found or named architecture from scratch, in one process or several."""

from __future__ import annotations

from pathlib import Path

from nasx.config import identity
from nasx.core import distributed
from nasx.errors import UserError
from nasx.report import run_summary
from nasx.tracking import records
from nasx.tracking.session import Config, Result, session


def retrain(cfg: Config, info: Config) -> Result:
    """Train a found or named genotype from scratch, in `devices` processes; resumes an unfinished run."""
    count, folder = cfg["devices"], Path(cfg["out"]) / identity.run_name(cfg, info["choices"], "retrain")
    if count == 1 or records.finished(folder) is not None:
        return trained(cfg, info)
    if distributed.world_size() > 1:
        raise UserError(
            f"devices={count}", f"{distributed.world_size()} processes have already been started", "leave devices out"
        )
    from nasx.train import launch

    return launch.launch_workers(count, trained, cfg, info)


def trained(cfg: Config, info: Config) -> Result:
    """The same in this process, which may be one of several."""
    from nasx.train.job import RetrainJob

    with session(cfg, info, "retrain") as ctx:
        done = distributed.broadcast_object(ctx.done() if distributed.is_main_process() else None)
        result = RetrainJob(ctx).run() if done is None else done
        if distributed.is_main_process():
            run_summary.draw(ctx.run.folder)
            if info.get("summary", True):
                run_summary.show(result, ctx.run.folder)
        return result
