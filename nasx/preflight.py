"""What the command line asks for, looked at before Hydra acts on it.

`arrange` puts options before overrides, as Hydra's parser wants them. `examine` composes the configuration of every
job that the line asks for, in memory, and reports all faults at once in nasx's own words: Hydra stops at the first,
and advises `+key=` for a typo, which would add a key that nobody reads.

Of a sweep the first job is examined, and each further value of each swept key in it: linear in the values, not in
the jobs. What only a combination shows is found by `config.check` when that job starts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from nasx import config, origins, records, sweeps
from nasx.checks import trust
from nasx.composition import Loader, make_loader, mapping, plain, published, translate
from nasx.errors import UserError
from nasx.folders import files

__all__ = ["arrange", "examine", "make_loader", "options", "plain", "published", "rewritten", "run_folder", "translate"]

FLAGS = {"--help": "-h", "--hydra-help": "", "--version": "", "--resolve": "", "--run": "-r", "--multirun": "-m",
         "--shell-completion": "-sc", "--shell_completion": "-sc"}
VALUED = {"--cfg": "-c", "--package": "-p", "--config-dir": "-cd", "--info": "-i"}
MODES = ("--run", "--multirun", "--cfg", "--info", "--shell-completion")
GRAMMARLESS = ("genotype", "from", "space.keep")
"""Keys of texts in a grammar of their own."""
NAMES = ("name", "out", "out_file")
"""Keys of names, of which several are a sweep."""
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


class Line(NamedTuple):
    """A command line without the command: Hydra's options, and the overrides."""

    options: tuple[str, ...]
    overrides: tuple[str, ...]

    def has(self, *names: str) -> bool:
        return any(option.partition("=")[0] in names for option in self.options)

    def value(self, *names: str) -> str | None:
        """The value of an option (the last where it is given twice)."""
        found = [o.partition("=")[2] for o in self.options if o.partition("=")[0] in names and "=" in o]
        return found[-1] if found else None

    @property
    def multirun(self) -> bool:
        return self.has("--multirun")

    @property
    def runs(self) -> bool:
        """Whether jobs will run; otherwise something is only shown."""
        return not self.has("--help", "--hydra-help", "--cfg", "--info", "--shell-completion", "--version")


def arrange(words: Sequence[str]) -> Line:
    """Options in their long form, with `=` where they take a value, and the rest. Raises UserError."""
    short = {s: name for name, s in {**FLAGS, **VALUED}.items() if s and "_" not in name}
    known = [name for name in (*FLAGS, *VALUED) if "_" not in name]
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
            raise UserError(word, "there is no such option", f"options are {', '.join(known)}"
                            + config.did_you_mean(name, known) + "; settings are written key=value")
    modes = [option for option in options if option.partition("=")[0] in MODES]
    if len(modes) > 1:
        raise UserError(" ".join(modes), "exclude each other", "give one of them")
    if "--resolve" in options and not any(option.startswith("--cfg=") for option in options):
        raise UserError("--resolve", "says how --cfg shows values", "write --cfg job --resolve")
    return Line(tuple(options), tuple(overrides))


# ------------------------------------------------------------------------------------------------- rewrite
def rewritten(command: str, line: Line) -> Line:
    """The line with what a user may write and Hydra's grammar does not take: see the functions below."""
    if found := [text.partition("=") for text in line.overrides if trust.calls(text) and text[:6] != "hydra."]:
        raise UserError.join([trust.resolving(key, value) for key, _, value in found])
    texts = [quoted(first_stage(text, line.overrides)) for text in line.overrides]
    texts = [f"~{text.removesuffix('=null')}" if text == "pair=null" else text for text in texts
             if text not in ("experiment=null", "launch=null")]
    if command in ("retrain", "study"):
        texts += inherited(texts)
    if config.COMMANDS[command].groups:
        texts = trust.allowing(texts)
    return line._replace(overrides=tuple(texts))


def quoted(text: str) -> str:
    """Keys that hold text, with a value that Hydra's grammar would trip over or take for a number, quoted for it."""
    key, equals, value = text.partition("=")
    if not equals or key not in (*GRAMMARLESS, *NAMES) or value[:1] in ("'", '"'):
        return text
    if re.fullmatch(r"[\w.,/+-]*", value):
        return f"{key}=" + ",".join(f'"{part}"' if numeric(part) else part for part in value.split(","))
    if key in NAMES:
        return text
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    return f'{key}="{escaped}"'


def numeric(text: str) -> bool:
    """Whether Hydra would read a word as a number or as true or false."""
    try:
        return text.lower() in ("true", "false") or float(text) is not None
    except ValueError:
        return False


def first_stage(text: str, texts: Sequence[str]) -> str:
    """`space.keep=` with a finished run (its folder, or its name under `out`) replaced by the genotype it found."""
    key, _, value = text.partition("=")
    out = next((t.partition("=")[2] for t in texts if t.startswith("out=")), "outputs").strip("'\"")
    name = value.strip("'\"")
    if key != "space.keep" or not re.fullmatch(r"[\w.,/+=-]+", name):
        return text
    folder = next((path for path in (Path(name), Path(out) / name) if path.is_dir()), None)
    if folder is None:
        return text
    try:
        return f"{key}={(folder / 'genotype.txt').read_text(encoding='utf-8').strip()}"
    except OSError:
        raise UserError(text, f"{folder} holds no finished search", "finish it: the same command resumes") from None


def inherited(texts: Sequence[str]) -> list[str]:
    """space= and dataset= of the run that `from=` names, where the user gives none: they choose the right recipe.

    Raises UserError where there is no such run, and where several runs of a sweep would inherit different ones.
    """
    given = {key: value.strip("'\"") for key, _, value in (text.partition("=") for text in texts)}
    if not given.get("from") or given["from"] == "null":
        return []
    names = [name.strip("'\"") for name in given["from"].split(",")]
    parents = [parent_choices(name, given.get("out", "outputs")) for name in names]
    added = []
    for group in ("space", "dataset"):
        found = sorted({str(choices[group]) for choices in parents if choices.get(group)})
        if group in given or not found:
            continue
        if len(found) > 1:
            told = f"the runs have different settings of {group}: {', '.join(found)}"
            raise UserError(f"from={','.join(names)}", told, f"retrain those of one {group} at a time")
        added.append(f"{group}={found[0]}")
    if "dataset" not in given and "dataset.path" not in given:
        added += parent_path(names, given.get("out", "outputs"))
    return added


def parent_path(names: Sequence[str], out: str) -> list[str]:
    """The override of dataset.path that the runs agree on, if they have one: where the images lie."""
    held = [(files.read_yaml(run_folder(name, out) / "config.yaml") or {}).get("dataset") for name in names]
    paths = {str(node.get("path") or "") if isinstance(node, dict) else "" for node in held}
    return [f"dataset.path={json.dumps(path)}" for path in paths if path] if len(paths) == 1 else []


def parent_choices(name: str, out: str) -> dict[str, Any]:
    """The group choices of a run, given by its folder or by its name under `out`."""
    folder = run_folder(name, out)
    for held in (files.read_yaml(folder / "config.yaml"), files.read_json(folder / "result.json")):
        if held is not None and isinstance(held.get("choices"), dict):
            return {str(key): value for key, value in held["choices"].items()}
    raise UserError(f"from={name}", f"{folder} is no folder of a run", "name a folder that nasx search has written")


def run_folder(name: str, out: str, kind: str = "") -> Path:
    """The folder of a run, given by its folder or by its name under `out`.

    Raises UserError with the nearest name, or with those of finished runs of the `kind` that is wanted.
    """
    folder = records.locate(name, out)
    if folder is None:
        known = sorted(path.name for path in Path(out).glob("*/") if not path.name.startswith(".") and
                       (not kind or (files.read_json(path / "result.json") or {}).get("kind") == kind))
        more = f", … and {len(known) - 8} more" if len(known) > 8 else ""
        near = config.nearest(name.rstrip("/").rpartition("/")[2], known)
        what = f"finished run of nasx {kind}" if kind else "run"
        there = f"did you mean from={near}?" if near else f"name the folder of a {what}, or a {what} in {out}/" + (
            f": {', '.join(known[:8])}{more}" if known else " (it has none yet)")
        raise UserError(f"from={name}", "there is no such run", there)
    return folder


# ------------------------------------------------------------------------------------------------- compose
def examine(command: str, line: Line, loader: Loader | None = None) -> tuple[str, int | None]:
    """Raise one UserError with all faults of all jobs that the line asks for.

    Returns `out` of the first job, and how many there are (None where a sweeper decides as it goes).
    """
    loader = loader or make_loader(line.value("--config-dir"))
    faults, parsed = [], []
    for text in line.overrides:
        try:
            override = OverridesParser.create(loader).parse_override(text)
        except HydraException as error:
            faults.append(_unreadable(text, loader, command, error))
            continue
        if override.is_sweep_override() and not line.multirun and line.runs:
            faults.append(UserError(text, "lists several values", "add --multirun for one run each; or, for one list, "
                                    f"write {override.get_key_element()}='[...]'"))
            continue
        parsed.append(override)
    made: list[Any] = []
    searched: list[Override] = []
    for texts in _jobs(parsed):
        faults += _job_faults(command, loader, texts, made, deep=line.runs)
    if made and line.runs and config.COMMANDS[command].groups:
        faults += sweeps.faults(made[0], parsed, multirun=line.multirun)
        searched = sweeps.searched(made[0], parsed, OverridesParser.create(loader))
        for texts in _jobs([*parsed, *searched]) if searched else ():
            faults += _job_faults(command, loader, texts, made, deep=True)
    if faults:
        raise UserError.join(list({str(fault): fault for fault in faults}.values()))
    return str(made[0].get("out", ".")), sweeps.count(made[0], [len(_values(o)) for o in [*parsed, *searched]])


def _jobs(parsed: Sequence[Override]) -> Iterator[list[str]]:
    """The first job of a sweep, then one more job for each further value of each key."""
    values = [_values(override) for override in parsed]
    first = [texts[0] for texts in values]
    yield first
    for place, texts in enumerate(values):
        for text in texts[1:]:
            yield [*first[:place], text, *first[place + 1:]]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [_text(override)]
    key = override.get_key_element()
    if override.is_interval_sweep():
        sweep: Any = override.value()
        return [f"{key}={sweep.start}"]
    return [f"{key}={value}" for value in override.sweep_string_iterator()] or [_text(override)]


def options(loader: Loader, group: str) -> list[str]:
    """The choices of a group."""
    return sorted(loader.get_group_options(group, ObjectType.CONFIG))


def _unreadable(text: str, loader: Loader, command: str, error: HydraException) -> UserError:
    """A word that is no override."""
    if "=" not in text and not text.startswith("~"):
        entry = config.COMMANDS[command]
        taken = [group for group in (*entry.groups, *config.DELTAS) if entry.groups and group not in entry.unread]
        homes = [group for group in taken if text in options(loader, group)]
        return UserError(text, "is not a setting", "did you mean " + " or ".join(f"{g}={text}" for g in homes) + "?"
                         if homes else "settings are written key=value, for example method=darts")
    reason = str(error).partition("\n")[0].rstrip(".")
    return UserError(text, f"cannot be read ({reason})",
                     "put quotes round a value with special characters: key='\"value\"'")


def _job_faults(command: str, loader: Loader, texts: list[str], made: list[Any], *,
                deep: bool) -> Iterator[UserError]:
    """Faults of one job; its configuration is added to `made`."""
    overrides = OverridesParser.create(loader).parse_overrides(texts)
    groups = ({*loader.list_groups(""), *config.DELTAS} - {"hydra"}) if config.COMMANDS[command].groups else set()
    chosen = [o for o in overrides if _group(o) in groups]
    wrong = [fault for override in chosen for fault in _choice(loader, override)]
    yield from wrong
    faulty = {fault.where for fault in wrong}
    kept = [_text(o) for o in chosen if _text(o) not in faulty]
    rest = [o for o in overrides if o not in chosen]
    try:
        cfg = None if wrong or any(o.is_add() or o.is_force_add() for o in rest) else _composed(command, loader, texts)
        if cfg is None:  # something is wrong: compose without the overrides of values, and look at each
            base = loader.load_configuration(command, [*kept, *(_text(o) for o in rest if o.is_hydra_override())],
                                             RunMode.RUN)
            faults, good = _key_faults(base, rest, command)
            yield from faults
            kept += good
            cfg = loader.load_configuration(command, kept, RunMode.RUN)
        made.append(cfg)
        distrusted = list(trust.faults(cfg, texts, loader.ours(command, cfg, texts)))
        yield from distrusted
        if deep and not distrusted:  # nothing of it is resolved or built before
            yield from _checked(cfg, command, texts, origins.lazily(command, kept, loader.own))
    except UserError as error:
        yield error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        yield translate(error)


def _composed(command: str, loader: Loader, texts: list[str]) -> Any:
    """The composed configuration, None where Hydra refuses."""
    try:
        return loader.load_configuration(command, texts, RunMode.RUN)
    except (HydraException, OmegaConfBaseException, UserError, ValueError):
        return None


def _key_faults(base: Any, overrides: Sequence[Override], command: str) -> tuple[list[UserError], list[str]]:
    """(faults, overrides without one) of overrides that set values."""
    plain = {str(key): value for key, value in mapping(base, resolve=False).items() if key != "hydra"}
    faults, good = [], []
    for override in overrides:
        fault = None if override.is_hydra_override() else _key_fault(plain, override, command)
        if fault is None:
            good.append(_text(override))
        else:
            faults.append(fault)
    return faults, good


def _text(override: Override) -> str:
    """The override as it was written."""
    return str(override.input_line)


def _group(override: Override) -> str:
    """The group that an override chooses in; empty where it sets a value."""
    return "" if "." in override.key_or_group else override.key_or_group


def _choice(loader: Loader, override: Override) -> Iterator[UserError]:
    """A group's name with a choice that does not exist."""
    group, known = override.key_or_group, options(loader, override.key_or_group)
    if override.is_add():
        yield UserError(_text(override), f"{group} is there already",
                        f"drop the +: {_text(override).lstrip('+')}")
        return
    if override.is_delete():
        if group in config.GROUPS:
            yield UserError(_text(override), f"a {group} is needed", f"choose another: {', '.join(known)}")
        return
    value = override.value()
    if value in (None, "") and group not in config.DELTAS:
        yield UserError(_text(override), f"names no {group}", f"choose from {', '.join(known)}")
        return
    for choice in value if isinstance(value, list) else [value]:
        if choice is not None and str(choice) not in known:
            yield UserError(_text(override), f"there is no {group} {choice}",
                            f"choose from {', '.join(known)}{config.did_you_mean(str(choice), known)}")


def _key_fault(cfg: Mapping[str, Any], override: Override, command: str) -> UserError | None:
    fault = config.unknown(cfg, override.key_or_group, command)
    if fault is None and override.is_add() and not override.is_force_add():
        return UserError(_text(override), "is there already", f"drop the +: {_text(override)[1:]}")
    return fault


def _checked(cfg: Any, command: str, overrides: list[str], usual: config.Usual) -> Iterator[UserError]:
    values, choices = plain(cfg)
    try:
        config.check(values, choices, [text for text in overrides if not text.startswith("hydra")], command, usual)
    except UserError as error:
        yield error


