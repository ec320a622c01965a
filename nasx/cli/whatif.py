"""Branch from an epoch of a finished or stopped search with other settings, to see which would have saved it.

    nasx whatif RUN epoch=E [method.KEY=VALUE ...] [search.KEY=VALUE ...] [stop=CHOICE] [method=CHOICE] [KEY=VALUE ...]
    nasx whatif RUN ... auto [KEY=VALUE ...]

The branch continues, bit for bit, from the checkpoint that RUN kept after epoch E (search with `search.keep_every=N`).
The branch is a separate run: the same command resumes it, and tables, reports and comparisons include it. Its record
lists RUN, the epoch, the checkpoint's SHA-256 and the changed settings. Without changed settings, the branch is
identical to RUN, bit for bit.

If `method=CHOICE` is a method that wraps another one (sdarts, beta_darts, darts_minus), it wraps the method of RUN; all
other settings are taken from RUN. The space, the dataset, the batch size and all other settings that affect the first E
epochs cannot be changed.

auto   branches at the last kept epoch before the dominant eigenvalue or the share of skip connections started to rise
       (nasx/diagnostics/onset.py), once for each remedy, and compares the results in a table and a figure; for several
       RUNs (seeds), means are shown. Remedies: ten times the weight decay (RobustDARTS, DARTS-ADA), perturbed mixtures
       (SmoothDARTS), aligned layers (Lambda-DARTS), a penalty on logits (beta-DARTS), a tenth of the architecture
       learning rate; stopping there (DARTS-ES) needs no branch.

Settings of the branch as a run: out, name, device, threads, workers, checkpoint_s, draw, logger, quiet, allow.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nasx.cli import arguments, diagnose, invoke, preflight
from nasx.config import check, commands, components, identity, overrides, plugins, provenance, stages, trust
from nasx.config.compose import Resolved, make_loader, options, published
from nasx.config.job_info import JobInfo
from nasx.core import files, spelling
from nasx.core.plain import Config
from nasx.diagnostics.branches import outcomes
from nasx.diagnostics.onset import onset
from nasx.errors import UserError, printable
from nasx.report import branches
from nasx.tracking import checkpoints, lineage, lock, records

JOB = commands.NON_IDENTITY_KEYS - {"devices", "seeds_per_job", "launch", "objective", "hydra", "then"}
"""Keys that determine where and how a branch runs."""
CHANGED = ("method", "search", "stop")
"""Groups in which a branch may differ from its parent."""
SHARED = {
    "space": "the shape of the supernet",
    "dataset": "the images of the first epochs",
    "benchmark": "the benchmark table",
    "search": "the whole protocol",
    "search.batch": "the images of an epoch",
    "search.updates_per_epoch": "the length of an epoch",
    "search.protocol": "the name under which results are compared",
    "search.auxiliary": "the shape of the supernet",
    "search.arch_optimizer": "the optimizer moments in the checkpoint",
    "search.bptt": "the segments of the text",
    "search.short": "the segments of the text",
    "search.jitter": "the segments of the text",
}
"""Group or search setting -> the property that it determines, which a branch shares with its parent."""
MOST_DECAY, MORE_DECAY = 0.03, 10
"""The weight decay is increased tenfold, to at most 0.03, as in RobustDARTS (DARTS-ADA)."""


class Request(NamedTuple):
    """A parsed command line: parent runs, changed settings, job settings of the branches, and other options."""

    runs: tuple[str, ...]
    auto: bool
    epoch: int | None
    changes: tuple[str, ...]
    job: tuple[str, ...]
    allow: tuple[str, ...]
    out: str


class Branch(NamedTuple):
    """The configuration of a branch, and the information for its job."""

    cfg: Config
    info: JobInfo


def main(words: Sequence[str]) -> int:
    """Run `nasx whatif RUN ... epoch=E|auto [KEY=VALUE ...]`."""
    asked = request(words)
    parents = [lineage.run_folder(name, asked.out) for name in asked.runs]
    if asked.epoch is not None:
        saved = opened(parents[0], asked.allow)
        made = invoke.do("search", *branch(parents[0], saved, asked.epoch, asked.changes, asked)).folder
        branches.show([outcomes(parents[0], asked.epoch, {" ".join(asked.changes) or "no changes": made})])
        return 0
    plans = [(folder, epoch := start(folder), dict(plan(folder, epoch, asked))) for folder in parents]
    found = [outcomes(folder, epoch, dict(_try(folder, epoch, remedies))) for folder, epoch, remedies in plans]
    more = f"-and-{len(parents) - 1}-more" if len(parents) > 1 else ""
    path = Path(asked.out).expanduser() / f"whatif-{parents[0].name}{more}"
    ends = [{**each._asdict(), "ends": {name: end._asdict() for name, end in each.ends.items()}} for each in found]
    files.write_atomic(path.with_name(f"{path.name}.json"), json.dumps(ends, indent=1) + "\n")
    pictures = branches.picture(found, path)
    branches.show(found)
    print(printable(f"files: {path}.json, {', '.join(each.name for each in pictures)}"))
    return 0


def request(words: Sequence[str]) -> Request:
    """Parse the arguments. Raises UserError."""
    own = {"epoch": "", "out": "outputs", "allow": ""}
    taken = [word for word in words if "=" in word and word.partition("=")[0] in own]
    runs = [word.removeprefix("from=") for word in words if "=" not in word or word.startswith(("from=", "./", "/"))]
    rest = [word for word in words if "=" in word and word not in (*taken, *runs) and not word.startswith("from=")]
    auto, runs = "auto" in runs, [run for run in runs if run != "auto"]
    given = arguments.parse("whatif", taken, own)
    where, epoch = "nasx whatif", given.optional("epoch", 1)
    if unknown := [word for word in runs if word.startswith("-")]:
        raise UserError(f"{where} {unknown[0]}", "is not recognized", f"see {where} --help")
    if not runs or (not auto and len(runs) > 1):
        needs = f"needs {'a run' if not runs else 'a single run unless auto is given'}"
        raise UserError(where, needs, f"for example {where} RUN epoch=E method.KEY=VALUE")
    if auto == (epoch is not None):
        raise UserError(where, "needs either epoch=E or auto", f"for example {where} {runs[0]} auto")
    changes = [word for word in rest if overrides.first_part(word) in CHANGED]
    job = [word for word in rest if overrides.first_part(word) in JOB]
    faults = [fault for word in rest if word not in job and (fault := _refusal(word)) is not None]
    if auto and changes:
        wrong = f"decides which settings to change, but {changes[0]} is given"
        faults.append(UserError(f"{where} auto", wrong, "replace auto with epoch=E, or remove the setting"))
    if auto and any(word.startswith("name=") for word in job):
        faults.append(UserError(f"{where} auto", "starts several runs, but name= is given", "leave name out"))
    if faults:
        raise UserError.join(faults)
    return Request(tuple(runs), auto, epoch, tuple(changes), tuple(job), given.allowed, given.options["out"])


def _refusal(word: str) -> UserError | None:
    """Return a UserError if a branch cannot change this setting, otherwise None."""
    key = word.partition("=")[0].lstrip("+~")
    first = key.partition(".")[0]
    what = SHARED.get(key if first == "search" else first)
    if what:
        fault = f"would change {what}, which a branch shares with its parent"
        return UserError(word, fault, "start another search: nasx search")
    if first in CHANGED:
        return None
    known = [*(f"{group}.KEY" for group in CHANGED), "method", "stop", *sorted(JOB), "epoch"]
    remedy = spelling.suggest(key, known, "a branch may set")
    return UserError(word, "cannot differ between a branch and its parent", remedy)


# ------------------------------------------------------------------------------------------------- one branch
def opened(folder: Path, allow: Sequence[str]) -> Config:
    """Return the configuration of a parent. Raises UserError if the run is in progress or uses untrusted code."""
    saved, _ = diagnose.open_search(folder, allow)
    if (holder := lock.holder(folder)) is not None:
        raise UserError(str(folder), f"is in use by {holder}", "wait for it to finish, or stop it")
    if stages.count(saved) > 1:
        remedy = f"name the folder of a stage other than the last: {folder / stages.name(0)}"
        raise UserError(str(folder), "is a search with several stages", remedy)
    return saved


def kept(folder: Path, epoch: int) -> Path:
    """Return the path of the checkpoint kept after an epoch. Raises UserError if there is none."""
    found = checkpoints.kept(folder)
    if epoch not in found:
        again = "search again under another name, with name=NAME search.keep_every=1"
        known = f"choose one of the kept epochs {', '.join(map(str, found))}" if found else again
        raise UserError(f"epoch={epoch}", f"{folder} has no checkpoint for this epoch", known)
    return found[epoch]


def branch(folder: Path, saved: Config, epoch: int, changes: Sequence[str], asked: Request) -> Branch:
    """Return the branch of the search in `folder` at an epoch, with `changes` to its configuration `saved`.

    Raises UserError.
    """
    path = kept(folder, epoch)
    chosen = [word for word in changes if word.partition("=")[0] in commands.GROUPS]
    base, picked = _composed([*chosen, *asked.job], str(saved["choices"].get("space")))
    groups = [word.partition("=")[0] for word in chosen]
    own = {*JOB, *groups}
    held = {key: saved[key] for key in (*commands.GROUPS, "seed", "deterministic") if key in saved and key not in own}
    cfg: Config = {**base, **held, "allow": list(asked.allow), "out": asked.out}
    if "method" in groups:
        _same_space(str(picked["method"]), base["space"], saved["space"])
    if "method" in groups and "inner" in cfg["method"]:
        cfg = overrides.with_value(cfg, "method.inner", saved["method"].get("inner", saved["method"]))
    for word in changes:
        if word not in chosen:
            cfg = _with(cfg, word)
    choices = {**saved["choices"], **{group: picked[group] for group in groups}}
    check.check(cfg, choices, changes)
    if epoch >= cfg["search"]["epochs"]:
        fault = f"is not before the end of the branch, which has {spelling.counted(cfg['search']['epochs'], 'epoch')}"
        raise UserError(f"epoch={epoch}", fault, "choose an earlier epoch, or raise search.epochs")
    digest = checkpoints.checksum(path)
    origin = {"run": folder.name, "identity": saved.get("identity"), "epoch": epoch, "checkpoint": digest}
    info = _facts(folder, saved, cfg, choices, origin, changes, asked)
    return Branch({**cfg, "branch": origin}, replace(info, origin=str(path)))


def _same_space(method: str, needed: Mapping[str, object], held: Mapping[str, object]) -> None:
    """Raise UserError if a method's file sets a space setting to a value that differs from the parent's."""
    file = plugins.file("method", method)
    assert file is not None, method  # the method was composed from its file
    for key, _, _ in provenance.values(file.read_text(encoding="utf-8")):
        group, _, name = key.partition(".")
        if group == "space" and needed.get(name) != held.get(name):
            value = overrides.format_value(needed.get(name))
            fault = f"sets {key}={value}, which would change the shape of the supernet"
            raise UserError(f"method={method}", fault, "start another search: nasx search")


def _composed(texts: Sequence[str], space: str) -> Resolved:
    """Compose `nasx search` with job settings and chosen components. Raises UserError."""
    loader = make_loader()
    for text in texts:
        group, _, choice = text.partition("=")
        if group in commands.GROUPS and choice not in (known := options(loader, group)):
            raise preflight.unknown_choice(text, group, choice, known)
    where = [f"space={space}"] if space in options(loader, "space") else []
    return loader.compose("search", [*where, *map(arguments.quote_override, texts)])


def _with(cfg: Config, text: str) -> Config:
    """Apply one override to `cfg`. Raises UserError if it cannot be parsed or sets an unknown key."""
    if trust.calls_resolver(text):
        raise trust.resolver_fault(*text.split("=", 1))
    override = lineage.parsed(text)
    if override.is_sweep_override():
        raise UserError(text, "lists several values", "give one value; each value needs a branch of its own")
    if (fault := components.unknown_key(cfg, override.key_or_group, "search")) is not None:
        raise fault
    return overrides.with_value(cfg, override.key_or_group, override.value())


def _facts(
    folder: Path,
    saved: Config,
    cfg: Mapping[str, object],
    choices: Mapping[str, str],
    origin: Mapping[str, object],
    changes: Sequence[str],
    asked: Request,
) -> JobInfo:
    """Return the information for the job of a branch, including the facts stated in its record."""
    record = files.read_json(folder / "result.json") or {}
    before, after = (
        records.flatten({group: tree[group] for group in CHANGED if group in tree}) for tree in (saved, cfg)
    )
    differ = identity.differences(before, after, commands.NON_IDENTITY_SETTINGS)
    words = [str(folder), f"epoch={origin['epoch']}", *changes, *asked.job]
    words += [] if asked.out == "outputs" else [f"out={asked.out}"]
    words += [f"allow=[{','.join(asked.allow)}]"] if asked.allow else []
    try:
        standard = published("search", choices, cfg, None)
    except UserError:  # a component in the user's own folder
        standard = None
    return JobInfo(
        choices=choices,
        overrides=[*map(str, record.get("overrides") or ()), *changes, f"branch.epoch={origin['epoch']}"],
        command=shlex.join(["nasx", "whatif", *words]),
        published=standard,
        branch={**origin, "changed": differ},
    )


# ------------------------------------------------------------------------------------------------------- auto
def start(folder: Path) -> int:
    """Return the epoch at which `auto` branches. Raises UserError if no collapse or no earlier checkpoint is found."""
    try:
        began = onset(records.read_rows(folder))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:  # rows that nasx did not write
        fault = "contains rows that were not written by a search"
        raise UserError(str(folder / "metrics.jsonl"), fault, "name the folder of a search") from error
    where = f"nasx whatif {folder} auto"
    if began is None:
        fault = "neither its eigenvalue nor its share of skip connections shows a collapse"
        raise UserError(where, fault, "choose the epoch yourself: epoch=E")
    found = [epoch for epoch in checkpoints.kept(folder) if epoch <= began.epoch]
    if not found:
        fault = f"{began.reason}, but no earlier checkpoint was kept"
        raise UserError(where, fault, "search again with search.keep_every=1")
    return found[-1]


def _try(
    folder: Path, epoch: int, remedies: Mapping[str, Branch | UserError]
) -> Iterator[tuple[str, Path | UserError]]:
    """Run the branches, and yield each remedy with its run folder or error.

    A branch that does not fit its checkpoint is reported as an error, and the others continue.
    """
    for name, each in remedies.items():
        if isinstance(each, UserError):
            yield name, each
            continue
        print(printable(f"{folder.name} from epoch {epoch}: {name}"), file=sys.stderr, flush=True)
        try:
            yield name, invoke.do("search", each.cfg, replace(each.info, summary=False)).folder
        except checkpoints.Unfit as fault:
            yield name, fault


def plan(folder: Path, epoch: int, asked: Request) -> Iterator[tuple[str, Branch | UserError]]:
    """Yield (remedy, branch or error) for each remedy that the search in `folder` does not already use."""
    saved = opened(folder, asked.allow)
    search, method = saved["search"], str(saved["choices"].get("method"))
    remedies = {
        "weight decay x 10": [f"search.weight_decay={min(MORE_DECAY * search['weight_decay'], MOST_DECAY):g}"],
        **{name: [f"method={name}"] for name in ("sdarts", "lambda", "beta_darts") if name != method},
        "arch_lr / 10": [f"search.arch_lr={search['arch_lr'] / 10:g}"],
    }
    for name, changes in remedies.items():
        try:
            yield name, branch(folder, saved, epoch, changes, asked)
        except UserError as fault:
            yield name, fault
