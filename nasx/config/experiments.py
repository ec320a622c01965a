"""The description of an experiment: the block `meta` of conf/experiment/<name>.yaml, not part of the configuration.

    meta:
      commands: [nasx run experiment=<name>, ...]       the first computes the rows without `overrides`
      summary: A description of one or more sentences.
      published:                                        the rows of a paper's tables that the command reproduces
        - row: iDARTS, Table 1, iDARTS                  name of the row: see nasx/results/targets.py
          numbers: {test accuracy: {CIFAR-10: 93.58 +- 0.32}}
          spread: over 3 searches                       the runs over which the +- is computed, if the row has one
          overrides: [from=RUN, ...]                    added to the command for this row, if any
      unpublished: Reason why the command reproduces no row of a paper, if it reproduces none.
      cost: Time and hardware, and the source of these numbers.

A user's own files do not need this block. `compose.BoundedFileSource` removes it from the configuration. This module
imports no slow packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from nasx.config import commands as config_commands
from nasx.config import paths, plugins
from nasx.core.files import compose_yaml
from nasx.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter


class Printed(NamedTuple):
    """A row of a paper's table that an experiment reproduces."""

    row: str
    numbers: Mapping[str, Mapping[str, str]]
    """Metric -> dataset name in tables -> number."""
    spread: str = ""
    """The runs over which the +- is computed; empty if the row has none."""
    overrides: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Format the numbers as a single string, as `targets.describe` does."""
        metrics = (
            f"{metric} " + ", ".join(f"{number} on {dataset}" for dataset, number in by_dataset.items())
            for metric, by_dataset in self.numbers.items()
        )
        return ", ".join(metrics) + f" ({self.spread})" * bool(self.spread)

    @property
    def datasets(self) -> frozenset[str]:
        """The datasets for which the row has numbers."""
        return frozenset(dataset for by_dataset in self.numbers.values() for dataset in by_dataset)

    @property
    def settings(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in self.overrides)


class Experiment(NamedTuple):
    """The block `meta` of one file, and the choices in the file's defaults list."""

    commands: tuple[str, ...] = ()
    summary: str = ""
    published: tuple[Printed, ...] = ()
    unpublished: str = ""
    """Reason why the experiment reproduces no row of a paper; empty if it reproduces one."""
    cost: str = ""
    choices: Mapping[str, str] = {}
    """Group -> choice, for the groups that the file overrides."""

    @property
    def keys(self) -> frozenset[str]:
        """The keys that the overrides of any row set."""
        return frozenset(word.partition("=")[0] for printed in self.published for word in printed.overrides)


@cache
def _adapter() -> TypeAdapter[Experiment]:
    from pydantic import TypeAdapter

    return TypeAdapter(Experiment)


def read(text: str, where: str = "experiment") -> Experiment:
    """Read an experiment's description from the text of its file; empty if it has none or is not valid YAML.

    Raises UserError for an invalid block `meta`; `where` names the file in the message.
    """
    from pydantic import ValidationError

    try:
        root = compose_yaml(text)
        node = yaml.BaseLoader("").construct_document(root) if root else None  # keeps scalars as text: 24.70
    except (ValueError, RecursionError, yaml.YAMLError):  # reported when the experiment is chosen
        node = None
    if not isinstance(node, Mapping):
        return Experiment()
    lines = [line for line in node.get("defaults") or () if isinstance(line, Mapping)]
    choices = {
        key.removeprefix("override /"): choice
        for line in lines
        for key, choice in line.items()
        if key.startswith("override /") and isinstance(choice, str)
    }
    try:
        found = _adapter().validate_python(node.get("meta") or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("meta", *first["loc"])))
        raise UserError(f"{where}, {key}", first["msg"], "correct the file") from None
    return found._replace(choices=choices)


def command(name: str, experiment: Experiment, printed: Printed | None = None) -> str:
    """Return the command that reproduces the row `printed`, or if it is None, that runs the experiment itself.

    It is the first command in the file, without sweeps (`key=a,b`), followed by the row's overrides. If they set a
    seed, a study runs only that search. If they contain `from=RUN`, the command retrains the cell of RUN, without the
    row's seed and search overrides, which identify RUN.
    """
    first = (experiment.commands or (f"nasx search experiment={name}",))[0].split()
    words = printed.overrides if printed else ()
    if any(word.startswith("from=") for word in words):
        unread = ("seed=", *(f"{group}{sign}" for group in config_commands.COMMANDS["retrain"].unread for sign in ".="))
        return " ".join(["nasx retrain", f"experiment={name}", *(w for w in words if not w.startswith(unread))])
    given = {word.partition("=")[0] for word in words}
    if "seed" in given and first[1] == "study":
        words, given = ("study.searches=1", *words), given | {"study.searches"}
    swept = ("--multirun", *(word for word in first if "," in word))
    kept = (word for word in first if word not in swept and word.partition("=")[0] not in given)
    return " ".join([*kept, *words])


@cache
def _moved() -> dict[str, str]:
    names = plugins.choices("experiment", paths.conf_dir())
    return {name.removeprefix("baselines/").replace("/", "_"): name for name in names}


def present(name: str) -> str:
    """Return the current name of an experiment: up to version 0.1.0, `idarts/nb201` was `idarts_nb201`."""
    return _moved().get(name, name)


@lru_cache(maxsize=256)
def find(name: str | None, *folders: Path) -> Experiment | None:
    """Return the experiment `name` in `folders` (default: those of nasx, NASX_CONFIG_DIR and plugins), or None."""
    file = plugins.file("experiment", name, *folders) if name else None
    return None if file is None else read(file.read_text(encoding="utf-8", errors="replace"), str(file))


def published(choices: Mapping[str, object], config_dir: str | None = None) -> list[str]:
    """Return [`experiment=...`] if the chosen experiment is published, that is, reproduces rows of a paper; else []."""
    name = choices.get("experiment")
    found = find(str(name), *plugins.folders(config_dir)) if name else None
    return [f"experiment={name}"] if found and found.published else []
