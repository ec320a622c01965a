"""The description of an experiment: the comment at the head of conf/experiment/<name>.yaml, in paragraphs.

    # @package _global_
    # nasx run experiment=<name>               the command; more may follow; a long one continues after \\
    # A description of one or more sentences.
    # Published: <row>: <numbers>              for each printed row that the command computes
    # Published: <row>: <numbers>, with <overrides>    the same, with these overrides added to the command
    # Published: nothing; <why>
    # Cost: <time and hardware, and the source of the figure>

<row> and <numbers> are the texts that nasx prints for the published numbers inside the package, so that the file, the
list of experiments and the tables cannot disagree. A user's own files need none of it.
Imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nasx.config import commands as config_commands
from nasx.config import plugins

MARKS = ("Published: ", "Cost: ")


class Printed(NamedTuple):
    """A printed row that an experiment computes: its name, its numbers, the overrides that lead to it."""

    row: str
    numbers: str
    words: tuple[str, ...] = ()

    @property
    def datasets(self) -> frozenset[str]:
        """The datasets that the numbers are on, as tables call them."""
        return frozenset(re.findall(r" on ([^ ,]+)", self.numbers))

    @property
    def settings(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in self.words)


class Experiment(NamedTuple):
    """The head of one file, and its choices."""

    commands: tuple[str, ...]
    about: str
    printed: tuple[Printed, ...]
    nothing: str
    """Reason why no printed row belongs to it; empty if one does."""
    cost: str
    choices: Mapping[str, str]
    """Group -> choice, of those that the file overrides."""

    @property
    def keys(self) -> frozenset[str]:
        """The settings in which its rows differ."""
        return frozenset(word.partition("=")[0] for printed in self.printed for word in printed.words)


def read(text: str) -> Experiment:
    """The head of an experiment's file. Whatever is not written in it stays empty."""
    head = re.match(r"(?:#.*\n)*", text)
    joined = re.sub(r" \\\n# +", " ", head[0] if head else "")
    lines = [line.lstrip("# ").strip() for line in joined.splitlines()]
    commands = tuple(line for line in lines if line.startswith("nasx "))
    paragraphs: list[str] = []
    for line in lines:
        if line.startswith(("@", "nasx ")):
            continue
        if paragraphs and not line.startswith(MARKS):
            paragraphs[-1] += f" {line}"
        else:
            paragraphs.append(line)
    about = next((p for p in paragraphs if not p.startswith(MARKS)), "")
    claims, cost = ([p.removeprefix(mark) for p in paragraphs if p.startswith(mark)] for mark in MARKS)
    nothing = "; ".join(p.removeprefix("nothing; ") for p in claims if p.startswith("nothing; "))
    printed = tuple(_printed(p) for p in claims if not p.startswith("nothing; "))
    choices = dict(re.findall(r"^ +- override /(\w+): (\w+)", text, re.M))
    return Experiment(commands, about, printed, nothing, " ".join(cost), choices)


def _printed(paragraph: str) -> Printed:
    row, _, rest = paragraph.rpartition(": ")
    numbers, _, words = rest.partition(", with ")
    return Printed(row, numbers, tuple(words.split()))


def command(name: str, experiment: Experiment, printed: Printed | None = None) -> str:
    """The command that computes a printed row (None: the experiment as it is): the file's first, without what it sweeps
    over, and the row's words. A seed among them makes a study one of that search alone, `from=RUN` a retraining of what
    RUN found; what is of a search says then which RUN that is."""
    first = (experiment.commands or (f"nasx search experiment={name}",))[0].split()
    words = printed.words if printed else ()
    if any(word.startswith("from=") for word in words):
        unread = ("seed=", *(f"{group}{sign}" for group in config_commands.COMMANDS["retrain"].unread for sign in ".="))
        return " ".join(["nasx retrain", f"experiment={name}", *(w for w in words if not w.startswith(unread))])
    given = {word.partition("=")[0] for word in words}
    if "seed" in given and first[1] == "study":
        words, given = ("study.searches=1", *words), given | {"study.searches"}
    swept = ("--multirun", *(word for word in first if "," in word))
    kept = (word for word in first if word not in swept and word.partition("=")[0] not in given)
    return " ".join([*kept, *words])


@lru_cache(maxsize=256)
def find(name: str | None, *folders: Path) -> Experiment | None:
    """The experiment of that name in `folders` (none: nasx's own and those of NASX_CONFIG_DIR and plugins), or None."""
    file = plugins.file("experiment", name, *folders) if name else None
    return None if file is None else read(file.read_text(encoding="utf-8"))


def published(choices: Mapping[str, object], config_dir: str | None = None) -> list[str]:
    """`experiment=...` of the choices where that computes printed rows: what it sets is then published itself."""
    name = choices.get("experiment")
    found = find(str(name), *plugins.folders(config_dir)) if name else None
    return [f"experiment={name}"] if found and found.printed else []
