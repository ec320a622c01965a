"""Run one search or several interleaved searches, including all stages, from a checked configuration to the record."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace

import torch

from nasx.config import stages
from nasx.config.job_info import JobInfo
from nasx.core import distributed
from nasx.core.plain import Config, Result
from nasx.errors import UserError
from nasx.jobs import launch
from nasx.report import run_summary
from nasx.searcher import calibration
from nasx.searcher import stage as search_stage
from nasx.searcher.job import SearchJob
from nasx.tracking import environment, progress
from nasx.tracking.session import Session, session

log = logging.getLogger("nasx")


def search(cfg: Config, info: JobInfo) -> Result:
    """Run a search in `devices` processes and return its record; see `search_in_process`."""
    return launch.run_in_processes(search_in_process, cfg, info, "search")


def search_in_process(cfg: Config, info: JobInfo) -> Result:
    """Run a search in this process, which may be one of several, and return its record.

    Resumes an unfinished run; for a finished run, the record is returned immediately. If `seeds_per_job` is above 1,
    runs all searches and returns the record of the first seed.
    """
    if cfg["seeds_per_job"] > 1:
        return search_concurrently(cfg, info)[0]
    with session(cfg, info) as ctx:
        done = distributed.broadcast_object(ctx.done() if distributed.is_main_process() else None)
        result: Result = make_job(ctx).run() if done is None else done
        if distributed.is_main_process():
            show_result(ctx, result)
        return result


def make_job(ctx: Session) -> SearchJob:
    """Run all stages except the last in subfolders of the run folder, and return the job for the last stage."""
    for i in range(stages.count(ctx.config) - 1):
        stage = search_stage.stage(ctx.config, ctx.run.folder, i)
        own = {**stage.config, "out": str(ctx.run.folder), "name": stages.name(i), "seeds_per_job": 1}
        with session(own, replace(ctx.info, published=None)) as inner:
            if inner.done() is None:
                log.info("stage %d of %d in %s", i + 1, stages.count(ctx.config), inner.run.folder)
                SearchJob(inner, stage).run()
            pictures(inner)
    job = calibration.calibrated(ctx)
    if job.stage.done:
        log.info("stage %d of %d, the run's own", stages.count(ctx.config), stages.count(ctx.config))
    return job


def search_concurrently(cfg: Config, info: JobInfo) -> list[Result]:
    """Interleave the steps of `seeds_per_job` searches, each with its own seed, run folder and CUDA stream.

    The seeds are consecutive and start at `seed`; the records are returned in their order. Each search gives the same
    result as if it ran alone. A search that fails does not stop the others; its error is raised at the end. After a
    stop signal, all searches write checkpoints before they stop.
    """
    done: dict[int, Result] = {}
    faults: list[UserError] = []
    with contextlib.ExitStack() as stack:
        turns: dict[int, Turn] = {}
        for seed in range(cfg["seed"], cfg["seed"] + cfg["seeds_per_job"]):
            own = {**cfg, "seed": seed, "quiet": cfg["quiet"] or seed > cfg["seed"]}  # one progress bar for all
            try:
                ctx = stack.enter_context(session(own, info_of_seed(info, seed)))
            except UserError as error:  # another process uses this seed's folder
                faults.append(error)
                continue
            finished = ctx.done()
            if finished is not None:
                show_result(ctx, finished)
                done[seed] = finished
                continue
            try:
                with progress.log_to(ctx.run.folder):
                    turns[seed] = Turn(make_job(ctx))
            except UserError as error:
                faults.append(error)
                ctx.run.fail(error)
        for turn in turns.values():
            turn.job.ctx.signals = ctx.signals  # the handlers installed last are in effect
            turn.job.ctx.concurrent_runs = len(turns)
        while turns:
            for seed, turn in list(turns.items()):
                try:
                    turn.take()
                except StopIteration:
                    job = turns.pop(seed).job
                    done[seed] = job.result
                    with progress.log_to(job.ctx.run.folder):
                        show_result(job.ctx, job.result)
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
    """One of the interleaved searches: its steps, its CUDA stream, and its state of torch's global random generator."""

    def __init__(self, job: SearchJob) -> None:
        self.job, self.steps, self.random = job, job.steps(), torch.get_rng_state()
        device = job.ctx.device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))  # the job's setup may still be running

    def take(self) -> None:
        """Take the next step. Raises StopIteration after the last step, when the record has been written."""
        torch.set_rng_state(self.random)
        with progress.log_to(self.job.ctx.run.folder), torch.cuda.stream(self.stream):
            next(self.steps)
        self.random = torch.get_rng_state()

    def save(self) -> None:
        """Write a checkpoint of the current state."""
        torch.set_rng_state(self.random)
        with torch.cuda.stream(self.stream):
            self.job.save()


def info_of_seed(info: JobInfo, seed: int) -> JobInfo:
    """Return the job information for the same command line, restricted to one seed."""
    rest = [text for text in info.overrides if text.partition("=")[0] not in ("seed", "seeds_per_job")]
    return info.of("search", [*rest, f"seed={seed}"])


def pictures(ctx: Session) -> None:
    """Draw any missing pictures of the search: cells and curves."""
    run_summary.draw(ctx.run.folder, curves=True, epochs=ctx.config["draw"] == "epochs")


def show_result(ctx: Session, result: Result) -> None:
    """Draw any missing pictures, and print the summary unless the search was started from Python."""
    pictures(ctx)
    if ctx.info.summary:
        run_summary.show(result, ctx.run.folder)
