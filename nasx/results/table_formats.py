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
    """Render for a terminal of `width` columns (None: as wide as the sheet)."""
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
    for sheet in (part for whole in sheets for part in _parts(whole, width)):
        title = Text(sheet.title, style="bold")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for i, name in enumerate(sheet.header):
            side: Literal["left", "right"] = "left" if i in sheet.left else "right"
            numbers = i not in sheet.left
            table.add_column(Text(_stacked(name)), justify=side, no_wrap=numbers, overflow="fold", vertical="middle")
        for i, row in enumerate(sheet.rows):
            table.add_row(*map(Text, row), end_section=i + 1 in sheet.rules)
        terminal.print(table)
        for line in filter(None, [sheet.caption, *sheet.notes]):
            terminal.print(Text(sentence(line), style="dim"))
        terminal.print()
    for note in notes:
        terminal.print(Text(f"note: {note}", style="yellow"))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _stacked(name: str) -> str:
    """Break `CIFAR-10 valid` into two lines, to keep number columns narrow."""
    return re.sub(r"^(.+?) ((?:valid|test|accuracy|error)\b.*|\(M\))$", r"\1\n\2", name)


LABEL, NAME = "#", 28
"""Heading of the column that joins the parts of a sheet, and the widest that its first column is there."""
MISSING = frozenset({"n/a", "–", ""})
"""Cells without a number."""


def _parts(sheet: Sheet, width: int | None) -> list[Sheet]:
    """Split a sheet so that every part fits `width`: first its text columns, then its numbers by row.

    Columns without any number are left out of the parts.
    """
    sizes = [
        max(max(map(_width, _stacked(head).split("\n"))), *(_width(row[i]) for row in sheet.rows)) + 3
        for i, head in enumerate(sheet.header)
    ]
    if width is None or sum(sizes) <= width or not sheet.left:
        return [sheet]
    first, *words = sorted(sheet.left)
    labels = [str(number) for number in range(1, len(sheet.rows) + 1)]
    room = width - min(sizes[first], NAME) - len(labels[-1]) - 3
    blocks: list[list[int]] = [[]]
    for i in range(len(sheet.header)):
        if i in sheet.left or MISSING.issuperset(row[i] for row in sheet.rows):
            continue
        if blocks[-1] and sum(sizes[k] for k in blocks[-1]) + sizes[i] > room:
            blocks.append([])
        blocks[-1].append(i)
    if not any(blocks):
        return [sheet]

    def part(columns: list[int], title: str, rows: list[int], rules: frozenset[int], *, last: bool) -> Sheet:
        kept = [first, *columns]
        return Sheet(
            title,
            (LABEL, *(sheet.header[i] for i in kept)),
            tuple((labels[r], *(sheet.rows[r][i] for i in kept)) for r in rows),
            sheet.caption if last else "",
            sheet.notes if last else (),
            rules,
            frozenset(k + 1 for k, i in enumerate(kept) if i in sheet.left),
        )

    described = [r for r, row in enumerate(sheet.rows) if any(row[i] for i in words)]
    parts = [part(words, sheet.title, described, frozenset(), last=False)] if described else []
    for block in filter(None, blocks):
        title = sheet.title + (" (continued)" if parts else "")
        parts.append(part(block, title, list(range(len(labels))), sheet.rules, last=block is blocks[-1]))
    return parts


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
