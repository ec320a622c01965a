"""Finished runs in Python: a single run as a dataclass, many as pandas frames with one row per run or per epoch.

Numbers are in the units of nasx.core.quantities, the same as in `nasx table`: accuracies in percent, times in seconds.
`attrs["units"]` of each frame maps a column to the symbol of its unit ("" for pure numbers). torch is not imported.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nasx.core.plain import Row
from nasx.core.quantities import QUANTITIES, measures, of_column, per_epoch
from nasx.errors import UserError
from nasx.report import run_summary
from nasx.report.curves import derived, read_metrics
from nasx.results.collect import COLUMNS, collect, rows_of
from nasx.tracking import result_file
from nasx.tracking.result_file import RetrainRecord, SearchRecord

FIRST = ("run", "kind", "method", "space", "dataset", "seed")
"""Leading columns of both kinds of frames."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, as returned by `nasx.search` and `nasx.retrain`."""

    name: str
    folder: Path
    """The run folder in `out`, with the configuration, metrics.jsonl, result.json, checkpoints and pictures."""
    genotype: str
    seed: int
    measures: Mapping[str, float] = field(repr=False)
    """Column of `nasx.runs` -> number, in the same unit; numbers that the run does not have are omitted."""

    def epochs(self) -> pd.DataFrame:
        """Return a frame with one row per epoch; see `RunFrame.epochs`. Searches that train nothing have no epochs."""
        return _epochs([{"run": self.name, "seed": self.seed, "folder": str(self.folder)}], ("run", "seed"))

    def show(self) -> None:
        """Print the summary that the command line prints at the end of the run."""
        record = result_file.read(self.folder).content
        run_summary.show(record, self.folder)
        run_summary.show_next(record, self.folder)


@dataclass(frozen=True, kw_only=True)
class SearchRun(Run):
    """A finished search."""

    accuracy: float | None
    """Validation accuracy of the final cell in percent, from the benchmark, on the dataset of the search; None if the
    benchmark does not contain the cell or the dataset. `lookup` includes other datasets."""
    lookup: Mapping[str, float]
    """`cifar10.valid`, `cifar10.test`, ... -> accuracy of the final cell in percent, from the benchmark; empty if no
    benchmark contains the cell."""
    verdict: str
    """One sentence on whether the search collapsed; empty if there is no verdict."""
    record: SearchRecord = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class RetrainRun(Run):
    """A finished retraining."""

    accuracy: float | None
    """Test accuracy in percent after the last epoch (with `retrain.held_out`, on held-out training images); None for a
    language model, whose `test_perplexity` is in `measures`."""
    record: RetrainRecord = field(repr=False)


def open_run(folder: Path) -> SearchRun | RetrainRun:
    """Return the finished run in `folder`. Raises UserError if the folder contains none."""
    try:
        record = result_file.read(folder)
        found = {name: value for name, value in record.measured().items() if not math.isnan(value)}
    except (result_file.Unreadable, TypeError, ValueError) as error:
        raise UserError(str(folder), f"contains no finished run ({error})", "name a finished run") from error
    run = Run(name=folder.name, folder=folder, genotype=record.genotype, seed=record.seed or 0, measures=found)
    if isinstance(record, RetrainRecord):
        held_out = record.content.get("valid_accuracy") if record.held_out else None
        accuracy = 100 * held_out if isinstance(held_out, float) else found.get("test_accuracy")
        return RetrainRun(**vars(run), accuracy=accuracy, record=record)
    if not isinstance(record, SearchRecord):
        raise UserError(str(folder), f"is a run of nasx {record.kind}", "name a run of nasx search or nasx retrain")
    lookup = {name: found[name] for name in found if name.endswith((".valid", ".test"))}
    return SearchRun(
        **vars(run),
        accuracy=lookup.get(f"{record.content.get('benchmark_data')}.valid"),
        lookup=lookup,
        verdict=record.verdict.text if record.verdict else "",
        record=record,
    )


class RunFrame(pd.DataFrame):
    """A pandas DataFrame with one row per run; selections from a RunFrame are also RunFrames.

    Examples:
        >>> runs = nasx.runs("outputs")
        >>> runs.groupby("method")["cifar10.valid"].agg(["mean", "std", "count"])
        >>> runs[runs.method == "darts"].epochs().pivot(index="epoch", columns="run", values="train_accuracy")
    """

    @property
    def _constructor(self) -> Callable[..., RunFrame]:
        return RunFrame

    def epochs(self) -> pd.DataFrame:
        """Return a frame with one row per epoch of these runs, read from their metrics.jsonl files.

        Columns: run, kind, method, space, dataset, seed, epoch, then every number that the runs recorded (losses in
        nats, accuracies in percent, `lookup.<dataset>.valid` of the current cell, diagnostics), genotype, folder.
        Raises UserError if this frame lacks the column `folder`.
        """
        if "folder" not in self.columns:
            raise UserError("epochs()", "needs the column `folder`", "keep it when you select columns")
        kept = self[[name for name in (*FIRST, "folder") if name in self.columns]]
        return _epochs(rows_of(kept.drop_duplicates("folder")), [name for name in FIRST if name in self.columns])


def runs(root: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = "outputs") -> RunFrame:
    """Return all finished searches and retrainings below one or several folders, as a frame with one row per run.

    Columns: run, kind, method, space, dataset, seed; then numbers (test_accuracy, `cifar10.valid`, cost_s, params, ...)
    and facts (genotype, verdict, folder, device, commit, ...). A retraining has its search's method and space.
    `attrs["units"]` maps a column to its unit; `attrs["notes"]` lists what was omitted and why.

    Args:
        root: a folder or glob pattern, or several of them; searched at any depth.

    Raises:
        UserError: if a folder does not exist.
    """
    roots = [os.fspath(root)] if isinstance(root, str | os.PathLike) else [os.fspath(each) for each in root]
    for each in roots:
        if not any(letter in each for letter in "*?[") and not os.path.isdir(os.path.expanduser(each)):
            raise UserError(
                each, "does not exist", "name the folder that contains the runs, for example nasx.runs('outputs')"
            )
    frame = collect(roots)
    numbers = measures(map(str, frame.columns))
    facts = [str(name) for name in frame.columns if name in COLUMNS and name not in (*FIRST, *numbers)]
    found = RunFrame(frame[[*FIRST, *numbers, *facts]])
    found.attrs = {**frame.attrs, "units": {name: q.unit.symbol for name in numbers if (q := of_column(name))}}
    return found


def _epochs(found: Iterable[Row], first: Iterable[str]) -> pd.DataFrame:
    """Return a frame with one row per epoch of the runs `found`: the columns `first` of the run, then its metrics."""
    rows: list[dict[str, object]] = []
    for run in found:
        facts = {name: run[name] for name in first}
        held = read_metrics(run["folder"]) if (Path(run["folder"]) / "metrics.jsonl").is_file() else []
        for row in derived(held):
            own = {name: x for name, x in row.items() if isinstance(x, int | float) and not isinstance(x, bool)}
            known = {
                quantity.name.replace("*", place): value
                for quantity in QUANTITIES
                if "epoch" in quantity.kinds
                for place, value in quantity.read(row)
            }
            text = {"genotype": row.get("genotype"), "folder": run["folder"]}
            rows.append(
                {**facts, "epoch": row["epoch"], **known, **{k: x for k, x in own.items() if k not in known}, **text}
            )
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("genotype", "folder")))
    frame = pd.DataFrame(rows, columns=[*(names or [*first, "epoch"]), "genotype", "folder"])
    frame = frame.dropna(axis="columns", how="all") if rows else frame
    frame.attrs["units"] = {}
    for name in map(str, frame.columns):
        try:
            frame.attrs["units"][name] = per_epoch(name).unit.symbol
        except KeyError:  # a fact, or a number that a user's method logs
            continue
    return frame
