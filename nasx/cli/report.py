"""`nasx report`: write one HTML page of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nasx.cli import arguments
from nasx.core.files import write_atomic
from nasx.errors import UserError, printable
from nasx.report.html import page
from nasx.results.collect import collect

OPTIONS = {"out": "report.html", "title": "Architecture search"}


def main(given: Sequence[str]) -> int:
    """`nasx report [RUNS ...] [out=...] [title=...]`: write the page and say where it is."""
    asked = arguments.parse("report", given, OPTIONS, positional="RUNS")
    roots = list(asked.positional) or ["outputs"]
    frame = collect(roots)
    if frame.empty:
        raise UserError(
            " ".join(roots),
            "contains no finished run" + "".join(f"; {n}" for n in frame.attrs["notes"]),
            "name folders of runs, for example nasx report outputs",
        )
    path = Path(asked.options["out"]).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"out={path}", "is not the name of an HTML file", "use for example out=report.html")
    if not path.parent.is_dir():
        raise UserError(f"out={path}", f"folder {path.parent} does not exist", "make it, or name another file")
    text = printable(page(frame, asked.options["title"]))
    write_atomic(path, text, "name another file with out=FILE")
    print(f"{path}: {frame['folder'].nunique()} runs, {len(text.encode()) / 1e6:.2f} MB")
    return 0
