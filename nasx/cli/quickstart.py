"""Compare three ways to choose a cell in NAS-Bench-201: random search, a zero-cost score, a differentiable search.

    nasx quickstart [seed=0] [out=outputs] [open=auto] [search.KEY=VALUE ...]

Runs offline on a CPU in one to two minutes. The three searches are ordinary runs under `out` (names below). The same
command resumes a killed run and shows finished runs again.

    quickstart-random    the best of 100 random cells by benchmark accuracy, as if each cell had been trained
    quickstart-synflow   the same 100 cells, scored at initialization without data (SynFlow); the best-scoring cell
    quickstart-search    TSE-DrNAS on the handwritten digits in the package (experiment=quickstart_search), with the
                         settings given on the command line

All accuracies come from the benchmark, where each cell was trained on CIFAR-10 for 200 epochs. `open=true` opens the
picture; `open=auto` opens it only in an interactive session with a display.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from nasx.benchmarks.nb201 import Nb201
from nasx.cli import arguments, invoke
from nasx.core.plain import Result
from nasx.errors import UserError, printable
from nasx.report import histogram
from nasx.report.run_summary import percent
from nasx.tracking import lineage
from nasx.tracking.progress import duration

OPTIONS = {"seed": "0", "out": "outputs", "open": "auto"}
CANDIDATES = 100
STEPS = {
    "random": ["experiment=quickstart", "method=random", f"method.samples={CANDIDATES}"],
    "synflow": [
        "experiment=quickstart",
        "method=synflow",
        f"method.candidates={CANDIDATES}",
        "space.layers=5",
        "space.channels=16",
    ],
    "search": ["experiment=quickstart_search"],
}
"""Run name -> overrides. SynFlow scores networks of the size that the benchmark trains."""


class Chosen(NamedTuple):
    """A cell: how it was chosen, its validation accuracy in percent, and the cost of choosing it."""

    by: str
    accuracy: float
    cost: str


def main(given: Sequence[str]) -> int:
    """Run `nasx quickstart [seed=...] [out=...] [open=...]`."""
    changed = [word for word in given if word.startswith("search.")]
    args = arguments.parse("quickstart", [word for word in given if word not in changed], OPTIONS)
    seed, out = args.number("seed"), args.options["out"]
    if args.options["open"] not in ("auto", "true", "false"):
        raise UserError(f"open={args.options['open']}", "is not auto, true or false", "use open=false")
    results = []
    for i, (name, words) in enumerate(STEPS.items(), 1):
        print(f"[{i}/{len(STEPS)}] {name}", file=sys.stderr, flush=True)
        own = [f"seed={seed}", *(changed if name == "search" else ()), f"name=quickstart-{name}-s{seed}"]
        try:
            results.append(invoke.call("search", [*words, *own, lineage.override("out", out)]).record)
        except UserError as error:
            if error.where != str(Path(out).expanduser() / f"quickstart-{name}-s{seed}"):
                raise
            raise UserError(error.where, error.fault, "choose another folder with out=FOLDER") from error
    table = Nb201()
    accuracies = table.accuracies("cifar10", "valid")
    hours = float(table.table().seconds("cifar10").mean()) / 3600
    drawn, scored, searched = results
    chosen = [
        Chosen("best of all cells", float(accuracies.max()), _runs(len(accuracies), hours)),
        Chosen(f"best of {CANDIDATES} random cells", _found(table, drawn), _runs(CANDIDATES, hours)),
        Chosen(
            f"SynFlow, the same {CANDIDATES} cells", _found(table, scored), f"{duration(scored['wall_s'])} on this CPU"
        ),
        Chosen("TSE-DrNAS search on digits", _found(table, searched), f"{duration(searched['wall_s'])} on this CPU"),
        Chosen("one random cell (median)", float(np.median(accuracies)), "none"),
    ]
    picture = Path(out).expanduser() / f"quickstart-s{seed}"
    made = histogram.draw(
        accuracies,
        {each.by: [each.accuracy] for each in chosen[1:]},
        "All 15,625 cells of NAS-Bench-201",
        "CIFAR-10 validation accuracy after 200 epochs (%)",
    )
    written = histogram.write(made, picture)
    _show(chosen, accuracies, searched["genotype"], written[-1], out)
    if args.options["open"] == "true" or (args.options["open"] == "auto" and _screen()):
        webbrowser.open(written[-1].resolve().as_uri())
    return 0


def _runs(n: int, hours: float) -> str:
    """Format the cost of training `n` cells once; `hours` is the duration of one training run in GPU-hours."""
    return f"{n:,} runs, {n * hours:,.0f} GPU-h"


def _found(table: Nb201, record: Result) -> float:
    """Return the accuracy of a cell from the table; the recorded value is rounded and could exceed the optimum."""
    score = table.query(record["genotype"])
    accuracy = score.datasets["cifar10"]["valid"] if score else None
    assert accuracy is not None, "the table has the accuracy of every cell"
    return accuracy


def _show(chosen: Sequence[Chosen], accuracies: np.ndarray, cell: str, picture: Path, out: str) -> None:
    """Print the final output: a table of at most 80 columns, its explanation, and the next commands."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("cell")
    for heading in ("accuracy", "better than"):
        table.add_column(heading, justify="right")
    table.add_column("cost of choosing")
    for each in chosen:
        better = float((accuracies < each.accuracy).mean())
        table.add_row(each.by, f"{each.accuracy:.2f} %", percent(better), each.cost)
    console.print("\n[bold]NAS-Bench-201: which cell is worth training on CIFAR-10?[/bold]")
    console.print(table)
    console.print(
        "Accuracy: CIFAR-10 validation after 200 epochs of training (from the benchmark).\n"
        "Better than: share of the 15,625 cells with a lower accuracy.\n"
        "Cost: one training run per cell; the GPU hours are those of the benchmark.\n"
        "The search was run on 8 x 8 images of handwritten digits, not on CIFAR-10."
    )
    console.print(f"cell found by the search: {cell}", markup=False)
    console.print(f"picture: {printable(str(picture))}", markup=False)
    console.print("next: nasx search method=drnas space=nb201   a search on CIFAR-10 (GPU)")
    shown = "nasx table" if out == "outputs" else f"nasx table {lineage.override('out', out)}"
    console.print(f"      {shown:<38} all finished runs" if len(shown) < 39 else f"      {shown}", markup=False)


def _screen() -> bool:
    """Return whether the session is interactive and has a display; CI and SSH sessions do not count."""
    seen = sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return seen and sys.stdout.isatty() and "CI" not in os.environ and "SSH_CONNECTION" not in os.environ
