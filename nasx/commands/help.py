"""The help texts. What can be set, and its default, is read from conf/, comments included: nothing is said twice."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from nasx import config
from nasx.checks import schema
from nasx.commands import COMMANDS, PLAIN

if TYPE_CHECKING:
    from nasx.preflight import Line

EXAMPLES = {
    "search": [("nasx search experiment=quickstart", "a first result, offline, in under two minutes"),
               ("nasx search method=darts space=nb201 dataset=cifar10", "one search"),
               ("nasx search method=darts method.order=2 search.epochs=10 device=cpu", "with other settings"),
               ("nasx search --multirun method=darts,random seed=0,1,2,3", "eight searches")],
    "retrain": [("nasx retrain from=outputs/<run>", "retrain what a search has found"),
                ("nasx retrain space=darts genotype=DARTS_V2 retrain.epochs=100", "a published architecture"),
                ("nasx retrain from=<run> --multirun seed=0,1,2", "three times")],
    "run": [("nasx run experiment=quickstart", "search and look up"),
            ("nasx run space=darts then=retrain retrain.epochs=100", "search, look up where possible, retrain")],
    "study": [("nasx study study=tse method=tse space=darts", "four searches, the best cell three times more"),
              ("nasx study study=best_of_four space=s2 dataset=svhn retrain=robust_small", "S1 to S4, as printed"),
              ("nasx study study=transfer from=outputs/<run> dataset=cifar100", "a cell on another data set")],
    "table": [("nasx table", "all runs under outputs/"),
              ("nasx table format=latex out_file=table.tex filter=[space=nb201]", "for a paper")],
    "list": [("nasx list", "everything"), ("nasx list methods", "methods only")],
}
WHAT = {
    "search": "Searches an architecture: trains a supernet of `space` on `dataset`, moves its architecture by\n"
              "`method`, discretizes, and looks the result up where a benchmark knows it. The same command resumes\n"
              "an unfinished run and returns at once for a finished one.",
    "retrain": "Trains an architecture from scratch by a published recipe and reports its test accuracy. Space, data\n"
               "set and recipe follow from the run that `from` names, unless they are given.",
    "run": "Does what search does, then looks the architecture up or retrains it: one command, one configuration.",
    "study": "Does what a publication does: searches with several seeds, chooses a cell, retrains it with several\n"
             "seeds, and reports mean ± deviation. Each step is an ordinary run; finished ones are not done again.",
    "table": "Collects finished runs into mean ± deviation with the number of runs, beside published numbers.",
    "list": "Shows what there is to choose from, with one line and the source of each.",
}


def overview() -> str:
    """`nasx --help`."""
    width = max(map(len, COMMANDS)) + 2
    rows = "\n".join(f"  {name.ljust(width)}{line}" for name, line in COMMANDS.items())
    return f"""nasx: differentiable architecture search; spaces, methods and data sets in any combination

usage: nasx <command> key=value ...

{rows}

first steps
  nasx search experiment=quickstart   a first result, offline, in under two minutes
  nasx list                           what there is to choose from
  nasx <command> --help               settings, defaults and examples of a command
  nasx --version

exit codes: 0 done, 1 a job failed, 2 the command can be mended, 130 stopped (the same command resumes)"""


def command(name: str, line: Line) -> str:
    """`nasx <command> --help`; the chosen groups show their own settings."""
    folders = [Path(d) for d in (line.value("--config-dir"),) if d] + [config.conf_dir()]
    parts = [f"nasx {name}: {COMMANDS[name]}", WHAT[name],
             f"usage: nasx {name} [option ...] key=value ..." if name != "list" else "usage: nasx list [what]"]
    parts.append("examples\n" + _rows(EXAMPLES[name]))
    entry = config.COMMANDS[name]
    if entry.groups:
        chosen = _chosen(folders, line.overrides)
        groups = [g for g in entry.groups if g not in entry.unread] + ["experiment", "launch"]
        parts.append("choices (group=choice; * is the default)\n" + _rows(
            [(group, ", ".join(f"{c}*" if c == chosen.get(group) else c for c in choices(folders, group)) or "(none)")
             for group in groups]))
        parts.append("settings of the job\n" + _rows(settings(folders, name)))
        for group in ("study", "search", "retrain", "method", "space", "dataset", "stages"):
            file = _file(folders, f"{group}/{chosen.get(group)}.yaml")
            if group in groups and file:
                rows = [(f"{group}.{key}", text) for key, text in comments(file, group) if key != "_target_"]
                parts.append(f"settings of {group}={chosen[group]} (nasx {name} {group}=... --help shows another's)\n"
                             + _rows(rows))
    else:
        parts.append("settings\n" + _rows(settings(folders, name)))
    parts.append("options\n" + _rows([
        ("--multirun, -m", "one job for each combination of values a,b,c"),
        ("--cfg job", "show the composed configuration and stop"),
        ("--info defaults", "show how it was composed; also: config, searchpath, plugins, all"),
        ("--config-dir DIR", "a folder of your own with space/, method/, experiment/, ..."),
        ("--hydra-help", "options of Hydra, on which this stands")]))
    return "\n\n".join(parts)


def plain(name: str) -> str:
    """`nasx <command> --help` of a command without a configuration: what its module documents."""
    return f"nasx {name}: {COMMANDS[name]}\n\n{schema.docstring(PLAIN[name])}"


def bench() -> str:
    """`nasx bench --help`: the usage that its module documents."""
    return f"nasx bench: {COMMANDS['bench']}\n\n" + schema.docstring("nasx.benchmarks.command").split("\n\n")[1]


def choices(folders: list[Path], group: str) -> list[str]:
    """The choices of a group, over all folders."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def settings(folders: list[Path], name: str) -> list[tuple[str, str]]:
    """(key, default and comment) of a command's own keys, those of the file that it builds on first."""
    file = _file(folders, f"{name}.yaml")
    assert file is not None, name
    base = [(key, text) for key, text in settings(folders, "search")] if "\n  - search " in file.read_text() else []
    return base + comments(file)


def comments(file: Path, group: str = "") -> list[tuple[str, str]]:
    """(key, `default  comment`) of the keys at the top level of a configuration file, or under its key `group`.

    With `group` also those of the components inside: `inner.key`.
    """
    text = file.read_text(encoding="utf-8", errors="replace")
    inside = re.search(rf"^{group}:[ ]*(?:#.*)?\n((?:[ #].*\n)+)", text, re.M) if group else None
    rows: list[tuple[str, str]] = []
    path: list[str] = []
    for line in (textwrap.dedent(inside[1]) if inside else text).splitlines():
        match = re.match(r"((?:  )*)(\w+):(?:[ ]+([^#]*?))?\s*(?:#\s*(.*))?$", line)
        if match is None or (match[1] and not group):
            continue
        path = [*path[:len(match[1]) // 2], match[2]]
        if match[3] and path[0] != "defaults" and (len(path) == 1 or match[2] != "_target_"):
            rows.append((".".join(path), f"{match[3]}" + (f"  ({match[4]})" if match[4] else "")))
    return rows


def _chosen(folders: list[Path], overrides: tuple[str, ...]) -> dict[str, str]:
    """The default choices, a space's own protocol among them, and those on the command line."""
    file = _file(folders, "search.yaml")
    assert file is not None
    chosen = dict(re.findall(r'^  - (\w+): "?(\w+)', file.read_text(), re.M))
    given = dict(re.findall(r"^(\w+)=(\w+)$", "\n".join(overrides), re.M))
    space = _file(folders, f"space/{given.get('space', chosen['space'])}.yaml")
    text = space.read_text(encoding="utf-8", errors="replace") if space else ""
    own = re.findall(r"override /(\w+)[@\w.]*: (\w+)", text)
    return {**chosen, **dict(own), **given}


def _file(folders: list[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _rows(rows: list[tuple[str, str]]) -> str:
    left = min(max((len(key) for key, _ in rows), default=0), 72) + 2
    width = max(shutil.get_terminal_size((120, 24)).columns, left + 40)
    return "\n".join(textwrap.fill(text, width, initial_indent=f"  {key.ljust(left)}",
                                   subsequent_indent=" " * (left + 2)) for key, text in rows)
