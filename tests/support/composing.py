"""Compose command lines in this process, as the command line does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.types import RunMode

from nasx.cli import arguments, preflight
from nasx.errors import UserError


def composed(command: str, *overrides: str, config_dir: Path | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    loader = preflight.make_loader(None if config_dir is None else str(config_dir))
    return preflight.resolved(loader.load_configuration(command, list(overrides), RunMode.RUN))


def faults(*overrides: str, command: str = "search", config_dir: Path | None = None) -> list[str]:
    """Return the lines of the error for a command line; empty if it is valid."""
    words = [*overrides] + ([] if config_dir is None else [f"--config-dir={config_dir}"])
    try:
        preflight.check_line(command, preflight.normalize(command, arguments.split_options(words)))
    except UserError as error:
        return str(error).splitlines()
    return []
