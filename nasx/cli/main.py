"""The `nasx` command: one Hydra application per command.

    nasx <command> key=value ...

The functions that Hydra runs are defined here, because launchers pickle them by name. They import torch only when they
run, so that help, completion and errors about typos appear without delay. Exit codes: 0 success; 1 a job of a sweep
failed, or a bug; 2 an error that the user can fix (including system errors: files, memory, packages; and exceptions in
the user's own code); 128 + signal: stopped. If a reader (such as `head`) closes the output early, the exit code does
not change.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from nasx import __version__
from nasx.cli.commands import COMMANDS, PLAIN
from nasx.core import standard_streams
from nasx.errors import UserError, of_system, printable, working_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nasx.cli.arguments import Line
    from nasx.config.compose import Loader


_raised: list[Exception] = []
"""The exception raised by the job of a command without --multirun; empty if there is none."""


def task(cfg: DictConfig) -> object:
    """Check a composed configuration and run its job, for Hydra. Never exits the process, so that a sweep continues."""
    with standard_streams.guarded():  # a launcher may have started this process
        return _checked(cfg)


def _checked(cfg: DictConfig) -> object:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from nasx.cli import grid, invoke
    from nasx.config import check, commands, compose, provenance, sweeps
    from nasx.tracking import lineage, sweep_log

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        sweeps.enter_folder(hydra.runtime.cwd)
    command, overrides = str(hydra.job.config_name), list(hydra.overrides.task)
    plain = compose.mapping(cfg, resolve=True)
    own = next((s.path for s in hydra.runtime.config_sources if s.provider == "command-line"), None)
    near = own and Path(own).is_relative_to(hydra.runtime.cwd)
    options = ["--config-dir", os.path.relpath(own, hydra.runtime.cwd) if near else own] if own else []
    choices = {k: v for k, v in hydra.runtime.choices.items() if not k.startswith("hydra/")}
    folders = [source.path for source in hydra.runtime.config_sources if source.schema == "file"]
    info = invoke.job_info(command, plain, choices, overrides, options, folders)
    if hydra.mode != RunMode.MULTIRUN:  # the whole command line was checked before Hydra started
        try:
            check.check_foreign(plain, command)
            record = invoke.work(command, plain, info)
            if record and "kind" in record and os.environ.get("RANK", "0") == "0":  # other ranks have none
                from nasx.report import run_summary

                run_summary.show_next(record, Path(plain["out"]) / record["name"])
            return record
        except Exception as error:  # noqa: BLE001 (raised again by `application`, without Hydra's shortened trace)
            _raised.append(error)
            return None
    path = Path(hydra.sweep.dir) / f"job-{hydra.job.num}.json"
    runs: list[Path] = []
    try:
        check.check(plain, choices, overrides, command, provenance.default_lookup(command, overrides, own))
        if wrong := list(lineage.parent_faults(plain, command)):
            raise UserError.join(wrong)
        check.check_foreign(plain, command)
        grouped = commands.COMMANDS[command].groups
        runs = [unit[0].folder for unit in grid.runs(command, plain, choices)] if grouped else []
        sweep_log.record_job(path, overrides, runs, ended=False)
        record = invoke.work(command, plain, info)
        result = sweeps.objective(record or {}, plain["objective"]) if plain.get("objective") else record
    except Exception as error:
        fault = error if isinstance(error, UserError) else of_system(error)
        if fault is None or os.environ.get("NASX_DEBUG") == "1":
            traceback.print_exc()
        message = f"{fault}" if fault else f"{type(error).__name__}: {error}"
        print(f"nasx: job {hydra.job.num} failed: {printable(message)}", file=sys.stderr, flush=True)
        with contextlib.suppress(UserError):  # the disk itself may have failed
            sweep_log.record_job(path, overrides, runs, ended=True, fault=message)
        raise
    sweep_log.record_job(path, overrides, runs, ended=True)
    return result


# ------------------------------------------------------------------------------------------------- the command line
def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line (default: that of this process), and exit with a code listed in the module docstring."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise the profiler logs its starts and stops
    if "RANK" in os.environ:  # DDP's C++ code warns about settings that distributed.py uses on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with standard_streams.guarded() as output:
        code = run_command(words)
        sys.stdout.flush()
        if not code and (fault := standard_streams.lost(output)):
            code = print_error(fault)
    sys.exit(code)


def run_command(words: list[str]) -> int:
    """Run a command and return its exit code. Expected errors are printed to standard error; bugs are raised."""
    try:
        return dispatch(words) or 0
    except KeyboardInterrupt as stop:
        said = f"{stop}; " if str(stop) else "stopped; "
        print(f"\n{said}the same command resumes it:\n  {shlex.join(['nasx', *words])}", file=sys.stderr)
        return int(getattr(stop, "exit_code", 130))
    except UserError as error:
        return print_error(error)
    except Exception as error:
        fault = of_system(error)
        if fault is None:
            raise
        fault.__cause__ = error
        return print_error(fault)


def print_error(error: Exception) -> int:
    """Print a readable message, and the traceback only if NASX_DEBUG=1; return the exit code."""
    if os.environ.get("NASX_DEBUG") == "1":
        traceback.print_exception(error)
    said = printable(str(error))
    if "\n" in said:
        said = "several errors were found\n" + "\n".join(f"  {line}" for line in said.splitlines())
    print(f"nasx: {said}", file=sys.stderr)
    return 2


def dispatch(words: list[str]) -> int | None:
    """Run a command line and return its exit code; None means 0."""
    if not words or words[0] in ("--help", "-h", "help"):
        from nasx.cli import help as help_

        print(help_.overview())
        return 0
    if words[0] in ("--version", "-V"):
        print(f"nasx {__version__}")
        return 0
    if words[0] in ("-sc", "--shell-completion", "--shell_completion"):
        from nasx.cli import completion

        return completion.answer(words[1:], application)
    if fault := working_folder():
        raise fault
    command, rest = words[0], words[1:]
    if command == "bench" or command in PLAIN:
        from nasx.cli import arguments

        rest = arguments.with_config_dir(rest)
    if command not in COMMANDS:
        from nasx.core import spelling

        raise UserError(f"nasx {command}", "unknown command", spelling.suggest(command, COMMANDS, "commands are"))
    if command == "completion":
        from nasx.cli import completion

        return completion.install(rest)
    if command == "bench":
        return bench(rest)
    if command not in PLAIN:
        return application(command, rest)
    if "--help" in rest or rest[:1] == ["-h"]:
        from nasx.cli import help as help_

        print(help_.plain_help(command))
        return 0
    code: int | None = import_module(PLAIN[command]).main(rest)
    return code


def bench(words: list[str]) -> int | None:
    """Run `nasx bench get|import|query|info|fill|rank`, which has no configuration; return the exit code."""
    if words[:1] == ["rank"]:  # separate: rank evaluates supernets, which nasx.benchmarks must not import
        from nasx.cli import rank

        return rank.main(words[1:])
    if not words or words[0] in ("--help", "-h") or "--help" in words:
        from nasx.cli import help as help_

        print(help_.bench())
        return 0
    import nasx.cli.bench

    return nasx.cli.bench.main([*words[:1], *map(resolve_name, words[1:])] if words[0] == "query" else words)


def resolve_name(text: str) -> str:
    """Replace the name of a published cell with its genotype. Raises UserError if no benchmark covers its space."""
    from nasx.spaces import published

    cell = published.find(text)
    if cell is not None and cell.space == "darts":
        fault = "is a cell of the DARTS space, which no benchmark covers"
        raise UserError(f"genotype={text}", fault, f"train it: nasx retrain space=darts genotype={text}")
    return text if cell is None else cell.text


def application(command: str, words: list[str]) -> int | None:
    """Run a command that has a configuration through Hydra; return the exit code."""
    from nasx.cli import arguments, hydra_app, preflight
    from nasx.cli.arguments import normalize_filter, normalize_flags
    from nasx.config import commands, compose

    fields = commands.settings(command)
    flags = [name for name, field in fields.items() if field.annotation is bool]
    given = normalize_flags(words, fields, flags)
    line = arguments.split_options([normalize_filter(word) for word in given] if command == "table" else given)
    if command == "list":
        from nasx.cli import listing

        line = line._replace(overrides=tuple(listing.overrides(line.overrides)))
    if line.has("--help"):
        from nasx.cli import help as help_

        print(help_.command(command, line))
        return 0
    if line.has("--shell-completion", "--hydra-help"):
        hydra_app.show(command, line, task)
        return None
    line, loader = preflight.normalize(command, line), compose.make_loader(line.value("--config-dir"))
    out, jobs = preflight.check_line(command, line, loader)
    if not line.runs:
        hydra_app.show(command, line, task)
        return None
    if not line.multirun:
        with hydra_app.application(loader) as hydra:
            hydra.run(command, task, list(line.overrides))
        if _raised:
            raise _raised.pop()
        return None
    from nasx.tracking import sweep_log

    folder = Path(out) / ".sweeps" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    with sweep_log.sweep(folder, [command, *words], jobs):
        return _sweep(command, line, loader, folder)


def _sweep(command: str, line: Line, loader: Loader, folder: Path) -> int:
    """Run the jobs of a sweep with log files in `folder`, print a summary, and return the exit code."""
    from nasx.cli import hydra_app
    from nasx.config import sweeps
    from nasx.tracking import sweep_log

    own = any(text.startswith("hydra.sweep.dir=") for text in line.overrides)
    placed = [] if own else [f"hydra.sweep.dir={json.dumps(str(folder))}"]
    fault: Exception | None = None
    try:
        with sweeps.without_validation(), hydra_app.application(loader) as hydra:
            hydra.multirun(command, task, [*line.overrides, *placed, "hydra.mode=MULTIRUN"])
    except KeyboardInterrupt:
        sweep_log.summary(folder, None)
        raise
    except Exception as error:  # noqa: BLE001 (reported in the summary with the other faults)
        fault = error
        if os.environ.get("NASX_DEBUG") == "1":
            traceback.print_exception(error)
    code = sweep_log.summary(folder, fault)
    if any("budget" in text for text in line.overrides):
        from nasx.report import pareto

        pareto.after_sweep(folder)
    _after_sweep(command, folder)
    return code


def _after_sweep(command: str, folder: Path) -> None:
    """Print the sweeper's best trial, if there is one, and the next commands for it or else for the last finished run.

    `folder` contains the log files of the sweep.
    """
    from nasx.report import run_summary
    from nasx.tracking import records, sweep_log

    jobs = sweep_log.jobs(folder)
    best = sweep_log.best(folder, jobs)
    if best:
        print(printable(f"best trial: {shlex.join(best.overrides)}"))
    for job in [*([best] if best else []), *reversed(jobs)]:
        for run in reversed(job.runs if job.ended and not job.fault else []):
            place = folder.parent.parent / run
            with contextlib.suppress(UserError):  # a damaged record
                if record := records.finished(place):
                    # the search of `nasx run` is already retrained: only `nasx table` remains
                    run_summary.show_next({**record, "kind": command}, place)
                    return
