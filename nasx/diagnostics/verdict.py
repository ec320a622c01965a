"""State whether a search converged and whether it collapsed, from its metrics rows and record, without torch.

Not converged if, in the last tenth of the epochs (at least one), the genotype changed or the mixture moved by more than
`STEP` per edge and epoch, or if the mixture changed but is still nearly uniform (saturation below `UNIFORM`).

Collapsed if any of these holds:
    skip        more than half of a cell's operations are skip connections (only 4 of 8 in the published DARTS_V1), and
                fewer than a fraction `CHANCE` of random architectures of the space have a cell with such a share
    weightless  no operation with weights lies on a path through a cell that is not a reduction cell
    cut off     no path leads from an input of a cell to its output
    none        on average, `none` has more than half of the weight of an edge
    saturated   the mixture was nearly one-hot (`SATURATED`) in the first half of the epochs and stayed so to the end

Reported without a verdict: the error bars of the method's gradient, if `search.probe_every` measures them.

Only a warning:
    eigenvalue  the dominant eigenvalue grew by more than a factor of 1.3 according to the rule in stop.py (RobustDARTS
                section 4.3) and stayed high to the end; such a growth also occurs in searches that find good cells

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
"""L1 change of the mixture per edge and epoch above which a search has not converged."""
UNIFORM = 0.001
"""Saturation below which a mixture has hardly moved from its start, where all operations have equal weights."""
SKIPS = 0.5
CHANCE, DRAWN = 0.05, 1000
"""Share of random architectures with as many skip connections, below which these count as a collapse, and number of
random architectures drawn. On S2 (two operations), a third of the cells have more than half skip connections."""
NONE = 0.5
SATURATED = 0.9
"""Saturation above which gradients through a softmax hardly change the weights of an edge."""
BETTER = {"": "double backward", "half": "half the radius", "2K": "twice the terms", "CG": "conjugate gradients"}
"""The better estimate of a comparison, by the suffix of its name (diagnostics.probes)."""
GROWTH, EVERY, WINDOW = 1.3, 2, 5
"""The published rule: growth factor, number of epochs between evaluations, number of evaluations in a mean."""


def verdict(
    rows: Sequence[Row], result: Mapping[str, object], draw: Callable[[], str] | None = None
) -> dict[str, object]:
    """Return not_converged, collapsed, warning, reasons and text for the metrics rows and the record of a search.

    Without rows (a method that trains nothing), only the cells are judged. `draw` returns the text of an architecture
    drawn uniformly from the space; without `draw`, a cell with more than half skip connections is always a collapse.
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
        """Return the share of random architectures that have a cell of this kind with at least this share of skips."""
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
    """Return the kind of a cell: its name without the number by which untied cells are distinguished."""
    return name.rstrip("0123456789")


def skips(cells: Mapping[str, Row]) -> dict[str, float]:
    """Return the largest share of skip connections in a cell, for each kind of cell."""
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
    if grown is None or _early(result):  # stopped early: the returned cell is from before the growth
        return
    values, at = [value for _, value in kept], [epoch for epoch, _ in kept].index(grown.epoch)
    if fmean(values[-WINDOW:]) > GROWTH * fmean(values[max(at - WINDOW // 2, 0) : at + WINDOW // 2 + 1]):
        yield (
            f"the dominant eigenvalue grew {grown.ratio:.2f}-fold between epochs {grown.epoch} and {grown.at} and "
            f"stayed high (DARTS-ES would have kept the cell of epoch {grown.epoch})"
        )


def growth(rows: Sequence[Row]) -> tuple[list[tuple[int, float]], stop.Growth | None]:
    """Return the (epoch, eigenvalue) pairs that the published rule uses, and the growth that it finds, or None.

    No growth is reported if the eigenvalue was computed less often than the rule requires.
    """
    kept: list[tuple[int, float]] = []
    for epoch, value in stop.series(rows):
        if not kept or epoch - kept[-1][0] >= EVERY:
            kept.append((epoch, value))
    apart = sorted(later - epoch for (epoch, _), (later, _) in pairwise(kept))
    grown = stop.growth(kept, factor=GROWTH)
    if grown is None or apart[len(apart) // 2] > EVERY:  # the median distance between evaluations is too large
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
