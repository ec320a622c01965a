"""The origin of each value in a configuration: all files that set its key, with the comments on those lines.

Several files may set the same key: that of its group, and those of a method, of stages, of a pair or an experiment.
The last value takes effect; help shows it, and errors state it as the default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import yaml
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from nasx.config import commands, plugins
from nasx.config import overrides as config_overrides
from nasx.config.compose import make_loader, translate
from nasx.core.files import compose_yaml
from nasx.errors import UserError


class Origin(NamedTuple):
    """A line that sets a key: its file (`pair=nb201_gdas`; empty for the command's own file), value and comment."""

    file: str
    value: str
    comment: str = ""


class Origins(NamedTuple):
    """The chosen files (group -> choice) and the lines that set each dotted key; the last line takes effect."""

    chosen: dict[str, str]
    lines: dict[str, list[Origin]]

    def default_value(self, key: str) -> str | None:
        """Return the value that the files give a key, in command-line syntax; None if no file sets it."""
        return self.lines[key][-1].value.replace(", ", ",").strip("\"'") if key in self.lines else None


def trace(command: str, overrides: Sequence[str] = (), config_dir: str | None = None) -> Origins:
    """Trace the files that a command line chooses, ignoring overrides that set values. Raises UserError."""
    loader, groups = make_loader(config_dir), choosing(overrides)
    folders = plugins.folders(config_dir)
    try:
        loader.compose(command, groups)  # raises nasx's own error for an invalid file
        files = loader.compute_defaults_list(command, groups, RunMode.RUN).defaults
        found = Origins({}, {})
        for file in files:
            name = str(file.config_path)
            group, choice = name.split("/", 1) if "/" in name else ("", name)
            if (path := plugins.file(group, choice, *folders)) is None:
                continue
            found.chosen.update({group: choice} if group else {})
            for key, value, comment in values(path.read_text(encoding="utf-8")):
                if group == "experiment" and key.partition(".")[0] == "meta":  # the description: see experiments.py
                    continue
                dotted = f"{file.package}.{key}" if file.package else key
                found.lines.setdefault(dotted, []).append(Origin(f"{group}={choice}" if group else "", value, comment))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise translate(error) from error
    return found


def default_lookup(
    command: str, overrides: Sequence[str], config_dir: str | None = None
) -> Callable[[str], str | None]:
    """Return `Origins.default_value` for the chosen files; they are read on the first call."""

    @cache
    def origins() -> Origins:
        try:
            return trace(command, overrides, config_dir)
        except UserError:
            return Origins({}, {})

    return lambda key: origins().default_value(key)


def choosing(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that choose the file of a config group, with only the first of several values."""
    groups = {*commands.DELTAS, *(group for command in commands.COMMANDS.values() for group in command.groups)}
    return [
        text if "[" in text else text.partition(",")[0]
        for text in overrides
        if config_overrides.first_part(text) in groups
    ]


def values(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, value as written, comment on its line) for each setting in a file, including nested ones."""
    yield from _values(text, compose_yaml(text, yaml.SafeLoader), "")  # this loader's marks count characters


def _values(text: str, node: object, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        key = f"{prefix}{name.value}"
        if key in ("defaults", "hydra") or name.value == "_target_":
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _values(text, value, f"{key}.")
            continue
        rest = re.match(r"[ \t]*#[ \t]*(.*)", text[value.end_mark.index :].partition("\n")[0])
        yield key, _written(text, value), rest[1].strip() if rest else ""


def _written(text: str, node: yaml.Node) -> str:
    """Return the source text of a value in the YAML file, on one line."""
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(_written(text, item) for item in node.value)}]"
    return " ".join(text[node.start_mark.index : node.end_mark.index].split()) or "null"
