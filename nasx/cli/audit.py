"""Check a method's gradient: exactness, cost, reproducibility, and a short search.

    nasx audit METHOD ... [method.KEY=VALUE ...] [quick=true] [seed=0] [seeds=1] [epochs=6] [out=outputs/audit]
    nasx audit MINE --config-dir mine/conf allow='[mine]'         your own method, from your own folder

Runs offline on a CPU in one to two minutes per method; --quick omits the search. An audit has these parts:

    closed forms    the architecture gradient compared with the exact one; its sign, its factors, and the weights at
                    which it is evaluated
    supernet        in float64: finite differences compared with double backward, and the gradient with an unrolled one;
                    passes and memory compared with the method's claims; determinism; resuming
    search          NAS-Bench-201 on the digits in the package: Kendall's tau between supernet and benchmark after every
                    epoch; regret; verdict

Steps are compared at the start of a search and halfway through it. The command prints a report, and writes it to
out/METHOD.md and out/METHOD.json. The exit code is 0 if all checks pass, otherwise 1.
"""

from __future__ import annotations

import json
import os
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nasx import __version__
from nasx.cli import invoke
from nasx.cli.arguments import Arguments, parse
from nasx.config import instantiate
from nasx.core import files
from nasx.core.plain import Config
from nasx.errors import UserError, printable

if TYPE_CHECKING:
    from nasx.auditing.findings import Finding
    from nasx.core.bilevel import Method

OPTIONS = {"quick": "false", "seed": "0", "seeds": "1", "epochs": "6", "out": "outputs/audit", "allow": ""}
BASE = ("experiment=quickstart",)
SMALL = ("space.channels=4", "dataset.size=8", "search.batch=16")
WIDE = ("space.channels=16", "dataset.size=8", "search.batch=2")
"""Overrides for the memory measurement, with a supernet that has more weights than activations."""
SEARCH = ("space.channels=8", "dataset.size=8", "search.updates_per_epoch=24", "search.evaluate_images=128")
Parts = dict[str, "list[Finding]"]


def main(words: Sequence[str]) -> int:
    """Run `nasx audit METHOD ...`; return 1 if a check failed, else 0."""
    args, searches = request(words)
    seed, seeds = args.number("seed", 0), args.number("seeds", 1)
    out, quick, passed = Path(args.options["out"]).expanduser(), args.flag("quick"), True
    for name, own in searches.items():
        began = time.monotonic()
        parts = audit(own, quick=quick, seeds=seeds)
        record = {
            "method": name,
            "configuration": own[0][0]["method"],
            "version": __version__,
            "seed": seed,
            "seconds": round(time.monotonic() - began, 1),
            "passed": not failures(parts),
            "parts": {part: [each._asdict() for each in found] for part, found in parts.items()},
        }
        text = page(name, parts, record["seconds"])
        files.write_atomic(out / f"{name}.json", json.dumps(record, indent=1) + "\n")
        files.write_atomic(out / f"{name}.md", text)
        print(printable(text), flush=True)
        print(f"written to {out / name}.md and .json", flush=True)
        passed &= record["passed"]
    return 0 if passed else 1


def request(words: Sequence[str]) -> tuple[Arguments, dict[str, list[tuple[Config, Mapping[str, str]]]]]:
    """Parse the command line; return its arguments and, for each method, the configurations of three searches."""
    overrides = [word for word in words if word.startswith("method.")]
    args = parse("audit", [word for word in words if word not in overrides], OPTIONS, positional="METHOD")
    if not args.positional:
        raise UserError("nasx audit", "needs a method", "for example nasx audit darts; nasx list shows all methods")
    allow = [f"allow=[{','.join(args.allowed)}]"] if args.allowed else []
    common = [*overrides, *allow, f"seed={args.number('seed', 0)}"]
    sizes = (SMALL, WIDE, (*SEARCH, f"search.epochs={args.number('epochs', 1)}"))
    return args, {
        name: [invoke.composed("search", [*BASE, f"method={name}", *common, *own])[1:] for own in sizes]
        for name in args.positional
    }


def audit(configurations: Sequence[tuple[Config, Mapping[str, str]]], *, quick: bool, seeds: int) -> Parts:
    """Audit a method and return its findings; `configurations` define a small, a wide and a searched supernet."""
    from nasx.auditing import closed_forms, ranking, supernet
    from nasx.tracking import environment

    (small, _), (wide, _), (searched, choices) = configurations
    build: Callable[[], Method] = partial(instantiate.build, small["method"], small["allow"])
    parts: Parts = {}
    with environment.prepared(
        environment.device("cpu"), threads=1, deterministic=small["deterministic"], seed=small["seed"]
    ):
        if build().trains:
            parts["closed forms"] = attempted(lambda: closed_forms.audit(build), "note")  # a method may need a network
            parts["supernet"] = attempted(lambda: supernet.audit(small, wide, build), "fail")
    if not quick:
        parts["search"] = attempted(lambda: ranking.audit(searched, choices, seeds), "fail")
    return parts


def attempted(work: Callable[[], list[Finding]], outcome: Literal["note", "fail"]) -> list[Finding]:
    """Return the findings of `work()`; an exception becomes a finding with this outcome.

    NASX_DEBUG=1 also prints the traceback.
    """
    from nasx.auditing.findings import Finding

    try:
        return work()
    except Exception as error:  # noqa: BLE001 (a method under audit may raise any exception)
        if os.environ.get("NASX_DEBUG") == "1":
            traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return [Finding("error", outcome, text, {}, "nasx: a step must not raise")]


def failures(parts: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """Return the findings of failed checks."""
    return [each for found in parts.values() for each in found if each.outcome == "fail"]


def page(name: str, parts: Mapping[str, Sequence[Finding]], seconds: float) -> str:
    """Format the findings as Markdown, wrapped at 80 columns."""
    failed = failures(parts)
    verdict = f"FAILED: {', '.join(dict.fromkeys(each.check for each in failed))}" if failed else "passed"
    lines = [f"# Audit of {name}: {verdict}", ""]
    wrapped = textwrap.TextWrapper(80, subsequent_indent="  ", break_long_words=False).wrap
    for part, found in parts.items():
        lines += [f"## {part.capitalize()}", ""]
        for each in found:
            why = f" Threshold: {each.source}." if each.source and each.outcome == "fail" else ""
            lines += wrapped(f"- {each.outcome}: **{each.check}**: {each.text.rstrip('.')}.{why}")
        lines.append("")
    sources = dict.fromkeys(f"- {each.check}: {each.source}." for own in parts.values() for each in own if each.source)
    if sources:
        lines += ["## Thresholds", "", *(line for source in sources for line in wrapped(source)), ""]
    lines.append(f"nasx {__version__}, {seconds:.0f} s on a CPU.")
    return "\n".join(lines) + "\n"
