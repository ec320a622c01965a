"""Help texts. Settings, their defaults and their descriptions are read from the files in conf/ and their comments."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasx.cli.commands import COMMANDS, PLAIN
from nasx.config import commands, plugins, schema
from nasx.core.files import load_yaml
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.cli.arguments import Line
    from nasx.config.provenance import Origin


EXIT_CODES = (
    "exit codes: 0 done, 1 a job failed, 2 an error that you can fix, 130 stopped (the same command resumes the run)"
)
OPTIONS = [
    ("--multirun, -m", "run one job for each combination of the values a,b,c"),
    ("--cfg job", "show the composed configuration and stop"),
    ("--info defaults", "show how the configuration was composed; also: config, searchpath, plugins, all"),
    ("--config-dir DIR", "your own folder with space/, method/, experiment/, ..."),
    ("--hydra-help", "show the options of Hydra"),
]


def overview() -> str:
    """Return the text of `nasx --help`."""
    steps = [
        ("nasx quickstart", "a first result, offline, in one to two minutes"),
        ("nasx list", "available methods, spaces, datasets and other choices"),
        ("nasx <command> --help", "settings, defaults and examples of a command"),
        ("nasx --version", ""),
    ]
    parts = [
        fitted("nasx: differentiable architecture search; spaces, methods and datasets in any combination"),
        "usage: nasx <command> key=value ...",
        _rows(list(COMMANDS.items())),
        "first steps\n" + _rows(steps),
        fitted("to use your own configuration files in any command: --config-dir FOLDER or NASX_CONFIG_DIR"),
        fitted(EXIT_CODES),
    ]
    return "\n\n".join(parts)


def command(name: str, line: Line) -> str:
    """Return the text of `nasx <command> --help`: the components that `line` selects, and their effective settings."""
    from nasx.cli import preflight
    from nasx.config import provenance

    fault, texts = "", load_yaml((Path(__file__).parent / "command_help.yaml").read_text(encoding="utf-8"))[name]
    try:
        line = preflight.normalize(name, line)
        preflight.check_line(name, line)
        found = provenance.trace(name, line.overrides, line.value("--config-dir"))
    except UserError as error:
        fault, found = str(error), provenance.trace(name)
    given = {} if fault else _given(line.overrides)
    parts = [
        fitted(f"nasx {name}: {COMMANDS[name]}"),
        fitted(texts["what"]),
        f"usage: nasx {name} [option ...] key=value ..." if name != "list" else "usage: nasx list [kind] [word ...]",
        "examples\n" + _rows(list(texts["examples"].items())),
    ]
    entry = commands.COMMANDS[name]
    groups = [*entry.read, *(["experiment", "launch", "debug"] if entry.groups else [])]
    if fault:
        why = "this command line is invalid, so the settings below are those of the default choices\n"
        parts.append(why + textwrap.indent(fault, "  "))
    if groups:
        folders = plugins.folders(line.value("--config-dir"))
        known = [
            [f"{c}*" if c == found.chosen.get(group) else c for c in plugins.choices(group, *folders)]
            for group in groups
        ]
        rows = [(group, ", ".join(own) or "(none)") for group, own in zip(groups, known, strict=True)]
        parts.append("choices (group=choice; * marks the selected one)\n" + _rows(rows))
    described = {key: describe_key(key, lines, given) for key, lines in found.lines.items()}
    rows = [(key, text) for key, text in described.items() if "." not in key]
    parts.append(("general settings\n" if groups else "settings\n") + _rows(rows))
    for group in ("study", "search", "retrain", "method", "space", "dataset", "stages"):
        rows = [(key, text) for key, text in described.items() if key.startswith(f"{group}.")]
        if group in groups and rows:
            head = f"settings of {group}={found.chosen.get(group)} (others: nasx {name} {group}=... --help)\n"
            parts.append(head + _rows(rows))
    return "\n\n".join([*parts, "options\n" + _rows(OPTIONS)])


def describe_key(key: str, lines: Sequence[Origin], given: Mapping[str, str]) -> str:
    """Format a key as `value  (source)`: its comment, and all other lines that set it (the last one takes effect)."""
    first, last = lines[0], lines[-1]
    said = [] if first.file else [first.comment]
    if key in given:
        said = ["given on this line", *said, f"{last.file or 'the default'}: {last.value}"]
    elif first is not last or last.file.partition("=")[0] not in ("", key.partition(".")[0]):
        said.append(": ".join(filter(None, (last.file, last.comment))))
    elif last.file:
        said = [last.comment]
    if first is not last and first.file:
        said.append(f"{first.file}: {first.value}")
    why = "; ".join(filter(None, said))
    return given.get(key, last.value) + (f"  ({why})" if why else "")


def plain_help(name: str) -> str:
    """Return the text of `nasx <command> --help` for a command without a configuration: its module docstring."""
    return fitted(f"nasx {name}: {COMMANDS[name]}\n\n{schema.docstring(PLAIN[name])}")


def bench() -> str:
    """Return the text of `nasx bench --help`: the usage in its module docstring."""
    return fitted(f"nasx bench: {COMMANDS['bench']}\n\n" + schema.docstring("nasx.cli.bench").split("\n\n")[1])


def _given(overrides: Sequence[str]) -> dict[str, str]:
    """Return a dictionary from dotted keys to values for the overrides `key=value`."""
    pairs = (text.lstrip("+").partition("=") for text in overrides if "=" in text)
    return {key: value.strip("\"'") for key, _, value in pairs}


def _columns() -> int:
    return shutil.get_terminal_size((120, 24)).columns


def _rows(rows: list[tuple[str, str]]) -> str:
    """Format keys and texts in two columns; keys wider than half of the terminal get a line of their own."""
    width = _columns()
    left = max((len(key) for key, _ in rows if len(key) <= width // 2), default=4) + 2
    lines: list[str] = []
    for key, text in rows:
        if len(key) > left:
            lines.append(f"  {key}")
            key = ""
        start, below = f"  {key.ljust(left)}", " " * (left + 2)
        lines += textwrap.wrap(text, width, initial_indent=start, subsequent_indent=below) or [start.rstrip()]
    return "\n".join(lines)


_ENTRY = re.compile(r" *\S+(?: \S+)* {2,}(?=\S)")
"""Pattern of a name and the spaces before its description."""


def fitted(text: str) -> str:
    """Wrap paragraphs and lines that are wider than the terminal, and keep their indentation."""
    width, blocks = _columns(), []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if all(len(line) <= width for line in lines):
            blocks.append(block)
        elif not any(line.startswith(" ") for line in lines):
            blocks.append(textwrap.fill(" ".join(lines), width))
        else:
            blocks.append("\n".join(_hanging(line, width) for line in _entries(lines)))
    return "\n\n".join(blocks)


def _entries(lines: Sequence[str]) -> list[str]:
    """Join each named entry with the following lines that are aligned with its description."""
    joined: list[str] = []
    column = 0
    for line in lines:
        if column and len(line) - len(line.lstrip()) == column:
            joined[-1] += f" {line.lstrip()}"
        else:
            named = _ENTRY.match(line)
            column = len(named[0]) if named else 0
            joined.append(line)
    return joined


def _hanging(line: str, width: int) -> str:
    """Wrap an indented line, with continuation lines aligned with its description.

    A description that starts in the right half of the terminal begins on a new line.
    """
    if len(line) <= width:
        return line
    named, indent = _ENTRY.match(line), len(line) - len(line.lstrip())
    if named and len(named[0]) > width // 2:
        below = " " * (indent + 4)
        return f"{named[0].rstrip()}\n" + textwrap.fill(
            line[named.end() :], width, initial_indent=below, subsequent_indent=below
        )
    below = " " * (len(named[0]) if named else indent + 4)
    return textwrap.fill(line, width, subsequent_indent=below, break_on_hyphens=False)
