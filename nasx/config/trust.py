"""Restrictions on what a configuration file, unlike the command line, may cause nasx, Hydra and logging to execute.

A file may come from an untrusted source, so every value that refers to code, paths or the environment is checked:

- Classes are given by their exact dotted names. A component must be a class that is named in nasx's own configurations
  (`components`) or defined in a package that the user allows (`allow=` on the command line, or NASX_ALLOW). A class
  that Hydra, its plugins or Python's logging would instantiate (`_target_`, `class`, `()`) must be listed in
  `CALLABLES`, and its name must resolve to that class.
- `allow` and `out_file` are accepted only on the command line; a file may also set `out` if it stays within the current
  folder.
- The section `hydra` comes from nasx's own files and the command line. Other files may set only `FILE_KEYS`: options of
  sweepers, and the resources that a job requests from a cluster. Any other key could set Hydra's output folders, a
  program to run before a job, or environment variables.
- Values may refer to other values (`${seed}`) but may not call resolvers: `${oc.env:NAME}` would store the value of an
  environment variable in a run folder, which may be published. This also applies to the command line, where the shell
  can substitute the value.

`faults` imports only classes in `CALLABLES`, and instantiates nothing.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nasx.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

PLUGINS = "hydra_plugins.hydra_"
CALLABLES: dict[str, tuple[str, ...]] = {
    r"callbacks\.\w+\._target_": ("hydra.experimental.callbacks.LogJobReturnCallback",),
    r"launcher\._target_": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        f"{PLUGINS}submitit_launcher.submitit_launcher.SlurmLauncher",
        f"{PLUGINS}submitit_launcher.submitit_launcher.LocalLauncher",
        f"{PLUGINS}ray_launcher.ray_launcher.RayLauncher",
        f"{PLUGINS}joblib_launcher.joblib_launcher.JoblibLauncher",
    ),
    r"sweeper\._target_": (
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        f"{PLUGINS}optuna_sweeper.optuna_sweeper.OptunaSweeper",
    ),
    r"sweeper\.sampler\._target_": tuple(
        f"optuna.samplers.{name}Sampler" for name in ("Grid", "TPE", "Random", "CmaEs", "NSGAII", "MOTPE")
    ),
    r"(job|hydra)_logging\.handlers\.\w+\.class": ("logging.StreamHandler", "logging.NullHandler"),
    r"(job|hydra)_logging\.formatters\.\w+\.\(\)": ("colorlog.ColoredFormatter",),
}
"""Pattern of a key under `hydra` -> allowed values of the key."""
CALLABLE_KEYS = ("_target_", "class", "()", "custom_search_space")
"""Keys, at any depth, whose values name callables."""
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
DANGEROUS_VARIABLES = re.compile(r"PATH|IFS|ENV|NASX_ALLOW|(LD|DYLD|PYTHON|BASH|GIT)_?\w*")
"""Environment variables that affect which code is run."""
FILE_KEYS = re.compile(
    r"launcher\.(timeout_min|cpus_per_task|gpus_per_node|tasks_per_node|mem_gb|nodes|name|stderr_to_stdout|partition|qos"
    r"|comment|constraint|exclude|gres|cpus_per_gpu|gpus_per_task|mem_per_gpu|mem_per_cpu|account|signal_delay_s"
    r"|max_num_timeout|array_parallelism|additional_parameters\.requeue|n_jobs|verbose"
    r"|ray\.remote\.(num_gpus|num_cpus|max_retries)|ray\.init\.(num_cpus|num_gpus|include_dashboard))"
    r"|sweeper\.(n_trials|n_jobs|direction|study_name|max_failure_rate|max_batch_size|sampler\.\w+|params\..+)"
)
"""Keys under `hydra` that a file may set to a number or to a single line of text."""
HYDRA_KEYS = re.compile(r"runtime\..+|overrides\.hydra.*|job\.(override_dirname|id|num|config_name)")
"""Keys under `hydra` that Hydra itself fills in."""
COMMAND_LINE_KEYS = ("allow", "out_file")
"""Top-level keys that no file may set."""
IN_A_FILE = "is set in a configuration file, but is only accepted on the command line"


# ------------------------------------------------------------------------------------------------- components
@cache
def components(conf: Path) -> frozenset[str]:
    """Return the classes named in nasx's folder `conf`: the only classes of nasx that a configuration may name."""
    found = (
        re.findall(r"^\s*_target_:\s*([\w.]+)", path.read_text(encoding="utf-8"), re.M)
        for path in conf.glob("*/**/*.yaml")
    )
    return frozenset(name for names in found for name in names)


def from_environment() -> tuple[str, ...]:
    """Return the packages in NASX_ALLOW, a list separated by commas or spaces."""
    return tuple(re.findall(r"[^\s,\[\]]+", os.environ.get("NASX_ALLOW", "")))


def with_allow(texts: Sequence[str]) -> list[str]:
    """Return the overrides, adding `allow=` from NASX_ALLOW unless they already contain it."""
    names = from_environment()
    given = any(_key(text) == "allow" for text in texts)
    return [*texts, *([f"allow=[{','.join(names)}]"] if names and not given else [])]


def is_class(found: object, name: str, homes: Sequence[str]) -> bool:
    """Return whether an object is a class called `name` and defined in one of the modules or packages `homes`."""
    home = getattr(found, "__module__", "")
    return (
        isinstance(found, type)
        and found.__qualname__ == name
        and any(home == place or home.startswith(f"{place}.") for place in homes)
    )


# ----------------------------------------------------------------------------------------------------- faults
def faults(cfg: DictConfig, texts: Sequence[str], ours: Callable[[], DictConfig] | None = None) -> Iterator[UserError]:
    """Yield the errors in a configuration composed from the command-line overrides `texts`.

    `ours` composes only nasx's own files; None if there are no other configuration folders.
    """
    from omegaconf import OmegaConf

    whole = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(whole, dict)
    own = {str(key): value for key, value in whole.items() if key != "hydra"}
    hydra = dict(_leaves(whole["hydra"]))
    given = {_key(text) for text in texts}
    yield from _called(hydra)
    for path, value in _leaves(own):
        if calls_resolver(value):
            yield resolver_fault(".".join(path), value)
    if ours is not None:
        yield from _top(own, given)
        try:
            known = dict(_leaves(OmegaConf.to_container(ours().hydra, resolve=False)))
        except UserError:  # the launcher or sweeper is from another folder, so no values are known
            known = {}
        yield from _section(hydra, known, texts)


def _called(hydra: Mapping[tuple[str, ...], object]) -> Iterator[UserError]:
    """Yield errors for callables that the section `hydra` may not name, whichever file sets them."""
    for path, value in hydra.items():
        key, last = ".".join(path), path[-1]
        where = f"hydra.{key}={value}"
        if last in CALLABLE_KEYS and value is not None:
            names = next((names for pattern, names in CALLABLES.items() if re.fullmatch(pattern, key)), ())
            if value not in names or not _genuine(str(value)):
                yield UserError(
                    where, "is not an allowed callable", f"use {' or '.join(names)}" if names else "remove it"
                )
        elif path[0].endswith("_logging") and ("." in path or ("://" in str(value) and value not in STREAMS)):
            yield UserError(where, "refers to a Python object, which logging settings may not do", "remove it")
        elif key.startswith("job.env_") and DANGEROUS_VARIABLES.fullmatch(str(value) if last.isdigit() else last):
            yield UserError(where, "is an environment variable that affects which code is run", "set it in your shell")


@cache
def _genuine(name: str) -> bool:
    """Return whether Hydra resolves `name` to the class that an import finds; True if its package is not installed."""
    from hydra._internal.utils import _locate

    module, _, own = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), own)
        return isinstance(found, type) and _locate(name) is found
    except ImportError:
        return True


def resolver_fault(key: str, value: object) -> UserError:
    """Return the error for a value that calls an OmegaConf resolver."""
    return UserError(
        f"{key}={value}",
        "uses an OmegaConf resolver, whose result would be stored in the run",
        f'write the value, or let the shell substitute it: {key}="$NAME" on the command line',
    )


def calls_resolver(value: object) -> bool:
    """Return whether a string contains an interpolation that is not just a reference to another value."""
    return isinstance(value, str) and "${" in re.sub(r"\$\{[\w.\[\]-]*\}", "", value)


def _top(own: Mapping[str, object], given: set[str]) -> Iterator[UserError]:
    """Yield errors for top-level keys that a file sets although only the command line may set them."""
    for key in COMMAND_LINE_KEYS:
        if key not in given and own.get(key) not in (None, [], ""):
            yield UserError(
                f"{key}={own[key]}",
                f"{IN_A_FILE}{' or in NASX_ALLOW' if key == 'allow' else ''}",
                f"if you trust that file, add {key}=... to the command",
            )
    out = own.get("out")
    if (
        "out" not in given
        and isinstance(out, str)
        and (out.startswith(("/", "~")) or ".." in Path(out).parts or "${" in out)
    ):
        yield UserError(
            f"out={out}",
            "is set in a configuration file, and points outside the current folder",
            f"give it on the command line: out={out}",
        )


def _section(
    hydra: Mapping[tuple[str, ...], object], known: Mapping[tuple[str, ...], object], texts: Sequence[str]
) -> Iterator[UserError]:
    """Yield errors for keys in the section `hydra` that files in the user's folders may not set."""
    line = [_key(text).removeprefix("hydra.") for text in texts if _key(text).startswith("hydra.")]
    for path, value in hydra.items():
        key = ".".join(path)
        if (
            HYDRA_KEYS.fullmatch(key)
            or (path in known and known[path] == value)
            or any(key == text or key.startswith(f"{text}.") for text in line)
        ):
            continue
        if path[:2] == ("overrides", "task") and value in texts:
            continue
        if path[:2] == ("sweeper", "params") and re.match(r"[+~]*(hydra\b|allow$|out$|out_file$|name$)", path[2]):
            yield UserError(f"hydra.{key}={value}", "cannot be chosen by a sweep", "remove it")
        elif path[-1] in CALLABLE_KEYS or (FILE_KEYS.fullmatch(key) and _plain(value)):
            continue  # `_called` checks the callables
        else:
            yield UserError(
                f"hydra.{key}={value}", IN_A_FILE, "remove it there; if you want it, give it on the command line"
            )


def _plain(value: object) -> bool:
    """Return whether a value is not text, or is one line of text without `${` (Hydra would build a referenced node)."""
    return not isinstance(value, str) or (value.isprintable() and "${" not in value)


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~").partition("@")[0]


def _leaves(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield (keys, value) for every leaf of a tree; list indices count as keys, empty containers as leaves."""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _leaves(value, (*path, str(name)))
    elif isinstance(node, (list, tuple)) and node:
        for place, value in enumerate(node):
            yield from _leaves(value, (*path, str(place)))
    else:
        yield path, node
