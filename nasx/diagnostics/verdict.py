"""State whether a search converged and whether it collapsed, from its record alone, without torch.

Not converged: in the last tenth of the epochs (at least one) the genotype changed, or the mixture moved by more than
`STEP` per edge and epoch; or the mixture changed, but is still nearly uniform (saturation below `UNIFORM`).

Collapsed, if any of these holds:
    skip        more than half of a cell's operations are skip connections (the published DARTS_V1 has only 4 of 8),
                and a fraction below `CHANCE` of random architectures of the space has a cell with as many
    weightless  no operation with weights lies on a path through a cell that is not a reduction cell
    cut off     no path leads from input to output
    none        `none` has more than half of an edge's weight on average
    saturated   in the first half of the epochs the mixture was already nearly one-hot (`SATURATED`) and stayed so

Reported without a verdict: the error bars of the method's gradient, if `search.probe_every` measures them.

Warning only:
    eigenvalue  the dominant eigenvalue grew by more than 1.3 under the rule of stop.py (RobustDARTS section 4.3) and
                stayed high to the end; this growth also occurs in searches that find good cells

Sources, reasons and accuracy of the thresholds: docs/diagnostics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from nasx.core.plain import Result, Row
from nasx.diagnostics import stop, structure
from nasx.errors import UserError

STEP = 0.01
"""L1 change of the mixture per edge and epoch above which it has not converged."""
UNIFORM = 0.001
"""Saturation below which a mixture has hardly moved from its start, at which all operations have equal weight."""
SKIPS = 0.5
CHANCE, DRAWN = 0.05, 1000
"""Maximum share, and number, of random architectures; on S2 (two operations) a third of cells has over half skips."""
NONE = 0.5
SATURATED = 0.9
"""1 - entropy / ln(operations) above which gradients through a softmax barely change an edge's weights."""
BETTER = {"": "double backward", "half": "half the radius", "2K": "twice the terms", "CG": "conjugate gradients"}
"""Suffix of a comparison's name -> the better estimate (diagnostics.probes)."""
GROWTH, EVERY, WINDOW = 1.3, 2, 5
"""The published rule: growth factor, evaluation every two epochs, means over five evaluations."""


def verdict(
    rows: Sequence[Row], result: Mapping[str, object], draw: Callable[[], str] | None = None
) -> dict[str, object]:
    """Return {"not_converged", "collapsed", "warning", "reasons", "text"} of a search's metrics rows and its record.

    Without rows (a method that trains nothing) only the cell is considered. `draw` returns the text of an architecture
    drawn uniformly from the space; without `draw`, more than half skip connections always count as a collapse.
    """
    moves, doubts = list(_moves(rows)), list(_eigenvalue(rows, result))
    collapses = [*_cells(result, draw), *_mixture(rows)]
    if not rows:
        said = ["Nothing was trained." + (f" Its cell: {'; '.join(collapses)}." if collapses else "")]
    elif collapses:
        said = [f"The search collapsed: {'; '.join(collapses + doubts)}."]
    else:
        said = ["No sign of collapse" + (f" in the cell, but a warning: {'; '.join(doubts)}." if doubts else ".")]
    if rows:
        settled = f"It had not converged at the end: {'; '.join(moves)}." if moves else "It converged."
        said += [*_stopped(result), settled, *_probes(rows)]
    return {
        "not_converged": bool(moves),
        "collapsed": bool(collapses),
        "warning": bool(doubts) and not collapses,
        "reasons": collapses + doubts + moves,
        "text": " ".join(said),
    }


def _moves(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    if len(rows) < 2:
        yield "one epoch is too short to converge"
        return
    last = max(len(rows) // 10, 1)
    recent = rows[-last - 1 :]
    changes = sum(one.get("genotype") != other.get("genotype") for one, other in pairwise(recent))
    epochs = "epoch" if last == 1 else f"{last} epochs"
    if changes:
        yield f"the genotype changed in the last {epochs}"
    steps = [
        structure.change(one["mix"], other["mix"]) / max(_edges(other["mix"]), 1)
        for one, other in pairwise(recent)
        if one.get("mix") and other.get("mix")
    ]
    mean = sum(steps) / len(steps) if steps else 0.0
    if mean > STEP:
        yield f"the mixture moved by {mean:.3f} per edge and epoch in the last {epochs} (above {STEP:g})"
    first, final = rows[0].get("mix"), rows[-1].get("mix")
    if first and final and first != final and (saturation := structure.saturation(final)) < UNIFORM:
        yield f"the mixture is still nearly uniform (saturation {saturation:.2g}, below {UNIFORM:g})"


def _edges(mix: structure.Mixture) -> int:
    return sum(len(edges) for name, edges in mix.items() if "." not in name)


def _cells(result: Mapping[str, object], draw: Callable[[], str] | None) -> Iterator[str]:
    try:
        cells = structure.cells(str(result.get("genotype")))
    except UserError:  # a space without known edges
        return
    lots: list[dict[str, float]] = []

    def by_lot(name: str, ratio: float) -> float:
        """Return the share of random architectures with a cell of this kind that has at least this share of skips."""
        if draw is None:
            return 0.0
        if not lots:
            lots.extend(skips(structure.cells(draw())) for _ in range(DRAWN))
        return fmean(lot[kind(name)] >= ratio for lot in lots)

    for name, cell in cells.items():
        where = "the cell" if len(cells) == 1 else f"cell {name}"
        total = sum(cell[kind] for kind in structure.FAMILIES.values())
        if cell["skip_ratio"] > SKIPS and by_lot(name, cell["skip_ratio"]) < CHANCE:
            yield f"{cell['skip']} of {total} operations of {where} are skip connections (more than half)"
        if cell["depth"] == 0:
            yield f"no path leads through {where}"
        elif cell["parametric_used"] == 0 and not name.startswith("reduce"):
            yield f"no operation with weights lies on a path through {where}"


def kind(name: str) -> str:
    """Return the kind of a cell: its name without the number that untied cells have."""
    return name.rstrip("0123456789")


def skips(cells: Mapping[str, Row]) -> dict[str, float]:
    """Return the largest share of skip connections among the cells of each kind."""
    found: dict[str, float] = {}
    for name, cell in cells.items():
        found[kind(name)] = max(found.get(kind(name), 0.0), cell["skip_ratio"])
    return found


def _mixture(rows: Sequence[Row]) -> Iterator[str]:
    weight = rows[-1].get("none_weight") if rows else None
    if weight is not None and weight > NONE:
        yield f"none has {weight:.2f} of the weight on average (above {NONE:g})"
    half = rows[: len(rows) // 2]
    early = [structure.saturation(row["mix"]) for row in half[-1:] if row.get("mix")]
    if early and early[0] > SATURATED and structure.saturation(rows[-1]["mix"]) > SATURATED:
        yield f"the mixture was saturated ({early[0]:.2f} of 1) in the first half of the epochs"


def _eigenvalue(rows: Sequence[Row], result: Mapping[str, object]) -> Iterator[str]:
    kept, grown = growth(rows)
    if grown is None or _early(result):  # stopped early: the returned cell precedes the growth
        return
    values, at = [value for _, value in kept], [epoch for epoch, _ in kept].index(grown.epoch)
    if fmean(values[-WINDOW:]) > GROWTH * fmean(values[max(at - WINDOW // 2, 0) : at + WINDOW // 2 + 1]):
        yield (
            f"the dominant eigenvalue grew {grown.ratio:.2f}-fold between epochs {grown.epoch} and {grown.at} and "
            f"stayed high (DARTS-ES would have kept the cell of epoch {grown.epoch})"
        )


def growth(rows: Sequence[Row]) -> tuple[list[tuple[int, float]], stop.Growth | None]:
    """Return the (epoch, eigenvalue) pairs that the published rule uses, and the growth that it finds, if any."""
    kept: list[tuple[int, float]] = []
    for epoch, value in stop.series(rows):
        if not kept or epoch - kept[-1][0] >= EVERY:
            kept.append((epoch, value))
    apart = sorted(later - epoch for (epoch, _), (later, _) in pairwise(kept))
    grown = stop.growth(kept, factor=GROWTH)
    if grown is None or apart[len(apart) // 2] > EVERY:  # evaluated less often than the rule requires
        return kept, None
    return kept, grown


def _early(result: Result) -> bool:
    """Return whether the search was stopped and returned an architecture from before the growth."""
    return bool(result.get("stopped")) and not result["stopped"]["simulated"]


def _stopped(result: Result) -> Iterator[str]:
    if _early(result):
        at, epoch, ratio = (result["stopped"][key] for key in ("at", "epoch", "ratio"))
        yield (
            f"Stopped after epoch {at}, when the dominant eigenvalue had grown {ratio:.2f}-fold; the result is the "
            f"cell of epoch {epoch}."
        )


def _probes(rows: Sequence[Row]) -> Iterator[str]:
    compared = [row["probes"] for row in rows if "probes" in row]
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for probes in compared for name in probes):
        own = [probes[name] for probes in compared if name in probes]
        count = sum(one["count"] for one in own)
        cosine, norm = (sum(one[key] * one["count"] for one in own) / count for key in ("cosine", "norm"))
        kind, _, better = name.partition("-")
        found.setdefault(BETTER.get(better, better), []).append(
            f"{kind} a cosine of {cosine:.2f} and {norm:.3g} times the length ({count} compared)"
        )
    if found:
        bars = (f"against {better}, {', '.join(each)}" for better, each in found.items())
        yield f"Error bars of its gradient, on average: {'; '.join(bars)}."
    elif compared:
        yield "Its gradient has no approximation that search.probe_every could compare."
