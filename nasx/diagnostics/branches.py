"""Read the results of a search and of its branches (`nasx whatif`) from their folders. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from nasx.core.quantities import number, value_at
from nasx.diagnostics import structure
from nasx.diagnostics.onset import skip_share
from nasx.errors import UserError
from nasx.report import curves
from nasx.report.branches import ITSELF, STOPPED, Outcome, Outcomes
from nasx.tracking import records


def outcomes(parent: Path, epoch: int, branches: Mapping[str, Path | UserError]) -> Outcomes:
    """Return the outcomes of the search in `parent` and of its branches at `epoch`.

    A branch is a folder, or the error that made it impossible. Raises UserError if `parent` has no row for the epoch.
    """
    rows = curves.read_metrics(parent)
    measure = ".".join(curves.looked_up(rows) or ())
    at = next((row for row in rows if row["epoch"] == epoch), {})
    if not {"genotype", "updates", "wall_s"} <= at.keys():
        raise UserError(str(parent / "metrics.jsonl"), f"has no complete row for epoch {epoch}", "choose another epoch")
    ends = {ITSELF: ended(parent, measure)} if records.finished(parent) else {}
    total = ends[ITSELF].passes if ends else None
    passes = None if total is None else total * at["updates"] / rows[-1]["updates"]
    ends[STOPPED] = Outcome("", str(at["genotype"]), _accuracy(at, measure), skip_share(at), None, passes, at["wall_s"])
    for name, place in branches.items():
        ends[name] = Outcome("", refused=str(place)) if isinstance(place, UserError) else ended(place, measure)
    return Outcomes(str(parent), epoch, measure, ends)


def ended(folder: Path, measure: str) -> Outcome:
    """Return the outcome of the finished search in `folder`."""
    record = records.finished(folder)
    assert record is not None, folder
    genotype, verdict = str(record["genotype"]), record.get("verdict") or {}
    try:
        skips = skip_share({"cells": structure.cells(genotype)})
    except UserError:  # a user-defined space
        skips = None
    accuracy = _accuracy(record, measure)
    return Outcome(str(folder), genotype, accuracy, skips, verdict.get("collapsed"), record["passes"], record["wall_s"])


def _accuracy(row: Mapping[str, object], measure: str) -> float | None:
    value = number(value_at(row, f"lookup.{measure}"))
    return None if not measure or math.isnan(value) else value
