"""Render finished runs as one HTML page that loads nothing from the network.

nasx report [RUNS ...] [out=report.html] [title=TITLE] [figures=FOLDER]

The template and its CSS are in report.html.j2; the options and their defaults are in cli/report.py.

RUNS are run folders, folders of runs or globs (default: outputs/). The page contains the results compared with random
search and with published numbers of the same protocol, accuracy over time, losses, mixture weights, recorded
diagnostics, the found cells, the settings that differ, hardware, cost, and the checklist of best practices for
architecture search. It follows the light or dark setting of the browser and can be printed. The number of pictures is
limited to keep the page below 2 MB; the page states what is omitted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from nasx import __version__
from nasx.core import spelling
from nasx.core.plain import Row
from nasx.core.quantities import better_column, lookups
from nasx.errors import UserError
from nasx.report import charts, checklist, curves, dots, figure_style, headline, heat_maps
from nasx.results import differences, published, random_baseline, table_columns, table_formats, targets
from nasx.results.aggregate import summary
from nasx.results.collect import rows_of
from nasx.results.table_formats import Sheet
from nasx.spaces.edges import genotype_edges

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

LINES, SEEDS, CONTEXTS, CELLS, DOTS = 7, 12, 3, 3, 30
"""Limits on pictures: settings per chart, runs per setting, groups of comparable settings, distinct cells per setting,
and settings in the plot of single runs."""
EACH_RUN = "One dot per run, a bar at the mean; in the colours of the curves, grey for settings without curves."
ROWS = 200
"""Maximum number of rows in a table."""
BUDGET = 1_500_000
"""Number of SVG characters beyond which no more pictures are added."""


class Figure(NamedTuple):
    """A picture and its caption."""

    svg: str
    caption: str = ""


class Context(NamedTuple):
    """The settings of searches, or of retrainings, on one space and dataset, with their pictures."""

    title: str
    settings: list[str]
    legend: list[tuple[int, str]]
    """Colour index and label of each setting with curves."""
    dots: list[Figure]
    anytime: list[Figure]
    curves: list[Figure]
    traces: list[Figure]
    mixtures: list[Figure]
    cells: list[Figure]
    differences: list[differences.Row]
    unknown: bool
    """Whether a setting has no readable configuration."""
    note: str


class Album:
    """Collection of pictures up to the size limit of the page, with the number of omitted pictures and the errors."""

    def __init__(self) -> None:
        self.size = self.number = self.left_out = 0
        self.faults: list[str] = []

    def add(self, make: Callable[..., str], caption: str = "") -> list[Figure]:
        """Add a picture, and return it in a list, which is empty if there is none.

        `make(prefix)` returns the SVG text, or "" for no picture; a UserError that it raises is stored in `faults`.
        """
        if self.size > BUDGET:
            self.left_out += 1
            return []
        self.number += 1
        try:
            svg = make(f"f{self.number}-")
        except UserError as error:
            self.faults.append(str(error))
            return []
        self.size += len(svg)
        return [Figure(svg, caption)] if svg else []

    def figure(self, make: Callable[..., MatplotlibFigure | None], label: str, caption: str = "") -> list[Figure]:
        """Add a picture like `add`, but from a function that returns a matplotlib figure, or None for no picture."""
        return self.add(lambda prefix: charts.drawn(make, prefix, label), caption)


def page(frame: pd.DataFrame, title: str) -> str:
    """Return the HTML page as text. `frame` is a non-empty result of `collect`."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    table = summary(frame)
    groups = labelled(table)
    runs, album = rows_of(frame.drop_duplicates("folder")), Album()  # two studies may contain the same run
    known = {run["folder"]: run for run in runs}
    contexts = [_context(name, own, known, album) for name, own in comparable(groups)[:CONTEXTS]]
    sheets, published_sheets, notes = _sheets(table)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "sentence": table_formats.sentence,
        "together": _with_hard_spaces,
        "seconds": table_columns.seconds,
        "breakable": lambda text: Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(text)))),
        "picture": Markup,  # from nasx.report.charts, which keeps only drawing elements
    }
    source = files("nasx").joinpath("report/report.html.j2").read_text(encoding="utf-8")
    notes += album.faults
    if album.left_out:
        notes.append(f"{album.left_out} pictures are omitted to keep the page small: report fewer runs at once")
    if len(comparable(groups)) > CONTEXTS:
        notes.append(f"pictures for the first {CONTEXTS} of {len(comparable(groups))} pairs of space and dataset")
    facts = {
        "value": table_columns.value,
        "cost": table_columns.cost,
        "machines": _machines(runs),
        "count": len(runs),
        "items": checklist.items(runs, groups, anytime=any(c.anytime for c in contexts)),
        "states": checklist.STATES,
        "lead": headline.sentences(groups, runs),
        "cards": headline.cards(groups, runs),
        "version": __version__,
        "costs": groups[:ROWS],
        "shown": ROWS,
        "total": len(groups),
        "runs": runs[:ROWS],
        "title": title,
        "sheets": sheets,
        "published_sheets": published_sheets,
        "notes": list(dict.fromkeys(notes)),
    }
    return environment.from_string(source).render(facts, contexts=contexts) + "\n"


def _with_hard_spaces(text: str) -> str:
    """Use non-breaking spaces before %, around ± and within p values."""
    return text.replace(" %", "\u00a0%").replace("(p = ", "(p\u00a0=\u00a0").replace(" ± ", "\u00a0±\u00a0")


def labelled(table: pd.DataFrame) -> Sequence[Row]:
    """Return the rows of a summary except reference rows, each with a short unique `label`."""
    groups = rows_of(table[table["reference"] == ""])
    return [{**group, "label": label} for group, label in zip(groups, labels(groups), strict=True)]


def labels(groups: Sequence[Row]) -> list[str]:
    """Return a chart label for each row: its method, and only as many overrides as make the label unique."""
    same_names: dict[tuple[str, ...], list[int]] = {}
    for i, g in enumerate(groups):
        key = (g["space"], g["searched_on"], g["dataset"], g["kind"], table_columns.name(g))
        same_names.setdefault(key, []).append(i)
    found = [""] * len(groups)
    for (*_, name), own in same_names.items():
        texts = [f"{name} {rest}".strip() for rest in _distinguishing([groups[i]["settings"] for i in own])]
        short = [text if len(text) <= 60 else f"{text[:57]}…" for text in texts]
        for i, text in zip(own, short if len(set(short)) == len(short) else texts, strict=True):
            found[i] = text
    return found


def _distinguishing(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a text that distinguishes each row: `key=value` pairs, joined by spaces.

    Keys are shortened to their last part; keys with the most distinct values come first.
    """
    each = [{line.partition("=")[0]: line for line in lines} for lines in rows]
    keys = sorted({key: None for row in each for key in row}, key=lambda key: -len({row.get(key) for row in each}))
    used: list[str] = []
    while keys and len({tuple(map(row.get, used)) for row in each}) < len(each):
        used.append(keys.pop(0))
    return [
        " ".join(row[key].removeprefix(key.rpartition(".")[0]).lstrip(".+") for key in used if key in row)
        for row in each
    ]


def _sheets(table: pd.DataFrame) -> tuple[list[Sheet], list[Sheet], list[str]]:
    """Return the tables of results, the tables of papers with comparable runs, and the notes."""
    notes = list(table.attrs["notes"])
    found: list[Sheet] = []
    bare = table[table["reference"] == ""].reset_index(drop=True)
    bare.attrs = table.attrs
    for paper in targets.PAPERS:
        try:
            sheets, numbers = published.compare(bare, paper)
        except UserError as fault:
            notes.append(f"not compared with {targets.PAPERS[paper]}: {fault.fault.partition(chr(10))[0]}")
            continue
        if "source" in numbers.columns:
            found += sheets
    own, printed = (list(map(_without_constant_columns, each)) for each in (table_columns.sheets(table), found))
    return own, printed, notes


def _without_constant_columns(sheet: Sheet) -> Sheet:
    """Drop empty columns from a sheet, and move texts that are the same in all rows to the caption."""
    kept, constants = [], []
    for i, head in enumerate(sheet.header):
        found = {row[i] for row in sheet.rows} - {"", "–", "n/a"}
        if i in sheet.left and i and len(found) == 1 and len(sheet.rows) > 1:
            constants.append(f"{head} {found.pop()}")
        elif found:
            kept.append(i)
    caption = f"{sheet.caption} In all rows: {'; '.join(constants)}." if constants else sheet.caption
    rows = tuple(tuple(row[i] for i in kept) for row in sheet.rows)
    lacking = any("n/a" in row for row in rows)
    notes = tuple(note for note in sheet.notes if lacking or note != table_columns.NO_TEST)
    header, left = tuple(sheet.header[i] for i in kept), frozenset(k for k, i in enumerate(kept) if i in sheet.left)
    return replace(sheet, header=header, rows=rows, notes=notes, caption=caption, left=left)


def _machines(runs: Sequence[Row]) -> list[tuple[str, str, str, int]]:
    """Return (device, versions, commit, number of runs) for the 12 most frequent environments, most frequent first."""
    found = Counter((r["device"] or "not recorded", r["versions"], r["commit"]) for r in runs)
    return [(*key, n) for key, n in found.most_common(12)]


# ----------------------------------------------------------------------------------------------------- pictures
def comparable(groups: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return (title, rows of `summary`) for each combination of run kind, space and dataset, most runs first."""
    found: dict[str, list[Row]] = {}
    for g in groups:
        what = "Searches" if g["kind"] == "search" else "Retrainings"
        found.setdefault(f"{what} on {g['space']}, {g['dataset']}", []).append(g)
    return sorted(found.items(), key=lambda item: -sum(g["n"] for g in item[1]))


def _context(title: str, groups: Sequence[Row], runs: Mapping[str, Row], album: Album) -> Context:
    metrics = cache(charts.read)
    curved = [any(metrics(folder) for folder in g["folders"][:SEEDS]) for g in groups]
    order = sorted(range(len(groups)), key=lambda i: (not curved[i], -groups[i]["n"]))
    shown = [groups[i] for i in sorted(order[:LINES])]
    every = {g["label"]: [rows for folder in g["folders"][:SEEDS] if (rows := metrics(folder))] for g in shown}
    read = {label: runs for label, runs in every.items() if runs}  # settings without curves have no colour
    note = f"Drawn: {len(shown)} of {len(groups)} settings, those with curves and most runs."
    note *= len(shown) < len(groups)
    if any(len(g["folders"]) > SEEDS for g in shown):
        note += f" Curves are over the first {SEEDS} runs of a setting."
    anytime: list[Figure] = []
    for dataset, split, lines in lookup_lines(read, [folder for g in shown for folder in g["folders"][:SEEDS]]):
        label = f"benchmark accuracy over the epochs, {dataset} {split}"
        anytime += album.figure(lambda d=dataset, s=split, r=lines: charts.anytime(read, d, s, r), label)
    drawn = [row for runs in read.values() for rows in runs for row in rows]
    made: dict[str, list[Figure]] = {"training": [], "inside": []}
    for section, figures in made.items():
        for panel in curves.expanded(charts.panels(section), drawn):
            figures += album.figure(lambda p=panel: charts.panel(read, p), panel.title)
    mixtures: list[Figure] = []
    for g in shown:
        for rows in every[g["label"]][:1]:
            make = partial(_heat_map, g["folders"][0], rows)
            mixtures += album.figure(make, f"mixture weights of {g['label']}", f"{g['label']}, first run")
    found = differences.rows([g["folders"][:SEEDS] for g in shown])
    return Context(
        title=title,
        settings=list(every),
        legend=[(i % len(figure_style.CYCLE), label) for i, label in enumerate(read)],
        dots=album.figure(lambda: each_run(groups, runs, list(read)), f"result of each run: {title}", EACH_RUN),
        anytime=anytime,
        curves=made["training"],
        traces=made["inside"],
        mixtures=mixtures,
        cells=[figure for g in shown for figure in _cells(g, runs, album)],
        differences=found,
        unknown=any(differences.UNKNOWN in row.values for row in found),
        note=note,
    )


def each_run(groups: Sequence[Row], runs: Mapping[str, Row], coloured: Sequence[str]) -> MatplotlibFigure | None:
    """Plot the result of each run of the first `DOTS` settings; return None if there is nothing to compare."""
    shown = groups[:DOTS]
    folders = [folder for g in shown for folder in g["folders"] if folder in runs]
    measure = _measure([runs[folder] for folder in folders])
    if not measure:
        return None
    dataset, _, split = measure.rpartition(".")
    values = {g["label"]: [runs[f][measure] for f in g["folders"] if f in runs] for g in shown}
    what = headline.words_of(measure).removeprefix("look-up, ")
    name = f"{what}{f' (first {DOTS} of {len(groups)} settings)' if len(groups) > DOTS else ''}"
    axis = f"{'accuracy' if dataset else what} ({headline.unit(measure).strip()})".removesuffix(" ()")
    return dots.draw(values, name, axis, curves.recorded(folders, dataset, split) if dataset else {}, coloured)


def _heat_map(folder: str, rows: Sequence[Row]) -> MatplotlibFigure | None:
    return heat_maps.heat_map(Path(folder), rows) if heat_maps.mixtures(rows) else None


def lookup_lines(read: charts.Groups, folders: Sequence[str]) -> list[tuple[str, str, dict[str, float]]]:
    """Return (dataset, split, reference values) for the first three datasets with benchmark accuracies over the epochs.

    The reference values are computed over the cells that these runs can find, or over the whole benchmark if the runs
    differ in these cells or do not record them.
    """
    each = (rows for runs in read.values() for rows in runs if rows)
    last, known = next(((rows, found) for rows in each if (found := curves.looked_up(rows))), ([], None))
    if known is None:
        return []
    split = known[1]
    return [
        (dataset, split, curves.recorded(folders, dataset, split) or curves.reference(last, dataset, split))
        for dataset, scores in last[-1]["lookup"].items()
        if isinstance(scores, Mapping)
    ][:3]


def _cells(group: Row, runs: Mapping[str, Row], album: Album) -> list[Figure]:
    """Draw the cells that a setting found most often, best first, with runs and accuracies in the captions."""
    own = [runs[folder] for folder in group["folders"][:ROWS] if folder in runs and runs[folder]["genotype"]]
    measure = _measure(own)
    cells: dict[str, list[Row]] = {}
    sign = -better_column(measure) if measure else 0.0
    for run in sorted(own, key=lambda run: (sign * run[measure] if measure else 0.0, run["seed"] or 0)):
        cells.setdefault(run["genotype"], []).append(run)
    most = sorted(cells, key=lambda text: -len(cells[text]))[:CELLS]
    figures: list[Figure] = []
    for text in (text for text in cells if text in most):
        try:
            parts = genotype_edges(text)
        except UserError:  # a user-defined space whose genotype cannot be drawn
            continue
        for name, edges in list(parts.items())[:2]:
            caption = f"{group['label']}" + (f", cell {name}" if len(parts) > 1 else "")
            caption += f" · {_cell_caption(cells[text], len(own), measure)}"
            figures += album.add(lambda prefix, e=edges: charts.cell(e, prefix, f"cell of {group['label']}"), caption)
    return figures


def _measure(runs: Sequence[Row]) -> str:
    """Return the column that ranks the cells of these runs: a benchmark or test result; empty if there is none."""
    if not runs or runs[0]["kind"] == "retrain":
        return random_baseline.retrained([run["test_accuracy"] for run in runs]) if runs else ""
    known = [column for column in lookups(runs[0]) if all(run[column] == run[column] for run in runs)]
    return random_baseline.ranking(known, {runs[0]["dataset"]}) if known else ""


def _cell_caption(runs: Sequence[Row], count: int, measure: str) -> str:
    """Describe the runs that found a cell, for example `2 of 3 runs · seeds 0, 2 · CIFAR-10 validation 88.35 %`."""
    seeds = [str(seed) for seed in sorted(run["seed"] for run in runs if run["seed"] is not None)]
    said = [f"{len(runs)} of {spelling.counted(count, 'run')}"]
    if seeds:
        said.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds[:6])}{', …' if len(seeds) > 6 else ''}")
    if measure:
        values = list(dict.fromkeys(f"{run[measure]:.2f}" for run in runs))
        unit = headline.unit(measure)
        said.append(f"{headline.words_of(measure).removeprefix('look-up, ')} {', '.join(values[:6])}{unit}")
    return " · ".join(said)
