"""Table and figure of the results of a search and its branches (`nasx whatif`).

A branch is better than the search itself if its cell has a higher benchmark accuracy. Without a benchmark, it is better
if the search collapsed and the branch did not. Passes are counted for a whole search: the passes of a branch include
those of its parent up to the epoch at which the branch starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from nasx.core.plain import Row
from nasx.core.quantities import TITLES, Quantity, per_epoch
from nasx.errors import printable
from nasx.report import curves, figure_style
from nasx.report.run_summary import Screen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ITSELF, STOPPED = "no change", "stopping there"


class Outcome(NamedTuple):
    """The outcome of one search."""

    folder: str
    """Run folder; empty if no search was run, as for the parent's cell at the branch epoch or an impossible branch."""
    genotype: str = ""
    accuracy: float | None = None
    """Benchmark accuracy of the cell in percent; None if no benchmark contains it."""
    skips: float | None = None
    """Largest fraction of skip connections in any cell other than a reduction cell."""
    collapsed: bool | None = None
    """Whether the search collapsed according to its verdict; None if no search was run to the end."""
    passes: float | None = None
    wall_s: float | None = None
    refused: str = ""
    """Reason why the branch is impossible; empty if it is possible."""


class Outcomes(NamedTuple):
    """Outcomes of one search and its branches from one epoch."""

    parent: str
    epoch: int
    measure: str
    """Dataset and split of the benchmark (`cifar10.valid`); empty if no benchmark contains the cells."""
    ends: dict[str, Outcome]
    """Name -> outcome: first `ITSELF` if the search is finished, then `STOPPED`, then the branches."""

    def compared(self, name: str) -> tuple[Outcome, Outcome]:
        """Return the outcomes of a branch and of the search; the latter is empty if `name` is the search itself."""
        unknown = Outcome("")
        return self.ends.get(name, unknown), unknown if name == ITSELF else self.ends.get(ITSELF, unknown)

    def gain(self, name: str) -> float | None:
        """Return the accuracy of a branch minus that of the search itself; None if one is unknown."""
        one, other = (end.accuracy for end in self.compared(name))
        return None if one is None or other is None else one - other

    def better(self, name: str) -> bool | None:
        """Return whether a branch has a better outcome than the search; None if unknown."""
        if (gain := self.gain(name)) is not None:
            return gain > 0
        one, other = (end.collapsed for end in self.compared(name))
        return None if one is None or other is None else other and not one

    def extra(self, name: str) -> float | None:
        """Return the ratio of the passes of a branch to those of the search itself, minus 1; None if unknown."""
        one, other = (end.passes for end in self.compared(name))
        return None if one is None or not other else one / other - 1


def extras(found: Sequence[Outcomes], name: str) -> list[float]:
    """Return the known values of `Outcomes.extra` for the branch `name`, one per search."""
    return [x for each in found if name in each.ends and (x := each.extra(name)) is not None]


# ------------------------------------------------------------------------------------------------------- table
def show(found: Sequence[Outcomes]) -> None:
    """Print the table to the terminal, as means ± standard deviations over the searches."""
    screen, measure = Screen(), found[0].measure
    headings = ["branch", *(["accuracy", "gain"] if measure else []), "better", "collapsed", "skips", "passes"]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        first = not table.columns
        table.add_column(heading, justify="left" if first else "right", no_wrap=not first, overflow="fold")
    for line in lines(found):
        table.add_row(*(line[heading] for heading in headings))
    parents = ", ".join(f"{Path(each.parent).name} from epoch {each.epoch}" for each in found)
    screen.print()
    screen.say(printable(f"what if: {parents}"), "bold", indent=2)
    screen.print(table, markup=False)
    for note in notes(found):
        screen.say(printable(note), indent=2)


def lines(found: Sequence[Outcomes]) -> Iterator[dict[str, str]]:
    """Yield a table row (heading -> text) for the search itself and for each branch."""
    for name in found[0].ends:
        both = [each for each in found if name in each.ends]
        own = [each.ends[name] for each in both]
        if all(x.refused for x in own):
            empty = dict.fromkeys(("gain", "better", "collapsed", "skips", "passes"), "")
            yield {"branch": name, **empty, "accuracy": "-"}
            continue
        extra = extras(found, name)
        skips = [x.skips for x in own if x.skips is not None]
        yield {
            "branch": name,
            "accuracy": _mean([x.accuracy for x in own]),
            "gain": _mean([each.gain(name) for each in both], sign="+"),
            "better": _count([each.better(name) for each in both]),
            "collapsed": _count([x.collapsed for x in own]),
            "skips": f"{fmean(skips):.2f}" if skips else "",
            "passes": f"{100 * fmean(extra):+.0f} %" if extra else "",
        }


def notes(found: Sequence[Outcomes]) -> Iterator[str]:
    """Yield notes that explain the columns and the missing branches."""
    if found[0].measure:
        dataset, _, split = found[0].measure.partition(".")
        yield f"accuracy: of the cell in the benchmark, {TITLES.get(dataset, dataset)} {split}, in %"
    yield "skips: share of skip connections; passes: of the whole search"
    yield f"{STOPPED}: the cell of the epoch at which the branches begin"
    for each in found:
        yield from (f"{name}: not possible: {x.refused}" for name, x in each.ends.items() if x.refused)


def _mean(values: Sequence[float | None], sign: str = "") -> str:
    known = [x for x in values if x is not None]
    if not known:
        return ""
    return f"{fmean(known):{sign}.2f}" + (f" ± {stdev(known):.2f}" if len(known) > 1 else "")


def _count(values: Sequence[bool | None]) -> str:
    known = [x for x in values if x is not None]
    return f"{sum(known)} of {len(known)}" if known else ""


# ------------------------------------------------------------------------------------------------------ figure
def picture(found: Sequence[Outcomes], path: Path) -> list[Path]:
    """Plot the branches over the epochs as means over the searches, and the final accuracies with a dot per search.

    Writes SVG and PNG files if `path` has no suffix, and returns the written paths.
    """
    groups: dict[str, list[list[Row]]] = {}
    for name in found[0].ends:
        folders = [each.ends[name].folder for each in found if name in each.ends and each.ends[name].folder]
        if folders:
            groups[name] = [curves.derived(curves.read_metrics(folder)) for folder in folders]
    colors = {name: figure_style.CYCLE[i - 1] if i else figure_style.INK for i, name in enumerate(groups)}
    measure = found[0].measure
    panels = [per_epoch("found.skip"), *([per_epoch(f"lookup.{measure}")] if measure else [])]
    with figure_style.style():
        made = figure_style.figure(3.6 * (len(panels) + bool(measure)), 3.6)
        axes = made.subplots(1, len(panels) + bool(measure), squeeze=False)[0]
        for one, quantity in zip(axes, panels, strict=False):
            _over_epochs(one, groups, quantity, [each.epoch for each in found], colors)
        axes[0].set_title("Skip connections")
        if measure:
            _at_the_end(axes[-1], found, colors)
            axes[1].set_title("Found cell, benchmark")
        handles, labels = axes[0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside lower center", ncols=4)
        return figure_style.save(made, path)


def _over_epochs(
    axes: Axes, groups: Mapping[str, list[list[Row]]], quantity: Quantity, epochs: list[int], colors: Mapping[str, str]
) -> None:
    last = 1.0
    for i, (name, runs) in enumerate(groups.items()):
        at, mean, _, _ = curves.band(runs, quantity.name, quantity.scale)
        own = at >= (0 if name == ITSELF else min(epochs))  # earlier epochs belong to the parents
        axes.plot(at[own], mean[own], color=colors[name], label=name, zorder=3 - bool(i))
        last = max([last, *at])
    for epoch in set(epochs):
        curves.constant(axes, epoch, vertical=True)
    curves.finish(axes, quantity.title, quantity.unit, last)


def _at_the_end(axes: Axes, found: Sequence[Outcomes], colors: Mapping[str, str]) -> None:
    values: dict[str, list[float]] = {}
    for name in found[0].ends:
        ends = [each.ends[name].accuracy for each in found if name in each.ends]
        if known := [x for x in ends if x is not None]:
            values[name] = known
    for y, (name, known) in enumerate(values.items()):
        color = colors.get(name, figure_style.SOFT)
        axes.plot(known, [y] * len(known), "o", color=color, markersize=5, alpha=0.7)
        axes.plot([fmean(known)], [y], "|", color=color, markersize=14, markeredgewidth=2)
        if extra := extras(found, name):
            curves.note(axes, f"{100 * fmean(extra):+.0f} %", y, "center")
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_title("At the end, and extra passes")
    axes.set_xlabel("accuracy in the benchmark (%)")
