"""Figures of finished runs for a paper: the panels of `nasx report` as PDF, SVG and PNG files."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from nasx.errors import UserError
from nasx.report import charts, curves, figure_style, html
from nasx.results.aggregate import summary
from nasx.results.collect import rows_of

PARTS = ("train", "val")
"""Prefixes of the losses that a row may contain; a method that trains nothing records no loss."""


def write(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the figures for each combination of run kind, space and dataset, and return their paths.

    `frame` is a non-empty result of `collect`. The figures show the result of each run, the losses and accuracies over
    the epochs and, for searches with a benchmark, the benchmark accuracy of the cell at each epoch (one figure per
    dataset). Curves have bands over seeds; runs without finished epochs (method=random) have no curve. Raises UserError
    if there is nothing to draw.
    """
    written: list[Path] = []
    known = {run["folder"]: run for run in rows_of(frame.drop_duplicates("folder"))}
    for title, groups in html.comparable(html.labelled(summary(frame))):
        runs = {g["label"]: {f: rows for f in g["folders"] if (rows := charts.read(f))} for g in groups}
        read = {label: list(own.values()) for label, own in runs.items() if own}
        drawn, path = {label: list(runs[label]) for label in read}, folder / re.sub(r"\W+", "-", title.lower())
        with figure_style.style():
            if (made := html.each_run(groups, known, list(read))) is not None:
                written += figure_style.save(made, path.with_name(f"{path.name}-runs"), figure_style.PAPER)
        if any(f"{part}_loss" in row for own in read.values() for rows in own for row in rows for part in PARTS):
            written += curves.training(drawn, path.with_name(f"{path.name}-training"), figure_style.PAPER)
        for dataset, split, lines in html.lookup_lines(read, [f for own in drawn.values() for f in own]):
            place = path.with_name(f"{path.name}-{dataset}-{split}")
            written += curves.anytime(drawn, place, dataset, split, lines, figure_style.PAPER)
    if not written:
        raise UserError(
            f"figures={folder}",
            "these runs have neither metrics of a finished epoch nor two results with the same settings",
            "use runs of methods that train a supernet, or several seeds",
        )
    return written
