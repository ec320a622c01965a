"""Show the state of all runs under a folder, including runs in progress.

    nasx status [FOLDER]        default: outputs/; FOLDER may also be the folder of a single run

    finished    its record has been written
    running     a process holds its lock
    failed      its last start ended with an error, which is printed below the total
    stopped     it was killed or stopped; the same command resumes it
    not begun   its folder exists, but contains neither a metrics row nor a checkpoint
    damaged     its record exists but cannot be read

A sweep (--multirun) is listed below the runs until it has finished, with the numbers of
done, failed, running, stopped and waiting jobs and the approximate time left.

Epochs and updates are taken from the last metrics row or a later checkpoint. For runs in progress, the time left is
the mean duration of an epoch (over the last ten rows, from wall_s) times the number of remaining epochs, minus the time
since the last row. The command writes nothing and does not disturb any run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from tabulate import tabulate

from nasx.cli.arguments import parse
from nasx.core import files
from nasx.core.plain import Result, Row
from nasx.errors import UserError, printable
from nasx.tracking import checkpoints, lock, peek, records, sweep_log

STATES = ("finished", "running", "stopped", "failed", "not begun", "damaged")
HEADINGS = ("run", "kind", "state", "epoch", "updates", "changed", "left")
RECENT = 10
"""Number of most recent rows from which the speed is computed, because it changes with the machine's load."""


class State(NamedTuple):
    """The state of one run; `changed` is a Unix time in seconds, and `left_s` is None if unknown."""

    name: str
    kind: str
    state: str
    epoch: int
    epochs: int | None
    updates: int
    changed: float
    left_s: float | None
    fault: str

    def cells(self, now: float) -> tuple[str, ...]:
        """Return the values of the columns `HEADINGS` as text."""
        left = "" if self.left_s is None else duration(self.left_s)
        counts = ("", "") if self.kind == "study" else (f"{self.epoch}/{self.epochs or '?'}", str(self.updates))
        return (self.name, self.kind, self.state, *counts, f"{duration(now - self.changed)} ago", left)


def main(words: Sequence[str]) -> int:
    """Print one line per run and a total."""
    args = parse("status", words, {}, positional="FOLDER")
    if len(args.positional) > 1:
        raise UserError(
            f"nasx status {' '.join(args.positional)}",
            f"takes one folder, but {len(args.positional)} are given",
            "name one folder that contains all of them",
        )
    root = Path(args.positional[0] if args.positional else "outputs").expanduser()
    if args.positional and not root.is_dir():
        raise UserError(f"nasx status {args.positional[0]}", "does not exist", "name the folder that contains the runs")
    now = time.time()
    found = {Path(folder): state(Path(folder), root, now) for folder in records.run_folders(root)}
    print(printable("\n".join([text([*found.values()], root, now), *sweeps(root, now, found)])))
    return 0


def text(found: Sequence[State], root: Path, now: float) -> str:
    """Format the table of runs, the total, and the faults of failed and damaged runs."""
    if not found:
        return f"no runs under {root}"
    rows = [HEADINGS, *(run.cells(now) for run in found)]
    aligned = ["right" if heading in ("epoch", "updates") else "left" for heading in HEADINGS]
    table = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=aligned)
    lines = [line.rstrip() for line in table.splitlines()]
    counts = Counter(run.state for run in found)
    total = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
    known = [run.left_s for run in found if run.left_s is not None]
    ends = f"; the last run in progress ends in {duration(max(known))}" if known else ""
    lines.append(f"{len(found)} {'run' if len(found) == 1 else 'runs'}: {total}{ends}")
    labels = {"failed": "failed", "damaged": "damaged", "finished": "damaged"}
    lines += [f"{labels[run.state]}: {run.name}\n  {run.fault}" for run in found if run.fault and run.state in labels]
    return "\n".join(lines)


def state(folder: Path, root: Path, now: float) -> State:
    """Return the state of one run at the time `now`.

    Files that are incomplete, because the run is writing them or was killed, do not raise an error.
    """
    record, damage = recorded(folder)
    running = record is None and not damage and lock.holder(folder) is not None
    if record is None and not running:
        record, damage = recorded(folder)  # the run may have ended in between
    over = record is not None or bool(damage)
    rows, saved = last_rows(folder, RECENT + 1 if running else 1), [] if over else checkpoints.found(folder)
    fault, (held, epochs) = "" if over else _fault(folder), planned(folder / "config.yaml")
    kind = str((record or {}).get("kind") or held)
    earlier = [] if over or rows or saved else sorted(folder.glob("stage-*/config.yaml"))
    if earlier:  # not yet in its last stage: show the current stage
        within, name = state(earlier[-1].parent, folder, now), os.path.relpath(earlier[-1].parent, root)
        reached = "running" if running else "failed" if fault else "stopped"
        return within._replace(name=name, fault=fault or within.fault, state=reached)
    last = rows[-1] if rows else {}
    epoch = _whole(last.get("epoch")) or 0
    updates = max([_whole(last.get("updates")) or 0, *(int(path.stem) for path in saved if path.stem.isdigit())])
    if record is not None or damage:
        reached, fault = "damaged" if record is None else "finished", damage
        updates = _whole((record or {}).get("updates")) or updates
    elif running:
        reached = "running"
    elif fault:
        reached = "failed"
    else:
        reached = "stopped" if rows or saved else "not begun"
    name = folder.resolve().name if folder == root else os.path.relpath(folder, root)
    left_s = left(rows, epochs, now - _changed([folder / "metrics.jsonl"])) if reached == "running" else None
    named = [folder / file for file in ("config.yaml", "metrics.jsonl", "result.json", "fault.txt", "log.txt")]
    return State(name, kind, reached, epoch, epochs, updates, _changed([*named, *saved]), left_s, fault)


def last_rows(folder: Path, count: int) -> list[dict[str, object]]:
    """Return at most the last `count` metrics rows of a run, without incomplete rows and other invalid lines."""
    try:
        lines = peek.last_lines(folder / "metrics.jsonl", count + 1)  # the last line may be incomplete
    except OSError:
        return []
    rows: list[dict[str, object]] = []
    for line in reversed(lines):
        if len(rows) == count:
            break
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            rows += [row] if type(row) is dict else []
    return rows[::-1]


def planned(config: Path) -> tuple[str, int | None]:
    """Return (kind, number of epochs) from a run's configuration; ("?", None) if they cannot be read."""
    kind, epochs = "?", None
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        for keys, value in peek.scalars(config.read_text(encoding="utf-8")):
            if keys == ("kind",):
                kind = value
            elif keys == (kind, "epochs"):
                epochs = int(value) if value.isdecimal() else None
                break
    return kind, epochs


def recorded(folder: Path) -> tuple[Result | None, str]:
    """Return the record of a run (None if unfinished or unreadable), and a description of any damage, or "".

    The damage is an unreadable record, or files that differ from the checksums in the record.
    """
    try:
        record = records.finished(folder)
    except UserError as error:
        return None, str(error)
    names = records.broken(folder, record or {})
    return record, records.damage(names) if names else ""


def left(rows: Sequence[Row], epochs: int | None, since_s: float) -> float | None:
    """Estimate the seconds until the last epoch ends, `since_s` seconds after the last row; None if unknown."""
    rows = [row for row in rows if _whole(row.get("epoch")) and type(row.get("wall_s")) in (int, float)]
    timed = [(row["epoch"], row["wall_s"]) for row in rows[-RECENT - 1 :]]
    if not timed or epochs is None:
        return None
    (first, began), (last, ended) = timed[0] if len(timed) > 1 else (0, 0.0), timed[-1]
    if last <= first or last >= epochs:  # a selection of unknown length may follow the last epoch
        return None
    left_s: float = max((ended - began) / (last - first) * (epochs - last) - max(since_s, 0.0), 0.0)
    return left_s


# ---------------------------------------------------------------------------------------------------- sweeps
def sweeps(root: Path, now: float, found: Mapping[Path, State]) -> Iterator[str]:
    """Yield lines about the running sweeps under `root`, and about the newest one if it is unfinished.

    `found` maps run folders to states. These determine the states of jobs, because a killed sweep does not log its end.
    """
    folders = sorted((path.parent for path in root.glob(".sweeps/*/sweep.json")), key=lambda path: _changed([path]))
    for folder in folders:
        running, jobs = lock.holder(folder) is not None, sweep_log.jobs(folder)
        if not running and folder != folders[-1]:
            continue
        plan = files.read_json(folder / "sweep.json") or {}
        planned = max(plan.get("jobs") or 0, len(jobs))
        counts = dict.fromkeys(("done", "failed", "running", "stopped"), 0) | {"waiting": planned - len(jobs)}
        done, live = [], []
        for job in jobs:
            places = [root / run for run in job.runs if (root / run).is_dir()]
            runs = [found.get(place) or state(place, root, now) for place in places]
            states = {run.state for run in runs}
            if job.fault:
                counts["failed"] += 1
            elif states <= {"finished"} and (job.ended or 0 < len(runs) == len(job.runs)):
                counts["done"] += 1
                done += places
            elif "running" in states or (running and states <= {"finished"}):  # before or between its runs
                counts["running"] += 1
                live.append(runs)
            else:
                counts["stopped"] += 1
        if not running and counts["done"] == planned:
            continue
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        taken = [record["wall_s"] for place in done if (record := recorded(place)[0])]
        rest = sweep_left(taken, live, counts["waiting"])
        until = "" if rest is None else f"; about {duration(rest)} left"
        ends = f"running: {said}{until}" if running else f"stopped: {said}; the same command continues it:"
        yield f"sweep of {planned} jobs, {ends}"
        yield f"  {shlex.join(['nasx', *plan.get('command', [])])}"
        yield from (f"  failed: {shlex.join(job.overrides)}\n    {job.fault}" for job in jobs if job.fault)


def sweep_left(taken: Sequence[float], live: Sequence[Sequence[State]], waiting: int) -> float | None:
    """Estimate the seconds until the last job ends, from the durations `taken` (s) of finished runs.

    Running jobs end after their `left_s`, and waiting jobs take the mean of `taken`; before any run has finished, the
    mean is estimated from the running runs. The result is an upper estimate, because waiting jobs that were finished
    earlier are skipped. Returns None if no duration is known.
    """
    each = list(taken) or [
        run.left_s * run.epochs / (run.epochs - run.epoch)
        for runs in live
        for run in runs
        if run.left_s is not None and run.epochs and run.epoch < run.epochs
    ]
    if not each:
        return None
    mean = sum(each) / len(each)
    running = [max((run.left_s for run in runs if run.left_s is not None), default=mean) for runs in live]
    return (sum(running) + waiting * mean) / max(len(live), 1)


def duration(seconds: float) -> str:
    """Format seconds with `progress.duration`; negative values, after a jump of the clock, count as 0."""
    from nasx.tracking import progress

    return progress.duration(max(seconds, 0.0))


def _whole(value: object) -> int | None:
    return value if type(value) is int else None


def _fault(folder: Path) -> str:
    """Return the reason why the last start failed, on one line; empty if it did not fail."""
    try:
        return " ".join((folder / "fault.txt").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return ""


def _changed(paths: Sequence[Path]) -> float:
    """Return the latest modification time of the files, or 0 if none exists."""
    times = [0.0]
    for path in paths:
        with contextlib.suppress(OSError):  # does not exist yet, or was just removed
            times.append(path.stat().st_mtime)
    return max(times)
