"""The commands `nasx search` and `nasx retrain` as Python functions.

They check, run, resume and record exactly as the command line does: the same overrides give the same run folder, so a
call resumes a run that `nasx search` started, and vice versa.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from nasx.api.architectures import identify
from nasx.api.runs import RetrainRun, Run, SearchRun, open_run
from nasx.cli import invoke
from nasx.errors import of_system
from nasx.spaces import published
from nasx.tracking import lineage, records

Override = str | Mapping[str, object]
"""`"key=value"`, as on the command line, or a mapping from (dotted or nested) keys to values."""


def search(*overrides: Override, config_dir: str | None = None, **settings: object) -> SearchRun:
    """Search for an architecture, and look it up if a benchmark contains it; like `nasx search`.

    An interrupted run is resumed, and a finished run is returned immediately. Progress is shown in the notebook or on
    standard error; `quiet=True` turns it off. Each call is one run: for several seeds, write a loop.

    Examples:
        >>> run = nasx.search(method="darts", space="nb201", dataset="digits", seed=1)
        >>> run = nasx.search({"search.epochs": 2, "dataset.size": 16}, experiment="quickstart", method="idarts")
        >>> run = nasx.search("method=darts", "method.order=2", search={"epochs": 2}, out="elsewhere")

    Args:
        overrides: settings, each as a string (`"search.epochs=2"`) or a mapping (`{"search.epochs": 2}`).
        config_dir: a folder of your own YAML files, like `--config-dir`.
        settings: components and settings as keyword arguments: `method="darts"`, `seed=1`, `search={"epochs": 2}`.

    Raises:
        UserError: if a setting is invalid; raised before anything is computed, with the command line's message.
        KeyboardInterrupt: if the run is interrupted; a checkpoint is written first, and the same call resumes the run.
    """
    run = open_run(_call("search", _texts(*overrides, settings), config_dir))
    assert isinstance(run, SearchRun)
    return run


def retrain(
    architecture: str | os.PathLike[str] | Run, *overrides: Override, config_dir: str | None = None, **settings: object
) -> RetrainRun:
    """Train an architecture from scratch and test it; like `nasx retrain`.

    Examples:
        >>> found = nasx.search(space="darts", dataset="cifar10")
        >>> trained = nasx.retrain(found, {"retrain.epochs": 600})
        >>> trained = nasx.retrain("DARTS_V2", seed=3)

    Args:
        architecture: a finished search (the result of `nasx.search`, its folder, or its name below `out`), the name of
            a published cell (`nasx.list_models()`), or the text of a genotype (which requires `space=`).
        overrides, config_dir, settings: see `nasx.search`. For a search, its space and dataset are the defaults.

    Raises:
        UserError: if a setting is invalid; raised before anything is computed, with the command line's message.
        KeyboardInterrupt: if the run is interrupted; a checkpoint is written first, and the same call resumes the run.
    """
    key, value = identify(architecture, str(settings.get("out", "outputs")))
    texts = _texts({key: value}, *overrides, settings)
    cell = published.find(value)
    if key == "genotype" and cell is not None and not any(text.startswith("space=") for text in texts):
        texts.append(f"space={cell.space}")
    run = open_run(_call("retrain", texts, config_dir))
    assert isinstance(run, RetrainRun)
    return run


def _texts(*overrides: Override) -> list[str]:
    """Return the overrides in command-line syntax, with string values from mappings quoted."""
    found: list[str] = []
    for each in overrides:
        if isinstance(each, str):
            found.append(each)
        else:
            found += [lineage.override(key, _plain(value)) for key, value in records.flatten(each).items()]
    return found


def _plain(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _call(command: Literal["search", "retrain"], texts: list[str], config_dir: str | None) -> Path:
    """Run the job and return its folder; operating system errors are raised as UserError, as on the command line."""
    try:
        return invoke.call(command, texts, config_dir).folder
    except Exception as error:
        fault = of_system(error)
        if fault is None:
            raise
        raise fault from error
