"""Report the hardware and software of this machine, as text to paste into a bug report.

    nasx doctor [out=FOLDER] [device=auto|cpu|cuda|cuda:N]

The report lists versions, the device, available datasets and benchmark tables, extras and free disk space, and whether
runs can be written under out= (default: outputs/). Two checks run on the device: a hypergradient is compared with its
closed form, and one step of a search runs on the digits in the package and writes a checkpoint. The home folder is
printed as ~. Exit code 1 if a problem affects every search (its remedy is printed), otherwise 0; a missing dataset is
only noted.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from nasx import __version__
from nasx.cli.arguments import parse
from nasx.config import instantiate, paths, plugins
from nasx.core import spelling, system
from nasx.core.extras import install
from nasx.errors import UserError, printable

if TYPE_CHECKING:
    import torch

Lines = Iterator[tuple[str, str]]
LEAST_MB = 100
"""Free space in MiB for a small search; a checkpoint of the published DARTS search takes 25 MB, and two are kept."""
VARIABLES = (
    "NASX_DATA",
    "NASX_DEBUG",
    "XDG_CACHE_HOME",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "CUBLAS_WORKSPACE_CONFIG",
)
ANYWHERE = ("folder", "photos")
"""Datasets whose location is set by dataset.path."""
STEP = (
    "space=nb201",
    "method=darts",
    "dataset=digits",
    "dataset.size=16",
    "space.layers=1",
    "space.channels=4",
    "search.batch=8",
    "search.epochs=1",
    "search.updates_per_epoch=2",
    "quiet=true",
)
"""Overrides for one step: the first of two updates, because the supernet would be evaluated after the second."""


def main(words: Sequence[str]) -> int:
    """Print the report; return 1 if a problem that affects every search was found, else 0."""
    given = parse("doctor", words, {"out": "outputs", "device": "auto"}).options
    faults: list[UserError] = []
    device = (given["device"],)
    parts: tuple[tuple[Callable[..., Lines], tuple[object, ...]], ...] = (
        (versions, ()),
        (computes, device),
        (data, ()),
        (tables, ()),
        (extras, ()),
        (drawing, ()),
        (writes, (Path(given["out"]).expanduser(),)),
        (closed_form, device),
        (step, device),
    )
    for part, values in parts:
        try:
            for name, text in part(*values):
                print(f"{name.ljust(14)}{tilde(text)}".rstrip(), flush=True)
        except UserError as error:
            faults.append(error)
        except Exception as error:  # noqa: BLE001 (the report lists any failure)
            remedy = f"{install()}, and report this message if it still fails"
            faults.append(UserError(f"nasx doctor, {part.__name__}", f"{type(error).__name__}: {error}", remedy))
    for fault in faults:
        print(tilde(f"problem       {fault}"))
    print(f"{spelling.counted(len(faults), 'problem') if faults else 'no problems'} found")
    return 1 if faults else 0


def tilde(text: str) -> str:
    """Return `text`, made `printable`, with ~ in place of the home folder (also with its symlinks resolved)."""
    homes = {str(Path.home()), os.path.realpath(Path.home())} - {"/", ""}
    for home in sorted(homes, key=len, reverse=True):
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    return printable(text)


# ------------------------------------------------------------------------------------------------- the machine
def versions() -> Lines:
    """Yield the versions of nasx and its main dependencies, the operating system, and the `VARIABLES` that are set."""
    from nasx.tracking import environment

    found = environment.versions()
    yield "nasx", f"{__version__}" + (f", commit {commit}" if (commit := environment.commit()) else "")
    yield "versions", ", ".join(f"{name} {version}" for name, version in found.items() if name != "nasx")
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "environment", ", ".join(f"{x}={os.environ[x]}" for x in VARIABLES if x in os.environ) or "nothing set"


def computes(name: str) -> Lines:
    """Yield the device and number of threads that a run would use, and all GPUs with their free memory."""
    import torch

    from nasx.tracking import environment

    device = environment.device(name)
    found = environment.hardware(device)
    cores = system.cpus()
    yield "device", f"{found['device']}: {found['name']}"
    yield "threads", f"{found['threads']} on {cores} cores"
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(i)
        yield f"cuda:{i}", f"{torch.cuda.get_device_name(i)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


# --------------------------------------------------------------------------------------------- what was found
def data() -> Lines:
    """Yield the data folder, and for each dataset in conf/ that needs no path, whether its files exist."""
    from nasx.data.base import data_root

    yield "data", f"{data_root()}" + ("" if data_root().is_dir() else " (does not exist yet)")
    texts = {file.stem: file.read_text(encoding="utf-8") for file in (paths.conf_dir() / "dataset").glob("*.yaml")}
    for name in sorted(texts):
        if name not in ANYWHERE:
            yield f"  {name}", found(plugins.fields(name, texts))


def found(fields: dict[str, object]) -> str:
    """Describe whether the files of a dataset exist, without downloading them."""
    if "download" in fields:
        fields["download"] = False
    try:
        instantiate.build(fields).check()
    except UserError:
        return "not found" + (" (downloaded on first use)" if "download" in fields else "")
    return "found"


def tables() -> Lines:
    """Yield the benchmark tables. A damaged table is only noted, because a search without lookups does not need it."""
    from nasx.cli.bench import bench_info

    try:
        for table in bench_info():
            where = "inside the package" if table.get("embedded") else table["file"]
            yield f"  {table['benchmark']}", f"{table['cells']:,} cells, {where}" if table["cells"] else "not found"
    except UserError as error:
        yield "  tables", f"{error}"


def drawing() -> Lines:
    """Yield whether cells can be drawn. A failure is only noted, because a run is complete without pictures."""
    from nasx.report import cells

    try:
        cells.svg([("in", "out", "skip_connect")])
    except UserError as error:
        yield "pictures", f"cells are not drawn: {error.fault}; {error.remedy}"
    else:
        yield "pictures", "cells can be drawn"


def extras() -> Lines:
    """Yield the optional extras in pyproject.toml, and any packages that each one lacks."""
    needed: dict[str, list[str]] = {}
    for text in metadata.requires("nasx") or []:
        if named := re.match(r"([\w.-]+).*extra\s*==\s*['\"]([\w-]+)", text):
            needed.setdefault(named[2], []).append(named[1])
    yield "extras", "optional: uv sync --extra NAME"
    for extra, packages in sorted(needed.items()):
        lacking = [package for package in packages if not _version(package)]
        yield f"  {extra}", f"lacks {', '.join(lacking)}" if lacking else "installed"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# ------------------------------------------------------------------------------------------------ what works
def writes(out: Path) -> Lines:
    """Yield the free space for runs in `out`, without creating it. Raises UserError if runs cannot be written there."""
    place = next(path for path in (out.expanduser().absolute(), *out.expanduser().absolute().parents) if path.exists())
    remedy = "choose a writable folder with out=FOLDER"
    if not place.is_dir():
        raise UserError(f"out={out}", f"{place} is not a folder", remedy)
    free = shutil.disk_usage(place).free / 2**20
    yield "free space", f"{free / 2**10:,.1f} GiB for {out}"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"nasx")
            file.flush()
            os.fsync(file.fileno())
            system.lock_file(file.fileno())
    except OSError as error:
        fault = f"{place} is not writable, or does not support file locking ({error.strerror or error})"
        raise UserError(f"out={out}", fault, remedy) from error
    if free < LEAST_MB:
        raise UserError(f"out={out}", f"only {free:.0f} MiB are free", "free some space, or choose another out=FOLDER")
    yield "runs", f"can be written to {out}" + ("" if place == out.absolute() else " (does not exist yet)")


def closed_form(name: str) -> Lines:
    """Compare the hypergradient of one unrolled step on quadratic losses with its closed form.

    L_train = |w - D a|^2 / 2, L_val = |w|^2 / 2, w' = w - lr (w - D a):  dL_val(w') / da = lr D w'.
    Raises UserError if they differ.
    """
    import torch

    from nasx.tracking import environment

    device = environment.device(name)
    w, a, d = (
        torch.linspace(low, high, 5, dtype=torch.float64, device=device) for low, high in ((1, 2), (-1, 3), (0.5, 1))
    )
    error = hypergradient_error(w, a, d, lr=0.1)
    yield "hypergradient", f"relative error {error:.0e}"
    if not error < 1e-9:
        fault = f"a hypergradient differs from its closed form by {error:.0e}"
        raise UserError(f"device={name}", fault, "install torch again, or use another device")


def hypergradient_error(w: torch.Tensor, a: torch.Tensor, d: torch.Tensor, lr: float) -> float:
    """Return the relative error of the hypergradient in `closed_form`; `w`, `a` and `d` (diagonal of D) are vectors."""
    from nasx.core.bilevel import Tree, directional, gradient

    def grad_a(at: Tree) -> Tree:
        leaf = {"a": a.clone().requires_grad_()}
        return gradient(((at["w"] - d * leaf["a"]) ** 2).sum() / 2, leaf)

    moved = w - lr * (w - d * a)
    g = -lr * directional(grad_a, {"w": w}, {"w": moved})["a"]
    exact = lr * d * moved
    return float((g - exact).norm() / exact.norm())


def step(name: str) -> Lines:
    """Run one update of a tiny search on digits, and write a checkpoint to a temporary folder."""
    import torch

    from nasx.config import compose
    from nasx.config.job_info import JobInfo
    from nasx.searcher.job import SearchJob
    from nasx.tracking.session import session

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nasx-doctor-") as folder:
        overrides = [*STEP, f"out={folder}", f"device={name}"]
        cfg, choices = compose.make_loader().compose("search", overrides)
        with session(cfg, JobInfo(choices=choices, overrides=overrides, command="nasx doctor")) as ctx:
            job = SearchJob(ctx)
            before = {key: x.detach().clone() for key, x in job.search.w.items()}
            with contextlib.closing(job.steps()) as steps:
                next(steps)
            job.save()
            saved = ctx.run.load()
        moved = any(not torch.equal(x, before[key]) for key, x in job.search.w.items())
        if saved is None or not moved:
            fault = "a search step on digits changed no weights or wrote no checkpoint"
            raise UserError(f"device={name}", fault, "use another device, and report this message")
    yield "search step", f"done and saved in {time.monotonic() - began:.1f} s"
