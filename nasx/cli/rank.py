"""Rank agreement between scores and benchmark accuracies: Kendall's tau-b, Spearman's rho, top-k regret.

    nasx bench rank from=RUN[,RUN]    one-shot accuracies of random cells, with the weights of the last checkpoint
    nasx bench rank column=params     a column of NAS-Bench-201: params, flops, cifar10.valid, cifar10.seconds,
                                      latency.DEVICE and so on (several are separated by commas)
    nasx bench rank file=SCORES.csv   your scores: the columns architecture (or index, the official index) and score

    against=cifar10.test,cifar10.valid   accuracies: DATASET.valid or DATASET.test (default: DATASET.valid for the
                                         dataset of the search, otherwise cifar10.valid)
    k=10 resamples=1000                  number of cells for the regret, and of resamples for the 95 % intervals
    n=200 seed=0                         number of random cells (default for column and file: all), and their seed
    lower=true                           lower scores are better, as for losses and latencies
    images=N                             number of validation images per cell (default: search.evaluate_images)
    out_file=FILE.json | FILE.csv        writes the rows; JSON also contains the cells of each run with their scores
    out=FOLDER path=FOLDER dataset.KEY=VALUE device=auto threads=N allow=PACKAGE   as for nasx diagnose

Regret is the difference (in percentage points) between the best accuracy of all cells that have a score and the best
accuracy of the k cells with the highest scores. A search with a zero-cost method trains nothing, so its recorded scores
are used. Statistics, intervals and resampling are defined in nasx/benchmarks/ranking.py.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nasx.benchmarks.base import DATASETS, Benchmark
from nasx.benchmarks.isomorphism import CELLS, cell_code, cell_text, official_order
from nasx.benchmarks.nb201 import Nb201, flops, params
from nasx.benchmarks.ranking import as_record, ranking
from nasx.cli import diagnose
from nasx.cli.arguments import Arguments, parse
from nasx.config import instantiate, schema
from nasx.core import files, spelling
from nasx.errors import UserError
from nasx.tracking import checkpoints, lineage

if TYPE_CHECKING:
    from nasx.searcher.job import SearchJob
    from nasx.spaces.base import Genotype, Space

Row = dict[str, object]
CHOICES = tuple(f"{dataset}.{split}" for dataset in DATASETS for split in ("valid", "test"))
SAMPLE = 200
"""Default number of cells drawn for a search (nasx: the standard error of tau is then 0.05 for unrelated scores)."""
DEFAULTS = dict.fromkeys(("from", "column", "file", "against", "n", "images", "out_file", "threads", "allow"), "") | {
    "k": "10",
    "resamples": "1000",
    "seed": "0",
    "lower": "false",
    "out": "outputs",
    "device": "auto",
}
COVERED = "use a search in a space that a benchmark covers"
HEAD = ("score", "against", "cells", "Kendall's tau-b", "Spearman's rho", "regret in %")


@dataclass(frozen=True)
class Scored:
    """Named scores of cells, and the benchmark that contains the accuracies of these cells."""

    name: str
    benchmark: Benchmark
    cells: Sequence[str]
    """Genotypes as text."""
    scores: np.ndarray
    """(cells,) float64."""
    against: tuple[str, ...]
    listed: bool = False
    """Whether the JSON output lists the cells."""
    facts: Mapping[str, object] = field(default_factory=dict)

    def accuracies(self, measure: str) -> np.ndarray:
        """Return (cells,) accuracies in percent, NaN for cells that the benchmark does not contain."""
        return accuracies(self.benchmark, self.cells, measure)


class Sampling(NamedTuple):
    """The number of cells to draw (None: not given), the seed, and the number of images to evaluate each cell on."""

    n: int | None
    seed: int
    images: int | None


def main(words: Sequence[str]) -> int:
    """Run `nasx bench rank`: rank the scores, print the results, and write them to `out_file`, if given."""
    if "--help" in words or "-h" in words:
        from nasx.cli import help as help_

        print(help_.fitted("nasx bench rank: " + schema.docstring("nasx.cli.rank")))
        return 0
    settings, rest = lineage.split_dataset_overrides(words)
    args = parse("bench rank", rest, DEFAULTS)
    k, resamples = args.number("k", 1), args.number("resamples", 1)
    sampling = Sampling(args.optional("n", 2), args.number("seed"), args.optional("images", 1))
    sign = -1.0 if args.flag("lower") else 1.0
    if not 0 <= sampling.seed < 2**63:
        raise UserError(f"seed={sampling.seed}", "is not between 0 and 2**63 - 1", "use seed=0")
    written = target(args.options["out_file"])
    rows, cells = [], {}
    for each in scored(args, settings, sampling):
        kept: dict[str, list[float | None]] = {}
        for measure in each.against:
            accuracies = each.accuracies(measure)
            known = ~np.isnan(accuracies)
            if known.sum() < 2:
                fault = f"the benchmark contains {known.sum()} of the {len(known)} cells of {each.name}"
                raise UserError(f"against={measure}", fault, "rank at least two cells that the benchmark contains")
            found = ranking(sign * each.scores[known], accuracies[known], k=k, resamples=resamples, seed=sampling.seed)
            facts = {"resamples": resamples, "seed": sampling.seed, "lower": sign < 0, **each.facts}
            rows.append({"score": each.name, "against": measure, **as_record(found, k), **facts})
            kept[measure] = [finite(x) for x in accuracies.tolist()]
        if each.listed:
            cells[each.name] = [
                {"architecture": cell, "score": finite(score), **{m: kept[m][i] for m in kept}}
                for i, (cell, score) in enumerate(zip(each.cells, each.scores.tolist(), strict=True))
            ]
    print(table(rows))
    if written is not None:
        text = json.dumps({"rows": rows, "cells": cells}, indent=1) + "\n"
        if written.suffix == ".csv":
            import pandas as pd

            text = str(pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n"))
        files.write_atomic(written, text, "name another file: out_file=FILE")
        print(f"written to {written}")
    return 0


def target(text: str) -> Path | None:
    """Return the output path, or None if `text` is empty. Raises UserError if the file cannot be written."""
    if not text:
        return None
    if not text.endswith((".json", ".csv")):
        raise UserError(f"out_file={text}", "has an unknown file extension", "use FILE.json or FILE.csv")
    path = Path(text).expanduser()
    above = next(each for each in path.absolute().parents if each.exists())
    if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"out_file={text}", "cannot be written", "name a file in a folder that you can write to")
    return path


def scored(args: Arguments, settings: Sequence[str], sampling: Sampling) -> Iterator[Scored]:
    """Yield the requested scores. Faults in files and columns are raised before any search is evaluated."""
    runs, columns, file = args.several("from"), args.several("column"), args.options["file"]
    if not (runs or columns or file):
        raise UserError("nasx bench rank", "needs scores", "give from=RUN, column=NAME or file=FILE.csv")
    against = args.several("against")
    for name in against:
        if name not in CHOICES:
            remedy = spelling.suggest(name, CHOICES)
            raise UserError(f"against={name}", "is not an accuracy of a benchmark", remedy)
    benchmark, measures = Nb201(), against or ("cifar10.valid",)
    if columns or file:
        check_tabulated(benchmark, measures)
    tabular = [of_column(benchmark, name, measures) for name in columns]
    tabular += [of_file(benchmark, Path(file).expanduser(), measures)] if file else []
    folders = [lineage.run_folder(name, args.options["out"]) for name in runs]
    yield from (subsample(each, sampling) for each in tabular)
    for folder in folders:
        yield of_run(folder, args, settings, sampling, against)


def check_tabulated(benchmark: Benchmark, against: Sequence[str]) -> None:
    """Raise UserError if the benchmark's table lacks an accuracy in `against`; the message says how to obtain it."""
    for name in against:
        dataset, split = parts(name)
        if benchmark.reference(dataset).get(split, {}).get("optimum") is None:
            fault, remedy = "no benchmark covers the cells of this space", COVERED
            if benchmark.cells() or benchmark.missing():
                fault = "the benchmark's table has no such accuracies"
                remedy = benchmark.missing() or "use a dataset and a split that the table has"
            raise UserError(f"against={name}", fault, remedy)


def parts(measure: str) -> tuple[str, str]:
    """Split one of `CHOICES` into dataset and split."""
    dataset, _, split = measure.partition(".")
    return dataset, split


def accuracies(benchmark: Benchmark, cells: Sequence[str], measure: str) -> np.ndarray:
    """Return (cells,) accuracies in percent, NaN if unknown."""
    dataset, split = parts(measure)
    scores = map(benchmark.query, cells)
    found = [None if score is None else score.datasets.get(dataset, {}).get(split) for score in scores]
    return np.array(found, np.float64)


def finite(value: float) -> float | None:
    """Return `value` for JSON, with None in place of numbers that are not finite."""
    return value if math.isfinite(value) else None


def subsample(each: Scored, sampling: Sampling) -> Scored:
    """Draw n of the cells without replacement; return all cells if n is None or not less than their number."""
    if sampling.n is None or sampling.n >= len(each.cells):
        return each
    rows = np.sort(np.random.default_rng(sampling.seed).choice(len(each.cells), sampling.n, replace=False))
    return replace(each, cells=[each.cells[i] for i in rows], scores=each.scores[rows])


# ------------------------------------------------------------------------------------------ a column, a user's file
def of_column(benchmark: Nb201, name: str, against: tuple[str, ...]) -> Scored:
    """Return a column of NAS-Bench-201 as scores. Raises UserError if there is no such column."""
    columns = benchmark.table().columns
    computed: dict[str, Callable[[int], int]] = {"params": params, "flops": flops}
    known = [*computed, *CHOICES, *(own for own, each in columns.items() if each.values.ndim == 1)]
    if name in computed:
        values = np.array([computed[name](row) for row in range(CELLS)], np.float64)
    elif name in CHOICES:
        check_tabulated(benchmark, [name])
        values = benchmark.table().statistics(*parts(name))[:, 0]
    elif name in known:
        values = columns[name].values.astype(np.float64)
    else:
        remedy = spelling.suggest(name, known, "it has")
        raise UserError(f"column={name}", "is not a column of the NAS-Bench-201 table", remedy)
    rows = np.flatnonzero(~np.isnan(values))
    return Scored(name, benchmark, [cell_text(row) for row in rows.tolist()], values[rows], against)


def of_file(benchmark: Nb201, path: Path, against: tuple[str, ...]) -> Scored:
    """Read scores from a CSV file with the columns architecture (or index) and score. UserErrors name the line."""
    remedy = "write the columns architecture (or index, the official cell index) and score, one cell per line"
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            names = reader.fieldnames or []
            key = next((name for name in ("architecture", "index") if name in names), None)
            if key is None or "score" not in names:
                raise UserError(
                    f"file={path}", f"lacks a required column (it has {', '.join(names) or 'none'})", remedy
                )
            rows: dict[int, float] = {}
            for line in reader:
                row, score = row_of(line[key], key), float(line["score"])
                if math.isnan(score):
                    raise ValueError("the score is not a number")
                if row in rows:
                    raise ValueError(f"the cell {line[key]} occurs twice")
                rows[row] = score
    except OSError as error:
        raise UserError(f"file={path}", f"cannot be read ({error.strerror})", remedy) from error
    except UserError as error:
        if error.where == f"file={path}":
            raise
        raise UserError(f"file={path}", f"line {reader.line_num}: {error.where}: {error.fault}", remedy) from error
    except (ValueError, TypeError, csv.Error) as error:
        raise UserError(f"file={path}", f"line {reader.line_num}: {error}", remedy) from error
    return Scored(path.name, benchmark, [cell_text(row) for row in rows], np.array(list(rows.values())), against)


def row_of(text: str, key: str) -> int:
    """Return the table row of a cell, given as a string or an official index. Raises UserError or ValueError."""
    if key == "architecture":
        return cell_code(text)
    index = int(text)
    if not 0 <= index < CELLS:
        raise ValueError(f"the index {index} is not in the range 0 to {CELLS - 1}")
    return official_order()[index]


# ---------------------------------------------------------------------------------------------------- a search
def of_run(
    folder: Path, args: Arguments, settings: Sequence[str], sampling: Sampling, against: tuple[str, ...]
) -> Scored:
    """Return the scores of a search: those recorded by a zero-cost method, or one-shot accuracies. Raises UserError."""
    allow = args.allowed
    saved, found = diagnose.open_search(folder, allow, settings)
    benchmark: Benchmark = instantiate.build(saved["benchmark"], allow)
    dataset = benchmark.dataset_key(str(saved["choices"].get("dataset"))) or "cifar10"
    against = against or (f"{dataset}.valid",)
    check_tabulated(benchmark, against)
    if known := recorded(folder):
        scores, facts = np.array(list(known.values())), {"kind": "recorded"}
        return subsample(Scored(folder.name, benchmark, list(known), scores, against, True, facts), sampling)
    if not instantiate.build(saved["method"], allow).trains:
        fault = "its method neither trained a supernet nor recorded scores"
        raise UserError(f"from={folder}", fault, "use a search whose method trains a supernet or scores cells")
    with diagnose.restored_job(folder, saved, args.options["device"], args.optional("threads"), allow) as job:
        read = (checkpoints.read(path, job.ctx.device) for path in reversed(found))
        state = next((own for own in read if own is not None), None)
        if state is None:
            raise diagnose.unreadable(folder, len(found))
        job.loop.load(state)
        genotypes = sample(job.space, sampling)
        cells = [str(genotype) for genotype in genotypes]
        for measure in against:
            if np.isnan(accuracies(benchmark, cells, measure)).all():
                fault = f"the benchmark has no {measure} for any of the {len(cells)} cells drawn"
                raise UserError(f"from={folder}", fault, COVERED)
        scores = np.array(one_shot(job, genotypes, sampling.images or job.settings.evaluated[0], folder.name))
    facts = {"kind": "one-shot", "updates": state["updates"]}
    return Scored(folder.name, benchmark, cells, scores, against, True, facts)


def recorded(folder: Path) -> dict[str, float]:
    """Return cell -> score (-inf if missing or NaN) for a search with a zero-cost method; empty for other searches."""
    record = files.read_json(folder / "result.json") or {}
    try:
        rows = (record.get("choice") or {}).get("drawn") or ()
        scores = {str(cell): -math.inf if score is None else float(score) for cell, score, *_ in rows}
    except (TypeError, ValueError, AttributeError) as error:
        fault = f"its recorded scores cannot be read ({error})"
        raise UserError(str(folder / "result.json"), fault, "rank a run created by nasx") from error
    return {cell: -math.inf if math.isnan(score) else score for cell, score in scores.items()}


def sample(space: Space, sampling: Sampling) -> list[Genotype]:
    """Draw n distinct cells from a space, or all of its cells if there are fewer."""
    import torch

    gen = torch.Generator().manual_seed(sampling.seed)
    found: dict[Genotype, None] = {}
    wanted = min(sampling.n or SAMPLE, space.size())
    while len(found) < wanted:
        found[space.sample(gen)] = None
    return list(found)


def one_shot(job: SearchJob, genotypes: Sequence[Genotype], images: int | None, name: str) -> list[float]:
    """Return the validation accuracy in [0, 1] of each cell with the supernet's weights; log progress to stderr."""
    from nasx.tracking.progress import duration

    index, (_, batch) = job.a_index[:images], job.settings.evaluated
    found: list[float] = []
    began, every = time.monotonic(), max(len(genotypes) // 10, 1)
    print(f"{name}: {len(genotypes)} cells on {len(index)} validation images each", file=sys.stderr, flush=True)
    for i, genotype in enumerate(genotypes, start=1):
        batches = job.data.ordered("train", index, batch=batch)
        found.append(job.problem.evaluate(job.search.w, job.problem.encode(genotype), batches)["accuracy"])
        if i % every == 0:
            left = (time.monotonic() - began) / i * (len(genotypes) - i)
            print(f"{name}: {i} of {len(genotypes)} cells, {duration(left)} left", file=sys.stderr, flush=True)
    return found


# ------------------------------------------------------------------------------------------------------- output
def table(rows: Sequence[Row]) -> str:
    """Format the rows as a table, with an interval for each statistic."""
    from tabulate import tabulate

    lines = [
        (
            row["score"],
            row["against"],
            row["n"],
            *(interval(row, name) for name in ("kendall_tau", "spearman")),
            f"{interval(row, 'regret')} (top {row['k']} of {row['n']}, best {row['best']:.2f})",
        )
        for row in rows
    ]
    return tabulate(lines, HEAD, disable_numparse=True) + "\nin brackets: 95 % bootstrap intervals over cells"


def interval(row: Row, name: str) -> str:
    """Format a statistic as `0.710 [0.650, 0.770]`, or as - if it is undefined."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "-"
    return f"{value:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
