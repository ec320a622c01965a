"""Run one job of a command in this process, for Hydra's application, other commands and nasx.api.

This module does not import torch until a job has passed all checks and has work to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from nasx.config import commands
from nasx.config.job_info import JobInfo
from nasx.core.plain import Config, Result

if TYPE_CHECKING:
    from nasx.cli.arguments import Line


class Done(NamedTuple):
    """The record and the folder of a finished run."""

    record: Result
    folder: Path


def call(command: Literal["search", "retrain"], overrides: Sequence[str], config_dir: str | None = None) -> Done:
    """Check, compose and run one job like `nasx COMMAND OVERRIDES`, but without printing a summary.

    Raises the same UserErrors as the command line, before anything is computed.
    """
    line, cfg, choices = composed(command, overrides, config_dir)
    options = [] if config_dir is None else ["--config-dir", config_dir]
    return do(command, cfg, replace(job_info(command, cfg, choices, line.overrides, options), summary=False))


def composed(command: str, overrides: Sequence[str], config_dir: str | None = None) -> tuple[Line, Config, Config]:
    """Return a normalized command line, the checked configuration and its choices. Raises UserError with all faults."""
    from nasx.cli import preflight
    from nasx.cli.arguments import Line
    from nasx.config import compose

    options = () if config_dir is None else (f"--config-dir={config_dir}",)
    line = preflight.normalize(command, Line(options, tuple(overrides)))
    loader = compose.make_loader(config_dir)
    preflight.check_line(command, line, loader)
    return line, *loader.compose(command, line.overrides)


def do(command: Literal["search", "retrain"], cfg: Config, info: JobInfo) -> Done:
    """Run a checked configuration until it is finished, and return the finished run. Raises UserError."""
    from nasx.config import check, identity

    check.check_foreign(cfg, command)
    record = work(command, cfg, info)
    assert record is not None, command
    return Done(record, Path(cfg["out"]) / identity.run_name(cfg, info.choices, command))


def job_info(
    command: str,
    cfg: Mapping[str, object],
    choices: Mapping[str, str],
    overrides: Sequence[str],
    options: Sequence[str],
    folders: Sequence[str] = (),
) -> JobInfo:
    """Return the information about its command line that a job needs; `options` is empty or `--config-dir FOLDER`."""
    from nasx.config.compose import published

    own, groups = options[1] if options else None, commands.COMMANDS[command].groups
    standard = published(command, choices, cfg, own) if groups else None
    return JobInfo(choices=choices, options=options, folders=folders, published=standard).of(command, overrides)


def work(command: str, cfg: Config, info: JobInfo) -> Result | None:
    """Run the job of a resolved configuration and return its record (None for table and list).

    If the run is already finished, its record is returned without importing torch.
    """
    if command == "table":
        import_module("nasx.cli.table").main(cfg)
        return None
    if command == "list":
        import_module("nasx.cli.listing").main(cfg, info.folders)
        return None
    from nasx.report import run_summary

    if command == "run":
        run_summary.checked_folder(cfg, info.choices, "search")
    elif command != "study" and (done := run_summary.again(cfg, info.choices, command, summary=info.summary)):
        return done
    job: Callable[[Config, JobInfo], Result] = getattr(import_module(f"nasx.jobs.{command}"), command)
    return job(cfg, info)
