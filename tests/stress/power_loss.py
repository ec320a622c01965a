"""A kill and a power loss at every file operation of seven commands on digits: repeated, each ends as if undisturbed.

    uv run python tests/stress/power_loss.py OUT                       all, from where an earlier start left off
    uv run python tests/stress/power_loss.py OUT --only search,table
    uv run python tests/stress/power_loss.py OUT --share 0/4           the first of four processes that share the trials

Each command runs once undisturbed while its file operations are noted (tests/stress/power.py). Then, for each of them:

    kill     the command, run again in a fresh folder, ends with os._exit before the operation, and once more in the
             middle of it if it is a write
    lost     the folder is what a power loss before the operation leaves if nothing unsynced survives
    subset   the same if a random subset of the unsynced operations survives (seeded by the operation's number)

The same command then runs to its end in the folder that is left. What it leaves must equal the undisturbed outcome:
checkpoints, rows, genotype and record of every run bit for bit (except clocks), pictures of cells, tables, reports and
exports byte for byte, the other pictures complete, the same files, and no temporary file. A state that equals, byte for
byte, one tried before is counted but not tried again (`seen`).

A command is forked from one process that has imported torch and computed nothing. It is what the installed script
runs after Hydra has composed its configuration (`nasx.cli.invoke.work`); tests/program/test_power.py runs whole
command lines.

OUT/trials-*.jsonl has one line per trial, OUT/power_loss.md one line per command. The exit code is 1 if anything
differs.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import random
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import forks
import outcomes
import power

IMPORTED = (
    *forks.IMPORTED,
    "hydra",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "pygraphviz",
    "nasx.jobs.study",
    "nasx.report.cells",
    "nasx.report.curves",
    "nasx.report.html",
    "nasx.cli.export",
    "nasx.export.model",
    "nasx.data.images",
    "nasx.benchmarks.nb201",
    "nasx.spaces.nb201.space",
    "jinja2",
)
COMMON = (
    "dataset=digits",
    "dataset.size=16",
    "space=nb201",
    "space.layers=1",
    "space.channels=4",
    "threads=1",
    "device=cpu",
    "out=runs",
    "checkpoint_s=0.001",
    "quiet=true",
)
SEARCH = (
    "method=darts",
    "method.order=1",
    "search.batch=8",
    "search.epochs=1",
    "search.updates_per_epoch=2",
    "search.evaluate_every=0",
    "search.evaluate_images=64",
    "search.diagnose_every=0",
)
RETRAIN = (
    "retrain.layers=1",
    "retrain.channels=4",
    "retrain.batch=16",
    "retrain.epochs=1",
    "retrain.updates_per_epoch=2",
)
CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
HOW = ("kill", "half", "lost", "subset")
"""Kinds of trials."""


class Case(NamedTuple):
    """A command, the commands that make its starting point, and whether pictures are drawn."""

    name: str
    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    drawn: bool = False


_SEARCH = ("search", *COMMON, *SEARCH, "name=found")
_RETRAIN = ("retrain", *COMMON, *RETRAIN, f"genotype={CELL}", "name=trained")
CASES = (
    Case("search", _SEARCH, drawn=True),
    Case("retrain", _RETRAIN),
    Case("run", ("run", *COMMON, *SEARCH, *RETRAIN, "then=retrain", "name=both")),
    Case("study", ("study", "study=independent", "study.searches=1", *COMMON, *SEARCH, *RETRAIN)),
    Case("table", ("table", "out=runs", "format=latex", "out_file=tables/t.tex"), (_SEARCH, _RETRAIN)),
    Case("report", ("report", "runs", "out=report.html"), (_SEARCH, _RETRAIN)),
    Case("export", ("export", "from=runs/trained", "out=exported/model"), (_RETRAIN,)),
)


# ----------------------------------------------------------------------------------------------------- a command
@functools.cache
def job(words: tuple[str, ...]) -> Callable[[], Any]:
    """Return what a command line does after it has been read and composed."""
    from hydra.types import RunMode

    from nasx.cli import commands, invoke
    from nasx.config import compose
    from nasx.config.job_info import JobInfo

    command, *rest = words
    if command in commands.PLAIN:
        return functools.partial(importlib.import_module(commands.PLAIN[command]).main, rest)
    from nasx.cli import arguments, preflight

    line = preflight.normalize(command, arguments.split_options(rest))
    cfg, choices = compose.resolved(
        compose.make_loader().load_configuration(command, list(line.overrides), RunMode.RUN)
    )
    info = JobInfo(choices=choices, overrides=list(line.overrides), command=f"nasx {command}")
    return functools.partial(invoke.work, command, cfg, info)


def forked(here: Path, act: Callable[[], Any], told: Path) -> int:
    """Run `act` in its own process, in the folder `here`; return its exit code. Its output goes to a file."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        os.chdir(here)
        handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(handle, stream)
        act()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:  # noqa: BLE001 (reported in the trial's row)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise AssertionError


def command(case: Case, words: tuple[str, ...], **how: Any) -> Callable[[], Any]:
    """Return the command `words`, watched with the options `how`, if there are any."""

    def act() -> None:
        from nasx.jobs import search

        if not case.drawn:
            search.run_summary.draw = lambda *_, **__: None
        ready = job(words)
        if how:
            power.watch(".", **how)
        ready()

    return act


# --------------------------------------------------------------------------------------------------------- trials
class Trial(NamedTuple):
    """One kill or power loss of a command."""

    case: str
    how: str
    at: int
    of: str
    """The operation, in words."""


def prepared(case: Case, out: Path) -> tuple[power.Tree, list[power.Op]]:
    """Return what a command starts from, and its operations; its undisturbed outcome is in OUT/<case>/whole."""
    base, whole, notes = (out / case.name / name for name in ("base", "whole", "operations"))
    if not (out / case.name / "ready").exists():
        shutil.rmtree(out / case.name, ignore_errors=True)
        base.mkdir(parents=True)
        for words in case.before:
            code = forked(base, command(case._replace(drawn=True), words), out / case.name / "before.txt")
            assert code == 0, (out / case.name / "before.txt").read_text(encoding="utf-8")
        shutil.copytree(base, whole)
        code = forked(whole, command(case, case.words, notes=str(notes.resolve())), out / case.name / "whole.txt")
        assert code == 0, (out / case.name / "whole.txt").read_text(encoding="utf-8")
        (out / case.name / "ready").touch()
    return power.tree(base), power.read(notes)


def trials(case: Case, ops: Sequence[power.Op]) -> Iterator[Trial]:
    """Yield all trials of a command."""
    counted = [op for op in ops if power.counts(op)]
    for at, op in enumerate([*counted, ("end",)]):
        of = " ".join(str(part) for part in op[:2] if not isinstance(part, bytes))
        for how in HOW:
            if (op[0] == "end" and how in ("kill", "half")) or (how == "half" and op[0] != "write"):
                continue
            yield Trial(case.name, how, at, of)


def left(trial: Trial, case: Case, base: power.Tree, ops: Sequence[power.Op], here: Path) -> power.Tree:
    """Write to the folder `here`, and return, what a kill or a power loss leaves."""
    if trial.how in ("kill", "half"):
        power.put(base, here)
        how = {"kill": trial.at, "half": trial.how == "half"}
        code = forked(here, command(case, case.words, **how), here.parent / "killed.txt")
        assert code == power.KILLED, (here.parent / "killed.txt").read_text(encoding="utf-8")
        return power.tree(here)
    disk, done = power.Disk(base), 0
    for op in ops:
        if power.counts(op):
            if done == trial.at:
                break
            done += 1
        disk.do(op)
    found = disk.lost(None if trial.how == "lost" else random.Random(trial.at))
    power.put(found, here)
    return found


def tried(
    trial: Trial, case: Case, base: power.Tree, ops: Sequence[power.Op], out: Path, work: Path, seen: dict[str, str]
) -> dict[str, Any]:
    """Make the state, run the command again, compare."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    here, row = work / "here", {**trial._asdict(), "outcome": "equal", "seen": False}
    mark = outcomes.state(left(trial, case, base, ops, here))
    if mark in seen:
        return {**row, "outcome": seen[mark], "seen": True}
    code = forked(here, command(case, case.words), work / "again.txt")
    faults: list[str] = []
    if code:
        said = (work / "again.txt").read_text(encoding="utf-8").strip()[-400:]
        faults = [f"exit code {code}: {said}"]
    else:
        report = work / "compared.json"
        forked(
            out,
            lambda: report.write_text(
                json.dumps(outcomes.differing((out / case.name / "whole").resolve(), here.resolve()))
            ),
            work / "compared.txt",
        )
        faults = (
            json.loads(report.read_text())
            if report.exists()
            else [(work / "compared.txt").read_text(encoding="utf-8")[-400:]]
        )
    row["outcome"] = seen[mark] = "; ".join(faults[:4]) or "equal"
    return {**row, "state": mark}


# ---------------------------------------------------------------------------------------------------------- all
def rows(out: Path) -> list[dict[str, Any]]:
    """Return what all starts have tried so far."""
    lines = (line for path in sorted(out.glob("trials-*.jsonl")) for line in path.read_text().splitlines())
    return [json.loads(line) for line in lines]


def table(found: Sequence[Mapping[str, Any]], operations: Mapping[str, int]) -> str:
    """Return a table with one line per command."""
    heads = ["command", "file operations", *(f"{how} ({'tried' if how else ''} + seen)" for how in HOW), "differ"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, count in operations.items():
        own = [row for row in found if row["case"] == name]
        tried_, again = (Counter(row["how"] for row in own if row["seen"] == seen) for seen in (False, True))
        wrong = [
            f"{row['how']} at {row['at']} ({row['of']}): {row['outcome']}" for row in own if row["outcome"] != "equal"
        ]
        cells = [name, count, *(f"{tried_[how]} + {again[how]}" for how in HOW), "; ".join(wrong) or "none"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + f"\n\n{sum(row['outcome'] == 'equal' for row in found)} of {len(found)} trials equal\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="names of commands, comma-separated; all where it is empty")
    parser.add_argument("--share", default="0/1", help="I/N: every N-th trial, from the I-th")
    parser.add_argument("--most", type=int, default=0, help="trials of this start at most; 0: all")
    args = parser.parse_args()
    share, of = map(int, args.share.split("/"))
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["NASX_DATA"] = str(out / "no-data")
    for name in IMPORTED:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    left_over, operations, log = args.most or sys.maxsize, {}, out / f"trials-{share}-of-{of}.jsonl"
    for case in CASES:
        if args.only and case.name not in args.only.split(","):
            continue
        base, ops = prepared(case, out)
        operations[case.name] = sum(map(power.counts, ops))
        done = {(row["case"], row["how"], row["at"]): row for row in rows(out)}
        seen = {row["state"]: row["outcome"] for row in done.values() if row["case"] == case.name and "state" in row}
        for number, trial in enumerate(trials(case, ops)):
            if number % of != share or (trial.case, trial.how, trial.at) in done or not left_over:
                continue
            left_over -= 1
            row = tried(trial, case, base, ops, out, out / "work" / f"{share}-of-{of}", seen)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if row["outcome"] != "equal":
                print(json.dumps(row), flush=True)
    found = rows(out)
    text = f"`tests/stress/power_loss.py {' '.join(sys.argv[1:])}`\n\n{table(found, operations)}"
    (out / "power_loss.md").write_text(text, encoding="utf-8")
    print(text)
    return int(any(row["outcome"] != "equal" for row in found))


if __name__ == "__main__":
    sys.exit(main())
