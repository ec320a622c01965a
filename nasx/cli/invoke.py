"""Run one job of a command in this process, for Hydra's application, `nasx quickstart` and nasx.api.

Nothing here imports torch before a job has passed all checks and has something to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from nasx.config import commands
from nasx.config.job_info import JobInfo
from nasx.core.plain import Config

if TYPE_CHECKING:
    from nasx.cli.arguments import Line


class Done(NamedTuple):
    """The record and the folder of a finished run."""

    record: Config
    folder: Path


def call(command: Literal["search", "retrain"], overrides: Sequence[str], config_dir: str | None = None) -> Done:
    """Check, compose and run one job, like `nasx COMMAND OVERRIDES`, but print no summary.

    Raises UserError like the command line, and before anything is computed.
    """
    line, cfg, choices = composed(command, overrides, config_dir)
    options = [] if config_dir is None else ["--config-dir", config_dir]
    return do(command, cfg, replace(job_info(command, cfg, choices, line.overrides, options), summary=False))


def composed(command: str, overrides: Sequence[str], config_dir: str | None = None) -> tuple[Line, Config, Config]:
    """Return a normalized command line, its checked configuration and its choices. Raises UserError with all faults."""
    from hydra.types import RunMode

    from nasx.cli import preflight
    from nasx.cli.arguments import Line
    from nasx.config import compose

    options = () if config_dir is None else (f"--config-dir={config_dir}",)
    line = preflight.normalize(command, Line(options, tuple(overrides)))
    loader = compose.make_loader(config_dir)
    preflight.check_line(command, line, loader)
    return line, *compose.resolved(loader.load_configuration(command, list(line.overrides), RunMode.RUN))


def do(command: Literal["search", "retrain"], cfg: Config, info: JobInfo) -> Done:
    """Run a checked configuration to its end unless it is finished. Raises UserError."""
    from nasx.cli import preflight
    from nasx.config import identity

    preflight.check_foreign(cfg, command)
    record = WORK[command](cfg, info)
    return Done(record, Path(cfg["out"]) / identity.run_name(cfg, info.choices, command))


def job_info(
    command: str,
    cfg: Mapping[str, object],
    choices: Mapping[str, str],
    overrides: Sequence[str],
    options: Sequence[str],
    folders: Sequence[str] = (),
) -> JobInfo:
    """Return what a job knows of its command line; `options` is empty or `--config-dir FOLDER`."""
    from nasx.config.compose import published

    own, groups = options[1] if options else None, commands.COMMANDS[command].groups
    standard = published(command, choices, cfg, own) if groups else None
    return JobInfo(choices=choices, options=options, folders=folders, published=standard).of(command, overrides)


def _unless_done(kind: str, cfg: Config, info: JobInfo) -> object:
    """Return the record of a finished run without importing torch, or do the run. `kind`: search or retrain."""
    from nasx.report import run_summary

    if done := run_summary.again(cfg, info.choices, kind, summary=info.summary):
        return done
    import nasx.jobs.retrain
    import nasx.jobs.search

    return {"search": nasx.jobs.search.search, "retrain": nasx.jobs.retrain.retrain}[kind](cfg, info)


def _run(cfg: Config, info: JobInfo) -> object:
    from nasx.report import run_summary

    run_summary.checked_folder(cfg, info.choices, "search")
    import nasx.jobs.run

    return nasx.jobs.run.run(cfg, info)


def _study(cfg: Config, info: JobInfo) -> object:
    import nasx.jobs.study

    return nasx.jobs.study.study(cfg, info)


def _table(cfg: Config, info: JobInfo) -> Any:
    import nasx.cli.table

    nasx.cli.table.main(cfg)


def _list(cfg: Config, info: JobInfo) -> Any:
    import nasx.cli.listing

    nasx.cli.listing.main(cfg, info.folders)


WORK: dict[str, Callable[[Config, JobInfo], Any]] = {
    "search": partial(_unless_done, "search"),
    "retrain": partial(_unless_done, "retrain"),
    "run": _run,
    "study": _study,
    "table": _table,
    "list": _list,
}
"""Command -> function of a resolved configuration and its `job_info` that runs the job."""
