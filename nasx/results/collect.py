"""Finished runs as one frame: `collect` reads `result.json` of every run folder below a root.

One row a finished run. Accuracies are in percent: those of a look-up as the benchmark publishes them, those that
nasx measured (fractions in [0, 1] in the record) times 100. What could not be used is named in `frame.attrs["notes"]`
and counted in `frame.attrs["skipped"]`: a half-written or torn record, a record of another program, a run that has
not finished, a second copy of a run. A copy is left out because it would count twice in n.

Nothing here imports torch; 2,000 runs are read in a few tenths of a second.
"""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from nasx.benchmarks.base import Edges
from nasx.config import commands, identity
from nasx.core import files, versions
from nasx.errors import printable
from nasx.runs import records

KINDS = ("search", "retrain", "study")
ELSEWHERE = commands.ELSEWHERE | {"seed", "from", "parent"}
"""Keys that do not tell one configuration from another: where and how it runs, the seed, and whose cell it trains."""
COPIED = ("kind", "identity", "started", "finished", "commit", "genotype")
"""What a run and its copy have in common, and a run that was done again has not."""
SIZES = {"epochs", "updates_per_epoch", "layers", "channels", "cells", "fraction", "fraction_a", "size"}
"""Settings that make a run smaller than its protocol when they are lowered."""
OWN_SIZE = ("folder",)
"""Data sets of which `size: null` is the images' own size, which may also be smaller than a number; of all others it is
the published size, and of every other setting in `SIZES` the largest value."""
COLUMNS = (
    "run",
    "folder",
    "kind",
    "method",
    "space",
    "dataset",
    "protocol",
    "search",
    "recipe",
    "retrain",
    "searched_on",
    "experiment",
    "parent_family",
    "parent_folder",
    "parent_overrides",
    "labels",
    "reduced",
    "best_of",
    "study",
    "std_over",
    "overrides",
    "family",
    "identity",
    "seed",
    "parent",
    "genotype",
    "benchmark",
    "source",
    "edges",
    "supernet_valid",
    "test_accuracy",
    "supernet_perplexity",
    "valid_perplexity",
    "test_perplexity",
    "params",
    "macs",
    "cost_s",
    "peak_mb",
    "updates",
    "passes",
    "device",
    "gpu",
    "versions",
    "commit",
    "started",
    "finished",
    "broken",
    "environments",
    "collapsed",
    "warning",
    "not_converged",
    "verdict",
)
"""Columns of every frame; a look-up adds `<dataset>.valid` and `<dataset>.test`, and what `STANDING` names."""
STANDING = re.compile(r"[\w-]+\.(valid|test)_(rank|below)|latency\.[\w.-]+")
"""Columns of where a cell stands in its table: its rank, percent points below the optimum, milliseconds on a device."""


def collect(root: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """One row a finished run in the folders (or globs) `root`, at any depth, in the order of folder names.

    The frame has `COLUMNS` and the look-up columns; `attrs["notes"]` says in words what was left out, and
    `attrs["skipped"]` counts it by reason. Never raises for a bad record.
    """
    roots = [root] if isinstance(root, (str, Path)) else list(root)
    rows: dict[str, dict[str, Any]] = {}
    left_out: dict[str, list[str]] = {}
    known: set[tuple[str, ...]] = set()
    for folder in dict.fromkeys(_folders(roots)):
        row, reason = _read(folder)
        if not reason and row["identity"] and mark(row) in known:
            reason = "second copies of a run"
        if reason:
            left_out.setdefault(reason, []).append(folder)
            continue
        known.add(mark(row))
        rows[folder] = row
    _inherit([row for row in rows.values() if row["kind"] != "study"])
    shown = list(_studied(rows))
    names: set[str] = set().union(*shown)
    lookups = sorted((name for name in names if name.endswith((".valid", ".test"))), key=_dataset_order)
    frame = pd.DataFrame(shown, columns=[*COLUMNS, *lookups, *sorted(filter(STANDING.fullmatch, names))])
    frame.attrs["notes"] = [_say(reason, folders) for reason, folders in sorted(left_out.items())]
    frame.attrs["notes"] += list(_doubts(list(rows.values())))
    frame.attrs["skipped"] = {reason: len(folders) for reason, folders in sorted(left_out.items())}
    return frame


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as mappings: `to_dict("records")` of one whose columns have different names, much faster."""
    names = [str(name) for name in frame.columns]
    return [dict(zip(names, row)) for row in zip(*(frame[name].tolist() for name in frame.columns), strict=True)]


def mark(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """What tells a run from all others but its copies."""
    return tuple(str(row.get(key) or "") for key in COPIED)


def _doubts(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Notes on runs in the frame: files that changed after their end, several environments."""
    for column, say in (
        ("broken", lambda text: records.damage(text.split())),
        ("environments", lambda text: f"computed in environments that differ in {text}"),
    ):
        found: dict[str, list[str]] = {}
        for row in rows:
            if row.get(column):
                found.setdefault(row[column], []).append(row["folder"])
        yield from (f"{say(text)}: {_listed(folders)}" for text, folders in sorted(found.items()))


def _say(reason: str, folders: list[str]) -> str:
    return f"left out, {reason}: {_listed(folders)}"


def _listed(folders: Sequence[str]) -> str:
    return f"{len(folders)} ({', '.join(map(printable, sorted(folders)[:3]))}{', …' if len(folders) > 3 else ''})"


def _dataset_order(column: str) -> tuple[int, str, int]:
    name, _, part = column.rpartition(".")
    known = ("cifar10", "cifar100", "imagenet16")
    return known.index(name) if name in known else len(known), name, ("valid", "test").index(part)


def _folders(roots: Sequence[str | Path]) -> Iterator[str]:
    """Every folder that looks like a run's, sorted, not descending into runs or hidden folders."""
    for root in roots:
        text = os.path.expanduser(os.fspath(root))
        for start in sorted(glob.glob(text)) if glob.has_magic(text) and not os.path.exists(text) else [text]:
            if os.path.basename(start) == "result.json":
                start = os.path.dirname(start) or "."
            yield from records.run_folders(start)


def _read(folder: str) -> tuple[dict[str, Any], str]:
    """The row of one run folder, or an empty row and the reason why there is none."""
    path = os.path.join(folder, "result.json")
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except FileNotFoundError:
        return {}, "not finished"
    except (OSError, ValueError, RecursionError):
        return {}, "record unreadable"
    if not isinstance(record, dict) or record.get("kind") not in KINDS or not isinstance(record.get("choices"), dict):
        return {}, "not a record of nasx"
    if versions.newer(record):
        return {}, "written by a later version of nasx"
    if record.get("status", "finished") != "finished":
        return {}, "not finished"
    if record["kind"] == "retrain" and record.get("test_accuracy") is None and "valid_accuracy" in record:
        return {}, "retrainings on a part of the images, which rank cells"
    try:
        return (_study if record["kind"] == "study" else _row)(folder, record), ""
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return {}, "record unreadable"


def _study(folder: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a study says of its runs: the folders of those that it reports, and of those by which it has chosen."""

    def beside(names: Any) -> list[str]:
        return [os.path.normpath(os.path.join(os.path.dirname(folder), str(name))) for name in names]

    return {
        "kind": "study",
        "identity": _text(record.get("identity")),
        "runs": beside(record["retrains"]),
        "ranking": beside(rank["run"] for rank in record["ranking"]),
        "said": {
            "study": str(record["study"]),
            "std_over": str(record["std_over"]),
            "best_of": len(record["searches"]) if record["rank"] != "none" else 0,
        },
    }


def _studied(rows: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of runs; those that studies report carry their names, once for each, and are no plain retrainings any
    more, unless a study has chosen by them."""
    said: dict[str, list[dict[str, Any]]] = {}
    studies = [row for row in rows.values() if row["kind"] == "study"]
    for study in studies:
        for folder in study["runs"]:
            said.setdefault(folder, []).append(study["said"])
    ranking = {folder for study in studies for folder in study["ranking"]}
    for folder, row in rows.items():
        if row["kind"] != "study":
            if folder not in said or folder in ranking:
                yield row
            yield from ({**row, **more} for more in said.get(folder, ()))


def _row(folder: str, record: Mapping[str, Any]) -> dict[str, Any]:
    choices, hardware = record["choices"], record.get("hardware") or {}
    search = record["kind"] == "search"
    labels = sorted(_text(label) for label in record.get("labels") or [])
    best = [int(label.removeprefix("best_of_")) for label in labels if label.removeprefix("best_of_").isdigit()]
    device = str(hardware.get("device") or "")
    row: dict[str, Any] = {
        "run": _text(record.get("name") or os.path.basename(folder)),
        "folder": folder,
        "kind": record["kind"],
        "method": _text(choices.get("method")) if search else "",
        "space": _text(choices.get("space")),
        "dataset": _text(choices.get("dataset")),
        "protocol": _text(record.get("protocol")) if search else "",
        "search": _text(choices.get("search")) if search else "",
        "recipe": "" if search else _text(record.get("protocol")),
        "retrain": "" if search else _text(choices.get("retrain")),
        "searched_on": _text(choices.get("dataset")) if search else "",
        "experiment": _text(choices.get("experiment")),
        "parent_family": "",
        "parent_folder": "",
        "parent_overrides": (),
        "labels": tuple(label for label in labels if not label.startswith("best_of_")),
        "reduced": _reduced(record),
        "best_of": best[0] if best else 0,
        "study": "",
        "std_over": "",
        "overrides": _overrides(record.get("overrides") or []),
        "family": _family(folder, record),
        "identity": _text(record.get("identity")),
        "seed": _whole(record.get("seed")),
        "parent": _text(record.get("parent")),
        "genotype": _text(record.get("genotype")),
        "benchmark": "",
        "source": "",
        "edges": _edges(record),
        "supernet_valid": _percent((record.get("supernet") or {}).get("valid_accuracy")),
        "test_accuracy": _percent(record.get("test_accuracy")),
        "params": _number(record.get("params")),
        "macs": _number(record.get("macs")),
        "supernet_perplexity": _number((record.get("supernet") or {}).get("valid_perplexity")),
        **{name: _number(record.get(name)) for name in ("valid_perplexity", "test_perplexity")},
        "cost_s": _number(record.get("wall_s")) * (record.get("processes") or 1) / (record.get("together") or 1),
        "peak_mb": _number(record.get("peak_mb")),
        "updates": _number(record.get("updates")),
        "passes": _number(record.get("passes")),
        "device": _text(hardware.get("name")) or device,
        "gpu": device.startswith("cuda"),
        "versions": _text(" ".join(f"{k}={v}" for k, v in sorted((record.get("versions") or {}).items()))),
        "started": _text(record.get("started")),
        "finished": _text(record.get("finished")),
        "searched": record.get("searched"),
        "commit": _text(record.get("commit")),
        "broken": " ".join(records.broken(Path(folder), record)) if folder else "",
        "environments": ", ".join(map(_text, records.environments(_starts(record)))),
        "collapsed": None,
        "warning": None,
        "not_converged": None,
        "verdict": "",
    }
    if verdict := versions.renamed_keys(record.get("verdict") or {}):
        row |= {name: bool(verdict.get(name)) for name in ("collapsed", "warning", "not_converged")}
        row["verdict"] = _text(verdict.get("text"))
    lookup = record.get("lookup") or {}
    row["benchmark"], row["source"] = _text(lookup.get("benchmark")), _text(lookup.get("source"))
    for name, scores in lookup.items():
        if name == "latency":
            row |= {f"latency.{device}": _number(ms) for device, ms in (scores or {}).items()}
        elif isinstance(scores, Mapping) and re.fullmatch(r"[\w-]+", name):  # a heading of tables
            row |= {f"{name}.{part}": _number(scores.get(part)) for part in ("valid", "test")}
    for key, end in (("rank", "rank"), ("below_optimum", "below")):
        for name, scores in (record.get(key) or {}).items():
            row |= {f"{name}.{part}_{end}": _number(number) for part, number in scores.items()}
    for key, same in (("params", "params"), ("macs", "flops")):  # what the benchmark calls FLOPs are multiply-adds
        if row[key] != row[key]:
            row[key] = _number(lookup.get(same))
    return row


def _family(folder: str, record: Mapping[str, Any]) -> str:
    """The identity of a run's setting: as recorded; a short one, of earlier versions, from the run's configuration."""
    family = _text(record.get("family"))
    if not re.fullmatch(r"[0-9a-f]{8}", family):
        return family
    try:
        text = (Path(folder) / "config.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return family
    whole = _whole_family(re.sub(r"^(seed|from|identity):.*\n", "", text, flags=re.M), str(record["kind"]))
    return whole if whole.startswith(family) else family


@lru_cache(maxsize=4096)
def _whole_family(text: str, kind: str) -> str:
    """The family of a run's configuration, less its seed and its parent, as text."""
    return identity.family(files.parse_yaml(text) or {}, kind)


def _edges(record: Mapping[str, Any]) -> Edges:
    """The operations of each edge that the space of a search allows; empty where it allows all cells."""
    among = record.get("among")
    rows = among.get("edges") if isinstance(among, Mapping) else None
    return tuple(tuple(map(_text, row)) for row in rows) if isinstance(rows, list) else ()


def _starts(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = record.get("starts")
    return [start for start in found if isinstance(start, Mapping)] if isinstance(found, list) else []


def _reduced(record: Mapping[str, Any]) -> bool:
    """Whether the run was smaller than the published setting: as recorded, else by the settings that differ from it.

    `changed` maps a key to [published, used]; None for a number of updates means a whole epoch.
    """
    if record.get("reduced") is not None:
        return bool(record["reduced"])
    free = {"size"} if record["choices"].get("dataset") in OWN_SIZE else set()
    for key, (published, used) in (record.get("changed") or {}).items():
        name = key.rpartition(".")[2]
        several = isinstance(published, list) and isinstance(used, list) and len(published) == len(used)
        for old, new in zip(published, used, strict=True) if several else [(published, used)]:
            if name in SIZES and isinstance(new, (int, float)) and (name not in free if old is None else new < old):
                return True
    return False


def _overrides(lines: Sequence[str]) -> tuple[str, ...]:
    """What the command line changed, sorted, less the keys of `ELSEWHERE`; of a key given twice the last one holds."""
    kept: dict[str, str] = {}
    for line in map(str, lines):
        key = line.partition("=")[0].lstrip("+~").partition("@")[0]
        if key.partition(".")[0] not in ELSEWHERE:
            kept[key] = printable(line)
    return tuple(sorted(kept.values()))


def _inherit(rows: Any) -> None:
    """A retraining takes method, space and search protocol from the search whose cell it trains.

    That is the run beside it, else the only one of that name (and, of several, with that cell); where there is none,
    what the retraining's own record keeps of it.
    """
    places: dict[str, dict[str, Any]] = {}
    names: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] == "search":
            places[os.path.normpath(row["folder"])] = row
            for name in (row["run"], os.path.basename(os.path.normpath(row["folder"]))):
                names.setdefault(name, {})[row["folder"]] = row
    for row in rows:
        if not row["parent"]:
            continue
        name = os.path.basename(os.path.normpath(row["parent"]))
        parent = places.get(os.path.join(os.path.dirname(os.path.normpath(row["folder"])), name))
        found = list(names.get(name, {}).values())
        if parent is None:
            found = [other for other in found if len(found) == 1 or other["genotype"] == row["genotype"]]
            parent = found[0] if len(found) == 1 else _kept(row["searched"])
        if parent is None:
            continue
        for name in ("method", "space", "protocol", "search"):  # its own method is a default that it does not read
            row[name] = row[name] or parent[name] if name == "space" else parent[name]
        row["searched_on"] = parent["dataset"]
        row["experiment"] = row["experiment"] or parent["experiment"]
        row["parent_folder"], row["parent_overrides"] = parent["folder"], parent["overrides"]
        row["labels"] = tuple(sorted({*row["labels"], *parent["labels"]}))
        row["reduced"] = row["reduced"] or parent["reduced"]
        row["parent_family"] = parent["family"] or "\n".join(parent["overrides"])


def _kept(record: Any) -> dict[str, Any] | None:
    """The row of a search that a retraining's record tells of, with no folder."""
    try:
        return _row("", record)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return None


def _text(value: Any) -> str:
    return "" if value is None else sys.intern(printable(str(value)))  # most are those of other runs too


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _number(value: Any) -> float:
    return float("nan") if value is None or isinstance(value, bool) else float(value)


def _percent(value: Any) -> float:
    return 100 * _number(value)
