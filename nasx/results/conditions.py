"""Filters for a frame of runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import pandas as pd

from nasx.config import overrides
from nasx.core import spelling
from nasx.errors import UserError
from nasx.results import differences


def pick(frame: pd.DataFrame, wanted: Mapping[str, object] | Iterable[str] | None) -> pd.DataFrame:
    """Return the rows of `frame` whose columns have the values `wanted` ({column: value(s)} or `column:value` texts).

    A column given twice may have either value; `labels` and `overrides` must contain it. A dotted name that is not a
    column is a setting of the configurations, such as search.lr. Raises UserError for an unknown column or setting.
    """
    if not isinstance(wanted, Mapping):
        texts = [wanted] if isinstance(wanted, str) else [str(text) for text in wanted or []]
        pairs = [re.split("[:=]", text, maxsplit=1) for text in texts]
        if wrong := [pair[0] for pair in pairs if len(pair) < 2]:
            what = "is not of the form column=value", "write filter=method=darts"
            raise UserError.join([UserError(f"filter={text}", *what) for text in wrong])
        wanted = {column: [value for name, value in pairs if name == column] for column, _ in pairs}
    for column, values in wanted.items():
        choices = {str(v) for v in values} if isinstance(values, (list, tuple)) else {str(values)}
        if "." in str(column) and column not in frame.columns:
            cells = _settings(frame, str(column))
        else:
            check_column("filter", str(column), frame.columns)
            cells = list(frame[column])
        held = (set(c) if isinstance(c, tuple) else {str(c), overrides.format_value(c)} for c in cells)
        keep = [bool(choices & own) for own in held]
        notes, frame = frame.attrs, frame[keep]
        frame.attrs = dict(notes)
    return frame


def _settings(frame: pd.DataFrame, key: str) -> list[object]:
    """Return the value of a setting in the configuration of each run. Raises UserError if no run has it."""
    held = [differences.configuration(folder) for folder in frame["folder"]]
    if not any(key in own for own in held):
        near = spelling.nearest(key, sorted({name for own in held for name in own}))
        remedy = f"did you mean {near}?" if near else "see config.yaml of a run, or nasx search --help"
        raise UserError(f"filter={key}", "is not a setting of these runs", remedy)
    return [own.get(key) for own in held]


def check_column(key: str, text: str, columns: Iterable[str], column: str | None = None) -> None:
    """Raise UserError, which suggests the nearest names, unless `column` (None: `text`) is a column."""
    column = column or text
    if column not in columns:
        columns = [name.removesuffix("_mean") for name in columns if not name.endswith(("_std", "_n"))]
        word = column.removesuffix("_mean")
        parts = [name for name in columns if word in re.split(r"[._]", name)]
        found = parts or [name for name in [spelling.nearest(word, columns)] if name]
        near = ["-" * text.startswith("-") + name for name in found]
        remedy = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(columns)}"
        raise UserError(f"{key}={text}", "is not a column", remedy)
