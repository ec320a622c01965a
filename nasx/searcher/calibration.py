"""engine=auto: find the fastest engine settings (a path) by measuring steps at the start of a search.

1. The run takes three of its own steps and returns to its initial state; their time predicts the time of the whole run.
   If the share `engine.calibrate` of this time is too short for a measurement, steps remain eager.
2. Another process, killed after that share of the time, builds the same search for each path: eager, and with those of
   the settings channels_last, CUDA graphs and compile that are off. The first step of a path is compared with the eager
   step from the same state; then the path's steps are timed, alternating with eager steps. Paths that differ, fail or
   do not fit into memory are refused.
3. The fastest path is written to engine.json in the run folder before the first step, and to the user's cache for runs
   of the same shape on this machine. The run is then bit-identical to a run configured with these settings. A resumed
   run reads engine.json; a branch (nasx whatif) reads its parent's. A run with checkpoints but without the file is
   eager.

Steps are compared in float64, on a few images of each batch, with the layout, kernels and graphs of the path. In single
precision, rounding errors are as large as the gradient: channels_last alone changed the architecture step of
NAS-Bench-201 by 13 % (one cell per stage, 16 channels, batch 32), although the steps agreed to 1e-14 in float64. In
the run's own precision a path is refused only if its step is not finite, or differs from the eager step by more than
the length of the eager step. The comparison updates the architecture by SGD, since Adam's first step is only a sign.

Precision is never changed. Searches on text, in stages, in several processes or with deterministic=true remain eager.
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
"""Number of steps that predict the time of a run; the first one warms up."""
SHORTEST_S = 20.0
"""Minimum seconds for a measurement, which starts a process, builds the search and takes some steps."""
TURNS = 3
"""Number of timed pairs of an eager step and a step of the path."""
FASTER = 1.05
"""Minimum ratio of eager time to a path's time for choosing the path."""
COMPARED = 16
"""Images per batch in float64 steps, which need twice the memory per image."""
EXACT, ROUGH = 1e-6, 1.0
"""Maximum distance of a first step from the eager one, relative to its length: in float64, in the run's precision."""
EXACTLY = {"precision": "fp32"}
"""Settings of the engine for steps in float64, which autocast would round to bf16."""
EnginePath = dict[str, object]
CHOICES: EnginePath = {"channels_last": True, "graphs": "auto", "compile": "on"}
"""The settings that a path can add to the configuration, with their values."""


# ------------------------------------------------------------------------------------------------------- the run
def calibrated(ctx: Session) -> SearchJob:
    """Return the job of a run, with the path saved in its folder or a newly measured one."""
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
    """Return the path saved in a run folder; None if there is none. Raises UserError if it is invalid."""
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
    """Return whether the path of a run can still be chosen, has alternatives, and the run is long enough."""
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
    """Return the measurements for runs like this one, cached or new, and their origin; None if the run is too short."""
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
    if rows:  # none if the process was killed too early
        try:
            files.make_folder(cached.parent)
            files.write_atomic(cached, json.dumps({"measured": rows}))
        except (OSError, UserError) as error:
            log.warning("%s: cannot be written: %s", cached, error)
    return rows, f"measured in {progress.duration(time.monotonic() - began)}"


def time_step(job: SearchJob) -> float:
    """Measure the seconds of a step, and restore the job to its initial state."""
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
    """Return the engine paths that add settings to the configuration; the quickest to measure come first."""
    off = [key for key in CHOICES if getattr(engine, key) in (False, "off")]
    more = [key for key in off if key != "graphs" or device.type == "cuda"]
    found = [{key: CHOICES[key] for i, key in enumerate(more) if n >> i & 1} for n in range(1, 2 ** len(more))]
    return sorted(found, key=lambda path: ("compile" in path, -len(path)))


def fastest(rows: Sequence[Row]) -> EnginePath:
    """Return the path with the highest ratio; empty for eager."""
    good = [row for row in rows if not row["refused"] and row["ratio"] >= FASTER]
    return max(good, key=lambda row: row["ratio"], default={"path": {}})["path"]


def choice_text(path: EnginePath, rows: Sequence[Row], how: str, configured: str = "eager") -> str:
    """Describe the choice and its reason in one line; `configured` names the path of the configuration."""
    ratio = max((row["ratio"] for row in rows if row["path"] == path), default=1.0)
    refused = sum(bool(row["refused"]) for row in rows)
    if not rows:
        return f"{configured}, the time was too short to measure another path ({how})"
    faster = f"{path_text(path)}, {ratio:.2f} times as fast as {configured}"
    chosen = faster if path else f"{configured}, no other path is faster"
    return f"{chosen} ({how}; {len(rows)} paths" + (f", {refused} refused)" if refused else ")")


def configured_text(engine: EngineSettings) -> str:
    """Describe the path that the configuration sets."""
    on = {key: getattr(engine, key) for key in CHOICES if getattr(engine, key) not in (False, "off")}
    return path_text(on) or "eager"


def path_text(path: EnginePath) -> str:
    return " ".join(f"engine.{key}={str(value).lower()}" for key, value in path.items())


def cache_file(job: SearchJob) -> Path:
    """Return the cache file of measurements on this machine, with these versions, of a step of this shape."""
    cfg = {key: job.ctx.config[key] for key in ("space", "method", "engine")}
    step = {k: v for k, v in job.ctx.config["search"].items() if k not in ("epochs", "updates_per_epoch", "protocol")}
    about = [environment.hardware(job.ctx.device), environment.versions(), environment.commit(), os.cpu_count()]
    key = json.dumps([cfg, step, about, list(job.data.shape), len(job.data.classes)], sort_keys=True, default=str)
    return files.user_cache() / "engine" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


# ----------------------------------------------------------------------------------------------- another process
def measure(ctx: Session, paths: Sequence[EnginePath], budget: float) -> list[Row]:
    """Return the rows of the paths measured within `budget` seconds. Raises StopRequested on a signal."""
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
    """Measure the paths that a line of standard input describes; print one JSON row per line."""
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
    """Build the search of a configuration with a path. The search does not write to the run folder."""
    run, signals = run_folder.ReadOnlyRun(folder), environment.Signals()
    return SearchJob(Session(run, torch.device(device), cfg, info, signals), path=path)


class Steps:
    """Steps of a job in an epoch in which both weights and architecture are updated."""

    def __init__(self, job: SearchJob, step: Callable[..., object] | None = None) -> None:
        self.job, self.step = job, step or job.loop.advance or job.method.step
        job.loop.enter(job.settings.moving_epoch)

    def seconds(self) -> float:
        """Take a step and return its seconds."""
        loop = self.job.loop
        batches = [self.compared(next(loop.train)) for _ in range(self.job.method.train_batches)]
        val = self.compared(next(loop.val))
        began = self.now()
        self.step(self.job.search, batches, val)
        return self.now() - began

    def compared(self, batch: Batch) -> Batch:
        """Return the batch; for a search in float64, only its first images."""
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
        """Return the first step's distance from `end`, relative to `end` - `start`. ArithmeticError above `most`."""
        found = end.apart(self.first()[1], start)
        if not found <= most:  # also raises for NaN
            dtype = self.job.problem.dtype
            raise ArithmeticError(f"its {dtype} step differs from the eager one by {found:.1e}, more than {most:.0e}")
        return found


def measure_paths(build: Callable[[EnginePath], SearchJob], paths: Sequence[EnginePath]) -> Iterator[Row]:
    """Yield each path's speed and float64 distance relative to eager execution, and why it was rejected (or None)."""
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
