"""`nasx list [KIND] [WORD ...]`: list the available components in tables, or all details of a named entry.

This module reads files and does not import components.

The description of a component is the first line of its class docstring, or the first comment in its file if several
components share a class (protocols, recipes). Experiments are described by their summary. The source is the text after
`Source:` in the component's file, its class docstring or its module docstring. The cost of a method is the paragraph
`Cost` in its module docstring. The options of a component are the keys in its file with their values.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nasx.config import experiments, plugins, schema
from nasx.core import spelling
from nasx.core.plain import Config
from nasx.errors import UserError
from nasx.tracking import lineage

if TYPE_CHECKING:
    from rich.table import Table

KINDS = {
    "methods": "method",
    "spaces": "space",
    "datasets": "dataset",
    "benchmarks": "benchmark",
    "protocols": "search",
    "recipes": "retrain",
    "studies": "study",
    "engines": "engine",
    "loggers": "logger",
    "launchers": "launch",
    "stages": "stages",
    "experiments": "experiment",
    "debug": "debug",
}
"""Kind of component on the command line -> configuration group."""
FEW = 40
"""Maximum number of choices listed in an error."""
WIDE = 120
"""Minimum terminal width for columns with sources and costs; also the width of output to files and pipes."""
BY_FILE = frozenset({"search", "retrain", "study", "engine", "stages", "launch", "experiment", "debug"})
"""Groups whose components share a class, so that the first comment in each file describes the component."""


class Entry(NamedTuple):
    """One component: its name, description, source, cost and options."""

    name: str
    line: str
    source: str
    cost: str = ""
    options: str = ""


def entries(group: str, folders: Sequence[Path]) -> Iterator[Entry]:
    """Yield the components of a group, sorted by name; files in earlier folders take precedence."""
    choices = plugins.choices(group, *folders)
    texts = {name: file.read_text(encoding="utf-8", errors="replace") for name, file in choices.items()}
    extended = {name: "\n".join(texts[each] for each in plugins.chain(name, texts)) for name in texts}
    found = {name: re.findall(r"^\s*_target_:\s*([\w.]+)", own, re.M) for name, own in extended.items()}
    targets = {name: own[0] if own else "" for name, own in found.items()}
    for name, text in texts.items():
        component = schema.component(targets[name])
        own = _first_comment(text)
        module = schema.docstring(component.module) if component else ""
        head = experiments.find(name, *folders) if group == "experiment" else None
        about = component.summary or module.partition("\n")[0] if component else ""
        shared = list(targets.values()).count(targets[name]) > 1 and bool(own)
        source = ""
        if component and group not in BY_FILE:
            source = _source(text, "# ") or _source(component.doc) or _source(module)
        line = (head and head.summary) or (own if shared or not about else about)
        settings = plugins.fields(name, texts)
        inner = settings.get(group)  # a method's file lists its settings under the group name
        yield Entry(name, line, source, _cost(module), _said(inner if isinstance(inner, dict) else settings))


def _first_comment(text: str) -> str:
    """Return the first sentence in the comments, without package directives, run commands and sources."""
    lines = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
    prose = [line for line in lines if not line.startswith(("@", "nasx ", "Source:"))]
    ends = next((i for i, line in enumerate(prose) if line.endswith((".", ":"))), len(prose) - 1)
    return " ".join(prose[: ends + 1])


def _source(docstring: str, mark: str = "") -> str:
    """Return the text after `Source:` or `Paper:` as one line, from a docstring or (with `mark`) a file's comments."""
    end = r"$" if mark else r"(?:\n\s*\n|\n\w[\w ]*:|\Z)"
    found = re.search(rf"^{mark}(?:Source|Paper)s?:\s*(.+?){end}", docstring, re.M if mark else re.M | re.S)
    return " ".join(found[1].split()) if found else ""


def _cost(docstring: str) -> str:
    """Return the paragraph that starts with `Cost` as one line, without that word."""
    found = re.search(r"^Cost(?: ((?:per|after) [\w ]+))?:\s*(.+?)(?:\n\s*\n|\Z)", docstring, re.M | re.S)
    return " ".join(f"{found[1] or ''}: {found[2]}".removeprefix(": ").split()) if found else ""


def _said(node: Config) -> str:
    """Format the fields of a component as key=value, and a nested component as Class(...)."""

    def said(value: object) -> str:
        if isinstance(value, Mapping):
            return f"{str(value.get('_target_')).rpartition('.')[2]}({_said(value)})"
        return "null" if value is None else str(value).lower() if value in (True, False) else str(value)

    return " ".join(f"{key}={said(value)}" for key, value in node.items() if key != "_target_")


def overrides(words: Sequence[str]) -> list[str]:
    """Convert the arguments of `nasx list` to overrides: a kind (`methods` or `method`), then words to search for."""
    settings = [word for word in words if re.match(r"(what|paper|words|hydra\.\S+)=", word)]
    first, *rest = [word for word in words if word not in settings] or [""]
    kind = {group: kind for kind, group in KINDS.items()}.get(first, first)
    filters = [*rest] if kind in (*KINDS, "all", "") else [first, *rest]
    what = [f"what={kind}"] if kind and filters == rest else []
    return [*settings, *what, *([lineage.override("words", filters)] if filters else [])]


class _Row(NamedTuple):
    kind: str
    entry: Entry
    head: experiments.Experiment | None

    def has(self, words: Sequence[str]) -> bool:
        """Return whether the entry contains all words, ignoring case."""
        texts: list[str] = [self.kind, *self.entry]
        if self.head:
            texts += [f"{group}={choice}" for group, choice in self.head.choices.items()]
            texts += [*self.head.commands, *(f"{p.row} {p.text}" for p in self.head.published)]
        text = "\n".join(texts).lower()
        return all(word.lower() in text for word in words)

    def choice(self, group: str) -> str:
        """Return the choice of an experiment in a group, from its first documented command or otherwise its file."""
        assert self.head is not None
        given = dict(word.split("=", 1) for word in " ".join(self.head.commands[:1]).split() if "=" in word)
        first, *more = (given.get(group) or self.head.choices.get(group, "")).split(",")
        return first + f" (+{len(more)})" * bool(more)

    def published(self) -> str:
        """Return the first published number of an experiment, and how many further published rows it covers."""
        assert self.head is not None
        words = {"error": "err. {} %", "accuracy": "acc. {} %", "perplexity": "ppl. {}"}
        more = len(self.head.published) - 1
        for printed in self.head.published:
            for metric, numbers in printed.numbers.items():
                if (kind := metric.rpartition(" ")[2]) in words:
                    number = next(iter(numbers.values())).partition(" ")[0]
                    return words[kind].format(number) + f" (+{more})" * bool(more)
        return ""


def _rows(kind: str, folders: Sequence[str]) -> Iterator[_Row]:
    among = [Path(folder) for folder in folders]
    for entry in entries(KINDS[kind], among):
        yield _Row(kind, entry, experiments.find(entry.name, *among) if kind == "experiments" else None)


def _details(row: _Row, width: int) -> str:
    entry, head = row.entry, row.head
    parts = [("", entry.line)]
    if head:
        parts += [("run", command) for command in head.commands]
        for p in head.published:
            parts.append(("published", f"{p.row}: {p.text}" + f", with {' '.join(p.overrides)}" * bool(p.overrides)))
        parts += [("not published", head.unpublished), ("cost", head.cost)]
    else:
        parts += [("source", entry.source), ("cost", entry.cost), ("options", entry.options)]
    lines, said = [f"{KINDS[row.kind]}={entry.name}"], ""
    for name, text in parts:
        if text:
            start = "  " if not name else "  " + ("" if name == said else name).ljust(15)
            lines += textwrap.wrap(
                text, width, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False
            )
            said = name
    return "\n".join(lines)


def _table(kind: str, rows: Sequence[_Row], width: int) -> Table:
    """Return a table with one row per entry; for experiments, with their components and first published number."""
    from rich.table import Table

    table = Table(
        title=f"{kind}: {KINDS[kind]}=...", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False
    )
    table.add_column("name", no_wrap=True, min_width=max(len(row.entry.name) for row in rows))
    if kind == "experiments":
        for name in ("space", "method", "published"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        if width >= WIDE:
            table.expand = True  # the cost takes the remaining width
            table.add_column("cost", no_wrap=True, overflow="ellipsis", ratio=1)
        for row in rows:
            assert row.head is not None
            cost = [row.head.cost] if width >= WIDE else []
            table.add_row(row.entry.name, row.choice("space"), row.choice("method"), row.published(), *cost)
        return table
    sourced = width >= WIDE and any(row.entry.source for row in rows)
    table.add_column("description", overflow="fold", ratio=3)
    if sourced:
        table.add_column("source", overflow="fold", ratio=2)
    for row in rows:
        table.add_row(*row.entry[: 3 if sourced else 2])
    return table


def _paper(paper: str) -> Table:
    """Return a table of the rows and figures in a paper, each with its commands or the reason for having none."""
    from rich.table import Table
    from rich.text import Text

    from nasx.results import coverage, targets

    title = f"{targets.PAPERS[paper]}: printed rows and figures"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 1, 0))
    table.add_column("row or figure", overflow="fold", ratio=2)
    table.add_column("datasets, or what it shows; command, or why there is none", overflow="fold", ratio=5)
    for entry in (*coverage.rows(paper), *coverage.figures(paper)):
        lines = [entry.shows, *(f"$ {command}" for command in entry.commands)]
        name = entry.name.removeprefix(f"{targets.SHORT[paper]}, ")
        table.add_row(Text(name), Text("\n".join([*lines, *([entry.reason] if entry.reason else [])])))
    return table


def main(cfg: Config, folders: Sequence[str]) -> None:
    """Print the entries that match `what`, `words` and `paper` in `cfg`. Raises UserError if there are none."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    if cfg.get("paper"):
        console.print(_paper(cfg["paper"]))
        return
    words = tuple(cfg.get("words") or ())
    if cfg["what"] not in ("all", *KINDS):
        raise UserError(f"what={cfg['what']}", "unknown kind", spelling.suggest(cfg["what"], ("all", *KINDS)))
    kinds = list(KINDS) if cfg["what"] == "all" else [cfg["what"]]
    rows = [row for kind in kinds for row in _rows(kind, folders)]
    if exact := [row for row in rows if words == (row.entry.name,)]:
        console.print("\n\n".join(_details(row, console.width) for row in exact), soft_wrap=True)
        return
    found = [row for row in rows if row.has(words)]
    if not found:
        kind = "" if cfg["what"] == "all" else f"{cfg['what']} "
        fault = "no entry matches all of these words" if len(words) > 1 else "no entry matches this word"
        unknown = next((word for word in words if not any(row.has([word]) for row in rows)), "")
        names = [row.entry.name for row in rows]
        near = spelling.nearest(unknown, names if kind else [*KINDS, *names]) if unknown else None
        if not unknown:
            remedy = f"use fewer words: nasx list {kind}{words[0]}"
        elif near:
            remedy = f"did you mean {near}?"
        elif kind and len(names) > FEW:
            remedy = f"nasx list {kind}prints all {len(names)}"
        else:
            remedy = f"choose from {', '.join(names if kind else KINDS)}"
        raise UserError(f"nasx list {kind}{' '.join(words)}", fault, remedy)
    for kind in kinds:
        if shown := [row for row in found if row.kind == kind]:
            console.print(_table(kind, shown, console.width))
            console.print()
    first = found[0]
    console.print(f"details of one entry: nasx list {first.kind} {first.entry.name}")
    console.print("entries that contain certain words: nasx list experiments tse space=darts")
