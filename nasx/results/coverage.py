"""Table rows and figures of the five papers, each with the command that reproduces it or the reason why none does.

    rows      results/targets.csv; commands from conf/experiment, reasons from results/not_run.yaml
    figures   results/figures.yaml; a command may reproduce only part of a figure

`nasx list experiments paper=...` prints both. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nasx.config import experiments, paths, plugins
from nasx.core.files import load_yaml
from nasx.results import table_columns, targets

HERE = Path(__file__).parent


class Entry(NamedTuple):
    """A table row or a figure, with the commands that reproduce it or the reason why there are none."""

    name: str
    shows: str
    """Datasets of a row, or content of a figure."""
    commands: tuple[str, ...] = ()
    reason: str = ""
    """Reason why there is no command, or the part of a figure that the commands omit."""


def named(dataset: str) -> str:
    """Return the display name of a dataset in tables."""
    return table_columns.DATASETS.get(dataset, dataset)


def rows(paper: str) -> list[Entry]:
    """Return the printed rows of a paper, in its order, with a separate entry for each command or reason.

    Datasets of a row that have neither a command nor a reason share an entry without either.
    """
    found: list[Entry] = []
    for name, own in targets.load(paper).groupby("row", sort=False):
        row, left = str(name), dict.fromkeys(map(named, own["dataset"]))
        for command, datasets in computed().get(row, ()):
            found.append(Entry(row, ", ".join(x for x in left if x in datasets), (command,)))
        for reason, datasets in not_run().get(row, {}).items():
            found.append(Entry(row, ", ".join(x for x in left if x in datasets), (), reason))
        covered = {name for entry in found if entry.name == row for name in entry.shows.split(", ")}
        if missing := [x for x in left if x not in covered]:
            found.append(Entry(row, ", ".join(missing)))
    return found


@lru_cache(maxsize=1)
def computed() -> dict[str, list[tuple[str, frozenset[str]]]]:
    """Return a mapping from each row to the (command, datasets) of all experiments that list the row."""
    found: dict[str, list[tuple[str, frozenset[str]]]] = {}
    for name in plugins.choices("experiment", paths.conf_dir()):
        head = experiments.find(name)
        for printed in head.published if head else ():
            command = experiments.command(name, head, printed) if head else ""
            found.setdefault(printed.row, []).append((command, printed.datasets))
    return found


@lru_cache(maxsize=1)
def not_run() -> dict[str, dict[str, frozenset[str]]]:
    """Read not_run.yaml as row -> reason -> datasets.

    Raises KeyError for a row that is not in any paper, unless its datasets are listed.
    """
    table = targets.load()
    datasets = {str(row): {named(name) for name in own["dataset"]} for row, own in table.groupby("row")}
    found: dict[str, dict[str, frozenset[str]]] = {}
    for reason, places in load_yaml((HERE / "not_run.yaml").read_text(encoding="utf-8")).items():
        for place, labels in places.items():
            for label in labels:
                [(text, only)] = label.items() if isinstance(label, dict) else [(label, None)]
                row = f"{place}, {text}"
                found.setdefault(row, {})[reason] = frozenset(only or datasets[row])
    return found


def figures(paper: str) -> Iterator[Entry]:
    """Yield the figures of a paper."""
    held = load_yaml((HERE / "figures.yaml").read_text(encoding="utf-8"))
    for name, own in held[targets.SHORT[paper]].items():
        reason = own.get("reason") or (f"without {own['lacks']}" if "lacks" in own else "")
        yield Entry(f"{targets.SHORT[paper]}, {name}", own["shows"], tuple(own.get("commands", ())), reason)
