"""Settings that commands inherit from a run: its space, its dataset, and the structure of its network.

    nasx retrain from=RUN, nasx study from=RUN                  the space and the dataset of the search RUN
    nasx info from=RUN, nasx evaluate RUN, nasx diagnose RUN    the same, and the recipe of a retraining
    next: nasx ...                                              commands printed at the end of a run, ready to use

The command line overrides inherited settings: `dataset=NAME` with another name overrides the whole group, and
`dataset.size=64` overrides one setting. Inherited settings override the files in `conf/`. Does not import torch.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from nasx.config import commands as config_commands
from nasx.config import components, overrides, plugins, provenance
from nasx.config.compose import make_loader
from nasx.core import files, spelling
from nasx.core.plain import Config, Result, Row
from nasx.errors import UserError, printable
from nasx.spaces import genotypes
from nasx.tracking import records

INHERITED_GROUPS = ("space", "dataset")
"""Config groups that a retraining inherits from a search."""
QUOTES = "put quotes around a value with special characters: key='\"value\"'"
"""Remedy for an override that Hydra cannot parse."""
NOT_TEXT = ("true", "false", "null", "nan", "inf", "on", "off", "yes", "no")
"""Words that Hydra or YAML does not parse as text."""


class Parent(NamedTuple):
    """A run that another command starts from."""

    folder: Path
    config: Config
    """Content of config.yaml: the resolved configuration, and the name of the component in each group."""
    record: Mapping[str, object]
    """Content of result.json."""

    @property
    def choices(self) -> Mapping[str, object]:
        """Mapping from each config group to the name of the run's component."""
        return {str(group): choice for group, choice in self.config["choices"].items()}

    def block(self, group: str) -> Mapping[str, object]:
        """Return the settings of a config group; empty if there are none."""
        node = self.config.get(group)
        return node if isinstance(node, Mapping) else {}


# ---------------------------------------------------------------------------------------------------- parent run
def run_folder(name: str, out: str, kind: str = "") -> Path:
    """Return the folder of a run, given its folder or its name in `out`.

    Raises UserError, with the most similar name or a list of the runs of the requested `kind`, if there is no such run.
    """
    folder = records.locate(name, out)
    if folder is None:
        near, others = known_runs(name, out, kind)
        raise UserError(f"from={name}", "run not found", f"did you mean from={near}?" if near else f"name {others}")
    return folder


def known_runs(name: str, out: str, kind: str = "") -> tuple[str | None, str]:
    """Return the run in `out` with the name most similar to `name`, if any, and a text that lists the known names."""
    there = [path for path in Path(out).glob("*/") if not path.name.startswith(".")]
    if kind:
        there = [path for path in there if (files.read_json(path / "result.json") or {}).get("kind") == kind]
    known = sorted(path.name for path in there)
    listed = f": {spelling.shortened(known)}" if known else " (it has none yet)"
    what = f"finished run of nasx {kind}" if kind else "run"
    near = spelling.nearest(name.rstrip("/").rpartition("/")[2], known)
    return near, f"the folder of a {what}, or a {what} in {out}/{listed}"


def open_parent(folder: Path) -> Parent:
    """Return the configuration and record of the run in `folder`; a missing or damaged record is empty.

    Raises UserError if the configuration is missing, truncated or damaged, so that defaults never replace its settings.
    """
    held = records.configuration(folder)
    choices = None if held is None else held.get("choices")
    groups = (*INHERITED_GROUPS, "retrain") if held is not None and held.get("kind") == "retrain" else INHERITED_GROUPS
    if (
        held is None
        or not isinstance(choices, Mapping)
        or any(choices.get(group) and not isinstance(held.get(group), Mapping) for group in groups)
    ):
        path = folder / "config.yaml"
        remedy = (
            "this command reads the settings of the run from this file: copy it again from the original run folder, or "
            "replace from= with genotype=, space= and dataset="
        )
        fault = "is damaged or cannot be read" if os.path.lexists(path) else "is missing"
        raise UserError(str(path), fault, remedy)
    return Parent(folder, held, files.read_json(folder / "result.json") or {})


def parent(name: str, out: str) -> Parent:
    """Return the run `name`. Raises UserError if there is none, or if its folder is not a run folder."""
    folder = run_folder(name, out)
    if not any(os.path.lexists(folder / file) for file in ("config.yaml", "result.json")):
        raise UserError(f"from={name}", f"{folder} is not a run folder", "name a folder created by nasx")
    return open_parent(folder)


def finished_search(name: str, out: str) -> tuple[Path, Result]:
    """Return the folder and record of the finished search that `from=` names. Raises UserError if there is none."""
    folder = run_folder(name, out)
    found = records.finished(folder)
    if found is None:
        fault = f"{folder} contains no finished run (no readable result.json)"
        raise UserError(f"from={name}", fault, "run that search's command again: it will resume and finish")
    if found.get("kind") != "search" or not found.get("genotype"):
        remedy = f"use from={found['parent']}" if found.get("parent") else "name a run of nasx search"
        raise UserError(f"from={name}", f"is a run of nasx {found.get('kind')}, not a search", remedy)
    return folder, found


def epoch_row(folder: Path, epoch: int | None) -> Row:
    """Return the metrics row of a search after `epoch`, from 1 (None: the last). Raises UserError if it has none."""
    found = {row["epoch"]: row for row in records.read_rows(folder) if row.get("genotype")}
    epoch = max(found, default=0) if epoch is None else epoch
    if epoch not in found:
        there = f"it has epochs {min(found)} to {max(found)}" if found else "its metrics.jsonl is missing or empty"
        raise UserError(f"epoch={epoch}", f"{folder} has no cell for this epoch", there)
    return found[epoch]


PARENT_FIELDS = (
    "name", "choices", "protocol", "seed", "overrides", "labels", "changed", "family", "identity", "genotype",
)  # fmt: skip
"""Fields of a search's record that are copied into the record of a retraining."""


def parent_fields(record: Mapping[str, object] | None) -> dict[str, object] | None:
    """Return the fields that a retraining's record copies from the record of its search; None if no search is known."""
    return None if record is None else {"kind": "search", **{key: record.get(key) for key in PARENT_FIELDS}}


# --------------------------------------------------------------------------------------------------- inheriting
def adopt_settings(
    node: Mapping[str, object], held: Mapping[str, object], given: Collection[str] = ()
) -> dict[str, object]:
    """Return the component `node` with the settings of `held`, the same component in a parent run.

    Settings that are in `given` or missing in `held` stay as they are in `node`, and settings that only `held` has are
    ignored. If `held` is of another class, all settings stay as they are.
    """
    if held.get("_target_") != node.get("_target_"):
        return dict(node)
    return {**node, **{key: value for key, value in held.items() if key in node and key not in given}}


def split_dataset_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the dataset overrides of a command (including `path=`), in Hydra's syntax, and the other words."""
    ours, rest = [], []
    for word in words:
        key, equals, value = word.lstrip("-").partition("=")
        if equals and key in ("path", "dataset.path"):
            ours.append(override("dataset.path", value))
        elif equals and key.startswith("dataset."):
            ours.append(f"{key}={value}")
        else:
            rest.append(word)
    return ours, rest


def parsed(text: str) -> Override:
    """Parse an override with Hydra's grammar. Raises UserError if it cannot be parsed."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        raise UserError(text, "cannot be read", QUOTES) from None


def with_settings(node: Mapping[str, object], texts: Sequence[str], allow: Sequence[str] = ()) -> dict[str, object]:
    """Return the component `node` with the overrides `texts`, each of the form `group.key=value`. Raises UserError."""
    found, faults = dict(node), []
    for text in texts:
        group, _, key = text.partition("=")[0].partition(".")
        found[key] = parsed(text).value()
        if key not in node or key == "_target_":
            fault = f"{str(node.get('_target_')).rpartition('.')[2]} has no such setting"
            remedy = spelling.suggest(key, (k for k in node if k != "_target_"), "it has")
            faults.append(UserError(text, fault, remedy))
        faults += [] if faults else components.component_faults(group, found, (*config_commands.HOMES, *allow))
    if faults:
        raise UserError.join(faults)
    return found


def inherited_overrides(command: str, texts: Sequence[str], config_dir: str | None = None) -> list[str]:
    """Return the overrides that a command inherits by `from=`: space, dataset, and settings that differ from `conf/`.

    A genotype with one cell per layer fixes `retrain.layers`. Raises UserError if the run is not found, or if
    the runs of a sweep have different settings.
    """
    given = {text.partition("=")[0].lstrip("+~"): text for text in texts}
    names = _values(given.get("from", ""))
    if not names:
        return []
    out = (_values(given.get("out", "")) or ["outputs"])[0]

    @cache
    def composed(*chosen: str) -> Config:
        return make_loader(config_dir).compose(command, chosen).cfg

    folders = plugins.folders(config_dir)
    each = [_inherited(texts, given, parent(name, out), composed, folders) for name in names]
    found: dict[str, str] = {}
    for key in (key for mine in each for key in mine):
        values = list(dict.fromkeys(mine.get(key, "(default)") for mine in each))
        if len(values) > 1:
            fault = f"the runs have different values of {key}: {', '.join(sorted(values))}"
            remedy = f"retrain the runs with one value of {key} at a time, or give {key}=..."
            raise UserError(f"from={','.join(names)}", fault, remedy)
        found[key] = values[0]
    return [f"{key}={value}" for key, value in found.items()]


def _inherited(
    texts: Sequence[str],
    given: Mapping[str, str],
    run: Parent,
    composed: Callable[..., Config],
    folders: Sequence[Path],
) -> dict[str, str]:
    """Return the settings inherited from one parent: key -> value in Hydra's grammar. Raises UserError.

    `folders` are the folders of configuration files.
    """
    choices = {group: str(run.choices[group]) for group in INHERITED_GROUPS if run.choices.get(group)}
    found = {group: choice for group, choice in choices.items() if group not in given}
    for group, choice in found.items():
        if plugins.file(group, choice, *folders) is None:
            package = str(run.block(group).get("_target_")).partition(".")[0]
            theirs = ["--config-dir", "FOLDER", *([] if package == "nasx" else [f"allow=[{package}]"])]
            words = shlex.join(user_options(str(run.record.get("command"))) or theirs)
            fault = f"was run with {group}={choice}, whose file is in one of your own folders"
            raise UserError(f"from={run.folder}", fault, f"give that folder as the original command did: add {words}")
    same = [group for group, choice in choices.items() if group in found or given[group].partition("=")[2] == choice]
    try:
        base = composed(*provenance.choosing([*texts, *(f"{group}={choice}" for group, choice in found.items())]))
    except UserError:
        return found  # preflight.check_line finds the same error and reports it with all others
    for group in same:
        flat, held = records.flatten(base[group]), records.flatten(adopt_settings(base[group], run.block(group)))
        for key, value in held.items():
            differs = records.canonical(value) != records.canonical(flat.get(key))
            if differs and f"{group}.{key}" not in given and not key.endswith("_target_"):
                found[f"{group}.{key}"] = quote_value(value)
    cells = layers(str(run.record.get("genotype") or ""))
    if cells and "retrain.layers" not in given and base["retrain"].get("layers") not in (None, cells):
        found["retrain.layers"] = str(cells)
    return found


def layers(genotype: str) -> int:
    """Return the number of layers of a genotype with a separate cell for each layer; 0 for other genotypes."""
    try:
        return len(genotypes.untied_cells(genotype)) if genotypes.is_untied(genotype) else 0
    except UserError:
        return 0


def _values(text: str) -> list[str]:
    """Return the values of an override as texts; empty if it has no value or cannot be parsed."""
    try:
        parsed = OverridesParser.create().parse_override(text)
        several = list(parsed.sweep_iterator()) if parsed.is_choice_sweep() else [parsed.value()]
    except HydraException:
        return []
    texts = [value.text if isinstance(value, QuotedString) else value for value in several]
    return [str(value) for value in texts if value is not None]


# ------------------------------------------------------------------------------------------------------ writing
def quote_value(value: object) -> str:
    """Format a plain value in Hydra's grammar: text is quoted if it would be parsed as another type."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(quote_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quote_value(item)}" for key, item in value.items()) + "}"
    if not isinstance(value, str):
        return overrides.format_value(value)
    if re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./+-]*", value) and value.lower() not in NOT_TEXT:
        return value
    plain_text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # prevents interpolation
    return QuotedString(plain_text, Quote.double).with_quotes()


def override(key: str, value: object) -> str:
    """Format `key=value` in Hydra's grammar, for a command line."""
    return f"{key}={quote_value(value)}"


def user_options(command: str, *, allow_only: bool = False) -> list[str]:
    """Return the words of a command that name user-defined files and packages, which the next command needs too."""
    try:
        words = shlex.split(command)
    except ValueError:  # a record that nasx did not write
        return []
    found = []
    for before, word in zip(["", *words], words, strict=False):
        folder = "--config-dir" in (before, word.partition("=")[0])
        if word.startswith("allow=") or (folder and not allow_only):
            found.append(word)
    return found


def next_commands(record: Mapping[str, object], folder: Path) -> list[str]:
    """Return the commands that may follow a finished run, quoted for a shell."""
    command, out = str(record.get("command")), str(folder.parent)
    where = [] if out == "outputs" else [override("out", out)]
    lines = [["nasx", "table", *where]]
    if record["kind"] == "search":
        lines.append(["nasx", "retrain", override("from", str(folder)), *where, *user_options(command)])
    elif record["kind"] == "retrain" and record.get("test_accuracy") is not None:
        allow = user_options(command, allow_only=True)
        lines += [["nasx", "evaluate", as_positional(folder), *allow], ["nasx", "export", f"from={folder}", *allow]]
    return format_commands(*lines)


def fill_command(folder: str | Path) -> str:
    """Return the command, quoted for a shell, that looks up the finished runs in `folder` again."""
    return printable(shlex.join(["nasx", "bench", "fill", str(folder) or "."]))


def as_positional(path: Path) -> str:
    """Return a path as an argument that nasx/cli/arguments.py does not parse as `key=value`."""
    return f"./{path}" if "=" in str(path) and not path.is_absolute() else str(path)


def format_commands(*commands: Sequence[str]) -> list[str]:
    """Format commands as lines, the first with the prefix `next: `; control characters are replaced by `?`."""
    return [f"{'next:' if i == 0 else '     '} {printable(shlex.join(words))}" for i, words in enumerate(commands)]


def parent_faults(cfg: Config, command: str) -> Iterator[UserError]:
    """Yield a UserError for each error in `from=`, the search whose cell is trained, and in `epoch=`."""
    name, study = cfg.get("from"), cfg.get("study")
    read = command == "retrain" or (command == "study" and isinstance(study, Mapping) and study.get("searches") == 0)
    if cfg.get("epoch") is not None and not name:
        yield UserError(f"epoch={cfg['epoch']}", "chooses a cell of a search, but no search is given", "add from=RUN")
    if read and name and cfg.get("genotype") is None:
        try:
            folder, _ = finished_search(str(name), str(cfg.get("out")))
            if isinstance(cfg.get("epoch"), int) or cfg.get("relaxed"):
                epoch_row(folder, cfg["epoch"])
        except UserError as error:
            yield error
