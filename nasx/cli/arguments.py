"""Command-line parsing.

A command without a configuration (`nasx COMMAND WORD ... key=value ...`) is a module whose docstring is its help text
and whose `main(words) -> int | None` runs it; `parse` reads its arguments. `split_options` and `quote_override` prepare
the command lines of all other commands for Hydra.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from nasx.config import commands, field_names, plugins, trust
from nasx.core import spelling
from nasx.errors import UserError
from nasx.tracking import lineage


class Arguments(NamedTuple):
    """Parsed arguments: positional arguments, and options as strings, with defaults filled in."""

    positional: tuple[str, ...]
    options: dict[str, str]

    def number(self, name: str, least: int | None = None) -> int:
        """Return an option as an integer. Raises UserError if it is not an integer or is less than `least`."""
        try:
            value = int(self.options[name])
        except ValueError:
            raise UserError(f"{name}={self.options[name]}", "is not an integer", f"for example {name}=1") from None
        if least is not None and value < least:
            raise UserError(f"{name}={value}", f"is less than {least}", f"for example {name}={max(least, 10)}")
        return value

    def optional(self, name: str, least: int | None = None) -> int | None:
        """Return an option as an integer, or None if it is empty. Raises the same errors as `number`."""
        return self.number(name, least) if self.options[name] else None

    def several(self, name: str) -> tuple[str, ...]:
        """Return the values of a comma-separated option; enclosing brackets are optional."""
        return tuple(filter(None, re.split(r"[\s,]+", self.options[name].strip("[] "))))

    @property
    def allowed(self) -> tuple[str, ...]:
        """Packages whose classes may be instantiated, from allow=, NASX_ALLOW and plugins."""
        return (*self.several("allow"), *trust.from_environment(), *plugins.packages())

    def flag(self, name: str) -> bool:
        """Return an option as a bool. Raises UserError if it is neither true nor false."""
        value = self.options[name].lower()
        if value not in ("true", "false"):
            raise UserError(f"{name}={self.options[name]}", "is neither true nor false", f"use {name}=true")
        return value == "true"


def parse(
    command: str, words: Sequence[str], options: Mapping[str, str | None], *, positional: str | None = None
) -> Arguments:
    """Parse the arguments of a command.

    `options` maps names to defaults; None marks a required option. `positional` is the name of the positional arguments
    in messages; None means that the command takes none. Raises UserError if an option is missing or has no value, and
    for an unknown argument, with the nearest option as a suggestion.
    """
    where, found, rest = f"nasx {command}", dict(options), []
    for word in normalize_flags(words, options, [k for k, v in options.items() if v in ("true", "false")]):
        name, equals, value = word.partition("=")
        if equals and name.lstrip("-").isidentifier():
            name = name.lstrip("-")
            if name not in options:
                instead = _instead(where, name, value, options, positional)
                raise UserError(f"{where} {word}", f"has no option {name}", f"{instead}; see {where} --help")
            if not value:
                raise UserError(f"{where} {word}", "has no value", f"give {name}=VALUE")
            found[name] = value
        elif word.startswith("-") or positional is None:
            raise UserError(f"{where} {word}", "is not recognized", f"see {where} --help")
        else:
            rest.append(word)
    if missing := [name for name, value in found.items() if value is None]:
        raise UserError(where, f"needs {' and '.join(f'{name}=...' for name in missing)}", f"see {where} --help")
    return Arguments(tuple(rest), {name: value for name, value in found.items() if value is not None})


def with_config_dir(words: Sequence[str]) -> list[str]:
    """Remove `--config-dir FOLDER` from the arguments, and prepend FOLDER to NASX_CONFIG_DIR in this process."""
    rest = normalize_flags(words, ["config-dir"])
    for word in [word for word in rest if word.startswith("config-dir=")]:
        rest.remove(word)
        plugins.prepend(word.partition("=")[2])
    return rest


FOLDERS = ("out", "runs", "folder", "from")
"""Options that locate runs in at least one command."""


def _instead(where: str, name: str, value: str, options: Collection[str], positional: str | None) -> str:
    """Suggest a replacement for an option that the command does not have."""
    if name in FOLDERS and "runs" in options:
        return f"set the folder that contains the runs with runs={value}"
    if name in FOLDERS and positional:
        return f"write {positional} without {name}=: {where} {value}".rstrip()
    if near := spelling.nearest(name, options):
        return f"did you mean {near}?"
    has = [f"it has {', '.join(options)}"] * bool(options) + [f"it takes {positional}"] * bool(positional)
    return " and ".join(has) or "it has none"


def normalize_flags(words: Sequence[str], keys: Collection[str], flags: Collection[str] = ()) -> list[str]:
    """Rewrite `--paper idarts` and `--paper=idarts` as `paper=idarts`, and `--error` as `error=true`.

    `keys` are the settings to rewrite, and `flags` the boolean ones. Raises UserError if a value is missing.
    """
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:] in keys:
            if not equals and name[2:] in flags:
                value = rest.pop(0) if rest and rest[0].lower() in ("true", "false") else "true"
            elif not equals:
                if not rest:
                    raise UserError(word, "needs a value", f"write {name[2:]}=VALUE")
                value = rest.pop(0)
            word = f"{name[2:]}={value}"
        found.append(word)
    return found


def normalize_filter(text: str) -> str:
    """Rewrite `filter=method=darts,seed=1` for Hydra as `filter=[method:darts,seed:1]`; brackets are optional."""
    key, _, value = text.partition("=")
    if key != "filter" or re.search(r"[{'\"]", value) or value == "null":
        return text
    return f"filter=[{value.strip('[]').replace('=', ':')}]"


FLAGS = {
    "--help": "-h",
    "--hydra-help": "",
    "--version": "",
    "--resolve": "",
    "--run": "-r",
    "--multirun": "-m",
    "--shell-completion": "-sc",
}
VALUED = {"--cfg": "-c", "--package": "-p", "--config-dir": "-cd", "--info": "-i"}
MODES = ("--run", "--multirun", "--cfg", "--info", "--shell-completion")
FREE_TEXT_KEYS = ("genotype", "from", "space.keep")
"""Keys whose values have a grammar that differs from Hydra's."""
NAME_KEYS = ("name", "out", "out_file")
"""Keys whose values are names; comma-separated names define a sweep."""
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


class Line(NamedTuple):
    """A command line without the command name: Hydra options and overrides."""

    options: tuple[str, ...]
    overrides: tuple[str, ...]

    def has(self, *names: str) -> bool:
        return any(option.partition("=")[0] in names for option in self.options)

    def value(self, *names: str) -> str | None:
        """Return the last value given for any of the options `names`, or None if there is none."""
        found = [o.partition("=")[2] for o in self.options if o.partition("=")[0] in names and "=" in o]
        return found[-1] if found else None

    @property
    def multirun(self) -> bool:
        return self.has("--multirun") or "hydra.mode=MULTIRUN" in self.overrides

    @property
    def runs(self) -> bool:
        """Whether the command runs jobs; with --help, --cfg and similar options, it only prints information."""
        return not self.has("--help", "--hydra-help", "--cfg", "--info", "--shell-completion", "--version")


def split_options(words: Sequence[str]) -> Line:
    """Split arguments into options (in long form, with values as `--name=value`) and overrides. Raises UserError."""
    known = {**FLAGS, **VALUED}
    short = {s: name for name, s in known.items() if s}
    options: list[str] = []
    overrides: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or re.match(r"-\d", word):
            overrides.append(word)
            continue
        name, equals, value = word.partition("=")
        name = short.get(name, name).replace("shell_completion", "shell-completion")
        if name in VALUED:
            if not equals and rest and (name != "--info" or rest[0] in INFO):
                value = rest.pop(0)
            if not value and name != "--info":
                raise UserError(word, "needs a value", {"--cfg": "write --cfg job"}.get(name, f"write {name} VALUE"))
            options.append(f"{name}={value or 'all'}")
        elif name in FLAGS:
            options.append(name)
        else:
            given = name.lstrip("-").replace("-", "_")
            if given in field_names.OURS:
                ours = " or ".join(field_names.OURS[given])
                raise UserError(word, "unknown option", f"settings are written key=value, and this one is {ours}")
            near, (key, dot, last) = spelling.nearest(name, known), name.lstrip("-").partition(".")
            groups = {group for entry in commands.COMMANDS.values() for group in (*entry.groups, *commands.DELTAS)}
            group = key if key in groups else spelling.nearest(key, sorted(groups)) if equals and not near else None
            if group:
                value = value or (rest[0] if rest and not re.search("^-|=", rest[0]) else "NAME")
                raise UserError(word, "unknown option", f"use {group}{dot}{last}={value}")
            remedy = spelling.suggest(name, known, "settings are written key=value; options are")
            raise UserError(word, "unknown option", remedy)
    modes = [option for option in options if option.partition("=")[0] in MODES]
    if len(modes) > 1:
        raise UserError(" ".join(modes), "are mutually exclusive", "give one of them")
    if "--resolve" in options and not any(option.startswith("--cfg=") for option in options):
        raise UserError("--resolve", "only applies to --cfg", "write --cfg job --resolve")
    return Line(tuple(options), tuple(overrides))


def quote_override(text: str) -> str:
    """Quote the value of an override if Hydra's grammar would reject it or parse it as a number or a boolean.

    This applies to the values of `FREE_TEXT_KEYS`, to names such as 2024, and to non-ASCII values outside lists.
    """
    key, equals, value = text.partition("=")
    if not equals or value[:1] in ("'", '"'):
        return text
    if key in FREE_TEXT_KEYS and not re.fullmatch(r"[\w.,/+-]*", value):
        return lineage.override(key, value)
    if value.isascii() and not (key in (*FREE_TEXT_KEYS, *NAME_KEYS) and re.fullmatch(r"[\w.,/+-]*", value)):
        return text
    if value[:1] in ("[", "{"):
        return text
    parts = (lineage.quote_value(x) if is_numeric(x) or not x.isascii() else x for x in value.split(","))
    return f"{key}={','.join(parts)}"


def is_numeric(text: str) -> bool:
    """Return whether Hydra would parse `text` as a number or a boolean."""
    try:
        return text.lower() in ("true", "false") or float(text) is not None
    except ValueError:
        return False
