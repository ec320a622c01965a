"""engine=auto: find the fastest engine settings (a path) by timing steps at the start of a search.

A path adds settings to those of the configuration: channels_last, CUDA graphs, compile, or several of them. Steps with
the configuration's own settings, usually eager ones, are the baseline and are called eager below.

1. The run takes three steps, which predict its total time, and returns to its initial state. If the fraction
   `engine.calibrate` of the total time is too short for a measurement, steps remain eager.
2. A second process, which is killed after that time, builds the same search without a path and with each path. The
   first step of a path is compared with the eager step from the same state; the next steps are timed in alternation
   with eager steps. A path is rejected if its step differs, fails or does not fit into memory.
3. The fastest path is written to engine.json in the run folder before the first step, and the measurements are cached
   for runs of the same shape on this machine. The run is then bit-identical to one that is configured with these
   settings. A resumed run reads engine.json; a branch (nasx whatif) reads the file of its parent. A run that has
   checkpoints but no such file is eager.

Steps are compared in float64, on the first images of each batch, with the layout, kernels and graphs of the path. In
single precision, rounding errors can be as large as the gradient: channels_last alone changed the architecture step of
NAS-Bench-201 by 13 % (one cell per stage, 16 channels, batch size 32), although the steps agreed to 1e-14 in float64.
In the run's own precision, a path is rejected only if its step is not finite or differs from the eager step by more
than the length of the eager step. The compared steps update the architecture with SGD, because Adam's first step only
depends on the signs of the gradient.

The precision is never changed. Searches on text, in stages, in several processes or with deterministic=true stay eager.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nasx.config import stages
from nasx.config.job_info import JobInfo
from nasx.core import distributed, files
from nasx.core.batch import Batch
from nasx.core.plain import Config, Row
from nasx.errors import UserError
from nasx.searcher.cuda_graphs import Position
from nasx.searcher.job import SearchJob
from nasx.tracking import checkpoints, environment, progress, run_folder
from nasx.tracking.session import Session

if TYPE_CHECKING:
    from nasx.config.settings import EngineSettings

log = logging.getLogger("nasx")
KEPT = "engine.json"
REHEARSED = 3
"""Number of steps from which the time of a run is predicted; the first one is a warm-up and is not timed."""
SHORTEST_S = 20.0
"""Minimum time in seconds for a measurement, which starts a process, builds the search and takes a few steps."""
TURNS = 3
"""Number of timed pairs of an eager step and a step with the path."""
FASTER = 1.05
"""Minimum speedup over eager steps for which a path is chosen."""
COMPARED = 16
"""Number of images per batch in float64 steps, which need twice as much memory per image."""
EXACT, ROUGH = 1e-6, 1.0
"""Maximum relative distance between the first step of a path and the eager step: in float64, and in the run's
precision."""
EXACTLY = {"precision": "fp32"}
"""Engine settings for float64 steps, whose values autocast would otherwise round to bf16."""
EnginePath = dict[str, object]
CHOICES: EnginePath = {"channels_last": True, "graphs": "auto", "compile": "on"}
"""The engine settings that a path can add to the configuration, and their values."""


# ------------------------------------------------------------------------------------------------------- the run
def calibrated(ctx: Session) -> SearchJob:
    """Return the job of a run, with the path saved in its folder or, if there is none, the fastest measured path."""
    path = saved_path(ctx.run.folder)
    branches = bool(ctx.info.origin) and not checkpoints.found(ctx.run.folder)
    if path is None and branches:
        path = saved_path(Path(ctx.info.origin).parents[1]) or {}
        ctx.run.note(KEPT, {"path": path, "measured": []})
    job = SearchJob(ctx, path=path)
    if path is not None or not can_choose(job):
        return job
    found = choose(job)
    if found is None:
        return job
    rows, how = found
    path = fastest(rows)
    ctx.run.note(KEPT, {"path": path, "measured": rows})
    log.info("engine=auto: %s", choice_text(path, rows, how, configured_text(job.engine_settings)))
    if not path:
        return job
    ctx.needs = None  # a bound method would keep the tensors of the first job alive
    del job
    gc.collect()
    return SearchJob(ctx, path=path)


def saved_path(folder: Path) -> EnginePath | None:
    """Return the path saved in a run folder; None if no path is saved. Raises UserError if it is invalid."""
    held = files.read_json(folder / KEPT)
    if held is None:
        return None
    path = held.get("path")
    if not isinstance(path, dict) or any(choice not in CHOICES.items() for choice in path.items()):
        raise UserError(
            str(folder / KEPT),
            "is damaged",
            "restore the file from a backup, or move the folder elsewhere to restart this run",
        )
    return path


def can_choose(job: SearchJob) -> bool:
    """Return whether a path can be chosen for a run: it has not started, is long enough, and supports at least one."""
    config, share = job.ctx.config, job.engine_settings.calibrate
    return (
        share * job.loop.total / job.method.steps_w >= REHEARSED
        and not job.data.carries
        and not config["deterministic"]
        and stages.count(config) == 1
        and not checkpoints.found(job.ctx.run.folder)
        and distributed.world_size() == 1
        and bool(candidates(job.engine_settings, job.ctx.device))
    )


def choose(job: SearchJob) -> tuple[list[Row], str] | None:
    """Return the cached or new measurements for this kind of run, and their origin; None if the run is too short."""
    cached = cache_file(job)
    held = files.read_json(cached)
    if held is not None and isinstance(held.get("measured"), list):
        return held["measured"], f"measured before, {cached}"
    whole = time_step(job) * job.loop.total / job.method.steps_w
    budget = job.engine_settings.calibrate * whole
    if budget < SHORTEST_S:
        return None
    log.info("engine=auto: measuring for at most %s of about %s", progress.duration(budget), progress.duration(whole))
    began = time.monotonic()
    rows = measure(job.ctx, candidates(job.engine_settings, job.ctx.device), budget)
    if rows:  # empty if the process was killed before it had measured a path
        try:
            files.make_folder(cached.parent)
            files.write_atomic(cached, json.dumps({"measured": rows}))
        except (OSError, UserError) as error:
            log.warning("%s: cannot be written: %s", cached, error)
    return rows, f"measured in {progress.duration(time.monotonic() - began)}"


def time_step(job: SearchJob) -> float:
    """Return the time of a step in seconds, and restore the initial state of the job."""
    streams = job.loop.train, job.loop.val
    start, random = Position(job.search, job.problem), torch.get_rng_state()
    before = [stream.state_dict() for stream in streams]
    steps = Steps(job, job.method.step)
    try:
        return min([steps.seconds() for _ in range(REHEARSED)][1:])
    finally:
        start.restore()
        torch.set_rng_state(random)
        for stream, state in zip(streams, before, strict=True):
            stream.load_state_dict(state)


def candidates(engine: EngineSettings, device: torch.device) -> list[EnginePath]:
    """Return the paths that the configuration and the device allow, in the order in which they are measured.

    Paths without compilation come first, because they are faster to measure.
    """
    off = [key for key in CHOICES if getattr(engine, key) in (False, "off")]
    more = [key for key in off if key != "graphs" or device.type == "cuda"]
    found = [{key: CHOICES[key] for i, key in enumerate(more) if n >> i & 1} for n in range(1, 2 ** len(more))]
    return sorted(found, key=lambda path: ("compile" in path, -len(path)))


def fastest(rows: Sequence[Row]) -> EnginePath:
    """Return the path with the highest speedup; empty if no path reaches `FASTER`."""
    good = [row for row in rows if not row["refused"] and row["ratio"] >= FASTER]
    return max(good, key=lambda row: row["ratio"], default={"path": {}})["path"]


def choice_text(path: EnginePath, rows: Sequence[Row], how: str, configured: str = "eager") -> str:
    """Describe the choice and the reason for it in one line; `configured` describes the configuration's settings."""
    ratio = max((row["ratio"] for row in rows if row["path"] == path), default=1.0)
    refused = sum(bool(row["refused"]) for row in rows)
    if not rows:
        return f"{configured}, the time was too short to measure another path ({how})"
    faster = f"{path_text(path)}, {ratio:.2f} times as fast as {configured}"
    chosen = faster if path else f"{configured}, no other path is faster"
    return f"{chosen} ({how}; {len(rows)} paths" + (f", {refused} refused)" if refused else ")")


def configured_text(engine: EngineSettings) -> str:
    """Describe the path settings that the configuration itself enables."""
    on = {key: getattr(engine, key) for key in CHOICES if getattr(engine, key) not in (False, "off")}
    return path_text(on) or "eager"


def path_text(path: EnginePath) -> str:
    return " ".join(f"engine.{key}={str(value).lower()}" for key, value in path.items())


def cache_file(job: SearchJob) -> Path:
    """Return the cache file for measurements of this kind of step, on this machine and with these versions."""
    cfg = {key: job.ctx.config[key] for key in ("space", "method", "engine")}
    step = {k: v for k, v in job.ctx.config["search"].items() if k not in ("epochs", "updates_per_epoch", "protocol")}
    about = [environment.hardware(job.ctx.device), environment.versions(), environment.commit(), os.cpu_count()]
    key = json.dumps([cfg, step, about, list(job.data.shape), len(job.data.classes)], sort_keys=True, default=str)
    return files.user_cache() / "engine" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


# ----------------------------------------------------------------------------------------------- another process
def measure(ctx: Session, paths: Sequence[EnginePath], budget: float) -> list[Row]:
    """Measure paths in another process for at most `budget` seconds, and return the rows of those that were measured.

    Raises StopRequested on a signal.
    """
    given = {"cfg": ctx.config, "info": dataclasses.asdict(ctx.info), "folder": str(ctx.run.folder), "paths": [*paths]}
    path = os.pathsep.join([*filter(None, sys.path), str(Path.cwd())])
    end = time.monotonic() + budget
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "nasx.searcher.calibration"],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({**given, "device": str(ctx.device)}, default=str).encode() + b"\n")
            process.stdin.flush()  # stdin stays open: the process exits when this one does
            while process.poll() is None and time.monotonic() < end:
                ctx.check_signals(lambda: None)
                time.sleep(0.1)
        except BrokenPipeError:
            pass
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        lines = out.read().decode(errors="replace").splitlines(keepends=True)
    return [json.loads(line)["row"] for line in lines if line.startswith('{"row"') and line.endswith("}\n")]


def main() -> None:
    """Measure the paths described by the first line of standard input, and print one line of JSON per path."""
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    cfg, info, device = given["cfg"], JobInfo(**given["info"]), torch.device(given["device"])
    cfg["search"] |= {"arch_optimizer": "sgd", "arch_momentum": 0.0}
    threads, precision = cfg["threads"], cfg["engine"]["precision"]
    with environment.prepared(device, threads=threads, deterministic=False, seed=cfg["seed"], precision=precision):
        build = functools.partial(build_job, cfg, info, Path(given["folder"]), device)
        for row in measure_paths(build, given["paths"]):
            print(json.dumps({"row": row}), flush=True)


def build_job(cfg: Config, info: JobInfo, folder: Path, device: torch.device | str, path: EnginePath) -> SearchJob:
    """Build the search of a configuration with a path; it does not write to the run folder."""
    run, signals = run_folder.ReadOnlyRun(folder), environment.Signals()
    return SearchJob(Session(run, torch.device(device), cfg, info, signals), path=path)


class Steps:
    """Steps of a job, in an epoch in which both weights and architecture are updated."""

    def __init__(self, job: SearchJob, step: Callable[..., object] | None = None) -> None:
        self.job, self.step = job, step or job.loop.advance or job.method.step
        job.loop.enter(job.settings.moving_epoch)

    def seconds(self) -> float:
        """Take a step and return its time in seconds."""
        loop = self.job.loop
        batches = [self.compared(next(loop.train)) for _ in range(self.job.method.train_batches)]
        val = self.compared(next(loop.val))
        began = self.now()
        self.step(self.job.search, batches, val)
        return self.now() - began

    def compared(self, batch: Batch) -> Batch:
        """Return the batch or, for a search in float64, its first `COMPARED` images."""
        if self.job.problem.dtype != torch.float64:
            return batch
        return batch._replace(x=batch.x[:COMPARED].double(), y=batch.y[:COMPARED])

    def now(self) -> float:
        if self.job.ctx.device.type == "cuda":
            torch.cuda.synchronize(self.job.ctx.device)
        return time.perf_counter()

    def position(self) -> Position:
        return Position(self.job.search, self.job.problem)

    def first(self) -> tuple[Position, Position]:
        """Take the first step and return the positions before and after it."""
        start = self.position()
        self.seconds()
        return start, self.position()

    def distance(self, start: Position, end: Position, most: float) -> float:
        """Take the first step, and return its distance from `end` relative to the distance between `start` and `end`.

        Raises ArithmeticError if the relative distance is NaN or greater than `most`.
        """
        found = end.apart(self.first()[1], start)
        if not found <= most:  # also raises for NaN
            dtype = self.job.problem.dtype
            raise ArithmeticError(f"its {dtype} step differs from the eager one by {found:.1e}, more than {most:.0e}")
        return found


def measure_paths(build: Callable[[EnginePath], SearchJob], paths: Sequence[EnginePath]) -> Iterator[Row]:
    """Yield a row for each path: path, ratio, apart, refused, first_s.

    `ratio` is the speedup over eager steps, `apart` the relative distance from the eager step in float64, `refused` the
    reason why the path was rejected (None if it was not), and `first_s`, if its first steps succeed, the seconds that
    building the search and taking these steps took.
    """
    eager = Steps(build({}))
    start, end = eager.first()
    with in_float64():
        exact = Steps(build(dict(EXACTLY))).first()
    for path in paths:
        row: dict[str, object] = {"path": path, "ratio": 0.0, "apart": None, "refused": None}
        try:
            required = {**path, "graphs": "on"} if "graphs" in path else path
            began = time.monotonic()
            with in_float64():
                row["apart"] = Steps(build({**required, **EXACTLY})).distance(*exact, most=EXACT)
            other = Steps(build(required))
            other.distance(start, end, most=ROUGH)
            other.seconds()  # the second step records a graph
            row["first_s"] = round(time.monotonic() - began, 1)
            times = [(eager.seconds(), other.seconds()) for _ in range(TURNS)]
            row["ratio"] = round(statistics.median(x / y for x, y in times), 3)
        except Exception as error:  # noqa: BLE001  the other paths can still be measured
            row["refused"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        yield row


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Build searches and take steps in float64 within the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    main()
