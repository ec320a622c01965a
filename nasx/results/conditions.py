"""Filters for a frame of runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import pandas as pd

from nasx.config import overrides
from nasx.core import spelling
from nasx.errors import UserError
from nasx.results import differences

Wanted = Mapping[str, object] | Iterable[str] | None
"""{column: value(s)}, or `column:value` texts."""
ALIASES = {"name": "run"}
"""Name of a setting -> name of the column that contains it."""


def pick(frame: pd.DataFrame, wanted: Wanted, key: str = "filter=") -> pd.DataFrame:
    """Return the rows of `frame` whose columns have the values `wanted` ({column: value(s)} or `column:value` texts).

    If a column is given several values, one of them must match; tuple columns, such as `labels` and `overrides`, must
    contain one of them. A dotted name that is not a column is a setting of the configurations, such as search.lr. `key`
    is the text before the condition in errors. Raises UserError for an unknown column or setting.
    """
    for column, values in _pairs(wanted).items():
        keep = [not held.isdisjoint(values) for held in _held(frame, column, key)]
        notes, frame = frame.attrs, frame[keep]
        frame.attrs = dict(notes)
    return frame


def remedy(frame: pd.DataFrame, wanted: Wanted) -> str:
    """Suggest values for the first condition that no run in `frame` meets, or fewer conditions if there is none."""
    for column, values in _pairs(wanted).items():
        known = sorted(set[str]().union(*_held(frame, column)))
        if known and values and values.isdisjoint(known):
            near = spelling.nearest(min(values), known)
            return f"did you mean {column}={near}?" if near else f"choose {column} from {spelling.shortened(known)}"
    return "use fewer conditions: each one is met by some of the runs, but no run meets all of them"


def _pairs(wanted: Wanted) -> dict[str, set[str]]:
    """Return column or setting -> accepted values, as texts. Raises UserError for a text without `=` or `:`."""
    if not isinstance(wanted, Mapping):
        texts = [wanted] if isinstance(wanted, str) else [str(text) for text in wanted or []]
        pairs = [re.split("[:=]", text, maxsplit=1) for text in texts]
        if wrong := [pair[0] for pair in pairs if len(pair) < 2]:
            what = "is not of the form column=value", "write filter=method=darts"
            raise UserError.join([UserError(f"filter={text}", *what) for text in wrong])
        wanted = {column: [value for name, value in pairs if name == column] for column, _ in pairs}
    found: dict[str, set[str]] = {}
    for column, values in wanted.items():
        several = values if isinstance(values, (list, tuple)) else [values]
        found.setdefault(ALIASES.get(str(column), str(column)), set()).update(map(str, several))
    return found


def _held(frame: pd.DataFrame, column: str, key: str = "") -> list[set[str]]:
    """Return, for each run, the texts that match its value of `column`, which is a column or a setting.

    Raises UserError for an unknown name.
    """
    cells: list[object] = []
    if column in frame.columns:
        cells = list(frame[column])
    else:
        settings = [differences.configuration(folder) for folder in frame["folder"]]
        names = sorted({name for own in settings for name in own})
        if "." not in column:
            check_column(key, column, [*frame.columns, *(name for name in names if name.endswith(f".{column}"))])
        elif column not in names:
            near = spelling.nearest(column, names)
            remedy = f"did you mean {near}?" if near else "see the config.yaml of a run, or nasx search --help"
            raise UserError(f"{key}{column}", "is not a setting of these runs", remedy)
        cells = [own.get(column) for own in settings]
    return [set(c) if isinstance(c, tuple) else {str(c), overrides.format_value(c)} for c in cells]


def check_column(key: str, text: str, columns: Iterable[str], column: str | None = None) -> None:
    """Raise UserError with the most similar names unless `column` (None: `text`) is in `columns`.

    The error quotes the user's input as `key` followed by `text`.
    """
    column = column or text
    if column not in columns:
        columns = [name.removesuffix("_mean") for name in columns if not name.endswith(("_std", "_n"))]
        word = column.removesuffix("_mean")
        parts = [name for name in columns if word in re.split(r"[._]", name)]
        found = parts or [name for name in [spelling.nearest(word, columns)] if name]
        near = ["-" * text.startswith("-") + name for name in found]
        remedy = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(columns)}"
        raise UserError(f"{key}{text}", "is not a column", remedy)
