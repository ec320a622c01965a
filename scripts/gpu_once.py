"""Everything that must be checked on a GPU, in one call of at most 12 minutes (sized for an H200).

    python scripts/gpu_once.py --out gpu.json             # all parts
    python scripts/gpu_once.py --parts speed,memory       # some
    python scripts/gpu_once.py --dry-run                  # tiny sizes on the fake CUDA runtime (tests/fakecuda), no GPU

tests   60 s   tests/program/test_gpu.py, as many tests as fit
speed   240 s  steps of whole searches (data, step, running means) on nb201 and darts for each engine setting, in turn
               with engine=naive: milliseconds, and ratios for each turn
memory  60 s   peak memory of a step
search  300 s  a whole first-order search on NAS-Bench-201, 50 epochs, with look-up: on CIFAR-10 if NASX_DATA has it,
               otherwise on random images of its shape

The file is written after each setting and epoch, so that an abrupt end loses nothing. Work that does not fit into the
time of its part is skipped or stopped, and listed under `skipped`.

A machine needs Python 3.11 or later, torch 2.11 or later with torchvision, numpy, rich, PyYAML and (for the tests)
pytest and hypothesis, but no drawing package. nasx runs from the checkout. Some machines lack hydra-core, omegaconf,
antlr4-python3-runtime, pydantic, pydantic-core, annotated-types, typing-inspection and typing-extensions. In that case,
build wheels with `pip wheel --no-deps -w wheels NAME==VERSION ...` for the machine's Python and platform, in the
versions that `uv pip freeze` prints (antlr4-python3-runtime is distributed as source; its wheel fits every platform),
install them there with `pip install --no-index --no-deps --target site wheels/*.whl`, or unzip them into `site`, and
start with `PYTHONPATH=site python scripts/gpu_once.py`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_searches import Prepared, Report, Sizes, TimeUp, limited

if TYPE_CHECKING:
    from nasx.searcher.memory import Memory

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
BUDGET_S = {"tests": 60.0, "speed": 240.0, "memory": 60.0, "search": 300.0}
TURNS = (3, 15)
"""Minimum and maximum number of turns in a comparison."""
WARM = 4
"""Steps before a measurement: optimizers are set up, kernels are chosen, a graph is recorded and replayed."""
GRAPHS = ("engine.graphs=on",)
LAST = ("engine.channels_last=true",)
COMPILED_S = 60.0
"""Seconds that must be left for a compilation to be tried."""
ENGINES: dict[str, tuple[str, ...]] = {
    "naive": ("engine=naive",),
    "eager": (),
    "graphs": GRAPHS,
    "graphs, channels_last": (*GRAPHS, *LAST),
    "graphs, tf32": (*GRAPHS, "engine.precision=tf32"),
    "graphs, bf16": (*GRAPHS, "engine.precision=bf16"),
    "graphs, bf16, channels_last": (*GRAPHS, "engine.precision=bf16", *LAST),
    "compiled, channels_last": (*LAST, "engine.compile=on"),
    "graphs, compiled, channels_last": (*GRAPHS, *LAST, "engine.compile=on"),
}
"""What is compared, in order of importance. tf32 and bf16 change the numbers: they are reported, never chosen."""
MEMORY: dict[str, tuple[str, ...]] = {
    "eager": (),
    "graphs": GRAPHS,
    "bf16": ("engine.precision=bf16",),
    "checkpoint": ("engine.checkpoint=true",),
    "second order": ("method.order=2",),
    "idarts": ("method=idarts", "method.T=1"),
    "amended": ("method=amended",),
}
SPACES = ("nb201", "darts")


# ----------------------------------------------------------------------------------------------------------- parts
def tests(report: Report, sizes: Sizes, seconds: float) -> None:
    """Run tests/program/test_gpu.py, as far as time allows."""
    words = [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q"]
    words += ["tests/program/test_gpu.py"]
    words += ["--collect-only"] if sizes.dry else ["-m", "gpu", "-v", "--tb=line", "--maxfail=25"]
    lines: list[str] = []
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        assert job.stdout is not None
        try:
            with limited(seconds):
                lines += map(str.rstrip, job.stdout)
        except TimeUp:
            report.skip("tests", "the rest of tests/program/test_gpu.py", "its time was up")
        finally:
            job.kill()
    ends = re.findall(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b", "\n".join(line for line in lines if "::" in line))
    report.add(
        "tests",
        **collections.Counter(ends),
        last=next((x for x in reversed(lines) if " test" in x), ""),
        failures=[line for line in lines if "FAILED" in line or "Error" in line][:60],
    )


def speed(report: Report, sizes: Sizes, seconds: float) -> None:
    """Time steps of each engine in turn with the naive path: first those without a compiler, then those with one."""
    for space in SPACES:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=sizes.folder)))
            ready: dict[str, Prepared] = {}
            try:
                with limited(seconds / len(SPACES)) as left:
                    for compiled in (False, True):
                        names = [name for name in ENGINES if ("compiled" in name) == compiled]
                        new = [name for name in names if warmed(report, sizes, stack, folder, space, name, ready, left)]
                        if new and "naive" in ready:
                            turns = TURNS[0] if sizes.dry else TURNS[1]
                            compared(report, space, {name: ready[name] for name in ("naive", *new)}, turns, left)
            except TimeUp:
                report.skip("speed", f"{space}, all that is not listed", "its time was up")


def warmed(
    report: Report,
    sizes: Sizes,
    stack: contextlib.ExitStack,
    folder: Path,
    space: str,
    name: str,
    ready: dict[str, Prepared],
    left: Callable[[], float],
) -> bool:
    """Return whether an engine has taken its first steps; if not, report the reason."""
    least = COMPILED_S if "compiled" in name else 10.0
    if sizes.dry and "compiled" in name:
        report.skip("speed", f"{space}, {name}", "the fake runtime does not compile")
    elif left() < least and not sizes.dry:
        report.skip("speed", f"{space}, {name}", f"{left():.0f} s were left, less than {least:.0f}")
    else:
        try:
            one = Prepared(stack, folder, sizes.steps(space, *ENGINES[name]))
            warm = [one.seconds() for _ in range(WARM)]
        except Exception as error:  # noqa: BLE001  the other settings continue
            report.skip("speed", f"{space}, {name}", f"{type(error).__name__}: {error}")
        else:
            ready[name] = one
            report.add(
                "speed",
                space=space,
                engine=name,
                first_s=round(warm[0], 3),
                warm_up_s=round(sum(warm), 3),
                replayed=one.replayed(),
            )
            return True
    return False


def compared(report: Report, space: str, ready: dict[str, Prepared], turns: int, left: Callable[[], float]) -> None:
    """Report the median milliseconds of each, and ratios to the naive path, over turns in which each takes a step."""
    times: dict[str, list[float]] = {name: [] for name in ready}
    for n in range(turns):
        if n >= TURNS[0] and left() < (COMPILED_S if "eager" in ready else 5):
            break
        for name, one in ready.items():
            times[name].append(one.seconds())
    for name, own in times.items():
        ratios = sorted(a / max(b, 1e-9) for a, b in zip(times["naive"], own, strict=True))
        report.add(
            "speed",
            space=space,
            engine=name,
            ms=round(1000 * statistics.median(own), 3),
            n=len(own),
            ratio=round(statistics.median(ratios), 3),
            ratio_min=round(ratios[0], 3),
            ratio_max=round(ratios[-1], 3),
        )


def memory(report: Report, sizes: Sizes, seconds: float) -> None:
    """Report the peak memory of a step, with a single search on the device; then the predicted one, as time allows."""
    import torch

    measured: dict[tuple[str, str], Memory] = {}
    with limited(seconds) as left:
        for space in SPACES:
            for name, words in MEMORY.items():
                if left() < 4 and not sizes.dry:
                    report.skip("memory", f"{space}, {name}", "too little time was left")
                    continue
                gc.collect()
                torch.cuda.empty_cache()
                base = torch.cuda.memory_allocated()
                with contextlib.ExitStack() as stack:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=sizes.folder)))
                    one = Prepared(stack, folder, sizes.steps(space, *words))
                    for _ in range(WARM):
                        one.seconds()  # this starts a new peak
                    measured[space, name] = one.turn.job.memory
                    report.add(
                        "memory",
                        space=space,
                        setting=name,
                        batch=one.config["search"]["batch"],
                        peak_mib=round((torch.cuda.max_memory_allocated() - base) / 2**20, 1),
                        reserved_mib=round(torch.cuda.memory_reserved() / 2**20, 1),
                    )
                    del one
        quick_first = sorted(measured, key=lambda pair: list(MEMORY).index(pair[1]))
        for space, name in quick_first[: 1 if sizes.dry else None]:
            predicted = measured[space, name].peak().total  # without the workspace of cuBLAS
            report.add("predicted memory", space=space, setting=name, peak_mib=round(predicted / 2**20, 1))


def search(report: Report, sizes: Sizes, seconds: float) -> None:
    """Run a whole search with the fastest engine that computes the usual numbers."""
    rows = [r for r in report.values["parts"].get("speed", []) if r["space"] == "nb201" and "ratio" in r]
    exact = {r["engine"]: r["ratio"] for r in rows if not any(word in r["engine"] for word in ("tf32", "bf16"))}
    best = max(exact, key=exact.__getitem__, default="graphs")
    words = tuple(word.replace("graphs=on", "graphs=auto") for word in ENGINES[best])
    began, shown, done = time.monotonic(), 0, False
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=sizes.folder)))
        one = Prepared(stack, folder, (*sizes.whole(), *words))
        job = one.turn.job
        report.add(
            "search",
            engine=best,
            data=one.config["dataset"]["_target_"],
            updates=job.loop.total,
            epochs=one.config["search"]["epochs"],
        )
        try:
            with one.prepared(), limited(seconds):
                while not done:
                    try:
                        one.turn.take()
                    except StopIteration:
                        done = True
                    for row in job.watch.rows[shown:]:
                        report.add(
                            "search",
                            s=round(time.monotonic() - began, 2),
                            **{k: row.get(k) for k in ("epoch", "train_loss", "valid_accuracy", "lookup", "genotype")},
                        )
                    shown = len(job.watch.rows)
        except TimeUp:
            report.skip("search", f"the epochs after {shown}", "its time was up; those before are kept")
        else:
            report.add(
                "search",
                s=round(time.monotonic() - began, 2),
                finished=True,
                replayed=one.replayed(),
                **{k: job.result[k] for k in ("genotype", "lookup", "passes", "updates", "wall_s", "peak_mb")},
            )


PARTS: dict[str, Callable[[Report, Sizes, float], None]] = {
    "tests": tests,
    "speed": speed,
    "memory": memory,
    "search": search,
}


def fake(words: list[str]) -> None:
    """Restart on the fake CUDA runtime if it is not loaded yet; then skip what needs arithmetic."""
    sys.path.append(str(ROOT / "tests"))
    if "libfakecuda" not in os.environ.get("LD_PRELOAD", ""):
        from fakecuda import runtime

        if why := runtime.missing():
            sys.exit(why)
        os.execve(sys.executable, [sys.executable, __file__, *words], runtime.environment())
    sys.path.append(str(ROOT / "tests" / "fakecuda"))
    import arithmetic

    arithmetic.skipped()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="file for figures (default: %(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help="of %(default)s")
    parser.add_argument("--minutes", type=float, default=11.0, help="total time of all parts (default: %(default)g)")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the fake CUDA runtime")
    args = parser.parse_args()
    names = args.parts.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    if args.dry_run:
        fake(sys.argv[1:])
    import torch

    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no CUDA device; --dry-run needs none")
    from nasx.report import run_summary
    from nasx.tracking import environment

    run_summary.draw = lambda *a, **k: None  # type: ignore[assignment]  no drawing package is imported
    report, device = Report(args.out), environment.device("cuda")
    report.values |= {
        "dry_run": args.dry_run,
        "hardware": environment.hardware(device),
        "versions": environment.versions(),
        "commit": environment.commit(),
        "budget_s": BUDGET_S,
    }
    report.write()
    share = args.minutes * 60 / sum(BUDGET_S.values())
    with tempfile.TemporaryDirectory() as folder:
        sizes = Sizes(dry=args.dry_run, folder=Path(folder))
        for name in names:
            began = time.monotonic()
            try:
                PARTS[name](report, sizes, BUDGET_S[name] * share)
            except TimeUp:
                report.skip(name, "its end", "its time was up")
            except Exception as error:  # noqa: BLE001  the next part continues
                traceback.print_exc()
                report.values.setdefault("errors", []).append(f"{name}: {type(error).__name__}: {error}")
            report.values.setdefault("seconds", {})[name] = round(time.monotonic() - began, 1)
            report.write()
    drawn = {"matplotlib", "pygraphviz"} & set(sys.modules)
    report.values |= {"drawing_packages": sorted(drawn), "ended": True}
    report.write()
    return int(bool(report.values.get("errors")))


if __name__ == "__main__":
    sys.exit(main())
