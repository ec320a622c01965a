"""Read finished runs into one frame: `collect` reads the `result.json` of every run folder below a root.

Each finished run has one row, or one row per study that reports it. Numbers are in the units of nasx.core.quantities:
accuracies in percent, `cost_s` (wall time) in seconds. Incomplete records, records of other programs, unfinished runs,
and copies of a run (which would count twice) are skipped; they are listed in `frame.attrs["notes"]` and counted in
`frame.attrs["skipped"]`.

This module does not import torch; 2,000 runs are read in a few tenths of a second.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pandas as pd

from nasx.benchmarks.base import DATASETS, Edges
from nasx.config import commands, experiments, own_code
from nasx.core import plain
from nasx.core.quantities import columns, lookups, measures
from nasx.errors import printable
from nasx.tracking import records, result_file
from nasx.tracking.result_file import Record, RetrainRecord, SearchRecord, StudyRecord, Unreadable

ELSEWHERE = commands.NON_IDENTITY_KEYS | commands.NON_IDENTITY_SETTINGS | {"seed", "from", "parent"}
"""Keys that do not distinguish configurations: where and how they run, the seed, and the source of the trained cell."""
SIZES = {"epochs", "updates_per_epoch", "layers", "channels", "cells", "fraction", "fraction_a", "size"}
"""Settings that make a run smaller than its protocol if they are lowered."""
OWN_SIZE = ("folder",)
"""Datasets for which `size: null` means the size of the image files, so a number is not always smaller. For all
other datasets, null means the published size, and for every other setting in `SIZES`, null means the largest value."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One finished run in a table; all fields except `values` are columns of every frame."""

    run: str
    folder: str
    kind: str
    method: str = ""
    space: str = ""
    dataset: str = ""
    protocol: str = ""
    search: str = ""
    recipe: str = ""
    retrain: str = ""
    searched_on: str = ""
    experiment: str = ""
    parent_family: str = ""
    parent_folder: str = ""
    parent_overrides: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    reduced: bool = False
    best_of: int = 0
    study: str = ""
    std_over: str = ""
    overrides: tuple[str, ...] = ()
    family: str = ""
    identity: str = ""
    seed: int | None = None
    parent: str = ""
    genotype: str = ""
    benchmark: str = ""
    source: str = ""
    edges: Edges = ()
    device: str = ""
    gpu: bool = False
    versions: str = ""
    commit: str = ""
    started: str = ""
    finished: str = ""
    broken: str = ""
    environments: str = ""
    code: tuple[str, ...] = ()
    """The user's own code as `own_code.labels`; for a retraining, `parent_code` is the code of its search."""
    parent_code: tuple[str, ...] = ()
    collapsed: bool | None = None
    warning: bool | None = None
    not_converged: bool | None = None
    verdict: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    """Column -> number (see nasx.core.quantities)."""

    def cells(self) -> dict[str, object]:
        """Return a mapping from column to value."""
        return {name: value for name, value in vars(self).items() if name != "values"} | dict(self.values)


SHARED = ("kind", "family", "identity", "seed", "genotype", "commit", "started", "finished")
"""Fields that are copied unchanged from a record to its row."""
FACTS = tuple(each.name for each in fields(Row) if each.name != "values")
COLUMNS = (*FACTS, *columns())
"""Columns of every frame; a benchmark adds `<dataset>.valid`, `<dataset>.test`, ranks, differences
from the optimum, and latencies."""


def collect(root: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Return a frame of all finished runs at any depth below the folders (or globs) `root`, sorted by folder name.

    The frame has `COLUMNS` and the benchmark columns; `attrs["notes"]` lists the skipped runs, and `attrs["skipped"]`
    counts them by reason. An invalid record is skipped and never raises an error.
    """
    rows: dict[str, Row] = {}
    retrained: dict[str, RetrainRecord] = {}
    studies: dict[str, StudyRecord] = {}
    left_out: dict[str, list[str]] = {}
    known: set[tuple[str, ...]] = set()
    for folder in dict.fromkeys(_folders([root] if isinstance(root, (str, Path)) else root)):
        try:
            record = result_file.read(Path(folder))
            copied = mark({name: getattr(record, name) for name in Record.COPIED})
            if record.identity and copied in known:
                raise Unreadable("duplicate copies of a run")
            if isinstance(record, StudyRecord):
                studies[folder] = record
            else:
                rows[folder] = _row(folder, record)
            if isinstance(record, RetrainRecord):
                retrained[folder] = record
        except Unreadable as reason:
            left_out.setdefault(str(reason), []).append(folder)
            continue
        known.add(copied)
    rows = _inherited(rows, lambda folder: _kept(retrained[folder]))
    shown = [row.cells() for row in _reported(rows, studies)]
    found = measures(dict.fromkeys(name for cells in shown for name in cells))
    ranked = sorted(lookups(found), key=_dataset_order)
    rest = sorted(set(found).difference(COLUMNS, ranked))
    frame = pd.DataFrame(shown, columns=[*COLUMNS, *ranked, *rest])
    frame.attrs["notes"] = [f"left out, {reason}: {_listed(own)}" for reason, own in sorted(left_out.items())]
    frame.attrs["notes"] += list(_doubts(rows.values()))
    frame.attrs["skipped"] = {reason: len(own) for reason, own in sorted(left_out.items())}
    return frame


def rows_of(frame: pd.DataFrame) -> list[plain.Row]:
    """Return the rows of a frame as dicts, much faster than `to_dict("records")`; column names must be unique."""
    names = [str(name) for name in frame.columns]
    return [dict(zip(names, row)) for row in zip(*(frame[name].tolist() for name in frame.columns), strict=True)]


def mark(row: plain.Row) -> tuple[str, ...]:
    """Return a key that is equal only for a run and its copies."""
    return tuple(str(row.get(key) or "") for key in Record.COPIED)


def _doubts(rows: Iterable[Row]) -> Iterator[str]:
    """Yield notes on runs whose files were changed after the run, and on runs that used several environments."""
    broken: dict[str, list[str]] = {}
    several: dict[str, list[str]] = {}
    for row in rows:
        if row.broken:
            broken.setdefault(records.damage(row.broken.split()), []).append(row.folder)
        if row.environments:
            several.setdefault(f"computed in environments that differ in {row.environments}", []).append(row.folder)
    for text, folders in (*sorted(broken.items()), *sorted(several.items())):
        yield f"{text}: {_listed(folders)}"


def _listed(folders: Sequence[str]) -> str:
    return f"{len(folders)} ({', '.join(map(printable, sorted(folders)[:3]))}{', …' if len(folders) > 3 else ''})"


def _dataset_order(column: str) -> tuple[int, str, int]:
    name, _, part = column.rpartition(".")
    return DATASETS.index(name) if name in DATASETS else len(DATASETS), name, ("valid", "test").index(part)


def _folders(roots: Sequence[str | Path]) -> Iterator[str]:
    """Yield every folder that contains the files of a run, sorted, without descending into runs or hidden folders."""
    for root in roots:
        text = os.path.expanduser(os.fspath(root))
        for start in sorted(glob.glob(text)) if glob.has_magic(text) and not os.path.exists(text) else [text]:
            if os.path.basename(start) == "result.json":
                start = os.path.dirname(start) or "."
            yield from records.run_folders(start)


def _reported(rows: Mapping[str, Row], studies: Mapping[str, StudyRecord]) -> Iterator[Row]:
    """Yield the rows of all runs; a run that studies report appears once per study, under the study's name.

    Such a run does not also appear as a plain retraining, unless a study uses it to rank cells.
    """
    reported: dict[str, list[StudyRecord]] = {}
    ranking: set[str] = set()
    for place, study in studies.items():
        for name in study.retrains:
            reported.setdefault(os.path.normpath(os.path.join(place, "..", name)), []).append(study)
        ranking |= {os.path.normpath(os.path.join(place, "..", each.run)) for each in study.ranking}
    for folder, row in rows.items():
        if folder not in reported or folder in ranking:
            yield row
        for study in reported.get(folder, ()):
            best_of = len(study.searches) if study.rank != "none" else 0
            yield replace(row, study=study.study, std_over=study.std_over, best_of=best_of)


def _row(folder: str, record: Record) -> Row:
    """Return the row of a search or a retraining; `folder` is empty if the run is known only from another record.

    Raises Unreadable for a record with invalid numbers, and for a retraining on part of the images.
    """
    if isinstance(record, RetrainRecord) and record.held_out:
        raise Unreadable("retrainings on part of the images, used to rank cells")
    try:
        values, reduced = record.measured(), _reduced(record)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unreadable("record unreadable") from error
    best = [int(number) for label in record.labels if (number := label.removeprefix("best_of_")).isdigit()]
    row = Row(
        **{name: getattr(record, name) for name in SHARED},
        run=record.name or os.path.basename(folder),
        folder=folder,
        space=record.choices.get("space", ""),
        dataset=record.choices.get("dataset", ""),
        experiment=experiments.present(record.choices.get("experiment", "")),
        labels=tuple(sorted(label for label in record.labels if not label.startswith("best_of_"))),
        reduced=reduced,
        best_of=best[0] if best else 0,
        overrides=_overrides(record.overrides),
        device=record.hardware.name or record.hardware.device,
        gpu=record.hardware.device.startswith("cuda"),
        versions=printable(" ".join(f"{name}={version}" for name, version in sorted(record.versions.items()))),
        broken=" ".join(records.broken(Path(folder), record.content)) if folder else "",
        environments=printable(", ".join(map(str, records.environments(record.starts)))),
        code=tuple(map(printable, own_code.labels(record.starts))),
        values=values,
    )
    if isinstance(record, RetrainRecord):
        return replace(row, recipe=record.protocol, retrain=record.choices.get("retrain", ""), parent=record.parent)
    assert isinstance(record, SearchRecord)
    verdict = record.verdict
    return replace(
        row,
        method=record.choices.get("method", ""),
        protocol=record.protocol,
        search=record.choices.get("search", ""),
        searched_on=row.dataset,
        edges=record.edges,
        benchmark=printable(str(record.lookup.get("benchmark") or "")),
        source=printable(str(record.lookup.get("source") or "")),
        **({name: getattr(verdict, name) for name in ("collapsed", "warning", "not_converged")} if verdict else {}),
        verdict=verdict.text if verdict else "",
    )


def _kept(record: RetrainRecord) -> Row | None:
    """Return the row of a retraining's search from the copy in the retraining's record; None if there is none."""
    try:
        search = record.search()
        return _row("", search) if search else None
    except Unreadable:
        return None


def _reduced(record: Record) -> bool:
    """Return whether the run was smaller than the published setting.

    The flag is read from the record, or else derived from `changed`, which maps a key to [published, used]; for a
    number of updates, None means a whole epoch.
    """
    if record.reduced is not None:
        return record.reduced
    free = {"size"} if record.choices.get("dataset") in OWN_SIZE else set()
    for key, (published, used) in record.changed.items():
        if key.startswith("budget."):  # describes the network whose cost is counted, not the run
            continue
        name = key.rpartition(".")[2]
        several = isinstance(published, list) and isinstance(used, list) and len(published) == len(used)
        for old, new in zip(published, used, strict=True) if several else [(published, used)]:
            if name in SIZES and isinstance(new, (int, float)) and (name not in free if old is None else new < old):
                return True
    return False


def _overrides(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the sorted overrides except those of keys in `ELSEWHERE`; the last override of each key is used."""
    kept: dict[str, str] = {}
    for line in lines:
        key = line.partition("=")[0].lstrip("+~").partition("@")[0]
        if not ELSEWHERE.intersection((key, key.partition(".")[0])):
            name = line.removeprefix("experiment=")
            kept[key] = line if name == line else f"experiment={experiments.present(name)}"
    return tuple(sorted(kept.values()))


def _inherited(rows: Mapping[str, Row], kept: Callable[[str], Row | None]) -> dict[str, Row]:
    """Copy method, space and search protocol to each retraining from the search that found its cell.

    The search is the run named by `parent` in the same folder; else the only run of that name (among several runs, the
    only one that found the cell); else the copy in the retraining's record (`kept`).
    """
    places: dict[str, Row] = {}
    names: dict[str, dict[str, Row]] = {}
    for row in rows.values():
        if row.kind == "search":
            places[os.path.normpath(row.folder)] = row
            for name in (row.run, os.path.basename(os.path.normpath(row.folder))):
                names.setdefault(name, {})[row.folder] = row

    def parent_of(row: Row) -> Row | None:
        name = os.path.basename(os.path.normpath(row.parent))
        if sibling := places.get(os.path.join(os.path.dirname(os.path.normpath(row.folder)), name)):
            return sibling
        found = list(names.get(name, {}).values())
        found = [other for other in found if len(found) == 1 or other.genotype == row.genotype]
        return found[0] if len(found) == 1 else kept(row.folder)

    return {folder: _child(row, parent_of(row)) if row.parent else row for folder, row in rows.items()}


def _child(row: Row, parent: Row | None) -> Row:
    """Return the row of a retraining, completed with fields of its search if it is known."""
    if parent is None:
        return row
    return replace(
        row,
        method=parent.method,  # a retraining ignores its own method, which is a default
        space=row.space or parent.space,
        protocol=parent.protocol,
        search=parent.search,
        searched_on=parent.dataset,
        experiment=row.experiment or parent.experiment,
        parent_folder=parent.folder,
        parent_overrides=parent.overrides,
        parent_code=parent.code,
        labels=tuple(sorted({*row.labels, *parent.labels})),
        reduced=row.reduced or parent.reduced,
        parent_family=parent.family or "\n".join(parent.overrides),
    )
