"""Run one search or several interleaved ones, stage after stage, from a checked configuration to the record.

Nothing here names a method, a space or a benchmark.
"""

from __future__ import annotations

import contextlib
import logging
import shlex

import torch

from nasx.config import stages
from nasx.core import distributed
from nasx.errors import UserError
from nasx.jobs import launch
from nasx.report import run_summary
from nasx.searcher import calibration
from nasx.searcher import stage as search_stage
from nasx.searcher.job import SearchJob
from nasx.tracking import environment, progress
from nasx.tracking.session import Config, Result, Session, session

log = logging.getLogger("nasx")


def search(cfg: Config, info: Config) -> Result:
    """Search in `devices` processes; see `searched`."""
    return launch.launched(searched, cfg, info, "search")


def searched(cfg: Config, info: Config) -> Result:
    """Search, discretize and look up; resumes an unfinished run, returns a finished one's record at once.

    This process may be one of several.
    """
    if cfg["seeds_per_job"] > 1:
        return search_concurrently(cfg, info)[0]
    with session(cfg, info) as ctx:
        done = distributed.broadcast_object(ctx.done() if distributed.is_main_process() else None)
        result: Result = prepared(ctx).run() if done is None else done
        if distributed.is_main_process():
            shown(ctx, result)
        return result


def prepared(ctx: Session) -> SearchJob:
    """The search of a run (its last stage), after its earlier stages in folders within its own."""
    for i in range(stages.count(ctx.config) - 1):
        stage = search_stage.stage(ctx.config, ctx.run.folder, i)
        own = {**stage.config, "out": str(ctx.run.folder), "name": stages.name(i), "seeds_per_job": 1}
        with session(own, {**ctx.info, "published": None}) as inner:
            if inner.done() is None:
                log.info("stage %d of %d in %s", i + 1, stages.count(ctx.config), inner.run.folder)
                SearchJob(inner, stage).run()
            pictures(inner)
    job = calibration.calibrated(ctx)
    if job.stage.done:
        log.info("stage %d of %d, the run's own", stages.count(ctx.config), stages.count(ctx.config))
    return job


def search_concurrently(cfg: Config, info: Config) -> list[Result]:
    """Interleave the steps of `seeds_per_job` searches from `seed` on, each with its own folder and CUDA stream.

    Each is the search that its seed alone would have been. One that fails does not stop the others; its error is
    raised at the end. Where they are asked to stop, all write their checkpoints first.
    """
    done: dict[int, Result] = {}
    faults: list[UserError] = []
    with contextlib.ExitStack() as stack:
        turns: dict[int, Turn] = {}
        for seed in range(cfg["seed"], cfg["seed"] + cfg["seeds_per_job"]):
            own = {**cfg, "seed": seed, "quiet": cfg["quiet"] or seed > cfg["seed"]}  # one bar for all
            try:
                ctx = stack.enter_context(session(own, of_seed(info, seed)))
            except UserError as error:  # another process is in this seed's folder
                faults.append(error)
                continue
            finished = ctx.done()
            if finished is not None:
                shown(ctx, finished)
                done[seed] = finished
                continue
            try:
                with progress.log_to(ctx.run.folder):
                    turns[seed] = Turn(prepared(ctx))
            except UserError as error:
                faults.append(error)
                ctx.run.fail(error)
        for turn in turns.values():
            turn.job.ctx.signals = ctx.signals  # the handlers in force are those opened last
            turn.job.ctx.concurrent_runs = len(turns)
        while turns:
            for seed, turn in list(turns.items()):
                try:
                    turn.take()
                except StopIteration:
                    job = turns.pop(seed).job
                    done[seed] = job.result
                    with progress.log_to(job.ctx.run.folder):
                        shown(job.ctx, job.result)
                except UserError as error:
                    faults.append(error)
                    turns.pop(seed).job.ctx.run.fail(error)
                except environment.StopRequested:
                    for other in turns.values():
                        if other is not turn:
                            other.save()
                    raise
    if faults:
        raise UserError.join(faults)
    return [done[seed] for seed in sorted(done)]


class Turn:
    """One of several searches in a process: its steps, its CUDA stream, its state of torch's global generator."""

    def __init__(self, job: SearchJob) -> None:
        self.job, self.steps, self.random = job, job.steps(), torch.get_rng_state()
        device = job.ctx.device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))  # what built the job may still be on its way

    def take(self) -> None:
        """The next step. Raises StopIteration after the last, when the record is written."""
        torch.set_rng_state(self.random)
        with progress.log_to(self.job.ctx.run.folder), torch.cuda.stream(self.stream):
            next(self.steps)
        self.random = torch.get_rng_state()

    def save(self) -> None:
        """Return a checkpoint of the current state."""
        torch.set_rng_state(self.random)
        with torch.cuda.stream(self.stream):
            self.job.save()


def of_seed(info: Config, seed: int) -> Config:
    """Return the job information of a command line with this seed only."""
    rest = [text for text in info["overrides"] if text.partition("=")[0] not in ("seed", "seeds_per_job")]
    words = [*rest, f"seed={seed}"]
    return {**info, "overrides": words, "command": shlex.join(["nasx", "search", *info.get("options", ()), *words])}


def pictures(ctx: Session) -> None:
    """Draw what is missing of the cells and the curves."""
    run_summary.draw(ctx.run.folder, curves=True, epochs=ctx.config["draw"] == "epochs")


def shown(ctx: Session, result: Result) -> None:
    """Draw what is missing, and print the summary of a search unless it was called from Python."""
    pictures(ctx)
    if ctx.info.get("summary", True):
        run_summary.show(result, ctx.run.folder)
