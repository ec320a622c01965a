"""What a configuration may make Hydra call. Components of nasx are held to their own list: see `config`.

Hydra, its plugins and Python's logging build whatever a key such as `_target_`, `class` or `()` names. So each such
key of the section `hydra` may only name what belongs there, and nothing is built before this was looked at. Commands
for a cluster's own shell (hydra.launcher.setup) are what they are: read a stranger's file before you start it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nasx.errors import UserError

NAMED = {
    r"callbacks\.\w+\._target_": r"hydra\.experimental\..+",
    r"(launcher|sweeper)\._target_": r"hydra(_plugins|\._internal\.core_plugins)\..+",
    r"sweeper\.sampler\._target_": r"optuna\.samplers\.\w+",
    r"(job|hydra)_logging\.handlers\.\w+\.class": r"logging\.(Stream|Null)Handler",
    r"(job|hydra)_logging\.formatters\.\w+\.\(\)": r"colorlog\.ColoredFormatter",
}
"""Key below `hydra` -> what it may name."""
CALLED = ("_target_", "class", "()", "custom_search_space")
"""Keys whose value is called, wherever they stand."""
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
LOADED = re.compile(r"PATH|IFS|ENV|(LD|DYLD|PYTHON|BASH|GIT)_?\w*")
"""Environment variables that choose what programs run."""


def faults(cfg: Any) -> Iterator[UserError]:
    """Faults of the composed configuration's section `hydra`."""
    from omegaconf import OmegaConf

    for path, value in _leaves(OmegaConf.to_container(cfg.hydra, resolve=False)):
        key, last = ".".join(path), path[-1]
        if last in CALLED and value is not None:
            may = next((may for pattern, may in NAMED.items() if re.fullmatch(pattern, key)), None)
            if may is None or not re.fullmatch(may, str(value)):
                yield UserError(f"hydra.{key}={value}", "is not what may be called there", "remove it")
        elif path[0].endswith("_logging") and ("." in path or ("://" in str(value) and value not in STREAMS)):
            yield UserError(f"hydra.{key}={value}", "reaches into Python from the settings of a log", "remove it")
        elif key.startswith("job.env_") and LOADED.fullmatch(str(value) if last.isdigit() else last):
            yield UserError(f"hydra.{key}={value}", "chooses which programs run", "set it in your shell")


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(keys, value) of everything that is no mapping; entries of lists too."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, (*path, str(name)))
    elif isinstance(node, (list, tuple)):
        for place, value in enumerate(node):
            yield from _leaves(value, (*path, str(place)))
    else:
        yield path, node
