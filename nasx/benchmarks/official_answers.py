"""The known values of a NAS-Bench-201 cell, under the names of the official interface (official.py)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NoReturn

import numpy as np

from nasx.benchmarks.columns import Table
from nasx.benchmarks.nb201 import flops, params
from nasx.benchmarks.nb201_import import OFFICIAL, TRAINED_ON
from nasx.errors import UserError

CLASSES = {"cifar10-valid": 10, "cifar10": 10, "cifar100": 100, "ImageNet16-120": 120}
"""Official name of a dataset -> number of classes."""
SETS = {
    "cifar10-valid": {"valid": "x-valid", "test": "ori-test"},
    "cifar10": {"test": "ori-test"},
    "cifar100": {"valid": "x-valid", "test": "x-test", "valtest": "ori-test"},
    "ImageNet16-120": {"valid": "x-valid", "test": "x-test", "valtest": "ori-test"},
}
"""Dataset -> prefix of the keys returned by `get_more_info` -> evaluated split."""
BUDGETS = ("12", "200")
IN_FILE = "use the official file: nas_201_api.NASBench201API('NAS-Bench-201-v1_1-096897.pth')"
IMPORT = "`nasx bench import nb201 FILE` (the official .pth or a NATS-Bench folder)"


class NotKnown(UserError, KeyError):
    """Raised for a value that is in the official file but not in the table; the remedy names a source of the value."""

    __str__ = Exception.__str__


class Known(dict[str, float]):
    """A dictionary of the official interface with the known values.

    Access to any other official key raises NotKnown; access to any other key raises KeyError.
    """

    def __init__(self, where: str, values: Mapping[str, float], faults: Mapping[str, NotKnown] | None = None) -> None:
        super().__init__(values)
        self.where, self.faults = where, dict(faults or {})

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.where, dict(self), self.faults)

    def __missing__(self, key: str) -> NoReturn:
        if key in self.faults:
            raise self.faults[key]
        if key == "latency":
            raise NotKnown(
                f"{self.where}, latency",
                "nasx's table has no latency measured by the benchmark's authors",
                "choose a device in the table, for example nb201_api(device='raspi4'); "
                "`nasx bench info` lists its devices, and `nasx bench get nb201-latency` downloads latencies",
            )
        if key.endswith(("loss", "accuracy", "time")) or key.startswith("T-"):
            raise NotKnown(f"{self.where}, {key}", "is not in nasx's table", IN_FILE)
        raise KeyError(key)


def budget(hp: object) -> str:
    """Return the official name of a training budget. Raises UserError if there is no such budget."""
    if str(hp) not in BUDGETS:
        raise UserError(f"hp={hp!r}", "is not a training budget of NAS-Bench-201", "use hp='12' or hp='200'")
    return str(hp)


def checked(dataset: str) -> str:
    """Return `dataset` if it is the official name of a dataset. Raises UserError otherwise."""
    if dataset not in CLASSES:
        raise UserError(f"dataset={dataset!r}", "is not a dataset of NAS-Bench-201", f"use one of {', '.join(CLASSES)}")
    return dataset


class Answers:
    """The values of a table under their official names. Columns are converted once, at their first use."""

    def __init__(self, table: Table, device: str | None) -> None:
        self.table = table
        self.latencies = None if device is None else table.columns.get(f"latency.{device}")
        if device is not None and self.latencies is None:
            known = [name.removeprefix("latency.") for name in table.columns if name.startswith("latency.")]
            raise UserError(
                f"device={device}",
                "the table has no latencies for this device",
                f"it has {', '.join(known)}" if known else "`nasx bench get nb201-latency` downloads them",
            )
        self._statistics, self._per_seed = cache(table.statistics), cache(table.per_seed)

    def __deepcopy__(self, memo: object) -> Answers:
        return self  # the official class copies its results; no copy is needed, because the table never changes

    def means(self, measure: tuple[str, str], epochs: int) -> np.ndarray:
        """Return the mean accuracies over seeds, (15625,) in percent; NaN if unknown."""
        return self._statistics(*measure, epochs)[:, 0]

    def runs(self, measure: tuple[str, str], epochs: int) -> dict[int, np.ndarray]:
        """Return a dict from seeds to accuracies, (15625,) in percent; NaN if unknown."""
        return self._per_seed(*measure, epochs)

    def seeds(self, row: int, dataset: str, epochs: int) -> list[int]:
        """Return the seeds with a known accuracy of a cell on any split of a dataset, in ascending order."""
        runs = [self.runs(measure, epochs) for (trained_on, _), measure in OFFICIAL.items() if trained_on == dataset]
        return sorted({seed for own in runs for seed, values in own.items() if values[row] == values[row]})

    def accuracy(self, row: int, dataset: str, setname: str, epochs: int, seed: int | None) -> float:
        """Return the accuracy with one seed in percent, or the mean over seeds if `seed` is None. Raises NotKnown."""
        measure, where = OFFICIAL.get((dataset, setname)), f"{dataset}, {setname}, {epochs} epochs"
        if measure is None:
            raise NotKnown(where, "this accuracy is not in nasx's table", IN_FILE)
        mean = float(self.means(measure, epochs)[row])
        if seed is None and mean == mean:
            return mean
        own = self.runs(measure, epochs).get(seed) if seed is not None else None
        if own is not None and own[row] == own[row]:
            return float(own[row])
        raise self.lacking(where, measure, epochs, mean_known=mean == mean)

    @staticmethod
    def lacking(where: str, measure: tuple[str, str], epochs: int, *, mean_known: bool = False) -> NotKnown:
        """Return the error for an accuracy that is missing from the table but can be imported."""
        if mean_known:
            return NotKnown(where, "the table has the mean over seeds only", f"use is_random=False, or {IMPORT}")
        brings = "`nasx bench get nb201-test` (means over seeds) or " if measure[1] == "test" and epochs == 200 else ""
        other = ", but it has accuracies for hp='200'" if epochs == 12 else ""
        return NotKnown(where, f"the table has no such accuracy{other}", f"{brings}{IMPORT} adds it")

    def costs(self, row: int, dataset: str) -> tuple[float, float]:
        """Return the multiply-adds (M) and parameters (MB) of a cell's network for a dataset.

        The dataset determines the number of classes and the image size (32 or 16 pixels).
        """
        head = 64 + 1  # weights and bias of the classifier, per class
        maps = flops(row) - 10 * head
        maps = maps // 4 if dataset == "ImageNet16-120" else maps
        more = (CLASSES[checked(dataset)] - 10) * head
        return (maps + 10 * head + more) / 1e6, (params(row) + more) / 1e6

    def seconds(self, row: int, dataset: str, epochs: int) -> float | None:
        """Return the duration of one training run in seconds; None if unknown."""
        name = TRAINED_ON.get(dataset) if epochs == 200 else None
        value = float(self.table.seconds(name)[row]) if name else float("nan")
        return value if value == value else None

    def cost_info(self, row: int, dataset: str, epochs: int) -> Known:
        """Return the costs of a cell, with the keys and units of `get_cost_info` in the official class."""
        flop, param = self.costs(row, dataset)
        values = {"flops": flop, "params": param}
        if self.latencies is not None and (value := float(self.latencies.values[row])) == value:
            values["latency"] = value / 1000
        return Known(f"{dataset}, {epochs} epochs", values | self.times(row, dataset, epochs))

    def times(self, row: int, dataset: str, epochs: int) -> dict[str, float]:
        """Return the known training times in seconds, per epoch and in total."""
        total = self.seconds(row, dataset, epochs)
        return {} if total is None else {"T-train@epoch": total / epochs, "T-train@total": total}
