"""A run in progress: its folder, which this process holds, its device, and the time taken by all its starts."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nasx.config import identity, instantiate, own_code
from nasx.config.job_info import JobInfo
from nasx.core import distributed
from nasx.core.plain import Config, Result, State
from nasx.errors import UserError
from nasx.tracking import environment, progress, records, run_folder

log = logging.getLogger("nasx")


@dataclass
class Session:
    """A run folder held by this process, its device, and the time that the run has taken so far."""

    run: run_folder.Run
    device: torch.device
    config: Config
    info: JobInfo
    signals: environment.Signals
    started: str = field(default_factory=records.now)
    before_s: float = 0.0
    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    concurrent_runs: int = 1
    """Number of runs interleaved in this process; each records the total time of all."""
    starts: list[dict[str, object]] = field(default_factory=list)
    """Environments of the run so far, each with the update from which it was used."""
    code: own_code.Code = field(default_factory=dict)
    """User-defined code that the run executes."""
    needs: Callable[[], tuple[str, list[str]]] | None = None
    """Function that returns a text on the memory needed by a step, and settings that reduce it; None: not known yet."""

    def __post_init__(self) -> None:
        self._record_start(0)

    def add_elapsed(self, seconds: float) -> None:
        """Restart the clock with `seconds` of work done by earlier stages."""
        self.before_s, self.began = seconds, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds of work over all starts of this run, excluding work lost to kills."""
        return self.before_s + time.monotonic() - self.began

    def _record_start(self, update: int) -> None:
        """Add this start to `starts` if its environment differs from the previous one; warn if results may differ."""
        now = {**environment.environment(self.device), "processes": distributed.world_size()}
        if self.code:
            now["code"] = self.code
        before = self.starts[-1] if self.starts else {"update": update, **now}
        if self.starts and all(before.get(name) == value for name, value in now.items()):
            return
        if differ := records.environments([before, now]):
            changes = ", ".join(f"{name} {before.get(name)}, now {now[name]}" for name in differ)
            ends = "its results will not be bit-identical to those of a run in a single environment"
            log.warning("%s: continues in a different environment (%s): %s", self.run.folder, changes, ends)
        if files := own_code.changed(before.get("code"), self.code):
            log.warning(
                "%s: %s changed after this run began; the run continues with the new code and is marked in tables; "
                "to start again with the new code, choose another name=..., or delete the folder",
                *(self.run.folder, ", ".join(files)),
            )
        self.starts = [*self.starts, {"update": update, **now}]

    def done(self) -> Result | None:
        """Return the record of a finished run (see `Run.done`); warn if user-defined code has changed since then."""
        record = self.run.done()
        if changed := own_code.changed_since(record or {}, self.code):
            log.warning("%s: %s", self.run.folder, changed)
        return record

    def save(self, state: State, step: int, epoch: int | None = None) -> None:
        """Write a checkpoint, with the metrics rows so far, the environments and the time taken; see `Run.save`."""
        state = {**state, "starts": self.starts, "elapsed_s": self.elapsed_s, "started": self.started}
        self.run.save(state, step, epoch)
        self.saved = time.monotonic()

    def resume(self, origin: Callable[[], State | None] = lambda: None) -> State | None:
        """Return the newest readable checkpoint, and truncate metrics.jsonl to its rows.

        Without one, return the state from `origin` (a checkpoint of the run from which this run branches) or None.
        """
        # the other processes receive the state by broadcast
        state = self.run.load(self.device if distributed.world_size() == 1 else "cpu")
        if state is None and (state := origin()) is not None:
            state["started"] = self.started
            self.run.keep_rows("")
            for row in records.parsed(state["metrics"]):  # loggers receive these rows too
                self.run.append(row)
        if state is None:
            if rows := self.run.rows():
                what = f"the run starts from scratch, and all metrics rows so far ({len(rows)}) are computed again"
                log.warning("%s: there is no checkpoint: %s", self.run.folder, what)
            self.run.keep_rows("")
            return None
        self.run.keep_rows(state["metrics"])
        self.before_s, self.started = state["elapsed_s"], state["started"]
        self.starts = state.get("starts", [])  # missing in format 1
        self._record_start(state["updates"])
        return state

    @property
    def checkpoint_due(self) -> bool:
        """Whether `checkpoint_s` seconds have passed since the last checkpoint."""
        return bool(time.monotonic() - self.saved > self.config["checkpoint_s"])

    def check_signals(self, save: Callable[[], None]) -> None:
        """Save and raise StopRequested if a signal has requested a stop in any of the processes."""
        asked = self.signals.asked
        if distributed.world_size() > 1:
            asked = max(distributed.all_gather(asked or 0)) or None
        if asked is not None:
            save()
            raise environment.StopRequested(asked)

    def pause(self, save: Callable[[], None]) -> None:
        """Save a checkpoint if one is due; save and raise StopRequested if a signal has requested a stop."""
        self.check_signals(save)
        if self.checkpoint_due:
            save()

    def record(self, kind: str, **facts: object) -> Result:
        """Return the record of this run: `facts`, and the entries that every record contains."""
        return {
            **records.head(kind, self.run.folder.name, self.config, self.info, self.started),
            "family": identity.family(self.config, kind),
            **facts,
            "wall_s": round(self.elapsed_s, 3),
            "together": self.concurrent_runs,
            "peak_mb": environment.peak_mb(self.device),
            "hardware": environment.hardware(self.device),
            "versions": environment.versions(),
            "commit": environment.commit(),
            "starts": self.starts,
        }


@contextlib.contextmanager
def session(cfg: Config, info: JobInfo, kind: str = "search") -> Iterator[Session]:
    """Open (or create) the run folder of a search or a retraining (`kind`), and prepare the process for the run."""
    folder = Path(cfg["out"]) / identity.run_name(cfg, info.choices, kind)
    device = environment.device(distributed.device_name(cfg["device"]))
    prepared = environment.prepared(
        device,
        threads=cfg["threads"],
        deterministic=cfg["deterministic"],
        seed=cfg["seed"],
        precision=(cfg.get("engine") or {}).get("precision", "fp32"),
    )
    identifying = identity.identifying(cfg, kind)
    code = own_code.recorded(identifying)
    extra = {"kind": kind, "choices": dict(info.choices), "identity": identity.identity(cfg, kind)}
    main = distributed.is_main_process()
    with (
        prepared,
        run_folder.Run(folder, identifying, extra) if main else run_folder.ReadOnlyRun(folder) as run,
        distributed.process_group(device),
        environment.Signals() as signals,
        contextlib.ExitStack() as stack,
        progress.log_to_folder(folder, quiet=cfg["quiet"]) if main else progress.warnings_only(),
    ):
        if main:
            logger = instantiate.build(cfg["logger"], cfg["allow"]).open(folder, identifying)
            run.on_row = logger.write
            stack.callback(logger.close)
        try:
            ctx = Session(run, device, cfg, info, signals, code=code)
            with out_of_memory_errors(ctx, kind), own_code_errors(ctx):
                yield ctx
        except Exception as error:
            run.fail(error)
            raise


@contextlib.contextmanager
def own_code_errors(ctx: Session, position: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Convert an exception raised by user-defined code in the block to a UserError; write its traceback to log.txt."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = own_code.fault(error, ctx.config, ctx.info.choices, position())
        if found is None or environment.out_of_memory(error):
            raise
        kept = f" (the traceback is in {ctx.run.folder / 'log.txt'})" if ctx.run.write_trace(error) else ""
        raise UserError(*found, f"correct it and run the same command again{kept}") from error


@contextlib.contextmanager
def out_of_memory_errors(ctx: Session, kind: str) -> Iterator[None]:
    """Convert an out-of-memory error in the block to a UserError that states needed and free memory, and remedies."""
    try:
        yield
    except Exception as error:
        if not environment.out_of_memory(error):
            raise
        cfg = ctx.config
        traceback.clear_frames(error.__traceback__)  # frees the step's tensors: predicting memory needs memory too
        needs, ways = memory_needed(ctx)
        if kind == "retrain":
            ways = [f"set retrain.accumulate={2 * cfg[kind]['accumulate']} (the same batch in smaller pieces)"]
        elif not ways and not cfg["engine"]["checkpoint"]:
            ways = ["set engine.checkpoint=true (the same numbers, slower)"]
        if cfg["seeds_per_job"] > 1:
            ways.append("lower seeds_per_job")
        remedy = ", ".join([*ways, f"lower {kind}.batch", "or use a device with more memory"])
        remedy += ", then run the same command again to resume"
        fault = f"does not fit into the memory of {ctx.device}{needs}"
        raise UserError(f"{kind}.batch={cfg[kind]['batch']}", fault, remedy) from error


def memory_needed(ctx: Session) -> tuple[str, list[str]]:
    """Return a text on the memory needed by a step and the free memory, and settings that need less, if known."""
    try:
        needs, ways = ctx.needs() if ctx.needs else ("", [])
    except Exception:  # noqa: BLE001  without memory, any call may fail, and the message must still appear
        return "", []
    there = environment.available(ctx.device)
    if not needs:
        return "", ways
    return f": {needs}" + (f" ({progress.memory(there)} are free for this process)" if there else ""), ways
