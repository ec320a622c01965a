"""engine=auto: the fastest way to compute the steps of a search, measured at its start.

1. The run takes three of its own steps and goes back to its beginning; their time gives that of the whole run. Where
   `engine.calibrate` of it is too little for a measurement, steps stay eager.
2. Another process, which is ended when that share of the time is over, builds the same search for each path: eager, and
   with what the configuration leaves off of channels_last, CUDA graphs and compile. Its first step is compared with the
   eager one from the same state, then its steps are timed by turns with eager ones. Paths that differ, fail or do not
   fit are refused.
3. The fastest path is written to engine.json in the run folder before the first step, and to the user's cache for runs
   of the same shape on this machine. The run is then the one that a configuration with these settings would be, to the
   bit; a resume reads engine.json, a branch (nasx whatif) that of its parent. A run with checkpoints and without that
   file is eager.

Steps are compared in float64, on a few images of each batch, with the layout, the kernels and the graphs of the path.
In single precision they cannot be: channels_last alone changed the architecture step of NAS-Bench-201 by 13 % (one cell
per stage, 16 channels, batch 32), and agreed to 1e-14 in float64, since rounding errors are as large as the gradient
there. In the run's own precision a path is refused only where its step is not finite, or farther from the eager step
than no step is. The architecture moves by plain gradient steps here, since the first step of Adam is a sign.

Precision is never changed. Text, deterministic=true, searches in stages and those of several processes stay eager.
"""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING, Any

import torch

from nasx.config import stages
from nasx.core import distributed, files
from nasx.core.batch import Batch
from nasx.errors import UserError
from nasx.searcher.cuda_graphs import Position
from nasx.searcher.job import SearchJob
from nasx.tracking import checkpoints, environment, progress, run_folder
from nasx.tracking.session import Config, Session

if TYPE_CHECKING:
    from nasx.config.settings import EngineSettings

log = logging.getLogger("nasx")
KEPT = "engine.json"
REHEARSED = 3
"""Steps whose time predicts that of a run; the first one warms up."""
SHORTEST_S = 20.0
"""Seconds without which no measurement begins: a process starts, builds the search and takes some steps."""
TURNS = 3
"""Pairs of an eager and another step whose times are compared."""
FASTER = 1.05
"""Ratio of the times from which another path than eager is taken."""
COMPARED = 16
"""Images of a batch in float64 steps, which need twice the memory for each."""
EXACT, ROUGH = 1e-6, 1.0
"""Largest distance of a first step from the eager one, in lengths of that: in float64, in the run's precision."""
EXACTLY = {"precision": "fp32"}
"""Settings of the engine in float64, which is never rounded to bf16."""
Path_ = dict[str, Any]
Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------------- the run
def calibrated(ctx: Session) -> SearchJob:
    """The job of a run, on the path that its folder holds or that is measured now."""
    path = kept(ctx.run.folder)
    branches = "origin" in ctx.info and not checkpoints.found(ctx.run.folder)
    if path is None and branches:
        path = kept(Path(ctx.info["origin"]).parents[1]) or {}
        ctx.run.note(KEPT, {"path": path, "measured": []})
    job = SearchJob(ctx, path=path)
    if path is not None or not open_to(job):
        return job
    found = choose(job)
    if found is None:
        return job
    rows, how = found
    path = fastest(rows)
    ctx.run.note(KEPT, {"path": path, "measured": rows})
    log.info("engine=auto: %s", told(path, rows, how))
    if not path:
        return job
    ctx.needs = None  # a method of the first job, whose tensors the second one would count as those of other runs
    del job
    gc.collect()
    return SearchJob(ctx, path=path)


def kept(folder: Path) -> Path_ | None:
    """The path in a run folder, None where there is none. Raises UserError where it is not one."""
    held = files.read_json(folder / KEPT)
    if held is None:
        return None
    path = held.get("path")
    known = {"compile": ("on",), "channels_last": (True,), "graphs": ("auto",)}
    if not isinstance(path, dict) or any(value not in known.get(key, ()) for key, value in path.items()):
        raise UserError(
            str(folder / KEPT), "is damaged", "put a copy of the file back, or move the folder away to restart this run"
        )
    return path


def open_to(job: SearchJob) -> bool:
    """Whether the path of a run may still be chosen."""
    config, share = job.ctx.config, job.engine_settings.calibrate
    return (
        share * job.loop.total / job.method.steps_w >= REHEARSED
        and not job.data.carries
        and not config["deterministic"]
        and stages.count(config) == 1
        and not checkpoints.found(job.ctx.run.folder)
        and distributed.world_size() == 1
    )


def choose(job: SearchJob) -> tuple[list[Row], str] | None:
    """What was measured for runs like this one, now or before, and how; None where the run is too short for that."""
    cached = cache(job)
    held = files.read_json(cached)
    if held is not None and isinstance(held.get("measured"), list):
        return held["measured"], f"measured before, {cached}"
    whole = rehearse(job) * job.loop.total / job.method.steps_w
    budget = job.engine_settings.calibrate * whole
    if budget < SHORTEST_S:
        return None
    log.info("engine=auto: measuring for at most %s of about %s", progress.duration(budget), progress.duration(whole))
    began = time.monotonic()
    rows = measure(job.ctx, candidates(job.engine_settings, job.ctx.device), budget)
    if rows:  # a process that was ended too early has nothing to remember
        try:
            files.make_folder(cached.parent)
            files.write_atomic(cached, json.dumps({"measured": rows}))
        except (OSError, UserError) as error:
            log.warning("%s: cannot be written: %s", cached, error)
    return rows, f"measured in {progress.duration(time.monotonic() - began)}"


def rehearse(job: SearchJob) -> float:
    """Seconds of a step. The job is at its beginning before and after."""
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


def candidates(engine: EngineSettings, device: torch.device) -> list[Path_]:
    """Paths with more than the configuration has, the quick to measure first."""
    on = {"channels_last": True, "graphs": "auto", "compile": "on"}
    more = [key for key in on if getattr(engine, key) in (False, "off") and (key != "graphs" or device.type == "cuda")]
    found = [{key: on[key] for i, key in enumerate(more) if n >> i & 1} for n in range(1, 2 ** len(more))]
    return sorted(found, key=lambda path: ("compile" in path, -len(path)))


def fastest(rows: Sequence[Row]) -> Path_:
    """The path with the highest ratio, empty for eager."""
    good = [row for row in rows if not row["refused"] and row["ratio"] >= FASTER]
    return max(good, key=lambda row: row["ratio"], default={"path": {}})["path"]


def told(path: Path_, rows: Sequence[Row], how: str) -> str:
    """The choice and its reason in one line."""
    ratio = max((row["ratio"] for row in rows if row["path"] == path), default=1.0)
    refused = sum(bool(row["refused"]) for row in rows)
    chosen = f"{words(path)}, {ratio:.2f} times as fast as eager" if path else "eager, no other path is faster"
    if not rows:
        return f"eager, the time was too short to measure another path ({how})"
    return f"{chosen} ({how}; {len(rows)} paths" + (f", {refused} refused)" if refused else ")")


def words(path: Path_) -> str:
    return " ".join(f"engine.{key}={str(value).lower()}" for key, value in path.items())


def cache(job: SearchJob) -> Path:
    """The file of what was measured for this machine, these versions and a step of this shape."""
    cfg = {key: job.ctx.config[key] for key in ("space", "method", "engine")}
    step = {k: v for k, v in job.ctx.config["search"].items() if k not in ("epochs", "updates_per_epoch", "protocol")}
    about = [environment.hardware(job.ctx.device), environment.versions(), environment.commit(), os.cpu_count()]
    key = json.dumps([cfg, step, about, list(job.data.shape), len(job.data.classes)], sort_keys=True, default=str)
    return files.user_cache() / "engine" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


# ----------------------------------------------------------------------------------------------- another process
def measure(ctx: Session, paths: Sequence[Path_], budget: float) -> list[Row]:
    """Rows of the paths that are measured within `budget` seconds. Raises StopRequested as soon as a signal asks."""
    given = {"cfg": ctx.config, "info": ctx.info, "folder": str(ctx.run.folder), "paths": list(paths)}
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
            process.stdin.flush()  # and stays open: the process ends when this one does
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
    """Measure what a line of the standard input describes; one row a line."""
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    cfg, info, device = given["cfg"], given["info"], torch.device(given["device"])
    cfg["search"] |= {"arch_optimizer": "sgd", "arch_momentum": 0.0}
    threads, precision = cfg["threads"], cfg["engine"]["precision"]
    with environment.prepared(device, threads=threads, deterministic=False, seed=cfg["seed"], precision=precision):
        build = functools.partial(rebuilt, cfg, info, Path(given["folder"]), device)
        for row in measured(build, given["paths"]):
            print(json.dumps({"row": row}), flush=True)


def rebuilt(cfg: Config, info: Config, folder: Path, device: torch.device | str, path: Path_) -> SearchJob:
    """The search of a configuration on a path, which leaves the run folder alone."""
    run, signals = run_folder.ReadOnlyRun(folder), environment.Signals()
    return SearchJob(Session(run, torch.device(device), cfg, info, signals), path=path)


class Steps:
    """Steps of a job in an epoch in which weights and architecture move."""

    def __init__(self, job: SearchJob, step: Callable[..., Any] | None = None) -> None:
        self.job, self.step = job, step or job.loop.advance or job.method.step
        job.loop.enter(job.settings.moving_epoch)

    def seconds(self) -> float:
        """Take a step; how long it took."""
        loop = self.job.loop
        batches = [self.compared(next(loop.train)) for _ in range(self.job.method.train_batches)]
        val = self.compared(next(loop.val))
        began = self.now()
        self.step(self.job.search, batches, val)
        return self.now() - began

    def compared(self, batch: Batch) -> Batch:
        """Return the batch; a search in float64 gets its first images only."""
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
        """Take the first step; where it starts and ends."""
        start = self.position()
        self.seconds()
        return start, self.position()

    def distance(self, start: Position, end: Position, most: float) -> float:
        """How far the first step ends from `end`, in lengths of the way from `start` to it. Raises over `most`."""
        found = end.apart(self.first()[1], start)
        if not found <= most:  # nor where it is not a number
            dtype = self.job.problem.dtype
            raise ArithmeticError(f"its step in {dtype} is {found:.1e} from the eager one, more than {most:.0e}")
        return found


def measured(build: Callable[[Path_], SearchJob], paths: Sequence[Path_]) -> Iterator[Row]:
    """Each path's ratio to eager steps, its distance from one in float64, and why it is refused, if it is."""
    eager = Steps(build({}))
    start, end = eager.first()
    with double():
        exact = Steps(build(dict(EXACTLY))).first()
    for path in paths:
        row: Row = {"path": path, "ratio": 0.0, "apart": None, "refused": None}
        try:
            required = {**path, "graphs": "on"} if "graphs" in path else path
            began = time.monotonic()
            with double():
                row["apart"] = Steps(build({**required, **EXACTLY})).distance(*exact, most=EXACT)
            other = Steps(build(required))
            other.distance(start, end, most=ROUGH)
            other.seconds()  # the second step records a graph
            row["first_s"] = round(time.monotonic() - began, 1)
            times = [(eager.seconds(), other.seconds()) for _ in range(TURNS)]
            row["ratio"] = round(statistics.median(x / y for x, y in times), 3)
        except Exception as error:  # noqa: BLE001  whatever a path does, the others can be measured
            row["refused"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        yield row


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Within the block searches are built, and take their steps, in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    main()
