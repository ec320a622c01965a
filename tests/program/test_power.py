"""Kills and power losses at file operations of whole commands: the same command gives the result of an undisturbed run.

The disk model is tested on correct and on faulty writers. The whole campaign, over all operations of seven commands, is
tests/stress/power_loss.py.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jobs
import outcomes
import power
import power_loss
import pytest

SCRIPTS = Path(power.__file__).parent
CODE = """
import os, sys
sys.path.insert(0, {scripts!r})
import power
from pathlib import Path
from nasx.core import files
power.watch({root!r}, {notes!r})
{without}
{writes}
"""
TWICE = """
path = Path({root!r}, "new", "file")
files.write_atomic(path, "old " * 100)
files.write_atomic(path, "new " * 100)
"""
UNSYNCED = """
sync = os.fsync
os.fsync = lambda handle: os.path.isdir(f"/proc/self/fd/{handle}") and sync(handle)
"""
IN_PLACE = """
def in_place(path, text):
    files.make_folder(path.parent)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(handle, text.encode())
    os.fsync(handle)
    os.close(handle)
    files.sync_folder(path.parent)
files.write_atomic = in_place
"""
WITHOUT = {
    "no fsync of the file": UNSYNCED,
    "no fsync of the folder": "files.sync_folder = lambda folder: None",
    "no rename": IN_PLACE,
}


def noted(tmp_path: Path, writes: str, without: str = "") -> list[power.Op]:
    """The operations of a process that writes in `tmp_path`/root."""
    (tmp_path / "root").mkdir()
    names = {"scripts": str(SCRIPTS), "root": str(tmp_path / "root"), "notes": str(tmp_path / "notes")}
    code = CODE.format(without=without, writes=writes.format(**names), **names)
    subprocess.run([sys.executable, "-c", code], check=True)
    return power.read(tmp_path / "notes")


def losses(ops: list[power.Op], draws: int = 5) -> Iterator[tuple[int, power.Tree]]:
    """What every power loss may leave: (operations before it, tree)."""
    for at in range(len(ops) + 1):
        disk = power.Disk({})
        for op in ops[:at]:
            disk.do(op)
        yield at, disk.lost(None)
        for seed in range(draws):
            yield at, disk.lost(random.Random(f"{at} {seed}"))


# -------------------------------------------------------------------------------------------------- the model
def test_a_file_is_the_old_or_the_new_one_after_every_power_loss(tmp_path: Path) -> None:
    ops = noted(tmp_path, TWICE)
    texts = {at: tree.get("new/file") for at, tree in losses(ops)}
    assert set(texts.values()) == {None, b"old " * 100, b"new " * 100}
    assert texts[len(ops)] == b"new " * 100, "what was written is durable"
    first = min(at for at, text in texts.items() if text == b"old " * 100)
    for at, tree in losses(ops):
        assert at <= first or tree.get("new/file") is not None, "what was durable stays"


@pytest.mark.parametrize("lacks", WITHOUT)
def test_the_model_finds_what_a_writer_lacks(lacks: str, tmp_path: Path) -> None:
    ops = noted(tmp_path, TWICE, WITHOUT[lacks])
    found = [tree.get("new/file") for _, tree in losses(ops, draws=20)]
    whole = {None, b"old " * 100, b"new " * 100}
    end = power.Disk({})
    for op in ops:
        end.do(op)
    assert set(found) - whole or end.lost(None).get("new/file") != b"new " * 100


def test_a_replay_ends_as_the_disk_does(tmp_path: Path) -> None:
    writes = (
        TWICE
        + """
files.append(path, "more")
handle = os.open(path.with_name("lock"), os.O_RDWR | os.O_CREAT)
os.lseek(handle, 2, os.SEEK_SET)
os.write(handle, b"abcdef")
os.ftruncate(handle, 4)
os.close(handle)
os.mkdir(path.with_name("inner"))
os.rmdir(path.with_name("inner"))
files.write_atomic(path.with_name("gone"), b"x")
os.unlink(path.with_name("gone"))
"""
    )
    ops = noted(tmp_path, writes)
    disk = power.Disk({})
    for op in ops:
        disk.do(op)
    assert (
        disk.now()
        == power.tree(tmp_path / "root")
        == {"new": None, "new/file": b"new " * 100 + b"more", "new/lock": b"\0\0ab"}
    )
    assert disk.lost(None) == {"new": None, "new/file": b"new " * 100 + b"more", "new/lock": b"", "new/gone": b"x"}, (
        "the lock's name was synced with its folder, its text was not; nor was the end of gone"
    )
    again = power.Disk(disk.now())
    assert again.now() == again.lost(None) == disk.now(), "what is there at first is durable"


def test_a_kill_comes_before_an_operation_or_in_the_middle_of_it(tmp_path: Path) -> None:
    ops = noted(tmp_path, TWICE)
    for at, (place, op) in enumerate((i, op) for i, op in enumerate(ops) if power.counts(op)):
        for half in (False, True)[: 1 + (op[0] == "write")]:
            root = tmp_path / f"{at}-{half}"
            root.mkdir()
            names = {"scripts": str(SCRIPTS), "root": str(root), "notes": str(tmp_path / "other")}
            code = CODE.format(without="", writes=TWICE.format(**names), **names).replace(
                f"power.watch({str(root)!r}, {names['notes']!r})", f"power.watch({str(root)!r}, None, {at}, {half})"
            )
            assert subprocess.run([sys.executable, "-c", code], check=False).returncode == power.KILLED
            disk = power.Disk({})
            for before in ops[:place]:
                disk.do(before)
            found, left = power.tree(root), disk.now()
            assert len(found) == len(left)
            cut = len(op[3]) // 2 if half else 0
            assert sum(len(x or b"") for x in found.values()) == sum(len(x or b"") for x in left.values()) + cut


# ------------------------------------------------------------------------------------------------- whole commands
def case(name: str) -> power_loss.Case:
    [found] = [case for case in power_loss.CASES if case.name == name]
    return found


Ready = tuple[power_loss.Case, power.Tree, list[power.Op], Path]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ready]:
    """A command, what it starts from, its operations and its untouched outcome."""
    known: dict[str, Ready] = {}

    def make(name: str) -> Ready:
        if name not in known:
            own, base = case(name), tmp_path_factory.mktemp("base")
            for words in own.before:
                assert jobs.nasx(base, *words, pictures=True).code == 0
            start, notes = power.tree(base), base.parent / f"{name}.operations"
            done = jobs.nasx(base, *own.words, prepare=partial(power.watch, str(base), str(notes)))
            assert done.code == 0, done
            known[name] = own, start, power.read(notes), base
        return known[name]

    return make


def attempt(made: Ready, how: str, at: int, here: Path) -> None:
    """One trial of tests/stress/power_loss.py, of a whole command line."""
    own, start, ops, whole = made
    if how in ("kill", "half"):
        power.put(start, here)
        watch = partial(power.watch, str(here), kill=at, half=how == "half")
        assert jobs.nasx(here, *own.words, prepare=watch).code == power.KILLED
    else:
        power_loss.left(power_loss.Trial(own.name, how, at, ""), own, start, ops, here)
    done = jobs.nasx(here, *own.words)
    assert done.code == 0, (how, at, done)
    assert outcomes.differing(whole, here) == [], (how, at)


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("search", 40),
        ("table", 11),
        ("export", 15),
        pytest.param("retrain", 5, marks=pytest.mark.slow),
        pytest.param("study", 9, marks=pytest.mark.slow),
        pytest.param("run", 9, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_killed_or_without_power_at_some_operations(
    name: str, every: int, ready: Callable[[str], Ready], tmp_path: Path
) -> None:
    """A few of all trials, evenly over the operations and the four ends."""
    made = ready(name)
    all_ = list(power_loss.trials(made[0], made[2]))
    for number, trial in enumerate(all_[::every]):
        attempt(made, trial.how, trial.at, tmp_path / f"{number}" / "here")
    assert len(all_) > 15


def test_what_is_compared_can_differ(ready: Callable[[str], Ready], tmp_path: Path) -> None:
    _, _, _, whole = ready("search")
    for name, harm in {
        "a row": lambda here: (here / "metrics.jsonl").write_text(
            (here / "metrics.jsonl").read_text().replace('"train_loss": ', '"train_loss": 1')
        ),
        "left": lambda here: (here / ".nasx-0.part").write_text(""),
        "no": lambda here: (here / "genotype.txt").unlink(),
        "not finished": lambda here: (here / "result.json").unlink(),
    }.items():
        here = tmp_path / name
        power.put(power.tree(whole), here)
        assert outcomes.differing(whole, here) == []
        harm(here / "runs" / "found")
        assert outcomes.differing(whole, here) != [], name
