"""Access to nasx's compact NAS-Bench-201 table through the interface of the official package.

`TableApi` is a `nas_201_api.NASBench201API` with the index order (`isomorphism.official_order`), names and units of the
official class: accuracies in percent, times in seconds, parameters in MB (10^6), multiply-adds in M. Access to a value
that is in the official file but not in the table raises `NotKnown`: dictionaries contain the known keys, and raise
`NotKnown` for all other official keys.

    value               source
    accuracy            columns.py: after the last epoch, per seed if the table has seeds, else the mean over seeds
    flops, params       the formulas in nb201.py
    train time          `DATASET.seconds`, 200 epochs; unknown for `cifar10` (trained on all 50,000 images)
    latency             `latency.DEVICE`, if a device is set
    never known         losses, training accuracy, evaluation times, earlier epochs, weights

Deviations from the official class
1. The training time of a seed is the mean over all seeds of the cell; in the public copy read by build_nb201.py, all
   seeds of a cell have the same time.
2. `show(-1)` shows all cells; in the official class, it raises KeyError.
3. Parameter counts are computed from the cell; the public copy has different counts for 150 cells.
4. Accuracies on the whole test set of CIFAR-100 or ImageNet16-120 (`ori-test`), and test accuracies of networks trained
   on half of CIFAR-10, are not in the table.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NoReturn

import numpy as np
from nas_201_api import ArchResults, NASBench201API, ResultsCount
from nas_201_api.api_utils import remap_dataset_set_names

from nasx.benchmarks.isomorphism import cell_text, official_order
from nasx.benchmarks.nb201 import Nb201
from nasx.benchmarks.nb201_import import OFFICIAL
from nasx.benchmarks.official_answers import BUDGETS, CLASSES, IN_FILE, SETS, Answers, Known, NotKnown, budget, checked
from nasx.errors import UserError


class Trial(ResultsCount):
    """The results of training a cell with one seed, or the mean results over seeds if `seed` is None."""

    def __init__(self, answers: Answers, row: int, dataset: str, epochs: int, seed: int | None) -> None:
        flop, param = answers.costs(row, dataset)
        config = {"arch_str": cell_text(row), "channel": 16, "num_cells": 5, "class_num": CLASSES[dataset]}
        super().__init__("infer.tiny", None, {}, {}, param, flop, config, seed, epochs, None)
        self.answers, self.row, self.dataset = answers, row, dataset
        self.eval_names = [setname for trained_on, setname in OFFICIAL if trained_on == dataset]

    def get_eval(self, name: str, iepoch: int | None = None) -> Known:
        setname = "x-valid" if name == "valid" else name
        last_epoch(iepoch, self.epochs)
        percent = self.answers.accuracy(self.row, self.dataset, setname, self.epochs, self.seed)
        return Known(f"{self.dataset}, {setname}", {"iepoch": self.epochs - 1, "accuracy": percent})

    def get_train(self, iepoch: int | None = None) -> Known:
        last_epoch(iepoch, self.epochs)
        total = self.answers.seconds(self.row, self.dataset, self.epochs)
        times = {} if total is None else {"cur_time": total / self.epochs, "all_time": total}
        return Known(f"{self.dataset}, train", {"iepoch": self.epochs - 1, **times})

    def get_times(self) -> Known:
        return Known(f"{self.dataset}, {self.epochs} epochs", self.answers.times(self.row, self.dataset, self.epochs))

    def get_latency(self) -> float:
        return self.answers.cost_info(self.row, self.dataset, self.epochs)["latency"]

    def get_net_param(self, clone: bool = False) -> NoReturn:
        raise NotKnown(f"{self.dataset}, seed {self.seed}", "trained weights are not in nasx's table", IN_FILE)


def last_epoch(iepoch: int | None, epochs: int) -> None:
    """Raise UserError for an epoch outside the training run, and NotKnown for any epoch except the last."""
    if iepoch is not None and iepoch != epochs - 1:
        if not 0 <= iepoch < epochs:
            raise UserError(
                f"iepoch={iepoch}", f"is not an epoch of a training run (0 to {epochs - 1})", "use iepoch=None"
            )
        raise NotKnown(f"iepoch={iepoch}", "the table has the last epoch only", IN_FILE)


class CellResults(ArchResults):
    """The results of all training runs of a cell with one training budget."""

    def __init__(self, answers: Answers, index: int, row: int, epochs: int) -> None:
        self.arch_index, self.arch_str, self.clear_net_done = index, cell_text(row), True
        self.answers, self.row, self.epochs = answers, row, epochs
        self.dataset_seed = {name: answers.seeds(row, name, epochs) for name in CLASSES}

    @cached_property
    def all_results(self) -> dict[tuple[str, int], Trial]:
        """(dataset, seed) -> results of the training run."""
        return {
            (name, seed): Trial(self.answers, self.row, name, self.epochs, seed)
            for name, seeds in self.dataset_seed.items()
            for seed in seeds
        }

    def get_dataset_seeds(self, dataset: str) -> list[int]:
        """Return the seeds of a dataset. Raises NotKnown if the table has no seeds."""
        seeds = list(self.dataset_seed[checked(dataset)])
        if not seeds:
            measure = next(own for (trained_on, _), own in OFFICIAL.items() if trained_on == dataset)
            mean = self.answers.means(measure, self.epochs)[self.row]
            raise self.answers.lacking(
                f"{dataset}, {self.epochs} epochs, one seed", measure, self.epochs, mean_known=bool(mean == mean)
            )
        return seeds

    def query(self, dataset: str, seed: int | None = None) -> Trial | dict[int, Trial]:
        seeds = self.get_dataset_seeds(dataset)
        return (
            {each: self.all_results[dataset, each] for each in seeds}
            if seed is None
            else self.all_results[dataset, seed]
        )

    def get_compute_costs(self, dataset: str) -> Known:
        return self.answers.cost_info(self.row, dataset, self.epochs)

    def get_latency(self, dataset: str) -> float:
        return self.get_compute_costs(dataset)["latency"]

    def get_total_epoch(self, dataset: str | None = None) -> int:
        return self.epochs

    def get_net_param(self, dataset: str, seed: int | None = None) -> NoReturn:
        raise NotKnown(f"{dataset}, weights", "trained weights are not in nasx's table", IN_FILE)

    def get_metrics(
        self, dataset: str, setname: str, iepoch: int | None = None, is_random: bool | int = False
    ) -> Known:
        seed: int | None = None
        if isinstance(is_random, bool):
            if is_random:
                seeds = self.get_dataset_seeds(dataset)
                seed = seeds[random.randint(0, len(seeds) - 1)]  # drawn as in the official class
        elif is_random not in (seeds := self.get_dataset_seeds(dataset)):
            raise ValueError(f"seed {is_random} is not among {seeds}")
        else:
            seed = is_random
        trial = Trial(self.answers, self.row, checked(dataset), self.epochs, seed)
        return trial.get_train(iepoch) if setname == "train" else trial.get_eval(setname, iepoch)


class Cells(Mapping[int, dict[str, CellResults]]):
    """A mapping from the official index to the results by training budget, which are created on access."""

    def __init__(self, answers: Answers, evaluated: list[int]) -> None:
        self.answers, self.evaluated, self.held = answers, evaluated, frozenset(evaluated)

    def __getitem__(self, index: int) -> dict[str, CellResults]:
        if index not in self.held:
            raise KeyError(index)
        return {hp: CellResults(self.answers, index, official_order()[index], int(hp)) for hp in BUDGETS}

    def __contains__(self, index: object) -> bool:
        return index in self.held

    def __iter__(self) -> Iterator[int]:
        return iter(self.evaluated)

    def __len__(self) -> int:
        return len(self.evaluated)


class TableApi(NASBench201API):
    """A `nas_201_api.NASBench201API` that reads a nasx table; returned by `nasx.benchmarks.nb201_api`."""

    def __init__(self, benchmark: Nb201, *, device: str | None = None, verbose: bool = True) -> None:
        table, rows = benchmark.table(), official_order()
        self.filename, self.verbose = benchmark.file().name, verbose
        self.reset_time()
        self._avaliable_hps = set(BUDGETS)  # sic, as in the official class
        self.answers = Answers(table, device)
        self.meta_archs = [cell_text(row) for row in rows]
        self.archstr2index = {cell: index for index, cell in enumerate(self.meta_archs)}
        held = np.zeros(len(rows), bool)
        for each in table.columns.values():
            if each.unit in ("images", "percent"):
                held |= each.present if each.present.ndim == 1 else each.present.any(1)
        self.evaluated_indexes = [index for index, row in enumerate(rows) if held[row]]
        self.arch2infos_dict = Cells(self.answers, self.evaluated_indexes)

    def get_more_info(
        self,
        index: int | str,
        dataset: str,
        iepoch: int | None = None,
        hp: str | int = "12",
        is_random: bool | int = True,
    ) -> Known:
        """Return the accuracies and training times of a cell. Raises NotKnown if no accuracy is known."""
        if self.verbose:
            print(
                f"Call the get_more_info function with index={index}, dataset={dataset}, iepoch={iepoch}, hp={hp}, "
                f"and is_random={is_random}."
            )
        number: int = self.query_index_by_arch(index)
        if number not in self.arch2infos_dict:
            raise ValueError(f"no results for cell {number}")
        found = self.arch2infos_dict[number][budget(hp)]
        if is_random is True:
            is_random = random.choice(found.get_dataset_seeds(dataset))
        train, values, faults = found.get_metrics(dataset, "train", iepoch, is_random), {}, {}
        for name, setname in SETS[dataset].items():
            try:
                values[f"{name}-accuracy"] = found.get_metrics(dataset, setname, iepoch, is_random)["accuracy"]
            except NotKnown as fault:
                faults[f"{name}-accuracy"] = fault
        if not values:
            raise faults[f"{next(iter(SETS[dataset]))}-accuracy"]
        if dataset == "cifar10":
            faults["valid-accuracy"] = NotKnown(
                "cifar10, valid-accuracy",
                "networks trained on all 50,000 images have no validation accuracy",
                "use dataset='cifar10-valid'",
            )
        if "all_time" in train:
            values |= {"train-per-time": train["cur_time"], "train-all-time": train["all_time"]}
        return Known(f"{dataset}, {hp} epochs", values, faults)

    def find_best(
        self,
        dataset: str,
        metric_on_set: str,
        FLOP_max: float | None = None,
        Param_max: float | None = None,
        hp: str | int = "12",
    ) -> tuple[int, float | None]:
        """Return the index and accuracy of the best cell; (-1, None) if no cell is within the bounds.

        `FLOP_max` is in M, `Param_max` in MB (10^6). Raises NotKnown if the accuracy of a cell is unknown.
        """
        if self.verbose:
            print(
                f"Call find_best with dataset={dataset}, metric_on_set={metric_on_set}, hp={hp} | with #FLOPs < "
                f"{FLOP_max} and #Params < {Param_max}"
            )
        dataset, setname = remap_dataset_set_names(dataset, metric_on_set, self.verbose)
        best, highest = -1, None
        for index in self.evaluated_indexes:
            row = official_order()[index]
            flop, param = self.answers.costs(row, dataset)
            if (FLOP_max is not None and flop > FLOP_max) or (Param_max is not None and param > Param_max):
                continue
            accuracy = self.answers.accuracy(row, dataset, setname, int(budget(hp)), None)
            if highest is None or accuracy > highest:
                best, highest = index, accuracy
        if self.verbose and best >= 0:
            print(f"  the best architecture : [{best}] {self.meta_archs[best]} with accuracy={highest:.3f}%")
        return best, highest

    def get_net_config(self, index: int, dataset: str) -> dict[str, object]:
        """Return the configuration of a cell's network: name, channels, cells per stage, cell, number of classes."""
        if index not in self.arch2infos_dict:
            raise ValueError(f"no results for cell {index}")
        return Trial(self.answers, official_order()[index], checked(dataset), 200, None).get_config(None)

    def query_info_str_by_arch(self, arch: object, hp: str | int = "12") -> str | None:
        if self.verbose:
            print(f"Call query_info_str_by_arch with arch={arch} and hp={hp}")
        return self._query_info_str_by_arch(arch, budget(hp), described)

    def show(self, index: int = -1) -> None:
        """Print the known values of a cell, or of all cells if `index` is negative."""
        if index >= 0:
            return self._show(index, described)
        print(self)
        for i, each in enumerate(self.evaluated_indexes):
            print(f"\n---------- The ({i:5d}/{len(self.evaluated_indexes):5d}) {each:06d}-th architecture! ----------")
            print(f"arch : {self.meta_archs[each]}")
            self._show(each, described)

    def reload(self, archive_root: str | None = None, index: int | None = None) -> NoReturn:
        raise UserError("reload", "nasx's table cannot be reloaded from the official archive", IN_FILE)


def described(found: CellResults, extra_info: object = None, show: bool = False) -> list[str]:
    """Return the lines that the official class prints about a cell, with the known values; `show` prints them."""
    names = found.get_dataset_names()
    lines = [found.arch_str, f"datasets : {names}, extra-info : {extra_info}"]
    for dataset in names:
        costs, parts = found.get_compute_costs(dataset), []
        latency = f"{costs['latency'] * 1000:.2f}" if "latency" in costs else None
        for name, setname in SETS[dataset].items():
            try:
                parts.append(f"{name} : [top1 = {found.get_metrics(dataset, setname)['accuracy']:.2f}%]")
            except NotKnown:
                continue
        lines += [
            f"{dataset:14s} FLOP={costs['flops']:6.2f} M, Params={costs['params']:.3f} MB, latency={latency} ms.",
            f"{dataset:14s} {', '.join(parts) or 'no accuracy in this table'}",
        ]
    if show:
        print("\n".join(lines))
    return lines
