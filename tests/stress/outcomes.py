"""Compare what a disturbed command leaves with what an undisturbed one leaves."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import kills
import power

from nasx.core import files
from nasx.report import figure_style
from nasx.tracking import records

APART = ("lock", "log.txt")
"""Files that differ between two runs of one command."""


def differing(whole: Path, found: Path) -> list[str]:
    """Return how an outcome differs from the undisturbed one."""
    faults = []
    names, there = (set(power.tree(root)) for root in (whole, found))
    faults += [f"no {name}" for name in sorted(names - there) if Path(name).name not in APART]
    faults += [f"left {name}" for name in sorted(there - names) if Path(name).name not in APART]
    runs = [Path(folder) for folder in records.run_folders(whole)]
    for run in runs:
        own = found / run.relative_to(whole)
        if not (own / "result.json").exists():
            faults.append(f"{own.name} is not finished")
        elif (run / "genotype.txt").exists():
            faults += [
                f"{run.name}{name}" for name in (kills.compared(run, own)[1] if (own / "genotype.txt").exists() else ())
            ]
        else:  # a study
            one, two = (
                dict(
                    kills.flat(
                        {
                            key: value
                            for key, value in (files.read_json(folder / "result.json") or {}).items()
                            if key not in kills.MACHINE
                        }
                    )
                )
                for folder in (run, own)
            )
            faults += [f"{run.name}{key}" for key in sorted(one.keys() | two.keys()) if one.get(key) != two.get(key)]
        faults += [
            f"{run.name}: {name} differs from its seal"
            for name in records.broken(own, files.read_json(own / "result.json") or {})
        ]
    for name in sorted(names & there):
        one, two = whole / name, found / name
        if one.suffix in (".svg", ".png") and not figure_style.whole(two):
            faults.append(f"{name} is torn")
        of_a_run = any(run in one.parents for run in runs)
        if one.is_file() and (not of_a_run or one.name.startswith("cell.")) and one.read_bytes() != two.read_bytes():
            faults.append(f"{name} has other bytes")
    return faults


def state(found: power.Tree) -> str:
    """Return what distinguishes states of the disk: names and contents, except for the random names of temporary files
    and for what a clock, a process or a log says."""
    digest = hashlib.sha256()
    for path, content in sorted(found.items()):
        if Path(path).name in APART:
            content = content and b"there"
        name = files.TEMPORARY.sub(".part", path)
        text = re.sub(rb'"(wall_s|seconds|elapsed_s|started|finished)": [^,}]+', b"", content or b"")
        digest.update(f"{name}\0{content is None}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()
