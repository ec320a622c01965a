"""Histogram of all accuracies in a tabular benchmark, with the cells found by searches as markers.

Shapes: `accuracies` is (cells,), in percent; `found` maps a label to accuracies in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nasx.report.figure_style import CYCLE, FAINT, INK, SOFT, figure, save, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 60


def draw(accuracies: np.ndarray, found: Mapping[str, Sequence[float]], title: str, xlabel: str) -> Figure:
    """Draw a histogram of `accuracies`, with a row of markers above it for each entry of `found`.

    The x axis starts just below the 5 % quantile or the lowest marker, whichever is lower, because most benchmarks have
    a long tail of cells that fail to train. A note states the number of cells below the start of the axis.
    """
    marks = np.array([value for values in found.values() for value in values])
    low = float(np.floor(min([np.quantile(accuracies, 0.05), *marks]) - 1))
    high = float(np.ceil(max([accuracies.max(), *marks])))
    hidden = int((accuracies < low).sum())
    with style():
        made = figure(7.2, 2.6 + 0.24 * len(found))
        axes = made.subplots()
        counts, edges = np.histogram(accuracies, BINS, (low, high))
        axes.stairs(counts, edges, fill=True, color=FAINT)
        top = float(counts.max())
        step = 0.14 * top
        for row, (label, values) in enumerate(found.items()):
            colour, height = CYCLE[row % len(CYCLE)], top + (len(found) - row) * step
            for value in values:
                axes.vlines(value, 0, height, color=colour, linewidth=1.0)
            axes.plot(values, [height] * len(values), "v", color=colour, markersize=6, clip_on=False)
            left = float(np.mean(values)) > (low + high) / 2
            text = f"{label}: {', '.join(f'{value:.2f}' for value in sorted(values))}"
            at, gap, side = (min(values), -7, "right") if left else (max(values), 7, "left")
            axes.annotate(
                text,
                (at, height),
                (gap, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                color=INK,
                fontsize=8.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )
        if hidden:
            text = f"{hidden:,} cells are left of the axis"
            axes.text(0.0, -0.2, text, transform=axes.transAxes, fontsize=7.5, color=SOFT)
        ylim = 0, top + (len(found) + 0.6) * step
        axes.set(title=title, xlabel=xlabel, ylabel="cells", xlim=(low, high), ylim=ylim)
        axes.grid(visible=False)
    return made


def write(made: Figure, path: Path) -> list[Path]:
    """Write the figure to `path` as in `figure_style.save`, and return the written paths."""
    with style():
        return save(made, path)
