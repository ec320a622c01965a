"""Write an HTML page about finished runs: tables, curves, cells, cost.

    nasx report [RUNS ...] [out=report.html] [title=TEXT] [figures=FOLDER]

RUNS are folders of runs, single runs, or globs (default: outputs/). Examples:

    nasx report
    nasx report outputs/darts-* outputs/idarts-* out=darts.html title="DARTS and iDARTS"

The page is a single self-contained file that loads nothing from other sites and is readable on a phone and in print.
Runs that differ only in their seeds form a group. figures=FOLDER also writes figures for a paper as PDF, SVG and PNG
files: a plot with a dot for the result of each run, and curves with bands over seeds for the losses, the accuracies and
the benchmark accuracy of the current cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nasx.cli import arguments
from nasx.core import spelling
from nasx.core.files import write_atomic
from nasx.errors import UserError, printable
from nasx.report import figures
from nasx.report.html import page
from nasx.results.collect import collect

OPTIONS = {"out": "report.html", "title": "Architecture search", "figures": ""}


def main(given: Sequence[str]) -> int:
    """Run `nasx report [RUNS ...] [out=...] [title=...]`: write the page and print its path."""
    args = arguments.parse("report", given, OPTIONS, positional="RUNS")
    roots = list(args.positional) or ["outputs"]
    frame = collect(roots)
    if frame.empty:
        fault = "; ".join(["contains no finished run", *frame.attrs["notes"]])
        raise UserError(" ".join(roots), fault, "name folders of runs, for example nasx report outputs")
    path = Path(args.options["out"]).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"out={path}", "is not the name of an HTML file", "for example out=report.html")
    if not path.parent.is_dir():
        raise UserError(f"out={path}", f"folder {path.parent} does not exist", "create it, or choose another file")
    text = printable(page(frame, args.options["title"]))
    write_atomic(path, text, "name another file with out=FILE")
    print(f"{path}: {spelling.counted(frame['folder'].nunique(), 'run')}, {len(text.encode()) / 1e6:.2f} MB")
    if args.options["figures"]:
        for figure in figures.write(frame, Path(args.options["figures"]).expanduser()):
            print(figure)
    return 0
