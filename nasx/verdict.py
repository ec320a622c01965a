"""What became of a search, in words: still moving or settled, collapsed or not. From its record alone, no torch.

Moving: in the last tenth of the epochs (at least one) the genotype changed, or the mixture moved by more than `STEP`
an edge and epoch.

Collapsed, one of which is enough:
    skip        more than half of a cell's operations are skip connections (the published DARTS_V1 has 4 of 8, no more)
    weightless  no operation with weights is left in a cell that is not a reduction cell
    cut off     no path leads from input to output
    none        `none` holds more than half of an edge's weight on average
    eigenvalue  the dominant eigenvalue grew by more than 1.3 under the rule of nasx.stop (RobustDARTS section 4.3)
    saturated   in the first half of the epochs the mixture was already nearly one-hot (`SATURATED`) and stayed so

Sources and reasons of the thresholds: docs/diagnostics.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from nasx import stop, structure
from nasx.errors import UserError

Row = Mapping[str, Any]
STEP = 0.01
"""L1 change of the mixture an edge and epoch above which it still moves."""
SKIPS = 0.5
NONE = 0.5
SATURATED = 0.9
"""1 - entropy / ln(operations) above which an edge's weights cannot move much by gradients through a softmax."""
GROWTH = 1.3


def verdict(rows: Sequence[Row], result: Mapping[str, Any]) -> dict[str, Any]:
    """{"moving", "collapsed", "reasons", "text"} of a search's metrics rows and its record.

    Works on what is there: without rows (a method that trains nothing) only the cell is judged.
    """
    moves = list(_moves(rows))
    collapses = [*_cells(result), *_mixture(rows), *_eigenvalue(rows, result)]
    first = "collapsed" if collapses else "no sign of collapse"
    second = "still moving" if moves else "settled" if rows else "nothing was trained"
    reasons = collapses + moves + list(_stopped(result))
    return {"moving": bool(moves), "collapsed": bool(collapses), "reasons": reasons,
            "text": f"{first}, {second}" + (f": {'; '.join(reasons)}" if reasons else "")}


def _moves(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    if len(rows) < 2:
        yield "one epoch is too short to settle"
        return
    last = max(len(rows) // 10, 1)
    recent = rows[-last - 1:]
    changes = sum(one.get("genotype") != other.get("genotype") for one, other in pairwise(recent))
    epochs = "epoch" if last == 1 else f"{last} epochs"
    if changes:
        yield f"the genotype changed in the last {epochs}"
    steps = [structure.change(one["mix"], other["mix"]) / max(_edges(other["mix"]), 1)
             for one, other in pairwise(recent) if one.get("mix") and other.get("mix")]
    mean = sum(steps) / len(steps) if steps else 0.0
    if mean > STEP:
        yield f"the mixture moved by {mean:.3f} an edge and epoch in the last {epochs} (above {STEP:g})"


def _edges(mix: structure.Mixture) -> int:
    return sum(len(edges) for name, edges in mix.items() if "." not in name)


def _cells(result: Mapping[str, Any]) -> Iterator[str]:
    try:
        cells = structure.cells(str(result.get("genotype")))
    except UserError:  # a space whose genotypes this version cannot draw
        return
    for name, cell in cells.items():
        where = "the cell" if len(cells) == 1 else f"cell {name}"
        total = sum(cell[kind] for kind in structure.FAMILIES.values())
        if cell["skip_ratio"] > SKIPS:
            yield f"{cell['skip']} of {total} operations of {where} are skip connections (more than half)"
        if cell["depth"] == 0:
            yield f"no path leads through {where}"
        elif cell["parametric"] == 0 and not name.startswith("reduce"):
            yield f"no operation of {where} has weights"


def _mixture(rows: Sequence[Row]) -> Iterator[str]:
    weight = rows[-1].get("none_weight") if rows else None
    if weight is not None and weight > NONE:
        yield f"none holds {weight:.2f} of the weight on average (above {NONE:g})"
    half = rows[:len(rows) // 2]
    early = [structure.saturation(row["mix"]) for row in half[-1:] if row.get("mix")]
    if early and early[0] > SATURATED and structure.saturation(rows[-1]["mix"]) > SATURATED:
        yield f"the mixture was saturated ({early[0]:.2f} of 1) in the first half of the epochs"


def _eigenvalue(rows: Sequence[Row], result: Mapping[str, Any]) -> Iterator[str]:
    grown = stop.growth(stop.series(rows), factor=GROWTH)
    if grown is not None and not _early(result):
        yield (f"the eigenvalue grew {grown.ratio:.2f}-fold between epochs {grown.epoch} and {grown.at} "
               f"(above {GROWTH:g})")


def _early(result: Mapping[str, Any]) -> bool:
    """Whether the search was stopped and gave an earlier architecture, which the growth says nothing against."""
    return bool(result.get("stopped")) and not result["stopped"]["simulated"]


def _stopped(result: Mapping[str, Any]) -> Iterator[str]:
    if _early(result):
        at, epoch, ratio = (result["stopped"][key] for key in ("at", "epoch", "ratio"))
        yield f"stopped after epoch {at}, where the eigenvalue had grown {ratio:.2f}-fold; this is epoch {epoch}'s cell"
