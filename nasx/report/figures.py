"""Figures of finished runs as files, for a paper: the panels of the page of `nasx report` as PDF, SVG and PNG."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nasx.errors import UserError
from nasx.report import charts, curves, html
from nasx.results.aggregate import summary

SUFFIXES = (".pdf", ".svg", ".png")


def write(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the losses and accuracies of each kind of run, space and dataset over the epochs, with bands over seeds.

    `frame` is a non-empty result of `collect`. Searches with a benchmark also get the benchmark accuracy of the cell
    found so far, one file per dataset. Runs without finished epochs (method=random) have no curve. Returns the files;
    raises UserError if no run has a curve.
    """
    written: list[Path] = []
    for title, groups in html.comparable(html.labelled(summary(frame))):
        known = {g["label"]: [f for f in g["folders"] if charts.read(f)] for g in groups}
        drawn: Mapping[str, list[str]] = {label: folders for label, folders in known.items() if folders}
        if not drawn:
            continue
        name = re.sub(r"\W+", "-", title.lower())
        read = {label: [charts.read(f) for f in folders] for label, folders in drawn.items()}
        every = [f for folders in drawn.values() for f in folders]
        for suffix in SUFFIXES:
            with contextlib.suppress(UserError):  # runs without losses
                written += curves.training(drawn, folder / f"{name}-training{suffix}")
            for dataset, split, lines in html.lookup_lines(read, every):
                written += curves.anytime(drawn, folder / f"{name}-{dataset}-{split}{suffix}", dataset, split, lines)
    if not written:
        raise UserError(f"figures={folder}", "none of these runs has finished epochs", "use runs of other methods")
    return written
