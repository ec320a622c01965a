"""Training of a discrete architecture from scratch, in one or several processes."""

from __future__ import annotations

from nasx.config.job_info import JobInfo
from nasx.core import distributed
from nasx.core.plain import Config, Result
from nasx.jobs import launch
from nasx.report import run_summary
from nasx.tracking.session import session


def retrain(cfg: Config, info: JobInfo) -> Result:
    """Train the architecture of `from` or `genotype` from scratch in `devices` processes, and return the record."""
    return launch.run_in_processes(retrain_in_process, cfg, info, "retrain")


def retrain_in_process(cfg: Config, info: JobInfo) -> Result:
    """Retrain in this process, which may be one of several, and return the record. Resumes an unfinished run."""
    from nasx.train.job import RetrainJob

    with session(cfg, info, "retrain") as ctx:
        done = distributed.broadcast_object(ctx.done() if distributed.is_main_process() else None)
        result = RetrainJob(ctx).run() if done is None else done
        if distributed.is_main_process():
            run_summary.draw(ctx.run.folder)
            if info.summary:
                run_summary.show(result, ctx.run.folder)
        return result
