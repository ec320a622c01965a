"""Heat maps of the mixture weights over the epochs of a search, one panel per operation.

Rows are edges, named as in drawings of the cell, and columns are epochs; the colour is the mixture weight, averaged
over the cells that share the edge. Operation names come from the run's config.yaml. For NAS-Bench-1Shot1, rows are
vertices; for a vertex that selects its inputs, each panel is a candidate input vertex instead of an operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nasx.core.plain import Row
from nasx.errors import UserError
from nasx.report.figure_style import FAINT, INK, figure
from nasx.spaces.rules import NB101
from nasx.tracking import records

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

NODES: dict[int, tuple[int, tuple[str, ...]]] = {
    6: (1, ("input", "1", "2", "output")),
    14: (2, ("cₖ₋₂", "cₖ₋₁", *map(str, range(4)))),
    36: (1, ("x, h", *map(str, range(8)))),
}
"""Number of edges (NAS-Bench-201, DARTS, recurrent cell) -> (number of inputs, node names as in cell drawings)."""
EDGES = {
    count: [f"{names[j]}→{names[i]}" for i in range(inputs, len(names)) for j in range(i)]
    for count, (inputs, names) in NODES.items()
}
"""Number of edges -> names of the edges, such as `1→2`."""


def heat_map(folder: Path, rows: Sequence[Row]) -> Figure:
    """Draw the mixture weights in a run's rows; call within `style`. Raises UserError if there are none."""
    found = mixtures(rows)
    if not found:
        raise UserError(str(folder), "no mixture weights in metrics.jsonl", "use the folder of a search")
    heights = [height(values, name) for name, values in found.items()]
    made = figure(9.0, sum(heights))
    draw(rows_of(made, heights), found, folder)
    return made


def rows_of(made: Figure, heights: Sequence[float]) -> list[SubFigure]:
    """Split a figure into rows whose heights are given in inches."""
    return [row[0] for row in made.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)]


def height(rows: Sequence[Row], name: str) -> float:
    """Return the height of the heat maps of one mixture, in inches."""
    return 1.15 + 0.14 * len(rows[0]["mix"][name])


def draw(parts: Sequence[SubFigure], found: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """Draw each mixture into its part of the figure, all with the same colour scale."""
    # The scale extends to at least 2.5 times the uniform weight, so that a nearly uniform mixture looks uniform.
    most = max(float(np.max([row["mix"][name] for row in rows])) for name, rows in found.items())
    counts = {name: len(rows[0]["mix"][name][0]) for name, rows in found.items()}
    top = min(1.0, max(most, 2.5 / min(counts.values())))
    for part, (name, rows) in zip(parts, found.items(), strict=True):
        _drawn(part, rows, name, _operations(folder, counts[name]), top)


def _drawn(part: SubFigure, rows: Sequence[Row], name: str, operations: Sequence[str], top: float) -> None:
    """Draw the heat maps of one mixture, one panel per operation."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    weights = np.array([row["mix"][name] for row in rows], dtype=float)  # (epochs, edges, operations)
    epochs = [int(row["epoch"]) for row in rows]
    edges, count = weights.shape[1:]
    panels = part.subplots(1, count, sharey=True, squeeze=False)[0]
    if name == "output" or name.startswith("input_"):  # NAS-Bench-1Shot1: the vertices that a block reads
        operations = ["input", *map(str, range(1, count))]
    # from white to deep blue with steadily decreasing lightness, readable in greyscale and with colour blindness
    shades = LinearSegmentedColormap.from_list("nasx", ["#f6f8fa", "#b6d7ea", "#5aa5d0", "#0072B2", "#003a63"])
    extent = epochs[0] - 0.5, epochs[-1] + 0.5, edges - 0.5, -0.5
    for k, axes in enumerate(panels):
        image = axes.imshow(
            weights[:, :, k].T, shades, aspect="auto", interpolation="nearest", vmin=0.0, vmax=top, extent=extent
        )
        axes.set_title(operations[k], fontsize=8, fontweight="normal", pad=4)
        axes.grid(False)
        axes.tick_params(length=0, labelsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=1))
        numbers = [str(i + (name == "ops")) for i in range(edges)]
        axes.set_yticks(range(edges), [name] if edges == 1 else EDGES.get(edges, numbers))
        for side in axes.spines.values():
            side.set(visible=True, color=FAINT)
        for edge in range(1, edges):
            axes.axhline(edge - 0.5, color="white", linewidth=0.6)
    panels[0].set_ylabel("node" if name == "ops" else "edge" if edges > 1 else "")
    part.supxlabel("epoch", fontsize=9)
    bar = part.colorbar(image, ax=list(panels), pad=0.015, fraction=0.03, aspect=25)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7.5)
    bar.ax.axhline(1 / count, color=INK, linewidth=0.8)  # the uniform weight
    title = f"Mixture weights, {name} cell" if name not in ("cell", "edges") else "Mixture weights"
    part.suptitle(title, x=0.008, ha="left", fontsize=10, fontweight="bold")


def mixtures(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return mixture name -> rows with its (edges, operations) weights, for at most four mixtures.

    Only spaces with untied cells have more than four.
    """
    names = [name for name in (rows[-1].get("mix") or {}) if np.ndim(rows[-1]["mix"][name]) == 2] if rows else []
    shapes = {name: np.shape(rows[-1]["mix"][name]) for name in names}
    found = {
        name: [row for row in rows if np.shape((row.get("mix") or {}).get(name, ())) == shapes[name]] for name in names
    }
    return dict(list(found.items())[:4])


def _operations(folder: Path, count: int) -> list[str]:
    """Return the operation names from config.yaml if it lists `count` of them, otherwise `operation 1`, ..."""
    cfg = records.configuration(folder) or {}
    space, choices = cfg.get("space"), cfg.get("choices")
    for key in ("operations", "ops"):
        listed = space.get(key) if isinstance(space, Mapping) else None
        if isinstance(listed, list) and len(listed) == count and all(isinstance(x, str) for x in listed):
            return listed
    if count == len(NB101) and isinstance(choices, Mapping) and str(choices.get("space")).startswith("nb1shot1_"):
        return list(NB101)
    return [f"operation {k + 1}" for k in range(count)]
