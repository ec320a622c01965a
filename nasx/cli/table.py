"""Tables of finished runs: `nasx table`.

Numbers are computed by `results.aggregate`, formatted by `results.table_columns`, and compared with published numbers
by `results.published`. `main(cfg)` reads these keys of conf/table.yaml:

    runs      folders or globs, a string or a list (default: [out])
    out       folder of runs that is read if `runs` is empty
    format    console | markdown | latex | csv
    out_file  output file (default: the terminal)
    sort      column or list of columns of `summary`, `-column` for descending (default: space, dataset, protocol, …)
    filter    {column: value or list of values}, or a list of `column:value` strings, for columns of `collect`
    group     additional columns of `collect` that split rows (device, commit, seed, …)
    paper     null | idarts | amended | single | lambda | tse: our numbers next to the published ones
    caption, label   caption and label of a LaTeX table; null: derived from its title
    error     true: test error of retrained networks instead of accuracy (sort= always accepts test_error)

This module does not import torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nasx.config import overrides
from nasx.core import files, spelling
from nasx.core.plain import Config
from nasx.errors import UserError
from nasx.results import table_formats
from nasx.results.aggregate import errors, summary
from nasx.results.collect import collect
from nasx.results.conditions import check_column, pick, remedy
from nasx.results.table_columns import sheets
from nasx.results.table_formats import Sheet

LABEL = re.compile(r"[A-Za-z0-9:._+-]+")
"""Pattern of labels that LaTeX accepts."""


def _sorted(table: pd.DataFrame, by: str | Sequence[str] | None) -> pd.DataFrame:
    names = [by] if isinstance(by, str) else [str(x) for x in by or []]
    if not names or table.empty:
        return table
    columns: list[str] = []
    rising: list[bool] = []
    for text in names:
        column = text.lstrip("-")
        turned = column.removesuffix("_mean") == "test_error"  # sorts in reverse by accuracy, even if not shown
        column = "test_accuracy_mean" if turned else column if column in table.columns else f"{column}_mean"
        if not turned:
            check_column("sort=", text, table.columns, column)
        columns.append(column)
        rising.append(text.startswith("-") == turned)
    ordered = table.sort_values(columns, ascending=rising, kind="stable", ignore_index=True)
    ordered.attrs = dict(table.attrs)
    return ordered


def to_csv(table: pd.DataFrame) -> str:
    """Return a `summary` as CSV in full precision, with columns for mean, std and n; labels are joined by `|`."""
    plain = table
    if len(table):
        plain = table.assign(labels=table["labels"].map("|".join), overrides=table["overrides"].map(" ".join))
    places = ["folder", "folders", "parent_folder", "parent_overrides", "settings", "edges"]
    return table_formats.spreadsheet(plain.drop(columns=places, errors="ignore"))


def main(cfg: Config) -> str:
    """Make the table that `cfg` describes (see the module docstring), print or write it, and return it."""
    ask = dict(cfg)
    runs = ask.get("runs") or ask.get("out") or "outputs"
    named = "runs" if ask.get("runs") else "out"
    roots = [str(runs)] if isinstance(runs, (str, Path)) else [str(root) for root in runs]
    form = str(ask.get("format") or "console")
    if form not in ("console", "markdown", "latex", "csv"):
        raise UserError(f"format={form}", "unknown format", "use console, markdown, latex or csv")
    written = {key: ask.get(key) for key in ("caption", "label")}
    for key, value in written.items():
        if value and form != "latex":
            raise UserError(f"{key}={value}", "is used only in LaTeX tables", "add format=latex")
    if written["label"] and not LABEL.fullmatch(str(written["label"])):
        rule = "use only letters, digits and : . _ + -, for example label=tab:results"
        raise UserError(f"label={written['label']}", "is not a LaTeX label", rule)
    frame = collect(roots)
    paper, found = ask.get("paper"), len(frame)
    if not found and not paper:
        skipped = "; ".join(frame.attrs["notes"])
        instead = "name the folder that contains the runs, for example out=outputs"
        if roots == ["outputs"]:
            instead = "search first, for example nasx search experiment=quickstart"
        fault = "contains no finished run" + (f" ({skipped})" if skipped else "")
        raise UserError(f"{named}={','.join(roots)}", fault, instead)
    wanted = ask.get("filter")
    every, frame = frame, pick(frame, wanted)
    if found and frame.empty:
        if isinstance(wanted, list):
            wanted = [str(text).replace(":", "=", 1) for text in wanted]
        fault = f"matches no run ({spelling.counted(found, 'run')} in total)"
        raise UserError(f"filter={overrides.format_value(wanted)}", fault, remedy(every, wanted))
    group = [group] if isinstance(group := ask.get("group") or [], str) else list(group)
    for column in group:
        check_column("group=", column, frame.columns)
    if paper:
        from nasx.results import published

        made, table = published.compare(summary(frame, group, reference=False), str(paper))
    else:
        error = bool(ask.get("error", False))
        table = _sorted(summary(frame, group), ask.get("sort"))
        made = sheets(table, error=error, group=group)
        table = errors(table) if error else table
    notes = table.attrs.get("notes", [])
    out_file = ask.get("out_file")
    if form == "csv":
        text = table_formats.spreadsheet(table) if paper else to_csv(table)
    elif form == "console":
        text = _for_terminal(made, notes, to_file=bool(out_file))
    else:
        text = table_formats.latex(made, notes, **written) if form == "latex" else table_formats.markdown(made, notes)
    if out_file:
        files.write_atomic(Path(os.path.expanduser(str(out_file))), text, "name another file: out_file=FILE")
    else:
        print(text, end="")
    return text


def _for_terminal(made: Sequence[Sheet], notes: Sequence[str], *, to_file: bool) -> str:
    import shutil
    import sys

    on_screen = not to_file and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if on_screen else None
    return table_formats.console(made, notes, width=width, color=on_screen and "NO_COLOR" not in os.environ)
