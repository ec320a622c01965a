"""`nasx list`: what there is to choose from, a line each; of one kind, its sources, costs and options too, of
experiments their commands, printed numbers and costs.

Reads files; imports no component.

The line is the first of the docstring of the class that a choice names, or, where several choices share a class (a
protocol, a recipe, an experiment), of the choice's own file. The source is the line `Source:` of the choice's own file,
or of the docstring of the class, or of its module; the cost of a method is the paragraph `Cost` of its module, and its
options are the keys of its file with their values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nasx.config import experiments, schema

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
"""What the user calls it -> the group."""
BY_FILE = frozenset({"search", "retrain", "study", "engine", "stages", "launch", "experiment", "debug"})
"""Groups whose choices share a class, so that the file's first line tells them apart."""


class Entry(NamedTuple):
    """One choice: what to write, what it is, where it comes from."""

    name: str
    line: str
    source: str
    cost: str = ""
    options: str = ""


def entries(group: str, folders: Sequence[Path]) -> Iterator[Entry]:
    """The choices of a group, in the order of their names; an earlier folder hides a later one's file."""
    files: dict[str, Path] = {}
    for folder in folders:
        for file in sorted((folder / group).glob("*.yaml")):
            files.setdefault(file.stem, file)
    texts = {name: files[name].read_text(encoding="utf-8", errors="replace") for name in sorted(files)}
    targets = {name: _target(text) for name, text in texts.items()}
    for name, text in texts.items():
        component = schema.component(targets[name])
        own = _first_comment(text)
        module = schema.docstring(component.module) if component else ""
        about = component.summary or module.partition("\n")[0] if component else ""
        shared = list(targets.values()).count(targets[name]) > 1 and bool(own)
        source = (
            ""
            if group in BY_FILE or not component
            else _source(text, "# ") or _source(component.doc) or _source(module)
        )
        yield Entry(name, own if shared or not about else about, source, _cost(module), _options(group, text))


def _target(text: str) -> str:
    found = re.search(r"^\s*_target_:\s*([\w.]+)", text, re.M)
    return found[1] if found else ""


def _first_comment(text: str) -> str:
    """The first comment that is neither a package directive nor the run command, to the end of its sentence."""
    lines = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
    told = [line for line in lines if not line.startswith(("@", "nasx ", "Source:", *experiments.MARKS))]
    ends = next((i for i, line in enumerate(told) if line.endswith((".", ":"))), len(told) - 1)
    return " ".join(told[: ends + 1])


def _source(docstring: str, mark: str = "") -> str:
    """The paragraph that starts with `Source:` or `Paper:`, on one line; with a mark, the line in a file's comments."""
    end = r"$" if mark else r"(?:\n\s*\n|\n\w[\w ]*:|\Z)"
    found = re.search(rf"^{mark}(?:Source|Paper)s?:\s*(.+?){end}", docstring, re.M if mark else re.M | re.S)
    return " ".join(found[1].split()) if found else ""


def _cost(docstring: str) -> str:
    """The paragraph that starts with `Cost`, without that word, on one line."""
    found = re.search(r"^Cost(?: ((?:per|after) [\w ]+))?:\s*(.+?)(?:\n\s*\n|\Z)", docstring, re.M | re.S)
    return " ".join(f"{found[1] or ''}: {found[2]}".removeprefix(": ").split()) if found else ""


def _options(group: str, text: str) -> str:
    """key=value of the component's own fields, in the order of the file."""
    import yaml

    from nasx.core.files import load_yaml

    try:
        node = load_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError):  # told when it is chosen
        return ""
    inner = node.get(group) if isinstance(node, Mapping) else {}
    return _said(inner if isinstance(inner, Mapping) else node)


def _said(node: Mapping[str, Any]) -> str:
    """key=value of a component's fields; a component inside it as Class(...)."""

    def said(value: Any) -> str:
        if isinstance(value, Mapping):
            return f"{str(value.get('_target_')).rpartition('.')[2]}({_said(value)})"
        return "null" if value is None else str(value).lower() if value in (True, False) else str(value)

    return " ".join(f"{key}={said(value)}" for key, value in node.items() if key not in ("_target_", "defaults"))


def _experiments(found: Sequence[Entry], folders: Sequence[str]) -> Table:
    """Each experiment with the commands, the printed numbers and the cost that its file tells."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="experiments: experiment=...", title_justify="left", box=None, padding=(0, 2, 1, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("what it is, how to run it, what was published, what it costs", overflow="fold")
    for entry in found:
        told = experiments.find(entry.name, *map(Path, folders))
        assert told is not None
        lines = [told.about or entry.line, *(f"$ {command}" for command in told.commands)]
        lines += [
            f"· {printed.row}: {printed.numbers}" + f", with {' '.join(printed.words)}" * bool(printed.words)
            for printed in told.printed
        ]
        lines += [f"no printed number: {told.nothing}"] * bool(told.nothing) + [f"cost: {told.cost}"] * bool(told.cost)
        table.add_row(entry.name, Text("\n".join(lines)))
    return table


def _paper(paper: str) -> Table:
    """Each printed row and figure of a paper with its commands, or why there is none."""
    from rich.table import Table
    from rich.text import Text

    from nasx.results import coverage, targets

    title = f"{targets.PAPERS[paper]}: printed rows and figures"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 1, 0))
    table.add_column("row or figure", overflow="fold", ratio=2)
    table.add_column("data sets, or what it shows; command, or why there is none", overflow="fold", ratio=5)
    for entry in (*coverage.rows(paper), *coverage.figures(paper)):
        lines = [entry.shows, *(f"$ {command}" for command in entry.commands)]
        name = entry.name.removeprefix(f"{targets.SHORT[paper]}, ")
        table.add_row(Text(name), Text("\n".join([*lines, *([entry.reason] if entry.reason else [])])))
    return table


def main(cfg: Mapping[str, Any], folders: Sequence[str]) -> None:
    """Print the tables that `cfg["what"]` and `cfg["paper"]` ask for."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 160
    if cfg.get("paper"):
        console.print(_paper(cfg["paper"]))
        return
    whole = cfg["what"] == "all"
    for kind in KINDS if whole else [cfg["what"]]:
        found = list(entries(KINDS[kind], [Path(folder) for folder in folders]))
        sourced, priced = (not whole and any(getattr(entry, part) for entry in found) for part in ("source", "cost"))
        table = Table(title=f"{kind}: {KINDS[kind]}=...", title_justify="left", box=None, padding=(0, 2, 0, 0))
        if kind == "experiments" and not whole:
            console.print(_experiments(found, folders))
            continue
        table.add_column("name", no_wrap=True)
        table.add_column("what it is", overflow="fold", ratio=3)
        if sourced:
            table.add_column("source", overflow="fold", ratio=2)
        if priced:
            table.add_column("cost", overflow="fold", ratio=3)
            table.add_column("options and defaults", overflow="fold", ratio=3)
        for entry in found:
            table.add_row(
                *entry[:2], *([entry.source] if sourced else []), *(entry[3:] if priced else []), end_section=priced
            )
        console.print(table)
        console.print()
    if whole:
        console.print(
            "more of one kind (sources, costs, options): nasx list methods; all settings: "
            "nasx search method=darts --help",
            markup=False,
        )
