"""`nasx list`: what there is to choose from, with one line and the source of each. Reads files; imports no component.

The line is the first of the docstring of the class that a choice names, or, where several choices share a class (a
protocol, a recipe, an experiment), of the choice's own file. The source is the line `Source:` or `Paper:` of the
docstring of the class, or of its module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nasx import schema

KINDS = {"methods": "method", "spaces": "space", "datasets": "dataset", "benchmarks": "benchmark",
         "protocols": "search", "recipes": "retrain", "engines": "engine", "experiments": "experiment"}
"""What the user calls it -> the group."""
BY_FILE = frozenset({"search", "retrain", "engine", "experiment"})
"""Groups whose choices share a class, so that the file's first line tells them apart."""


class Entry(NamedTuple):
    """One choice: what to write, what it is, where it comes from."""

    name: str
    line: str
    source: str


def entries(group: str, folders: Sequence[Path]) -> Iterator[Entry]:
    """The choices of a group, in the order of their names; an earlier folder hides a later one's file."""
    files: dict[str, Path] = {}
    for folder in folders:
        for file in sorted((folder / group).glob("*.yaml")):
            files.setdefault(file.stem, file)
    texts = {name: files[name].read_text(encoding="utf-8") for name in sorted(files)}
    targets = {name: _target(text) for name, text in texts.items()}
    for name, text in texts.items():
        component = schema.component(targets[name])
        own = _first_comment(text)
        module = schema.docstring(component.module) if component else ""
        about = component.summary or module.partition("\n")[0] if component else ""
        shared = list(targets.values()).count(targets[name]) > 1 and bool(own)
        yield Entry(name, own if shared or not about else about, "" if group in BY_FILE or not component else
                    _source(component.doc) or _source(module))


def _target(text: str) -> str:
    found = re.search(r"^\s*_target_:\s*([\w.]+)", text, re.M)
    return found[1] if found else ""


def _first_comment(text: str) -> str:
    """The first line of comment that is neither a package directive nor the run command, as a sentence."""
    lines = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
    return next((line for line in lines if not line.startswith(("@", "nasx "))), "")


def _source(docstring: str) -> str:
    """The paragraph that starts with `Source:` or `Paper:`, on one line."""
    found = re.search(r"^(?:Source|Paper)s?:\s*(.+?)(?:\n\s*\n|\n\w[\w ]*:|\Z)", docstring, re.M | re.S)
    return " ".join(found[1].split()) if found else ""


def main(cfg: Mapping[str, Any], folders: Sequence[str]) -> None:
    """Print the tables that `cfg["what"]` asks for."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    for kind in KINDS if cfg["what"] == "all" else [cfg["what"]]:
        found = list(entries(KINDS[kind], [Path(folder) for folder in folders]))
        sourced = any(entry.source for entry in found)
        table = Table(title=f"{kind}: {KINDS[kind]}=...", title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("name", no_wrap=True)
        table.add_column("what it is", overflow="fold", ratio=3)
        if sourced:
            table.add_column("source", overflow="fold", ratio=2)
        for entry in found:
            table.add_row(*(entry if sourced else entry[:2]))
        console.print(table)
        console.print()
