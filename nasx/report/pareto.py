"""Accuracy against cost for the searches of a sweep with a budget, compared with the true Pareto front.

    front          non-dominated points: no other point is better in accuracy or cost without being worse in the other
    hypervolume    area dominated by the points, up to the cost of the most expensive cell and above the accuracy of
                   the median cell, as a fraction of the area dominated by the true front
    regret         accuracy of the best cell whose cost is within the target, minus the accuracy of the found cell

On NAS-Bench-201 the accuracy and cost of all cells are known, so all three quantities are exact. On other spaces only
the points are shown, with the accuracy of the supernet, which does not rank architectures.

Shapes: points are (n, 2), with cost and accuracy (percent) as columns.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nasx.core import budgets, files
from nasx.core.plain import Config, Result
from nasx.errors import UserError
from nasx.report import figure_style
from nasx.results.table_formats import Sheet, console, markdown
from nasx.tracking import records, sweep_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("nasx")


class Point(NamedTuple):
    """A finished search with a budget."""

    run: str
    label: str
    """Method of the search."""
    target: float
    cost: float
    accuracy: float
    """Accuracy in percent."""


class Plane(NamedTuple):
    """Costs (cells,) and accuracies (cells,) of the cells in a benchmark; an unknown accuracy is NaN."""

    cost: np.ndarray
    accuracy: np.ndarray
    title: str

    def known(self) -> np.ndarray:
        """Return the cost and accuracy of all cells whose accuracy is known, with shape (n, 2)."""
        points: np.ndarray = np.column_stack([self.cost, self.accuracy])[~np.isnan(self.accuracy)]
        return points


def front(points: np.ndarray) -> np.ndarray:
    """Return the non-dominated points among (n, 2) points (cost, accuracy), sorted by cost, without duplicates."""
    ordered = points[np.lexsort((-points[:, 1], points[:, 0]))]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(ordered[:, 1])[:-1]]) if len(ordered) else ordered[:, 1]
    return ordered[ordered[:, 1] > before]


def hypervolume(points: np.ndarray, most: float, worst: float) -> float:
    """Return the area dominated by points (cost, accuracy), below the cost `most` and above the accuracy `worst`."""
    inside = front(points[(points[:, 0] < most) & (points[:, 1] > worst)])
    ends = np.append(inside[1:, 0], most)
    return float(((ends - inside[:, 0]) * (inside[:, 1] - worst)).sum())


def regret(plane: Plane, target: float, accuracy: float) -> float:
    """Return the accuracy of the best cell that costs at most `target`, minus `accuracy`, in percentage points."""
    return float(np.nanmax(plane.accuracy[plane.cost <= target])) - accuracy


# -------------------------------------------------------------------------------------------------------- reading
def plane_of(config: Config, record: Result) -> Plane | None:
    """Return the budgeted cost and the accuracy of all cells that a run can find; None if not in NAS-Bench-201."""
    from nasx.benchmarks.nb201 import Nb201
    from nasx.config import instantiate

    if (record.get("lookup") or {}).get("benchmark") != "nb201":
        return None
    benchmark = instantiate.build(config["benchmark"])
    assert isinstance(benchmark, Nb201)
    dataset = record.get("benchmark_data") or "cifar10"
    budget = config["budget"]
    edges = tuple(tuple(row) for row in (record.get("among") or {}).get("edges") or ())
    return Plane(*benchmark.plane(dataset, budget["quantity"], str(budget["device"]), edges), dataset)


def point_of(record: Result, plane: Plane | None) -> Point | None:
    """Return a finished search as a point, or None if its accuracy is unknown.

    With a plane, accuracy and cost are those of the benchmark, except that latency is always the one recorded with the
    budget. Without one, the cost is the recorded one, and the accuracy is that of the supernet.
    """
    budget, method = record["budget"], str(record["choices"].get("method"))
    if plane is None:
        accuracy = (record.get("supernet") or {}).get("valid_accuracy")
        if accuracy is None:
            return None
        return Point(record["name"], method, budget["target"], budget["cost"], 100 * accuracy)
    found = record["lookup"]
    cost = {"macs": found["flops"], "params": found["params"], "latency": budget["cost"]}[budget["quantity"]]
    return Point(record["name"], method, budget["target"], cost, found[plane.title]["valid"])


def after_sweep(notes: Path) -> None:
    """Print a table of a sweep's searches with a budget, and write OUT/pareto-QUANTITY-SPACE-TIME.svg, .png and .md.

    `notes` is the folder OUT/.sweeps/TIME. There is one table and one set of files for each pair of quantity and space
    with at least two finished searches. Errors are logged and not raised.
    """
    out = notes.parent.parent
    folders = [out / run for job in sweep_log.jobs(notes) for run in job.runs]
    sets: dict[tuple[str, ...], list[tuple[Path, Result]]] = {}
    for folder in folders:
        record = records.finished(folder)
        if record and record.get("kind") == "search" and record.get("budget"):
            key = (record["budget"]["quantity"], str(record["choices"].get("space")))
            sets.setdefault(key, []).append((folder, record))
    for (quantity, space), runs in sorted(sets.items()):
        if len(runs) < 2:
            continue
        try:
            plane = plane_of(records.configuration(runs[0][0]) or {}, runs[0][1])
            points = [point for _, record in runs if (point := point_of(record, plane))]
            if len(points) > 1:
                write(out / f"pareto-{quantity}-{space}-{notes.name}", points, plane, quantity)
        except (UserError, OSError, ValueError, KeyError) as error:
            log.warning("no picture of accuracy against %s: %s", quantity, error)


# -------------------------------------------------------------------------------------------------------- showing
def sheet(points: Sequence[Point], plane: Plane | None, quantity: str) -> Sheet:
    """Return a table with one row per method and target: means over the runs and, if there is a plane, the regret.

    The notes below the table give the hypervolume of each method.
    """
    head = ["method", "target", "n", "cost", "within", "accuracy %"]
    exact = ["best within the target %", "regret"] if plane else []
    rows = []
    for label, target in sorted({(p.label, p.target) for p in points}):
        own = [p for p in points if (p.label, p.target) == (label, target)]
        cost, accuracy = (float(np.mean(values)) for values in zip(*((p.cost, p.accuracy) for p in own), strict=True))
        within = f"{sum(p.cost <= target for p in own)} of {len(own)}"
        row = (label, budgets.text(target, quantity), str(len(own)), budgets.text(cost, quantity), within)
        missed = regret(plane, target, accuracy) if plane is not None else 0.0
        rows.append((*row, f"{accuracy:.2f}", *((f"{accuracy + missed:.2f}", f"{missed:.2f}") if exact else ())))
    notes = ["means over the runs"]
    if plane is None:
        notes.append("accuracy of the supernet, which does not rank architectures: retrain them to compare them")
    else:
        best = "the best cell within the target; a cell above the target may have a negative regret"
        notes.append(f"regret: percentage points below {best}")
        shares = {label: share(points, label, plane) for label in sorted({p.label for p in points})}
        notes += [f"hypervolume of {label}: {100 * x:.1f} % of the true front's" for label, x in shares.items()]
    return Sheet("Accuracy against cost", (*head, *exact), tuple(rows), notes=tuple(notes), left=frozenset({0}))


def share(points: Sequence[Point], label: str, plane: Plane) -> float:
    """Return the hypervolume of the points of method `label` as a fraction of the hypervolume of all cells."""
    own, known = np.array([(p.cost, p.accuracy) for p in points if p.label == label]), plane.known()
    most, worst = float(known[:, 0].max()), float(np.median(known[:, 1]))
    return hypervolume(own, most, worst) / hypervolume(known, most, worst)


def draw(points: Sequence[Point], plane: Plane | None, quantity: str) -> Figure:
    """Plot the points of each method, the targets as ticks, and, if there is a plane, all cells and the true front."""
    scale = 1.0 if quantity == "latency" else 1e-6
    unit = "ms" if quantity == "latency" else "M"
    made = figure_style.figure(6.4, 4.2)
    axes = made.subplots()
    if plane is not None:
        known = plane.known()
        axes.plot(known[:, 0] * scale, known[:, 1], ".", color=figure_style.FAINT, markersize=1.5, rasterized=True)
        best = front(known)
        axes.step(
            best[:, 0] * scale, best[:, 1], where="post", color=figure_style.INK, label="true front", linewidth=1.2
        )
        low = min(float(np.median(known[:, 1])), *(p.accuracy for p in points))
        axes.set_ylim(low - 1, float(known[:, 1].max()) + 0.5)
    for i, label in enumerate(sorted({p.label for p in points})):
        own = [p for p in points if p.label == label]
        colour = figure_style.CYCLE[i % len(figure_style.CYCLE)]
        axes.plot([p.cost * scale for p in own], [p.accuracy for p in own], "o", color=colour, label=label)
    for target in sorted({p.target for p in points}):
        axes.axvline(target * scale, ymax=0.04, color=figure_style.SOFT, linewidth=1.2)
    what = "accuracy in %, by the benchmark" if plane is not None else "accuracy of the supernet in %"
    axes.set(xlabel=f"{budgets.NAMES[quantity]} ({unit}); ticks: targets", ylabel=what)
    axes.legend(loc="lower right")
    return made


def write(path: Path, points: Sequence[Point], plane: Plane | None, quantity: str) -> None:
    """Print the table, and write it to PATH.md and the picture to PATH.svg and PATH.png."""
    made = sheet(points, plane, quantity)
    files.write_atomic(path.with_name(f"{path.name}.md"), markdown([made]))
    with figure_style.style():
        pictures = figure_style.save(draw(points, plane, quantity), path)
    print(console([made]))
    print(f"picture: {pictures[-1]}")
