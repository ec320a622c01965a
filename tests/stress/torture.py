"""Searches, retrainings and a whole sweep on real CIFAR-10, killed with kill -9 at random moments and started again.

    NASX_DATA=DIR uv run python tests/stress/torture.py OUT                    100 kills of single runs, 20 of a sweep
    NASX_DATA=DIR uv run python tests/stress/torture.py OUT --only nb201-darts --kills 10

Each case runs once undisturbed. Then the same command in another folder is killed and started again, as often as chance
has it, until it ends; everything that it leaves (last checkpoint, metrics rows, genotype, record; except clocks) must
equal that of the undisturbed run bit for bit. This starts over until the case has had its share of the kills. The
moment is drawn (seeded): half of the time uniformly over the life of the command, half of the time at most a second
after something happened on the disk, because writing takes little of the time. What a kill has hit is read from the
folder that it leaves:

    start-up          this start has left nothing on the disk yet: Python, imports, configuration
    set-up            the lock is taken: data, network, the checkpoint of the previous start
    training          between two writes
    checkpoint        half a checkpoint lies next to the others
    epoch's end       there is a metrics row that no checkpoint counts yet
    result            the genotype is written, but the record is not
    pictures          the record is written, but not all pictures are
    end               everything is written, but the process has not ended

A table is printed and written to OUT/torture.md, one line per kill to OUT/kills.jsonl. The exit code is 1 if anything
differs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from kills import SMALL, Command, compared, small

from nasx.tracking import checkpoints, records

PHASES = ("start-up", "set-up", "training", "checkpoint", "epoch's end", "result", "pictures", "end")
COMMON = ("device=cpu", "threads=1", "quiet=true", "checkpoint_s=0.001")
SEARCH = ("search.epochs=3", "search.batch=4", "search.evaluate_every=0", "search.evaluate_images=64")
DARTS = (
    "retrain space=darts genotype=DARTS_V2 retrain.layers=3 retrain.channels=4 retrain.ema=0.9 retrain.mixup=0.2 "
    "retrain.cutmix=1 retrain.accumulate=2 retrain.drop_path=0.2 retrain.label_smoothing=0.1"
)
NB201 = (
    "retrain space=nb201 genotype=|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|none~1|"
    "nor_conv_3x3~2| retrain.layers=1 retrain.channels=4 retrain.momentum=0.9"
)
SWEPT = ("darts,gdas,random_ws,tse", "0,1")
"""Methods and seeds of the sweep."""


class Started(Protocol):
    """A running command."""

    @property
    def pid(self) -> int: ...
    def running(self) -> bool: ...
    def kill(self) -> None: ...
    def end(self) -> tuple[int, str]: ...


class Case(NamedTuple):
    """A command that is killed: its words without `out`, the runs it leaves, the part of its life for kills."""

    name: str
    words: tuple[str, ...]
    runs: int = 1
    within: float = 1.0


def cases(data: str, updates: int) -> list[Case]:
    """Return searches (six methods, three spaces), retrainings, both in one, stages, two seeds in one, the sweep."""
    each = (f"search.updates_per_epoch={updates}", *SEARCH, f"dataset={data}", *COMMON)
    pairs = [
        ("nb201", "darts"),
        ("nb201", "idarts"),
        ("nb201", "lambda"),
        ("darts", "gdas"),
        ("darts", "pc_darts"),
        ("nb1shot1_1", "sdarts"),
    ]
    found = [Case(f"{space}-{method}", ("search", *small(method, space), *each)) for space, method in pairs]
    trained = (
        f"retrain.updates_per_epoch={updates}",
        "retrain.epochs=3",
        "retrain.batch=16",
        "retrain.auxiliary=0",
        f"dataset={data}",
        *COMMON,
    )
    found += [Case(f"retrain-{text.split()[1][6:]}", (*text.split(" "), *trained)) for text in (DARTS, NB201)]
    found.append(
        Case(
            "search-and-retrain",
            (
                "run",
                "then=retrain",
                *small("single", "darts"),
                *each,
                *trained[:4],
                "retrain.layers=3",
                "retrain.channels=4",
            ),
            runs=2,
        )
    )
    found.append(
        Case(
            "stages",
            (
                "search",
                "stages=drnas_darts",
                *small("darts", "darts"),
                "space.channels=12",
                "search.arch_warmup=0",
                *each,
            ),
        )
    )
    found.append(Case("two-seeds", ("search", "seeds_per_job=2", *small("tse", "nb201"), *each), runs=2))
    return [*found, sweep(each)]


def sweep(each: Sequence[str]) -> Case:
    """Return a sweep over four methods and two seeds."""
    methods, seeds = SWEPT
    return Case(
        "sweep",
        ("search", "--multirun", f"method={methods}", f"seed={seeds}", "space=nb201", *SMALL["nb201"], *each),
        runs=8,
        within=0.15,
    )


# ------------------------------------------------------------------------------------------------- what is on the disk
class Sight(NamedTuple):
    """What an observer sees of the run in progress: names and times, no contents."""

    lock: bytes
    saved: tuple[str, ...]
    half: bool
    rows: int
    genotype: int
    result: bool
    pictures: int
    drawing: bool


def sight(folder: Path) -> Sight:
    """Take one look at a run folder."""
    try:
        names = {path.name: path for path in folder.iterdir()}
        inside = [path.name for path in (folder / "checkpoints").iterdir()]
    except FileNotFoundError:
        return Sight(b"", (), False, 0, 0, False, 0, False)

    def content(name: str) -> bytes:
        try:
            return names[name].read_bytes() if name in names else b""
        except FileNotFoundError:
            return b""

    return Sight(
        content("lock"),
        tuple(sorted(x for x in inside if x.endswith(".ckpt"))),
        any(x.endswith(".part") for x in inside),
        content("metrics.jsonl").count(b"\n"),
        names["genotype.txt"].stat().st_mtime_ns if "genotype.txt" in names else 0,
        "result.json" in names,
        sum(x.endswith((".svg", ".png")) and not x.startswith(".") for x in names),
        "result.json" in names and any(x.endswith(".part") for x in names),
    )


def busy(out: Path) -> Path:
    """Return the run under `out` that was written to last."""
    found = [Path(folder) for folder in records.run_folders(out)]
    times = {
        folder: max(
            path.stat().st_mtime_ns for path in (folder, folder / "checkpoints", folder / "lock") if path.exists()
        )
        for folder in found
    }
    return max(times, key=lambda folder: times[folder], default=out / "run")


NOTHING = sight(Path("/nowhere"))


def sights(out: Path) -> dict[Path, Sight]:
    """Take one look at every run under `out`."""
    return {Path(folder): sight(Path(folder)) for folder in records.run_folders(out)}


EVENTS: dict[str, Callable[[Sight, Sight], bool]] = {
    "its begin": lambda a, b: True,
    "the lock is taken": lambda a, b: a.lock != b.lock and bool(b.lock),
    "a checkpoint": lambda a, b: a.saved != b.saved,
    "half a checkpoint": lambda a, b: b.half,
    "a row": lambda a, b: b.rows > a.rows,
    "the genotype": lambda a, b: b.genotype != a.genotype,
    "the record": lambda a, b: b.result and not a.result,
    "half a picture": lambda a, b: b.drawing,
}
LONG = ("its begin", "the lock is taken")
"""Events that a kill may follow much later; it follows others within a second, because writing is quick."""


def phase(before: Sight, after: Sight, folder: Path, pid: int) -> str:
    """Return what a kill has hit, from what was there at the start and what is there now."""
    if not after.lock.startswith(f"process {pid} on ".encode()):
        return "end" if after.result and not after.lock and before.lock != after.lock else "start-up"
    if after.result:
        return "pictures" if after.drawing or after.pictures < 2 else "end"
    if after.genotype != before.genotype:
        return "result"
    if after.half:
        return "checkpoint"
    if after.saved == before.saved and after.rows == before.rows:
        return "set-up"
    newest = checkpoints.read(checkpoints.found(folder)[-1]) if after.saved else {"rows": 0}
    return "epoch's end" if newest is not None and after.rows > newest["rows"] else "training"


# ------------------------------------------------------------------------------------------------------------ kills
Start = Callable[[Sequence[str]], Started]


def moment(started: Started, out: Path, before: dict[Path, Sight], draw: random.Random, life_s: float) -> str:
    """Wait for a random moment of a command, within `life_s` seconds of its start or an event; return which."""
    name = draw.choices(list(EVENTS), (6, 6, 4, 4, 3, 1, 1, 1))[0]
    until = time.monotonic() + 600
    while started.running() and time.monotonic() < until:
        folder = busy(out)
        if EVENTS[name](before.get(folder, NOTHING), sight(folder)):
            break
        time.sleep(0.002)
    wait = draw.uniform(0, life_s) if name in LONG else draw.choice((0.0, draw.uniform(0, 0.05), draw.uniform(0, 1)))
    end = time.monotonic() + wait
    while started.running() and time.monotonic() < end:
        time.sleep(min(0.05, max(end - time.monotonic(), 0)))
    return f"{name} + {wait:.3f} s"


def trial(
    case: Case,
    base: Path,
    start: Start,
    draw: random.Random,
    life_s: float,
    most: int,
    tell: Callable[[dict[str, Any]], None],
) -> tuple[int, list[str]]:
    """Kill and restart until the command ends (undisturbed after `most` kills); return (values compared, faults)."""
    out = base / "killed"
    shutil.rmtree(out, ignore_errors=True)
    kills = 0
    while True:
        before = sights(out)
        started = start([*case.words, f"out={out}", *(["name=run"] if case.runs == 1 else [])])
        waited = moment(started, out, before, draw, life_s * case.within) if kills < most else ""
        if kills < most and started.running():
            started.kill()
            kills += 1
            folder = busy(out)
            hit = phase(before.get(folder, NOTHING), sight(folder), folder, started.pid)
            tell({"case": case.name, "waited": waited, "phase": hit})
            continue
        code, said = started.end()
        if code:
            return 0, [f"exit code {code}: {said.strip()[-500:]}"]
        break
    values, faults = 0, []
    for whole in map(Path, records.run_folders(base / "whole")):
        n, differ = compared(whole, out / whole.name)
        values += n
        faults += [f"{whole.name}: {name}" for name in differ]
        faults += [
            f"{whole.name}: no {path.name}"
            for path in whole.glob("*.???")
            if path.suffix in (".svg", ".png") and not (out / whole.name / path.name).is_file()
        ]
    found = len(list(records.run_folders(out)))
    return values, faults if found == case.runs else [*faults, f"{found} runs, not {case.runs}"]


def torture(
    case: Case,
    base: Path,
    kills: int,
    start: Start,
    seed: int,
    tell: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Run all trials of one case."""
    draw, began = random.Random(f"{seed}-{case.name}"), time.monotonic()
    shutil.rmtree(base, ignore_errors=True)
    code, said = start([*case.words, f"out={base / 'whole'}", *(["name=run"] if case.runs == 1 else [])]).end()
    life_s = time.monotonic() - began
    row: dict[str, Any] = {
        "case": case.name,
        "whole_s": round(life_s, 1),
        "kills": 0,
        "ends": 0,
        "values": 0,
        "faults": [f"exit code {code}: {said.strip()[-500:]}"] if code else [],
    }
    phases: Counter[str] = Counter()

    def note(kill: dict[str, Any]) -> None:
        phases[kill["phase"]] += 1
        tell(kill)

    while row["kills"] < kills and not row["faults"]:
        values, faults = trial(case, base, start, draw, life_s, kills - row["kills"], note)
        row |= {"kills": phases.total(), "ends": row["ends"] + 1, "values": row["values"] + values, "faults": faults}
    return row | {"phases": dict(phases), "seconds": round(time.monotonic() - began)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table with one line per case."""
    heads = ["case", "kills", *PHASES, "ended runs compared", "values", "outcome"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["phases"])
        cells = [
            row["case"],
            row["kills"],
            *(row["phases"].get(name, 0) for name in PHASES),
            row["ends"],
            row["values"],
            "; ".join(row["faults"][:4]) or "equal",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    cells = [
        "all",
        total.total(),
        *(total[name] for name in PHASES),
        sum(row["ends"] for row in rows),
        sum(row["values"] for row in rows),
        f"{sum(not row['faults'] for row in rows)} of {len(rows)} equal",
    ]
    return "\n".join([*lines, f"| {' | '.join(map(str, cells))} |"]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="names of cases, comma-separated; all where it is empty")
    parser.add_argument("--kills", type=int, default=100, help="of all commands but the sweep together")
    parser.add_argument("--sweep-kills", type=int, default=20)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--updates", type=int, default=6, help="weight updates in each of three epochs")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    args = parser.parse_args()
    chosen = [case for case in cases(args.data, args.updates) if not args.only or case.name in args.only.split(",")]
    single = [case for case in chosen if case.name != "sweep"]
    args.out.mkdir(parents=True, exist_ok=True)
    log = (args.out / "kills.jsonl").open("w", encoding="utf-8")

    def tell(kill: dict[str, Any]) -> None:
        log.write(json.dumps(kill) + "\n")
        log.flush()

    def one(case: Case) -> dict[str, Any]:
        kills = args.sweep_kills if case.name == "sweep" else -(-args.kills // len(single))
        row = torture(case, args.out / case.name, kills, Command, args.seed, tell)
        print(json.dumps(row), flush=True)
        return row

    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(one, chosen))
    text = f"`tests/stress/torture.py {' '.join(sys.argv[1:])}`\n\n{table(rows)}"
    (args.out / "torture.md").write_text(text, encoding="utf-8")
    print(text)
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
