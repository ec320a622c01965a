"""Writers and readers hammer one results folder while writers are killed: no record may be lost or torn.

    uv run python tests/stress/hammer.py OUT --seconds 60

Four writers work on runs in one folder, as `nasx search` would, but without the arithmetic: they take an unfinished run
(often one on which another writer is working too), continue from its checkpoint, append one row per epoch, save, and
write the record after the last epoch. Every so often one is killed with kill -9 and replaced. Two readers constantly
request what `nasx table` and `nasx status` show, and look at every record. At the end, every record that a writer has
written must be there as it was written, with all its rows, and no two writers may ever have been in one run at the same
time (each holds a second lock there, of another kind, which must always have been free). The exit code is 1 if anything
is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nasx.cli import status, table
from nasx.core import files
from nasx.errors import UserError
from nasx.results import collect
from nasx.tracking import checkpoints, lock, records, run_folder

CONTEXT = multiprocessing.get_context("fork")
EPOCHS, OPEN = 4, 3
"""Epochs per run, and runs that are open at a time: fewer than the writers, so that these often meet."""
LONG = 0.05
"""The share of epochs that last longer than another start waits for the lock, so that it is refused."""


def sealed(**facts: Any) -> dict[str, Any]:
    """Return facts with a checksum and some filler."""
    facts["filler"] = "x" * 2000
    return {**facts, "check": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}


def whole(facts: dict[str, Any]) -> bool:
    """Return whether sealed facts are unchanged."""
    own = {key: value for key, value in facts.items() if key not in ("seal", "format")}  # of the run's files
    return sealed(**{key: value for key, value in own.items() if key not in ("check", "filler")}) == own


class Notes:
    """Counts and faults of one process, in its own file, which a kill cannot tear: one short write per line."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, *words: object) -> None:
        os.write(self.handle, f"{' '.join(map(str, words))}\n".encode())


def until_killed(what: Callable[[Path, Notes, int], None], out: Path, note: Notes, seed: int) -> None:
    """Do the work of one process, which only a kill may end: any other end is noted as a fault."""
    try:
        what(out, note, seed)
    except BaseException as error:
        note(f"fault {what.__name__} ended by itself: {error!r}")
        raise


def write(out: Path, note: Notes, seed: int) -> None:
    """Work as a writer until killed."""
    draw = random.Random(seed)
    while True:
        done = sum((out / f"run-{i}" / "result.json").exists() for i in range(len(os.listdir(out))))
        folder = out / f"run-{draw.randrange(max(done - 2, 0), done + OPEN)}"
        try:
            with run_folder.Run(folder, {"seed": folder.name}, {"kind": "search"}) as run:
                if records.finished(folder) is None:
                    work(run, note, draw)
                note("opened", folder.name)
        except UserError as error:
            note("refused" if "is in use" in str(error) else f"fault {error}")


def work(run: run_folder.Run, note: Notes, draw: random.Random) -> None:
    """Take the run from its checkpoint to its end."""
    inside = os.open(run.folder / "inside", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which nasx uses; a kill releases it too
    except OSError:
        note(f"fault two writers are in {run.folder.name}")
    try:
        state = run.load()
        rows = 0 if state is None else state["rows"]
        run.keep_rows("" if state is None else state["metrics"])
        w = torch.zeros(1000) if state is None else state["w"]
        for epoch in range(rows + 1, EPOCHS + 1):
            run.append(sealed(epoch=epoch, run=run.folder.name))
            if draw.random() < LONG:
                time.sleep(2 * lock.TRY_S)
            w = w * 3 + epoch
            run.save({"w": w}, epoch)
        result = sealed(
            kind="search",
            status="finished",
            choices={"method": "darts"},
            name=run.folder.name,
            seed=0,
            identity=run.folder.name,
            w=w[0].item(),
        )
        run.finish(result)
        note("finished", run.folder.name, result["check"])
    finally:
        os.close(inside)


def read(out: Path, note: Notes, seed: int) -> None:
    """Work as a reader until killed."""
    while True:
        before = {path.parent.name for path in out.glob("*/result.json")}
        frame, counted = collect.collect(out), runs_in_table(out)
        after = {path.parent.name for path in out.glob("*/result.json")}
        told = set(frame["run"])
        if not before <= told <= after:
            note(f"fault the table lacks {sorted(before - told)} and invents {sorted(told - after)}")
        if not len(before) <= counted <= len(after):
            note(f"fault nasx table counts {counted} of {len(before)} to {len(after)} runs")
        if set(frame.attrs["skipped"]) - {"not finished"}:
            note(f"fault the table leaves out {frame.attrs['notes']}")
        for folder in map(Path, records.run_folders(out)):
            found = status.state(folder, out, time.time())
            if folder.name in before and found.state != "finished":
                note(f"fault status says {found.state} of {folder.name}, which is finished")
            record = files.read_json(folder / "result.json")
            if folder.name in before and (record is None or not whole(record)):
                note(f"fault the record of {folder.name} is torn")
            if not all(map(whole, records.read_rows(folder))):
                note(f"fault a row of {folder.name} is torn")
        note("looked", len(told))


def runs_in_table(out: Path) -> int:
    """Return how many runs `nasx table` counts; 0 if it says so, as it does until the first one is finished."""
    try:
        with contextlib.redirect_stdout(io.StringIO()) as told:
            table.main({"out": str(out), "format": "csv"})
    except UserError as error:
        if "no finished run" not in str(error):
            raise
        return 0
    return sum(int(row["n"]) for row in csv.DictReader(io.StringIO(told.getvalue())))


def verify(out: Path, finished: dict[str, str]) -> list[str]:
    """Return what is wrong with the folder at rest, given the seals of the records that writers have written."""
    faults = []
    expected = torch.zeros(1000)
    for epoch in range(1, EPOCHS + 1):
        expected = expected * 3 + epoch
    for name, seal in finished.items():
        record = files.read_json(out / name / "result.json")
        if record is None or record["check"] != seal or not whole(record):
            faults.append(f"the record of {name} is not the one that was written")
        rows = records.read_rows(out / name)
        if [row["epoch"] for row in rows] != list(range(1, EPOCHS + 1)) or not all(map(whole, rows)):
            faults.append(f"{name} has rows {[row['epoch'] for row in rows]}")
        last = checkpoints.last(out / name)
        if last is None or not torch.equal(last["w"], expected):
            faults.append(f"the last checkpoint of {name} is not that of its end")
    for folder in map(Path, records.run_folders(out)):
        try:
            with run_folder.Run(folder, {"seed": folder.name}, {"kind": "search"}) as run:
                run.load()
        except UserError as error:
            faults.append(f"{folder.name} cannot go on: {error}")
        if list(folder.rglob("*.part")):
            faults.append(f"{folder.name} keeps half a file")
    return faults


def hammer(out: Path, seconds: float, writers: int, readers: int, seed: int) -> dict[str, Any]:
    """Let them work, killing one of the writers every so often; return counts and faults."""
    draw, number = random.Random(seed), 0
    (out / "runs").mkdir(parents=True)
    (out / "notes").mkdir()
    torch.set_num_threads(1)

    def begin(what: Callable[[Path, Notes, int], None]) -> multiprocessing.process.BaseProcess:
        nonlocal number
        number += 1
        process = CONTEXT.Process(
            target=until_killed,
            daemon=True,
            args=(what, out / "runs", Notes(out / "notes" / f"{number}"), draw.randrange(2**32)),
        )
        process.start()
        return process

    teams = [begin(write) for _ in range(writers)], [begin(read) for _ in range(readers)]
    end, kills, gone = time.monotonic() + seconds, 0, set[int | None]()
    while time.monotonic() < end:
        time.sleep(draw.uniform(0, 0.3))
        gone.update(process.pid for team in teams for process in team if not process.is_alive())
        victim = draw.randrange(writers)
        teams[0][victim].kill()
        teams[0][victim].join()
        teams[0][victim] = begin(write)
        kills += 1
    for team in teams:
        for process in team:
            process.kill()
            process.join()
    lines = [line.split(" ", 1) for path in (out / "notes").iterdir() for line in path.read_text().splitlines()]
    counts = {word: sum(line[0] == word for line in lines) for word in ("opened", "refused", "looked")}
    seals = dict(line[1].split(" ") for line in lines if line[0] == "finished")
    faults = [line[1] for line in lines if line[0] == "fault"] + verify(out / "runs", seals)
    faults += [f"{len(gone)} processes ended by themselves"] if gone else []
    return {
        "seconds": seconds,
        "writers": writers,
        "readers": readers,
        "kills": kills,
        **counts,
        "finished": len(seals),
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    args = parser.parse_args()
    told = hammer(args.out, args.seconds, args.writers, args.readers, args.seed)
    print(json.dumps({**told, "faults": told["faults"][:10]}, indent=1))
    return int(bool(told["faults"]) or not told["finished"])


if __name__ == "__main__":
    sys.exit(main())
