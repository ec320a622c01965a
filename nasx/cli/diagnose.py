"""Compute the diagnostics of a search from its checkpoints.

    nasx diagnose RUN [path=FOLDER] [dataset.KEY=VALUE ...] [device=auto] [threads=N] [allow=PACKAGE]

The results are the entries that `search.diagnose_every` would have written at each checkpoint that the run still has
(the last two): eigenvalue, alignment, correlation, operator and node gradients, and the entries that need no extra
passes. They are printed as one column per checkpoint and written to RUN/diagnose.json. The run may be in progress; it
is not modified. The dataset of the search is used, and path= sets the current location of its files. from=RUN is
accepted too, as in other commands.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from nasx.cli.arguments import parse
from nasx.config import commands, components, instantiate
from nasx.config.job_info import JobInfo
from nasx.core import files, spelling
from nasx.core.plain import Config, Row, State
from nasx.errors import UserError, printable
from nasx.tracking import checkpoints, lineage, records, run_folder

if TYPE_CHECKING:
    from nasx.searcher.job import SearchJob

SHOWN = (
    "eigenvalue", "alignment_train", "alignment_val", "signed_train", "signed_val", "entropy", "saturation", "change",
    "moved", "none_weight",
)  # fmt: skip
"""Scalar entries, in the order in which they are printed."""


def main(words: Sequence[str]) -> int:
    """Compute the diagnostics, write them to the run folder, and print them."""
    settings, rest = lineage.split_dataset_overrides(words)
    named = [word if "=" in word or word.startswith("-") else f"from={word}" for word in rest]
    args = parse("diagnose", named, {"from": None, "out": "outputs", "device": "auto", "threads": "", "allow": ""})
    folder = lineage.run_folder(args.options["from"], args.options["out"])
    device, threads = args.options["device"], args.optional("threads")
    rows = list(diagnose(folder, device=device, threads=threads, allow=args.allowed, settings=settings))
    path = folder / "diagnose.json"
    files.write_atomic(path, json.dumps(rows, indent=1) + "\n")
    print(printable("\n".join([*columns(rows), f"gradients, correlations and cosines: {path}"])))
    return 0


def diagnose(
    folder: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    allow: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> Iterator[Row]:
    """Yield a row of diagnostics for each checkpoint of the search in `folder`, oldest first.

    Each row contains the values that the search would have written to its metrics at that checkpoint, and the number of
    updates so far. Raises UserError if `folder` is not the folder of a search, or has no readable checkpoint (a
    zero-cost search trains nothing and writes none).
    """
    saved, found = open_search(folder, allow, settings)
    with restored_job(folder, saved, device, threads, allow) as job:
        states = [state for path in found if (state := checkpoints.read(path, job.ctx.device)) is not None]
        for state in states:
            rows = records.parsed(state["metrics"]) if "metrics" in state else records.read_rows(folder)
            yield row(job, state, rows[: state["rows"]])
    if not states:
        raise unreadable(folder, len(found))


def unreadable(folder: Path, count: int) -> UserError:
    """Return the error for a search that has `count` checkpoints but none that can be read."""
    fault = f"has no readable checkpoint ({spelling.counted(count, 'file')} found)"
    return UserError(f"from={folder}", fault, "start the search again")


def open_search(folder: Path, allow: Sequence[str] = (), settings: Sequence[str] = ()) -> tuple[Config, list[Path]]:
    """Return the configuration of the search in `folder`, and its checkpoints from oldest to newest.

    `settings` are overrides of its dataset. Raises UserError if `folder` is not the folder of a search, has no
    checkpoint, needs code that `allow` does not name, or was written by an incompatible version.
    """
    saved = records.configuration(folder)
    if saved is None or saved.get("kind") != "search":
        raise UserError(f"from={folder}", "is not the folder of a search", "name a folder that nasx search created")
    if own := instantiate.foreign_packages(saved, allow):
        fault = f"uses classes from {', '.join(own)}, which are not trusted"
        raise UserError(f"from={folder}", fault, f"if you trust them, add allow='[{','.join(own)}]'")
    found = checkpoints.found(folder)
    if not found:
        remedy = "wait for its first epoch, or name a search that trains a supernet"
        raise UserError(f"from={folder}", "has no checkpoint yet", remedy)
    if settings:
        saved = {**saved, "dataset": lineage.with_settings(saved["dataset"], settings, allow)}
    homes = (*commands.HOMES, *allow)
    groups = [group for group in commands.GROUPS if group in saved]
    faults = [fault for group in groups for fault in components.component_faults(group, saved[group], homes)]
    if faults:
        fault = f"its configuration is not compatible with this version of nasx ({faults[0]})"
        raise UserError(f"from={folder}", fault, "use the version that wrote it")
    return saved, found


@contextlib.contextmanager
def restored_job(
    folder: Path, saved: Config, device: str, threads: int | None, allow: Sequence[str]
) -> Iterator[SearchJob]:
    """Yield the job of a saved search without locking its folder; the process is set up as for the search."""
    from nasx.searcher.job import SearchJob
    from nasx.tracking import environment
    from nasx.tracking.session import Session

    chosen, seed, precision = environment.device(device), saved["seed"], saved["engine"].get("precision", "fp32")
    deterministic = bool(saved.get("deterministic"))
    cfg = {
        **saved,
        "device": str(chosen),
        "threads": threads,
        "allow": list(allow),
        "quiet": True,
        "name": folder.name,
        "out": str(folder.parent),
        "checkpoint_s": 1e9,
        "seeds_per_job": 1,
        "workers": 0,
    }
    with environment.prepared(chosen, threads=threads, deterministic=deterministic, seed=seed, precision=precision):
        run, info = run_folder.ReadOnlyRun(folder), JobInfo(choices=saved["choices"])
        yield SearchJob(Session(run, chosen, cfg, info, environment.Signals()))


def row(job: SearchJob, state: State, rows: list[Row]) -> Row:
    """Return all entries for a checkpoint; `rows` are the metrics rows up to that checkpoint."""
    from nasx.core.bilevel import detached

    job.loop.load(state)
    epoch = max(-(-state["updates"] // job.loop.updates_per_epoch), 1)
    job.watch.every, job.watch.running = 1, None  # running sums over steps cannot be computed from one checkpoint
    job.watch.rows = [r for r in rows if r["epoch"] < epoch]
    job.begin_epoch(epoch - 1)  # sets the drop-path rate of that epoch
    mix = detached(job.problem.relax(job.search.a))
    genotype = str(job.genotype(mix))
    entries = job.watch.entries(epoch, mix, genotype)
    return {"epoch": epoch, "updates": state["updates"], "genotype": genotype, **entries}


def columns(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table with one row per entry and one column per checkpoint."""
    lines = [["update", *(str(r["updates"]) for r in rows)], ["epoch", *(str(r["epoch"]) for r in rows)]]
    lines += [[name, *(_number(r.get(name)) for r in rows)] for name in SHOWN if any(name in r for r in rows)]
    for cell in rows[-1].get("cells", {}):
        for fact in ("depth", "width", "skip_ratio"):
            lines.append([f"{cell} {fact}", *(_number(r.get("cells", {}).get(cell, {}).get(fact)) for r in rows)])
    cost = [r["diagnostics"] for r in rows if "diagnostics" in r]
    lines.append(["passes, forward + backward", *(f"{c['forward']} + {c['backward']}" for c in cost)])
    aligned = tabulate(lines, tablefmt="plain", disable_numparse=True, colalign=("left", *["right"] * len(rows)))
    yield from aligned.splitlines()


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
