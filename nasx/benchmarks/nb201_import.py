"""Import of the full NAS-Bench-201 results, including test accuracies, into nasx's compact table.

The path determines the kind of source:

* a ``.pth`` file: the official NAS-Bench-201 file (v1_0, v1_1), read by ``torch.load(weights_only=True)`` with numpy
  scalars allowed. The whole file is loaded into memory, which takes about six times its size according to public
  reports; a message first states the required memory.
* a folder: the topology search space of NATS-Bench, with one ``NNNNNN.pickle.pbz2`` file per cell (the published
  ``-simple`` folder). The files are read one at a time, by an unpickler that creates only plain values.
* a ``.csv`` or ``.csv.gz`` file with the column ``arch_str`` and any of ``<set>_<valid|test>`` (mean over seeds),
  ``<set>_<valid|test>_s<seed>`` (one seed), the same names with the prefix ``ep12_`` (12 epochs), and
  ``<set>_train_time_s``, where ``<set>`` is cifar10, cifar100 or imagenet16. Some column names from other publications
  (`FOREIGN`) are also recognized. All other columns are ignored.

Cells are identified by their strings, never by an index. For every seed in the source, the import reads the accuracies
in `columns.IMAGES` after the last epoch of the 12-epoch and 200-epoch runs. The columns are added to the existing table
(or, if there is none, to the embedded table) and replace columns of the same name; see `columns.merged`. An import is
rejected, and the old table kept, if an accuracy is not a whole number of images, if cells are missing, if the
validation accuracies differ from those in the embedded table, or if the test accuracies do not match them.
"""

from __future__ import annotations

import csv
import gzip
import pickle
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

import numpy as np

from nasx.benchmarks import nb201_checks as checks
from nasx.benchmarks.base import DATASETS
from nasx.benchmarks.columns import IMAGES, MISSING, Column, Facts, Table, column, merged, name_of
from nasx.benchmarks.foreign_files import load_plain, load_torch
from nasx.benchmarks.isomorphism import CELLS, cell_code
from nasx.benchmarks.nb201 import EMBEDDED
from nasx.benchmarks.store import ELSEWHERE, Say, cache_folder, one_writer, sha256, silent
from nasx.core.files import write_atomic
from nasx.errors import UserError

# (trained on, evaluated on) in the official files -> (dataset, split)
OFFICIAL = {
    ("cifar10-valid", "x-valid"): ("cifar10", "valid"),
    ("cifar10", "ori-test"): ("cifar10", "test"),
    ("cifar100", "x-valid"): ("cifar100", "valid"),
    ("cifar100", "x-test"): ("cifar100", "test"),
    ("ImageNet16-120", "x-valid"): ("imagenet16", "valid"),
    ("ImageNet16-120", "x-test"): ("imagenet16", "test"),
}
# trained on, in the official files -> dataset whose `seconds` column contains the training time
TRAINED_ON = {"cifar10-valid": "cifar10", "cifar100": "cifar100", "ImageNet16-120": "imagenet16"}
BUDGETS = {"12": 12, "200": 200, "less": 12, "full": 200}
CELL = ("arch_str", "ArchitectureString")
"""Names of the CSV column that contains the cell."""
FOREIGN = {
    f"{name}TestAccuracy200Epochs": (dataset, "test", 200)
    for name, dataset in (("CIFAR10", "cifar10"), ("CIFAR100", "cifar100"), ("ImageNet", "imagenet16"))
}
"""Names of columns with mean test accuracies in public NATS-Bench tables -> (dataset, split, epochs)."""
_COLUMN = re.compile(r"(ep12_)?(cifar10|cifar100|imagenet16)_(valid|test)(?:_s(\d{1,9}))?")
_FAULTS = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    MemoryError,
    RuntimeError,
    pickle.UnpicklingError,
    csv.Error,
    zlib.error,
)
Run = tuple[str, str, int, int]  # dataset, split (valid or test), epochs, seed
Measure = tuple[str, str, int]  # dataset, split, epochs: a mean over seeds


class Trained(TypedDict):
    """A training run in an official file: accuracies by split and epoch (x-valid@199), and seconds by epoch."""

    eval_acc1es: dict[str, float]
    train_times: dict[str, float] | None


Results = dict[tuple[str, int], Trained]
"""(trained on, seed) -> training run."""


class State(TypedDict):
    """All training runs of a cell with one training budget, in an official file."""

    arch_str: str
    all_results: Results


@dataclass
class Collected:
    """The values read so far: percentages per run and per measure, seconds per dataset, and a mask of the cells.

    Shapes: (15625,) float64, NaN if unknown; `seen` is bool.
    """

    runs: dict[Run, np.ndarray] = field(default_factory=dict)
    means: dict[Measure, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, np.ndarray] = field(default_factory=dict)
    seen: np.ndarray = field(default_factory=lambda: np.zeros(CELLS, bool))

    def new_row(self, cell: str) -> int:
        """Mark a cell as seen and return its row. Raises ValueError if it was already seen."""
        row = cell_code(cell)
        if self.seen[row]:
            raise ValueError(f"the cell {cell} occurs twice")
        self.seen[row] = True
        return row

    def put(self, key: Run | Measure | str, row: int, value: float) -> None:
        """Store a value: seconds if `key` is a dataset, otherwise an accuracy in percent.

        Raises ValueError if an accuracy is out of range.
        """
        if not 0.0 <= value <= 100.0 and not isinstance(key, str):
            raise ValueError(f"an accuracy of {value} percent is out of range")
        unknown = np.full(CELLS, np.nan)
        if isinstance(key, str):
            values = self.seconds.setdefault(key, unknown)
        else:
            values = self.runs.setdefault(key, unknown) if len(key) == 4 else self.means.setdefault(key, unknown)
        values[row] = value


def import_nb201(
    path: str | Path,
    out: str | Path | None = None,
    *,
    say: Say = silent,
    complete: bool = True,
    source: str | None = None,
) -> dict[str, object]:
    """Import a NAS-Bench-201 file or folder into the table at `out` (None: the default path of `Nb201`).

    `say` receives progress messages, including the required memory. `complete=False` accepts a source that contains
    only some of the cells; its columns then replace the table at `out` instead of being added to it. `source` is
    recorded as the source of the columns (None: kind and name of the file). Returns a summary: file, source, sha256,
    cells, columns (those imported), agreement, kept (existing columns, by source). If UserError is raised, the table is
    unchanged.
    """
    path, out = Path(path).expanduser(), cache_folder() / "nb201.npz" if out is None else Path(out).expanduser()
    remedy = "use the official NAS-Bench-201 .pth, a NATS-Bench topology folder, or a CSV with named columns"
    if not path.exists():
        raise UserError(str(path), "does not exist", remedy)
    kind, read = _kind(path)
    if read is None:
        raise UserError(str(path), f"a {kind} is not a supported source", remedy)
    try:
        collected = read(path, say)
    except UserError as error:
        raise UserError(str(path), f"is not a {kind} ({error.where}: {error.fault})", remedy) from error
    except _FAULTS as error:
        raise UserError(
            str(path), f"is not a {kind}, or is damaged ({type(error).__name__}: {_short(error)})", remedy
        ) from error
    if not collected.runs and not collected.means:
        raise UserError(str(path), "contains no accuracies", remedy)
    cells = int(collected.seen.sum())
    if complete and cells != CELLS:
        raise UserError(str(path), f"contains {cells} of {CELLS} cells", remedy)
    say(f"{path.name}: computing its checksum")
    source, checksum = source or f"{kind} {path.name}", sha256(path)
    facts: Facts = {
        "version": path.name,
        "sha256": checksum,
        "license": "NAS-Bench-201, NATS-Bench: MIT",
        "date": today(),
    }
    new = _columns(path, collected, source, facts)
    agreement = checks.agreement(path, Table(new), remedy)
    kept = add(out, new, path, say=say, alone=not complete)
    return {
        "file": str(out),
        "source": source,
        "sha256": checksum,
        "cells": cells,
        "agreement": agreement,
        "columns": {name: each.describe() for name, each in new.items()},
        "kept": kept,
    }


def today() -> str:
    """Return the current date (ISO 8601, UTC)."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def add(out: Path, new: Mapping[str, Column], path: Path, *, say: Say = silent, alone: bool = False) -> dict[str, str]:
    """Merge the columns read from `path` into the table at `out` (`alone`: replace the table).

    Returns the names of the existing columns that were kept, by source. If UserError is raised, the old table is
    unchanged.
    """
    with one_writer(out):
        before = {} if alone else _present(out)
        table = Table(merged(before, new, say))
        checks.consistent(path, table, BUDGETS.values())
        write_atomic(out, table.packed(), ELSEWHERE)
    kept: dict[str, list[str]] = {}
    for name, each in table.columns.items():
        if before.get(name) is each:
            kept.setdefault(each.source, []).append(name)
    return {held: ", ".join(names) for held, names in kept.items()}


def _present(out: Path) -> dict[str, Column]:
    """Return the columns of the embedded table, merged with those of the table at `out` if it exists.

    Raises UserError if the table at `out` is damaged.
    """
    known = Table.read(EMBEDDED).columns
    try:
        return merged(known, Table.read(out).columns, silent) if out.exists() else known
    except UserError as error:
        raise UserError(
            error.where, error.fault, "move the file elsewhere: the import then starts from the table in the package"
        ) from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _kind(path: Path) -> tuple[str, Callable[[Path, Say], Collected] | None]:
    if path.is_dir():
        return "NATS-Bench topology folder", read_folder
    if path.suffix == ".pth":
        return "NAS-Bench-201 file", read_pth
    if path.name.endswith((".csv", ".csv.gz")):
        return "NAS-Bench-201 CSV", read_csv
    return f"file named '*{path.suffix}'", None


# ------------------------------------------------------------------------------------------- readers of the sources
def read_csv(path: Path, say: Say) -> Collected:
    """Read a CSV with named columns and one cell per row. Raises ValueError."""
    collected = Collected()
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        names = reader.fieldnames or []
        cell = next((name for name in CELL if name in names), None)
        if cell is None:
            raise ValueError(f"it has no column {' or '.join(CELL)}")
        keys: dict[str, Run | Measure | str] = {name: FOREIGN[name] for name in names if name in FOREIGN}
        for match in filter(None, map(_COLUMN.fullmatch, names)):
            short, dataset, split, seed = match.groups()
            measure = (dataset, split, 12 if short else 200)
            keys[match[0]] = (*measure, int(seed)) if seed else measure
        keys |= {name: dataset for dataset in DATASETS if (name := f"{dataset}_train_time_s") in names}
        ignored = [name for name in names if name not in keys and name != cell]
        say(f"{path.name}: reading {len(keys)} columns; ignored: {', '.join(ignored) or 'none'}")
        for line in reader:
            row = collected.new_row(line[cell])
            for name, key in keys.items():
                if text := line[name]:
                    collected.put(key, row, float(text))
    return collected


def read_pth(path: Path, say: Say) -> Collected:
    """Read the official file: ``{'meta_archs', 'arch2infos': {index: {'less', 'full'}}, 'evaluated_indexes'}``."""
    size = path.stat().st_size / 2**30
    free = _free_memory_gb()
    say(
        f"{path.name}: {size:.1f} GB; loading it takes about {6 * size:.1f} GB of memory"
        + ("" if free is None else f" ({free:.1f} GB are free)")
    )
    scalar = np.float64(0).__reduce__()[0]
    content = load_torch(
        path,
        [
            (scalar, "numpy.core.multiarray.scalar"),
            (scalar, "numpy._core.multiarray.scalar"),
            np.dtype,
            *(type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4")),
        ],
    )
    collected = Collected()
    for index, budgets in content["arch2infos"].items():
        _take(collected, content["meta_archs"][index], budgets)
    return collected


def read_folder(path: Path, say: Say) -> Collected:
    """Read NATS-Bench's topology folder: one bzip2-compressed pickle ``{'12': state, '200': state, ...}`` per cell."""
    files = sorted(file for file in path.iterdir() if re.fullmatch(r"\d+\.pickle\.pbz2", file.name))
    if not files:
        raise ValueError("it contains no file NNNNNN.pickle.pbz2")
    meta = path / "meta.pickle.pbz2"
    names = load_plain(meta)["meta_archs"] if meta.exists() else None
    collected = Collected()
    for done, file in enumerate(files):
        if done % 1000 == 0:
            say(f"{path.name}: {done} of {len(files)} cells")
        try:
            _take(collected, None if names is None else names[int(file.name.split(".")[0])], load_plain(file))
        except _FAULTS as error:
            raise ValueError(f"{file.name}: {type(error).__name__}: {_short(error)}") from error
    return collected


def _take(collected: Collected, name: str | None, budgets: dict[str, State]) -> None:
    """Add a cell from an official file. Raises ValueError if its string differs from `name`."""
    row = None
    for budget, state in budgets.items():
        epochs = BUDGETS.get(budget)
        if epochs is None:
            continue
        cell = state["arch_str"]
        if name is not None and cell != name:
            raise ValueError(f"the cell {cell} has the index of {name}")
        row = collected.new_row(cell) if row is None else row
        for measure, seed, percent in _accuracies(state["all_results"], epochs):
            collected.put((*measure, epochs, seed), row, percent)
        if epochs == 200:
            for dataset in DATASETS:
                collected.put(dataset, row, _seconds(state["all_results"], dataset))


def _accuracies(results: Results, epochs: int) -> Iterator[tuple[tuple[str, str], int, float]]:
    for (trained_on, seed), result in results.items():
        for (official, split), measure in OFFICIAL.items():
            key = f"{split}@{epochs - 1}"
            if official == trained_on and key in result["eval_acc1es"]:
                yield measure, int(seed), float(result["eval_acc1es"][key])


def _seconds(results: Results, dataset: str) -> float:
    seconds = [
        sum(float(t) for t in times.values())
        for (trained_on, _), result in results.items()
        if TRAINED_ON.get(trained_on) == dataset and (times := result.get("train_times"))
    ]
    return sum(seconds) / len(seconds) if seconds else float("nan")


def _free_memory_gb() -> float | None:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found[1]) / 2**20 if found else None


# ------------------------------------------------------------------------------------------ conversion to columns
def _columns(path: Path, collected: Collected, source: str, facts: Facts) -> dict[str, Column]:
    """Convert the collected values to columns, by name.

    Raises UserError if an accuracy is not a whole number of images.
    """
    found: dict[str, Column] = {}
    for measure in sorted({run[:3] for run in collected.runs}, key=lambda m: (m[2], DATASETS.index(m[0]), m[1])):
        seeds = sorted(run[3] for run in collected.runs if run[:3] == measure)
        counts = np.full((CELLS, len(seeds)), MISSING, np.uint16)
        for i, seed in enumerate(seeds):
            exact = collected.runs[*measure, seed] * IMAGES[measure[:2]] / 100
            known = ~np.isnan(exact)
            if (abs(exact[known] - exact[known].round()) > 0.05).any():
                raise UserError(
                    str(path),
                    f"the {measure[0]} {measure[1]} accuracies are not multiples of 1/{IMAGES[measure[:2]]}",
                    "the file is from another benchmark, or its numbers were changed",
                )
            counts[known, i] = exact[known].round()
        name = name_of(*measure, "runs")
        found[name] = column(name, counts, source, seeds=tuple(seeds), **facts)
    for measure, values in sorted(collected.means.items()):
        name = name_of(*measure, "mean")
        found[name] = column(name, values, source, **facts)
    for dataset, values in collected.seconds.items():
        found[f"{dataset}.seconds"] = column(f"{dataset}.seconds", values, source, **facts)
    return {name: each for name, each in found.items() if each.known}
