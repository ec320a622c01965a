"""Dot plot of the results of runs, with one row per setting; it reveals failed searches that a mean hides.

Shapes: `values` maps the label of a setting to the results of its runs, in the unit of the axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nasx.report import curves
from nasx.report.figure_style import CYCLE, SOFT, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(
    values: Mapping[str, Sequence[float]],
    title: str,
    xlabel: str,
    reference: Mapping[str, float],
    coloured: Sequence[str],
) -> Figure | None:
    """Plot a dot per run and a bar at the mean of each setting; return None if no setting has two results.

    `reference` ({"optimum": …, "random": …}) is drawn as vertical lines. Settings in `coloured` have the colours of
    their curves, which are drawn in this order; all others are grey.
    """
    known = {label: [x for x in own if math.isfinite(x)] for label, own in values.items()}
    known = {label: own for label, own in known.items() if own}
    if max(map(len, known.values()), default=0) < 2:
        return None
    made = figure(6.0, 1.1 + 0.27 * len(known))
    axes = made.subplots()
    for row, (label, own) in enumerate(known.items()):
        colour = CYCLE[coloured.index(label) % len(CYCLE)] if label in coloured else SOFT
        places = [row + 0.5 * ((i + 0.5) / len(own) - 0.5) for i in range(len(own))]
        axes.plot(own, places, "o", color=colour, markersize=5, alpha=0.75, markeredgewidth=0)
        axes.plot([math.fsum(own) / len(own)], [row], "|", color=colour, markersize=17, markeredgewidth=2)
    for name, words, offset, align in (("random", "random mean", -4, "right"), ("optimum", "optimum", 4, "left")):
        if name in reference:
            curves.constant(axes, reference[name], vertical=True)
            text, place, units = f"{words} {reference[name]:.2f}", (reference[name], 0.0), ("data", "axes fraction")
            axes.annotate(
                text,
                place,
                (offset, 3),
                units,
                "offset points",
                annotation_clip=False,
                ha=align,
                fontsize=8,
                color=SOFT,
            )
    axes.set_yticks(range(len(known)), list(known))
    axes.set_ylim(len(known) - 0.2, -0.7)
    axes.grid(visible=False, axis="y")
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    return made
