"""Render sheets as tables in Markdown, in LaTeX (booktabs), or on the terminal.

A sheet contains text only: numbers are rounded when it is created (`table_columns`, `published`), so the three formats
agree. The same sheet always gives the same bytes. CSV is written from the unrounded numbers and not from a sheet.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from nasx.core.spelling import counted

if TYPE_CHECKING:
    import pandas as pd

_LATEX = str.maketrans(
    {
        **{letter: rf"\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "Λ": r"$\Lambda$",
        "α": r"$\alpha$",
        "β": r"$\beta$",
        "λ": r"$\lambda$",
        "η": r"$\eta$",
        "×": r"$\times$",
        "→": r"$\rightarrow$",
        "↳": r"$\hookrightarrow$",
        "−": "$-$",
        "–": "--",
        "—": "---",
        "…": r"\dots{}",
    }
)


@dataclass(frozen=True)
class Sheet:
    """A table of text, with its title, header, caption and notes."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    rules: frozenset[int] = field(default_factory=frozenset)
    """Indices of rows that have a thin rule above them, in formats with rules."""
    left: frozenset[int] = field(default_factory=frozenset)
    """Indices of text columns; all other columns contain numbers and are right-aligned."""


def latex_escape(text: str) -> str:
    """Escape `text` so that LaTeX prints it literally."""
    return text.translate(_LATEX)


def markdown(sheets: Sequence[Sheet], notes: Sequence[str] = ()) -> str:
    """Render sheets as GitHub Markdown, with columns padded so that the source is readable."""
    return "\n\n".join([*map(_markdown, sheets), *_footer(notes)]) + "\n"


def latex(
    sheets: Sequence[Sheet], notes: Sequence[str] = (), *, caption: str | None = None, label: str | None = None
) -> str:
    """Render one LaTeX `table` environment per sheet; needs `\\usepackage{booktabs}`.

    `caption` (plain text; None: the title of each sheet) is the caption of the first table; later captions append the
    title of their sheet to it. A repeated `label` (None: `tab:` and the words of the title) gets a suffix -2, -3, ...
    """
    tables: list[str] = []
    used: dict[str, int] = {}
    for sheet in sheets:
        name = label or "tab:" + re.sub("[^a-z0-9]+", "-", sheet.title.lower()).strip("-")
        used[name] = used.get(name, 0) + 1
        own = [caption or "", "" if caption and not tables else sheet.title]
        tables.append(_latex(sheet, own, name if used[name] == 1 else f"{name}-{used[name]}"))
    comments = "\n".join("% " + " ".join(note.split()) for note in notes)
    return "\n\n".join(["% needs \\usepackage{booktabs}", *tables, *([comments] if comments else [])]) + "\n"


def console(
    sheets: Sequence[Sheet], notes: Sequence[str] = (), *, width: int | None = None, color: bool = False
) -> str:
    """Render sheets for a terminal that is `width` characters wide, with the most important columns that fit.

    If `width` is None, all columns are shown.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = io.StringIO()
    terminal = Console(
        file=stream,
        width=width or 10_000,
        force_terminal=color,
        no_color=not color,
        highlight=False,
        color_system="standard" if color else None,
        legacy_windows=False,
        markup=False,
    )
    for sheet in sheets:
        widths = _fitting(sheet, terminal.width)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for i, size in widths.items():
            side: Literal["left", "right"] = "left" if i in sheet.left else "right"
            head = Text(_stacked(sheet.header[i]))
            table.add_column(head, justify=side, width=size, overflow="fold", vertical="middle")
        for i, row in enumerate(sheet.rows):
            table.add_row(*(Text(row[k]) for k in widths), end_section=i + 1 in sheet.rules)
        terminal.print(Text(sheet.title, style="bold"))
        terminal.print(table)
        if more := len(sheet.header) - len(widths):
            terminal.print(f"{counted(more, 'more column')}: widen the terminal, or add format=markdown")
        for line in filter(None, [sheet.caption, *sheet.notes]):
            terminal.print(Text(sentence(line), style="dim"))
        terminal.print()
    for note in notes:
        terminal.print(Text(f"note: {note}", style="yellow"))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _stacked(name: str) -> str:
    """Break a heading such as `CIFAR-10 valid` into two lines to keep number columns narrow."""
    return re.sub(r"^(.+?) ((?:valid|test|accuracy|error)\b.*|\(M\))$", r"\1\n\2", name)


MISSING = frozenset({"n/a", "–", ""})
"""Texts of cells without a number."""
GAP = 3
"""Number of spaces between two columns."""
TEXT = 12
"""Width to which text columns are wrapped before another column is omitted."""
LATER = frozenset({"study", "protocol", "recipe", "marks", "against random", "verdict", "device", "± over"})
"""Headings of text columns that rarely distinguish rows."""


def _fitting(sheet: Sheet, width: int) -> dict[int, int]:
    """Return the width of each column that is shown in `width` characters, by column index and in column order.

    The most important columns are the first column, n and the first measure, followed by the text columns that
    distinguish rows, the cost, and all others.
    """
    columns = range(len(sheet.header))
    empty = {i for i in columns if MISSING.issuperset(row[i] for row in sheet.rows)}
    measures = [i for i in columns if i not in empty | sheet.left and sheet.header[i] != "n"]

    def importance(i: int) -> tuple[bool, int]:
        head = sheet.header[i]
        ranks = i in (0, *measures[:1]) or head == "n", i in sheet.left and head not in LATER, head == "cost", True
        return i in empty, ranks.index(True)

    texts = [[*_stacked(sheet.header[i]).split("\n"), *(row[i] for row in sheet.rows)] for i in columns]
    whole = [max(map(_width, column)) for column in texts]
    kept: dict[int, int] = {}
    width += 1  # no gap after the last column, but a space on each side
    for i in sorted(columns, key=importance):
        words = max(TEXT, *(_width(word) for text in texts[i] for word in text.split()))
        size = min(whole[i], words) if i in sheet.left else whole[i]
        if size + GAP <= width or not kept:
            kept[i] = min(size, width)
            width -= size + GAP
    for i in sorted(kept):
        more = min(whole[i] - kept[i], width)
        kept[i], width = kept[i] + more, width - more
    return dict(sorted(kept.items()))


def sentence(text: str) -> str:
    """Capitalize the first letter of `text` and add a full stop; a name at the start keeps its spelling."""
    text = " ".join(text.split())
    first = text.partition(" ")[0].rstrip(":;,")
    text = text[:1].upper() + text[1:] if first.isalpha() and first.islower() else text  # names keep their spelling
    return text + ("" if text.endswith((".", "!", "?")) else ".")


def _width(text: str) -> int:
    """Return the width of `text` in terminal columns (0 for combining marks, 2 for wide characters)."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def safe(text: str) -> str:
    """Escape `text` as a single line of Markdown without HTML, links or cell separators."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


def spreadsheet(frame: pd.DataFrame) -> str:
    """Return `frame` as CSV. Texts that a spreadsheet would parse as formulas are prefixed with an apostrophe."""

    def quoted(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

    plain = frame.map(quoted).rename(columns=quoted)
    return str(plain.to_csv(index=False, lineterminator="\n"))


def _markdown(sheet: Sheet) -> str:
    grid = [[safe(cell) for cell in row] for row in (sheet.header, *sheet.rows)]
    widths = [max(3, *(_width(row[i]) for row in grid)) for i in range(len(sheet.header))]

    def line(row: Sequence[str]) -> str:
        gaps = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [row[i] + gap if i in sheet.left else gap + row[i] for i, gap in enumerate(gaps)]
        return "| " + " | ".join(cells) + " |"

    ruler = ["-" * w if i in sheet.left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    parts = [f"### {safe(sheet.title)}", "\n".join([line(grid[0]), line(ruler), *map(line, grid[1:])])]
    return "\n\n".join([*parts, *([safe(sheet.caption)] if sheet.caption else []), *_footer(sheet.notes)])


def _footer(notes: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {sentence(safe(note))}" for note in notes)] if notes else []


def _sentences(texts: Sequence[str]) -> str:
    return latex_escape(" ".join(map(sentence, filter(None, texts))))


def _latex(sheet: Sheet, caption: Sequence[str], label: str) -> str:
    columns = "".join("l" if i in sheet.left else "r" for i in range(len(sheet.header)))
    body = []
    for i, row in enumerate(sheet.rows):
        if i in sheet.rules and i:
            body.append("    \\midrule\n")
        body.append(f"    {' & '.join(map(latex_escape, row))} \\\\\n")
    notes = _sentences([sheet.caption, *sheet.notes])
    below = rf"  \par\smallskip\footnotesize {notes}" + "\n" if notes else ""
    return rf"""\begin{{table}}[t]
  \centering
  \caption{{{_sentences(caption)}}}
  \label{{{label}}}
  \begin{{tabular}}{{{columns}}}
    \toprule
    {" & ".join(map(latex_escape, sheet.header))} \\
    \midrule
{"".join(body)}    \bottomrule
  \end{{tabular}}
{below}\end{{table}}"""
