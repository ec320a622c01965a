"""Render a sheet of a table as Markdown, LaTeX (booktabs), or for the terminal.

A sheet consists of text: numbers are rounded when it is created (`sheets`, `published`), so the three formats agree.
The same sheet always gives the same bytes. CSV is not rendered from a sheet, but written from the numbers.
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
    """Title, header, rows of text, caption and notes."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    rules: frozenset[int] = field(default_factory=frozenset)
    """Rows with a thin rule above, in formats that have one."""
    left: frozenset[int] = field(default_factory=frozenset)
    """Text columns; all other columns contain numbers and are right-aligned."""


def latex_escape(text: str) -> str:
    """Escape `text` so that LaTeX prints it literally."""
    return text.translate(_LATEX)


def markdown(sheets: Sequence[Sheet], notes: Sequence[str] = ()) -> str:
    """Render GitHub Markdown, with padded columns for a readable source."""
    return "\n\n".join([*map(_markdown, sheets), *_footer(notes)]) + "\n"


def latex(
    sheets: Sequence[Sheet], notes: Sequence[str] = (), *, caption: str | None = None, label: str | None = None
) -> str:
    """Render one LaTeX `table` environment per sheet; needs `\\usepackage{booktabs}`.

    `caption` (plain text; None: the title of the sheet) and `label` (None: `tab:` and the words of the title) apply
    to the first table. Further captions end with the title of the sheet, and equal labels with -2, -3, ...
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
    """Render for a terminal of `width` columns, with the most important columns that fit (None: all columns)."""
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
    """Break `CIFAR-10 valid` into two lines, to keep number columns narrow."""
    return re.sub(r"^(.+?) ((?:valid|test|accuracy|error)\b.*|\(M\))$", r"\1\n\2", name)


MISSING = frozenset({"n/a", "–", ""})
"""Cells without a number."""
GAP = 3
"""Blanks between two columns."""
TEXT = 12
"""Width to which texts are wrapped, between words, before another column is left out."""
LATER = frozenset({"study", "protocol", "recipe", "marks", "against random", "verdict", "device", "± over"})
"""Text columns that rarely tell two rows apart."""


def _fitting(sheet: Sheet, width: int) -> dict[int, int]:
    """Return the most important columns that fit in `width`, in their order, and their widths.

    Most important are the first column, n and the first measure, then what tells rows apart, then the cost.
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
    width += 1  # no gap after the last column, but a blank on each side
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
    """Escape `text` to one literal line of Markdown, without HTML, links, or cell separators."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


def spreadsheet(frame: pd.DataFrame) -> str:
    """Return `frame` as CSV. Texts that a spreadsheet would parse as a formula are prefixed with an apostrophe."""

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
