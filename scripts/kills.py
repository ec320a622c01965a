"""Shared by the scripts that kill runs: a command in its own process, and the comparison of run folders bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from nasx.config.paths import conf_dir
from nasx.core import files
from nasx.tracking import checkpoints, records

SMALL = {
    "nb201": ["space.layers=1", "space.channels=4"],
    "nb1shot1": ["space.layers=3", "space.channels=4"],
    "darts": ["space.layers=3", "space.channels=4"],
}
OWN = {
    "pc_darts": ["space.channels=8"],
    "tse": ["method.T=20"],
    "tse_drnas": ["method.inner.T=20"],
    "darts_pt": ["method.tune=1", "method.batches=2"],
    **{name: ["method.candidates=30"] for name in ("synflow", "naswot", "snip", "grasp", "zen")},
}
"""What else a method needs to be small."""
CLOCK = ("elapsed_s", "started", "finished", "seconds", "images_per_s", "peak_mb")
"""Values of a clock or a process, which differ from start to start, in addition to all names that end in _s."""
MACHINE = ("command", "overrides", "hardware", "versions", "commit", "together", "seal")


def equal_rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows that earlier starts of a script left in OUT/rows.jsonl, without those that were not equal."""
    done = out / "rows.jsonl"
    lines = done.read_text(encoding="utf-8").splitlines() if done.exists() else []
    return [row for row in map(json.loads, lines) if row["outcome"] == "equal"]


def add(row: dict[str, Any], rows: list[dict[str, Any]], out: Path) -> None:
    """Add a row, print it, and write all rows to OUT/rows.jsonl."""
    rows.append(row)
    print(json.dumps(row), flush=True)
    (out / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def told(rows: Sequence[Mapping[str, Any]], lines: Sequence[str], path: Path) -> int:
    """Write the table, print how many rows are equal, and return the exit code."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    equal = sum(row["outcome"] == "equal" for row in rows)
    print(f"{equal} of {len(rows)} equal")
    return int(equal < len(rows))


def target(group: str, name: str) -> str:
    """Return the class that a YAML file names."""
    found: str = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))["_target_"]
    return found


def family(space: str) -> str:
    """Return which of the small sizes a space takes, from the class that its YAML file names."""
    return target("space", space).split(".")[2]


def small(method: str, space: str) -> list[str]:
    """Return the overrides that make the search of a method on a space small."""
    return [f"method={method}", f"space={space}", *SMALL[family(space)], *OWN.get(method, [])]


class Command:
    """`nasx WORDS` in its own process group, on one thread, without output."""

    def __init__(self, words: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nasx", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """kill -9 the whole group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and its standard error."""
        _, said = self.process.communicate()
        return self.process.returncode, said


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of nested dictionaries and lists, without the values of a clock."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if str(key) not in CLOCK and not str(key).endswith("_s"):
                yield from flat(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from flat(item, f"{name}.{i}")
    else:
        yield name, value


def state(folder: Path) -> dict[str, Any]:
    """Return the last checkpoint, the metrics rows and the record of a run, flat: tensors and plain values."""
    newest = checkpoints.found(folder)[-1:]  # none if nothing is trained
    result = files.read_json(folder / "result.json") or {}
    saved = [checkpoints.read(path) or {} for path in newest]
    for found in saved:
        found["metrics"] = records.parsed(found.get("metrics", ""))
    return dict(
        flat(
            {
                "checkpoint": saved,
                "rows": records.read_rows(folder),
                "genotype": (folder / "genotype.txt").read_text(encoding="utf-8"),
                "result": {key: value for key, value in result.items() if key not in MACHINE},
            }
        )
    )


def same(x: Any, y: Any) -> bool:
    if type(x) is not type(y):
        return False
    return bool(torch.equal(x, y)) if isinstance(x, torch.Tensor) else bool(x == y)


def compared(one: Path, two: Path) -> tuple[int, list[str]]:
    """Return how many values two runs have, and the names of those that differ or that one of them lacks."""
    x, y = state(one), state(two)
    return len(x), sorted(k for k in x.keys() | y.keys() if k not in x or k not in y or not same(x[k], y[k]))
