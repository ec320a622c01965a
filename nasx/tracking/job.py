"""Execution of one search or retraining in its run folder: resume, steps, checkpoints, metrics, progress, record."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from typing import ClassVar, Protocol

import torch

from nasx.core import distributed
from nasx.core.meter import Meter
from nasx.core.metrics import Metric
from nasx.core.plain import Result, Row, State
from nasx.tracking import environment, profiler, progress
from nasx.tracking.progress import Display
from nasx.tracking.session import Session, own_code_errors

log = logging.getLogger("nasx")
TIMED = (3, 10)
"""Steps of a process between which updates are timed."""
LONG_S = 60.0
"""Minimum remaining time in seconds for which an estimate is logged."""


class Engine(Protocol):
    """A loop over updates that writes no files: `searcher.loop.Loop` or `train.trainer.Trainer`.

    The loop calls `Job.end_epoch(means)` after each epoch and `Job.tick(engine)` after each step; after the last step
    of an epoch, `end_epoch` is called before `tick`.
    """

    meter: Meter

    @property
    def total(self) -> int:
        """Number of updates in the whole job."""

    @property
    def position(self) -> tuple[int, int]:
        """Number of updates so far, and index of the current epoch, from 0."""

    def steps(self) -> Iterator[int]:
        """Run to the end; after each step, yield the number of updates so far."""

    def guard(self, means: Mapping[str, float], *, weights: bool = False) -> None:
        """Raise UserError if a mean or, with `weights`, a weight is not finite."""

    def state(self) -> State:
        """Return the tensors and plain values from which `load` resumes with bit-identical results."""

    def load(self, state: State) -> None:
        """Continue from `state`."""


class Job(ABC):
    """Execution of an engine in a run folder. A subclass builds the engine and creates the metrics rows and the record.

    Progress is shown in `unit`s, with `amount` units per update.
    """

    kind: ClassVar[str]
    unit: ClassVar[str] = "update"
    amount = 1
    keep_every = 0
    """Number of epochs between kept checkpoints; 0: none are kept."""
    result: Result
    """The record after the last step; empty on ranks other than 0."""
    ticks = 0
    """Number of steps that this process has taken so far."""
    timed: tuple[float, int]
    """Monotonic time after step `TIMED[0]`, and the number of updates at that time."""
    began: float
    """Monotonic time before the first step of this process."""

    def __init__(self, ctx: Session, engine: Engine, metric: Metric, epochs: int) -> None:
        self.ctx, self.engine, self.metric, self.epochs = ctx, engine, metric, epochs

    @abstractmethod
    def row(self, means: dict[str, float]) -> Row:
        """Return this epoch's metrics row, given the means of its logged values."""

    @abstractmethod
    def record(self) -> Result:
        """Return the record of the finished run."""

    def state(self) -> State:
        """Return the content of a checkpoint."""
        return self.engine.state()

    def load(self, state: State) -> None:
        """Continue from a checkpoint."""
        self.engine.load(state)

    def origin(self) -> State | None:
        """Return the initial state of a run without a checkpoint: its parent's state at the epoch of the branch.

        Returns None if the run starts from scratch.
        """
        return None

    def resume(self) -> None:
        """Continue from the newest readable checkpoint or, without one, from `origin`."""
        saved = distributed.broadcast_object(self.ctx.resume(self.origin))
        if saved is not None:
            self.load(saved)
            updates, _ = self.engine.position
            log.info("%s: resuming at update %d of %d", self.ctx.run.folder, updates, self.engine.total)

    def save(self, epoch: int | None = None) -> None:
        """Write a checkpoint; if `epoch` is given, also write the checkpoint kept for that epoch.

        Raises UserError, before writing, if a weight or a running mean is not finite.
        """
        self.engine.guard(self.engine.meter.means(), weights=True)
        self.ctx.save(self.state(), self.engine.position[0], epoch)

    def estimate(self) -> None:
        """Log the remaining time of a long run once, as estimated from its first steps after the warm-up."""
        self.ticks += 1
        if self.ticks not in TIMED:
            return
        if self.ctx.device.type == "cuda":
            torch.cuda.synchronize(self.ctx.device)
        now, updates = time.monotonic(), self.engine.position[0]
        if self.ticks == TIMED[0]:
            self.timed = now, updates
            return
        each, left = (now - self.timed[0]) / max(updates - self.timed[1], 1), self.engine.total - updates
        if each * left >= LONG_S:
            peak, taken = environment.peak_mb(self.ctx.device), progress.duration(each * left)
            whose = "GPU" if self.ctx.device.type == "cuda" else "process, libraries and data included,"
            of = "" if peak is None else f"; peak memory of the {whose} so far {progress.memory(peak * 2**20)}"
            log.info("about %s for the %d updates that are left, %.2g s each%s", taken, left, each, of)

    def tick(self, _: object) -> None:
        """Check and show the running means after a step; write a checkpoint if one is due or a signal has arrived."""
        self.estimate()
        if self.ticks == 1:
            self.display.measure_from(self.engine.position[0])
        due = self.display.due()
        if due or self.ctx.device.type == "cpu":  # on a GPU, reading values back synchronizes
            means = self.engine.meter.means()
            self.engine.guard(means)
            if due and means:
                updates, epoch = self.engine.position
                self.display.show(updates, f"{epoch + 1}/{self.epochs}", self.metric.convert(means))
        self.ctx.pause(self.save)

    def end_epoch(self, means: dict[str, float]) -> None:
        """Write and log the metrics row of this epoch, then write a checkpoint."""
        row = {**self.row(means), "wall_s": round(self.ctx.elapsed_s, 3)}
        self.ctx.run.append(row)
        kept = bool(self.keep_every) and row["epoch"] % self.keep_every == 0
        self.save(row["epoch"] if kept else None)
        if kept and row["epoch"] == self.keep_every:
            progress.log_kept(self.ctx.run.folder, self.epochs // self.keep_every)
        words = [*progress.metric_texts(self.kind, row), *progress.looked_up(row.get("lookup"))]
        epoch = f"{row['epoch']}/{self.epochs}"
        progress.log_epoch(epoch, words)
        self.display.end_epoch(self.engine.position[0], epoch, row)

    def run(self) -> Result:
        """Run to the end; write and return the record."""
        for _ in self.steps():
            pass
        return self.result

    def steps(self) -> Generator[None, None, None]:
        """Run step by step, so that several jobs can be interleaved."""
        with own_code_errors(self.ctx, lambda: f" at update {self.engine.position[0]}"):
            yield from self._steps()

    def _steps(self) -> Generator[None, None, None]:
        self.resume()
        profile = self.ctx.config["profile"] if distributed.is_main_process() else 0
        with Display(
            self.kind,
            total=self.engine.total,
            done=self.engine.position[0],
            unit=self.unit,
            amount=self.amount,
            quiet=self.ctx.config["quiet"] or not distributed.is_main_process(),
            peak=lambda: environment.peak_mb(self.ctx.device),
        ) as self.display:
            self.began = time.monotonic()
            with profiler.profiled(profile, self.ctx.run.folder, self.ctx.device) as step:
                for _ in self.engine.steps():
                    step()
                    yield
            self.result = {}
            result = self.record()  # on all ranks, which may share the passes over the data
            if distributed.is_main_process():
                self.ctx.run.decide(result["genotype"])
                self.result = self.ctx.run.finish(result)
