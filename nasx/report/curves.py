"""Curves over the epochs of a search, from `metrics.jsonl`: losses, accuracies, benchmark accuracies, diagnostics.

With several seeds, a line is the mean over the runs that reached the epoch. Its band is one sample standard deviation
on either side, clipped to the range of the quantity (up to 100 % for an accuracy, up to the optimum for a benchmark
accuracy); a single run has no band. Accuracies measured by nasx are fractions in the file and percentages in the
picture. Invalid rows are skipped; if an epoch has two rows, as in a resumed run, the later row is used.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nasx.core import files
from nasx.core.plain import Row
from nasx.core.quantities import NUMBER, PERCENT, QUANTITIES, TITLES, Quantity, Unit, number, per_epoch, value_at
from nasx.errors import UserError
from nasx.report import heat_maps
from nasx.report.figure_style import CYCLE, FAMILIES, SCREEN, SOFT, figure, save, style
from nasx.spaces.families import family

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.typing import LineStyleType

Runs = Mapping[str, Sequence[str | Path]]
"""Label -> folders of runs that differ only in the seed."""
MEASURED: tuple[tuple[str, str, LineStyleType], ...] = (
    ("train", "training", "-"),
    ("val", "validation batches", (0, (4, 2))),
    ("valid", "whole validation split", (0, (1, 1.2))),
)
"""Column prefix, description and dash pattern of each curve of a loss or metric."""


# -------------------------------------------------------------------------------------------------------- read
def read_metrics(run_folder: str | Path) -> list[Row]:
    """Read the last row of each epoch from `metrics.jsonl`, sorted by epoch. Raises UserError if it cannot be read."""
    path = Path(run_folder) / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as fault:
        raise UserError(str(path), f"cannot be read ({fault.strerror})", "use the folder of a run") from fault
    rows: dict[int, dict[str, object]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            rows[int(row["epoch"])] = row
        except (ArithmeticError, ValueError, TypeError, KeyError, RecursionError):
            continue
    return [rows[epoch] for epoch in sorted(rows)]


def _get(row: Row, name: str) -> float:
    """Return the number at the dotted key `name`; NaN if there is none."""
    found = value_at(row, name)
    return number(found) if isinstance(found, int | float) else math.nan


def band(runs: Sequence[Sequence[Row]], name: str, scale: float = 1.0) -> tuple[np.ndarray, ...]:
    """Return the epochs (e,), and the mean, sample standard deviation and n of `name` over the runs, each (e,).

    Epochs in which no run recorded `name` are omitted. The standard deviation is NaN if n = 1.
    """
    values: dict[int, list[float]] = {}
    for rows in runs:
        for row in rows:
            if not math.isnan(number := _get(row, name)):
                values.setdefault(int(row["epoch"]), []).append(number * scale)
    epochs = sorted(values)
    mean = [math.fsum(values[e]) / len(values[e]) for e in epochs]
    std = [float(np.std(values[e], ddof=1)) if len(values[e]) > 1 else math.nan for e in epochs]
    return np.array(epochs, dtype=float), np.array(mean), np.array(std), np.array([len(values[e]) for e in epochs])


# ------------------------------------------------------------------------------------------------------ panels
def line(
    axes: Axes,
    runs: Sequence[Sequence[Row]],
    quantity: Quantity,
    label: str,
    colour: str,
    dash: LineStyleType = "-",
    most: float = math.inf,
) -> bool:
    """Plot the mean of a quantity over the runs, with its band; return False if no row contains it.

    The band is clipped to the range of the unit and to `most`.
    """
    epochs, mean, std, _ = band(runs, quantity.name, quantity.scale)
    if not len(epochs):
        return False
    marker = "o" if len(epochs) < 3 else None
    axes.plot(epochs, mean, color=colour, label=label, linestyle=dash, marker=marker, markersize=4)
    if np.isfinite(std).any():
        spread = np.nan_to_num(std)
        low, high = np.minimum(quantity.unit.low, mean), np.maximum(min(quantity.unit.high, most), mean)
        edges = np.maximum(mean - spread, low), np.minimum(mean + spread, high)
        axes.fill_between(epochs, *edges, color=colour, alpha=0.18, linewidth=0)
    return True


def constant(axes: Axes, value: float, *, vertical: bool = False) -> None:
    """Draw a line at a constant value, horizontal or vertical."""
    draw = axes.axvline if vertical else axes.axhline
    draw(value, color=SOFT, linewidth=1.0, linestyle=(0, (2, 2)), zorder=1)


def note(axes: Axes, text: str, y: float, va: str) -> None:
    """Write text to the right of the axes, at the data coordinate `y`."""
    place, units = (1.0, y), ("axes fraction", "data")
    axes.annotate(text, place, (4, 0), units, "offset points", ha="left", va=va, fontsize=8, color=SOFT)


def finish(axes: Axes, title: str, unit: Unit, last: float) -> None:
    """Set the title, axis labels and integer epoch ticks up to `last`; clip the y axis to the range of the unit."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_ylim()
    least, most = unit.low, unit.high
    # keep a line at zero fully visible
    margin = 0.02 * (high - low) if unit.low == 0.0 and unit is not PERCENT else 0.0
    if max(low, least - margin) < min(high, most):  # the limits of an empty panel may be outside the range
        axes.set_ylim(max(low, least - margin), min(high, most))
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit.axis)
    axes.set_xlim(0 if last > 1 else 0.5, max(last, 1.5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def last_epoch(groups: Mapping[str, Sequence[Sequence[Row]]]) -> float:
    """Return the last epoch over all runs; 1 if there is none."""
    return max((float(row["epoch"]) for runs in groups.values() for rows in runs for row in rows), default=1.0)


def _measure(axes: Axes, groups: Mapping[str, Sequence[Sequence[Row]]], kind: str) -> bool:
    """Plot the training and validation `kind` (loss or metric); return False if no row contains it.

    The dash pattern distinguishes the curves; with a single group, the colour does as well.
    """
    drawn = False
    for i, (label, runs) in enumerate(groups.items()):
        for k, (name, words, dash) in enumerate(MEASURED):
            colour = CYCLE[(i if len(groups) > 1 else k) % len(CYCLE)]
            shown = f"{label}, {words}" if len(groups) > 1 else words
            drawn |= line(axes, runs, per_epoch(f"{name}_{kind}"), shown, colour, dash)
    finish(axes, f"Supernet {kind}", per_epoch(f"train_{kind}").unit, last_epoch(groups))
    if drawn and len(groups) == 1:
        axes.legend(loc="best")
    return drawn


def _metric(groups: Iterable[Sequence[Sequence[Row]]]) -> str:
    """Return the name of the metric that the runs record: perplexity or accuracy."""
    text = any("train_perplexity" in row for runs in groups for rows in runs for row in rows)
    return "perplexity" if text else "accuracy"


def _legend(made: Figure, labels: Sequence[str], measured: bool) -> None:
    """Draw the legend below the panels: a colour per group and, if `measured`, a dash pattern per measure."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=CYCLE[i % len(CYCLE)], label=label) for i, label in enumerate(labels)]
    lines += [Line2D([], [], color=SOFT, linestyle=dash, label=words) for _, words, dash in MEASURED if measured]
    columns = max(3, min(5, len(lines))) if measured else min(4, len(lines))
    made.legend(handles=lines, loc="outside lower center", ncols=columns)


def trajectory(
    axes: Axes, groups: Mapping[str, Sequence[Sequence[Row]]], dataset: str, split: str, reference: Mapping[str, float]
) -> bool:
    """Plot the benchmark accuracy of the genotype at each epoch, and the optimum and the random mean as lines.

    Returns False if no row contains the accuracy.
    """
    most = min(100.0, reference.get("optimum", 100.0))
    quantity = per_epoch(f"lookup.{dataset}.{split}")
    colours = itertools.cycle(CYCLE)
    drawn = [line(axes, runs, quantity, label, next(colours), most=most) for label, runs in groups.items()]
    for kind, where, words in (("optimum", "bottom", "optimum"), ("random", "top", "random mean")):
        if kind in reference and any(drawn):
            constant(axes, reference[kind])
            note(axes, f"{words}\n{reference[kind]:.2f}", reference[kind], where)
    axes.margins(y=0.12)
    finish(axes, f"Found cell, {TITLES.get(dataset, dataset)} {split}", quantity.unit, last_epoch(groups))
    return any(drawn)


def derived(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with two derived quantities.

    `found` contains the number of operations of each family in the genotype, without reduction cells; `cosine` contains
    the cosines of node gradients and of convolution outputs, averaged over the stages.
    """
    made: list[Row] = []
    for row in rows:
        held = row.get("cells")
        stages, nodes = (x if isinstance(x, list) else [] for x in map(row.get, ("output_cosine", "node_cosine")))
        cells = [name for name in held if not name.startswith("reduce")] if isinstance(held, Mapping) else []
        kinds = ("parametric", "skip", "pool", "none")
        counts = {kind: sum(_get(row, f"cells.{cell}.{kind}") for cell in cells) for kind in kinds}
        named = [item for stage in stages if isinstance(stage, Mapping) for item in stage.items()]
        learned = [value for name, value in named if family(name) == "conv"]
        cosines = {
            name: float(np.mean(known))
            for name, values in (("node", nodes), ("output", learned))
            if (known := [x for x in values if isinstance(x, (int, float))])
        }
        made.append({**row, "found": counts if cells else None, "cosine": cosines})
    return made


def expanded(quantities: Sequence[Quantity], rows: Sequence[Row]) -> list[Quantity]:
    """Expand each quantity with a * in its name to one quantity per key in the rows."""
    found: list[Quantity] = []
    for quantity in quantities:
        head, star, _ = quantity.name.partition(".*")
        held = [value_at(row, head) for row in rows] if star else []
        found += [] if star else [quantity]
        for key in dict.fromkeys(key for each in held if isinstance(each, Mapping) for key in each):
            name, title = quantity.name.replace("*", key), quantity.title.replace("*", key)
            found.append(quantity._replace(name=name, title=title, label=key))
    return found


def _inside(rows: Sequence[Row]) -> dict[str, list[Quantity]]:
    """Return the panels of search.svg for which the rows contain data, without counts that are always zero."""
    panels: dict[str, list[Quantity]] = {}
    for quantity in expanded([quantity for quantity in QUANTITIES if quantity.panel], rows):
        values = [x for row in rows if (x := _get(row, quantity.name)) == x]
        if values and (quantity.unit is not NUMBER or max(values) > 0):
            panels.setdefault(quantity.panel, []).append(quantity)
    return panels


def _draw_inside(part: FigureBase, panels: Mapping[str, Sequence[Quantity]], rows: Sequence[Row]) -> None:
    for axes, (title, lines) in zip(part.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for i, quantity in enumerate(lines):
            kind = quantity.name.removeprefix("found.").replace("parametric", "conv")
            line(axes, [rows], quantity, quantity.label, FAMILIES.get(kind, CYCLE[i]))
        finish(axes, title, lines[0].unit, last_epoch({"": [rows]}))
        if len(lines) > 1:
            axes.legend(loc="best", fontsize=7.5, frameon=True, framealpha=0.8, edgecolor="none", borderpad=0.2)


# ---------------------------------------------------------------------------------------------------- pictures
def _read_groups(groups: Runs) -> dict[str, list[list[Row]]]:
    return {label: [read_metrics(folder) for folder in folders] for label, folders in groups.items()}


def training(groups: Runs, path: str | Path, kinds: Sequence[str] = SCREEN) -> list[Path]:
    """Plot losses and accuracies of groups of runs with bands over seeds, and return the written paths.

    `path` and `kinds` are as in `figure_style.save`. Raises UserError if the runs have no losses or accuracies.
    """
    read = _read_groups(groups)
    with style():
        made = figure(9.0, 3.4)
        left, right = made.subplots(1, 2)
        drawn = [_measure(left, read, "loss"), _measure(right, read, _metric(read.values()))]
        if not any(drawn):
            raise UserError(str(path), "no losses or accuracies in these runs", "use runs with finished epochs")
        if len(groups) > 1:
            _legend(made, list(groups), measured=True)
        return save(made, path, kinds)


def anytime(
    groups: Runs,
    path: str | Path,
    dataset: str = "cifar10",
    split: str = "test",
    reference: Mapping[str, float] | None = None,
    kinds: Sequence[str] = SCREEN,
) -> list[Path]:
    """Plot the benchmark accuracy over the epochs with one line per group, and return the written paths.

    `reference` ({"optimum": …, "random": …}) is drawn as horizontal lines; `path` and `kinds` are as in
    `figure_style.save`. Raises UserError if the runs have no benchmark accuracy on this dataset and split.
    """
    read = _read_groups(groups)
    with style():
        made = figure(5.6, 3.6)
        if not trajectory(made.subplots(), read, dataset, split, reference or {}):
            fault = f"no benchmark accuracy on {dataset} {split} in these runs"
            raise UserError(str(path), fault, "use runs of a space with a benchmark, or split=valid")
        if len(groups) > 1:
            _legend(made, list(groups), measured=False)
        return save(made, path, kinds)


def mixture(run_folder: str | Path, path: str | Path) -> list[Path]:
    """Draw heat maps of the mixture weights of one run over its epochs, and return the written paths."""
    with style():
        return save(heat_maps.heat_map(Path(run_folder), read_metrics(run_folder)), path)


def search_picture(run_folder: str | Path, references: Mapping[str, Mapping[str, float]] | None = None) -> Path:
    """Draw one picture of a search: losses, accuracies, benchmark accuracy, diagnostics, and mixture weights.

    Writes search.svg and search.png to the run folder and returns the path of the SVG file. `references` maps datasets
    to {"optimum": …, "random": …}, by default those of the run's benchmark. Panels without data are omitted. Raises
    UserError if no epoch has finished.
    """
    folder = Path(run_folder)
    rows = derived(read_metrics(folder))
    if not rows:
        raise UserError(str(folder / "metrics.jsonl"), "no epoch has finished yet", "wait for the first epoch")
    group: dict[str, Sequence[Sequence[Row]]] = {"this run": [rows]}
    mixed, asked = heat_maps.mixtures(rows), looked_up(rows)
    inside = _inside(rows)
    heights = [2.9, *([2.4] if inside else []), *(heat_maps.height(values, name) for name, values in mixed.items())]
    with style():
        made = figure(10.0 if asked else 9.0, sum(heights))
        parts = heat_maps.rows_of(made, heights)
        axes = parts[0].subplots(1, 3 if asked else 2)
        _measure(axes[0], group, "loss")
        _measure(axes[1], group, _metric(group.values()))
        if asked:
            dataset, split = asked
            if references is None:
                references = {dataset: recorded([folder], dataset, split) or reference(rows, dataset, split)}
            trajectory(axes[2], group, dataset, split, references.get(dataset, {}))
        if inside:
            _draw_inside(parts[1], inside, rows)
        heat_maps.draw(parts[2 if inside else 1 :], mixed, folder)
        return save(made, folder / "search")[0]


def looked_up(rows: Sequence[Row]) -> tuple[str, str] | None:
    """Return the first dataset and split with a benchmark accuracy, test before validation; None if there is none."""
    for dataset in rows[-1].get("lookup") or {}:
        for split in ("test", "valid"):
            if any(not math.isnan(_get(row, f"lookup.{dataset}.{split}")) for row in rows):
                return dataset, split
    return None


def recorded(folders: Iterable[str | Path], dataset: str, split: str) -> dict[str, float]:
    """Return the {"optimum": …, "random": …} that the runs recorded for the cells they can find; {} if they differ."""
    found = []
    for folder in folders:
        values = value_at(files.read_json(Path(folder) / "result.json"), f"reference.{dataset}.{split}")
        named = {"random": values.get("mean"), "optimum": values.get("optimum")} if isinstance(values, Mapping) else {}
        found.append({kind: float(x) for kind, x in named.items() if isinstance(x, (int, float))})
    return found[0] if found and all(each == found[0] for each in found) else {}


def reference(rows: Sequence[Row], dataset: str, split: str) -> dict[str, float]:
    """Return {"optimum": …, "random": …} over all cells of the benchmark named in the last row."""
    from nasx.results.aggregate import benchmark_reference

    benchmark = str((rows[-1].get("lookup") or {}).get("benchmark") or "none")
    return {kind: scores[split] for kind, scores in benchmark_reference(benchmark, dataset).items() if split in scores}
