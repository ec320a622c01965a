"""Summary of a finished run: its cell, its cost, and its benchmark accuracy compared with the optimum and random cells.

Before a command exits, it calls `show_next` once, for all of its runs, to print suggested next commands.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nasx.benchmarks.offers import TESTS
from nasx.config import identity, own_code
from nasx.core import budgets, files
from nasx.core.plain import Config, Result
from nasx.core.quantities import TITLES
from nasx.errors import UserError, cleaned, printable
from nasx.report import cells
from nasx.report.figure_style import FORMATS, whole
from nasx.tracking import lineage, records, run_folder
from nasx.tracking.progress import duration

log = logging.getLogger("nasx")
PARTS = {"valid": "validation", "test": "test"}


def draw(folder: Path, *, curves: bool = False, epochs: bool = False) -> None:
    """Draw the missing or incomplete pictures of a finished run: cells, curves of a search, and cells of each epoch.

    A run is complete without pictures, so errors are logged and not raised. The drawing libraries are imported only if
    a picture is missing.
    """
    try:
        if lacking(folder, cells.names(folder)):
            cells.draw(folder)
        if epochs:
            cells.draw_epochs({row["epoch"]: row["genotype"] for row in records.read_rows(folder)}, folder / "epochs")
    except (UserError, OSError, ValueError) as error:
        log.warning("%s: no picture of the cell: %s", folder, error)
    try:
        if curves and records.read_rows(folder) and lacking(folder, ["search"]):
            from nasx.report.curves import search_picture

            search_picture(folder)
    except (UserError, OSError, ValueError) as error:
        log.warning("%s: no picture of the search: %s", folder, error)


def checked_folder(cfg: Config, choices: Result, kind: str) -> Path:
    """Return the folder of a run, without creating it.

    Raises UserError if it cannot be created or belongs to another run.
    """
    folder = Path(cfg["out"]) / identity.run_name(cfg, choices, kind)
    if not files.no_link(folder).exists():
        above = next(path for path in folder.absolute().parents if path.exists())
        try:  # permissions can mislead (/proc); an unnamed file leaves no trace if the process is killed
            tempfile.TemporaryFile(dir=above).close()
        except OSError as error:
            raise files.unwritable(folder, error) from error
    if other := run_folder.differing(folder, identity.identifying(cfg, kind), identity.METADATA_KEYS):
        raise other
    return folder


def again(cfg: Config, choices: Mapping[str, object], kind: str, *, summary: bool = True) -> Result | None:
    """Return the record of a finished run that need not be repeated, without importing torch; otherwise None.

    The run must be undamaged and have all its pictures. With draw=epochs, several seeds per job, or torchrun, the
    result is always None. If `summary`, print the summary of the run. Raises UserError like `checked_folder`.
    """
    if "RANK" in os.environ or cfg["seeds_per_job"] > 1:
        return None
    folder = checked_folder(cfg, choices, kind)
    done = records.finished(folder)
    if done is None or cfg["draw"] == "epochs" or records.broken(folder, done):
        return None
    curves = ["search"] if kind == "search" and records.read_rows(folder) else []
    try:
        missing = lacking(folder, [*cells.names(folder), *curves])
    except (UserError, OSError, ValueError):  # the genotype is missing or cannot be drawn
        return None
    if not missing and (changed := own_code.changed_since(done, own_code.recorded(identity.identifying(cfg, kind)))):
        log.warning("%s: %s", folder, changed)
    if not missing and summary:
        show(done, folder)
        if cfg["profile"] and not (folder / "profile").exists():
            print(f"profile: nothing was recorded, since this run had finished; add name={folder.name}-profile")
    return None if missing else done


def lacking(folder: Path, names: list[str]) -> bool:
    """Return whether any of the named pictures is missing or incomplete in any of its formats."""
    return not all(whole(folder / f"{name}.{kind}") for name in names for kind in FORMATS)


class Screen(Console):
    """Console for standard output that wraps sentences between words on a terminal, but not in a file or pipe."""

    def __init__(self) -> None:
        super().__init__(highlight=False, emoji=False, force_jupyter=False, soft_wrap=True)

    def say(self, text: str, style: str = "", indent: int = 0) -> None:
        """Print a sentence with continuation lines indented by `indent`; commands in backticks are not wrapped."""
        if self.is_terminal:
            whole = re.sub("`[^`]+`", lambda found: found[0].replace(" ", "\0"), text)
            split = textwrap.TextWrapper(
                self.width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
            )
            text = "\n".join(split.wrap(whole)).replace("\0", " ")
        self.unwrapped(Text(text, style))

    def unwrapped(self, text: str | Text) -> None:
        """Print text that a user may copy, such as a path or a command, on one line."""
        self.print(text, markup=False)


def show(result: Result, folder: Path) -> None:
    """Print the summary of a run to standard output."""
    result, screen = cleaned(dict(result)), Screen()
    screen.unwrapped(Text.assemble("\n", (result["name"], "bold"), f"  finished {result['finished']}"))
    screen.unwrapped(result["genotype"])
    if result["kind"] == "search":
        _lookup(screen, result, folder)
    elif result.get("test_accuracy") is not None:
        screen.say(f"test accuracy {100 * result['test_accuracy']:.2f} % (last epoch)")
    elif result.get("valid_accuracy") is not None:
        screen.say(f"accuracy {100 * result['valid_accuracy']:.2f} % on held-out training images (last epoch)")
    elif result.get("test_perplexity") is not None:
        screen.say(
            f"test perplexity {result['test_perplexity']:.2f} of the weights after epoch "
            f"{result['best_epoch']}, the best on the validation text ({result['valid_perplexity']:.2f})"
        )
    if result.get("budget"):
        _budget(screen, result["budget"])
    hardware = result["hardware"]
    threads = f" ({hardware['threads']} threads)" if hardware["device"] == "cpu" else ""
    peak = "" if result["peak_mb"] is None else f", peak {result['peak_mb']:,.0f} MB"  # not measured on Windows
    screen.say(
        f"cost: {duration(result['wall_s'])}, {result['updates']:,} weight updates, "
        f"{result['passes']:,} passes{peak} on {hardware['name']}{threads}"
    )
    if result.get("branch"):
        origin = result["branch"]
        changed = ", ".join(f"{key}: {old} -> {new}" for key, (old, new) in origin["changed"].items()) or "none"
        screen.say(f"branch of {origin['run']} after epoch {origin['epoch']}; changed: {changed}")
    if result.get("choice"):
        screen.say(f"choice: {result['choice']['text']}")
    if stages := result.get("stages"):
        texts = (f"{x['name']} ({duration(x['wall_s'])}, {x['updates']:,} weight updates)" for x in stages)
        screen.say(f"stages before the last: {', '.join(texts)}")
    if result.get("diagnostics"):
        spent = result["diagnostics"]
        screen.say(
            f"of these the diagnostics took {spent['forward']:,} forward and {spent['backward']:,} backward "
            f"passes, {duration(spent['seconds'])}"
        )
    if result.get("verdict"):
        screen.say(f"verdict: {result['verdict']['text']}")
    if result.get("labels"):
        screen.say(f"reproduces known faults of released code: {', '.join(result['labels'])}", style="yellow")
    pictures = sorted(path.name for path in folder.glob("*.png"))
    screen.unwrapped(printable(f"files: {folder}" + (f" ({', '.join(pictures)})" if pictures else "")))


def show_next(result: Result, folder: Path) -> None:
    """Print suggested next commands after a finished run or study."""
    screen = Screen()
    for line in lineage.next_commands(cleaned(dict(result)), folder):
        screen.unwrapped(line)
    if result["kind"] == "search" and untested(result.get("lookup") or {}):
        fill = f"`{lineage.fill_command(folder.parent)}`"
        screen.say(f"test accuracies are missing; {fill} adds them to finished runs after this command:")
        screen.unwrapped(f"nasx bench get {TESTS}")


def _budget(screen: Screen, budget: Result) -> None:
    """Print the cost of the discrete network, whether it meets the budget, and the nearest network that meets it."""
    quantity, found, near = budget["quantity"], budget["found"], budget["nearest"]
    limit = budgets.text(budget["target"], quantity)
    if found["cost"] <= budget["target"]:
        screen.say(f"budget: {budgets.ratio_text(found['cost'], budget['target'], quantity)}: met")
        return
    over = 100 * (found["cost"] / budget["target"] - 1)
    screen.say(f"budget: {found['genotype']} costs {budgets.text(found['cost'], quantity)}, {over:.1f} % over {limit}")
    if near is None:
        screen.say("no swap of its operations brings it within the budget: the edges that were chosen cost too much")
        return
    screen.say(f"nearest within the budget ({budgets.text(near['cost'], quantity)}{_compared(near, found)}):")
    screen.unwrapped(near["genotype"])
    if budget["enforced"]:
        screen.say("it is the result of the search because budget.enforce=true")
    else:
        screen.say("budget.enforce=true makes it the result of the search")


def _compared(near: Result, found: Result) -> str:
    """Describe the CIFAR-10 validation accuracies of both architectures in the benchmark; empty if one is unknown."""
    one, other = (((each.get("lookup") or {}).get("cifar10") or {}).get("valid") for each in (near, found))
    return "" if one is None or other is None else f", {one:.2f} % CIFAR-10 validation instead of {other:.2f} %"


def untested(lookup: Result) -> bool:
    """Return whether the benchmark results of a NAS-Bench-201 cell lack a test accuracy for at least one dataset."""
    return lookup.get("benchmark") == "nb201" and any(
        lookup[name].get("test") is None for name in TITLES if name in lookup
    )


def _lookup(screen: Screen, result: Result, folder: Path) -> None:
    """Print the benchmark results of a cell, with one row per dataset and split, and its costs.

    A row contains the accuracy, its rank, its difference from the optimum, the mean over random cells, and the median.
    """
    found = result.get("lookup")
    if found is None:
        metric_name = "perplexity" if "valid_perplexity" in (result.get("supernet") or {}) else "accuracy"
        screen.say(f"no benchmark contains this cell: retrain it to measure its {metric_name}")
        if result.get("missing"):
            then = f"then `{lineage.fill_command(folder.parent)}` adds it to finished runs"
            screen.say(f"or look it up later: {result['missing']}; {then}")
        return
    screen.say(f"look-up: {found['source']}")
    screen.print(_accuracies(result, found))
    if costs := list(_costs(found)):
        screen.say("; ".join(costs))
    among = result.get("among") or {}
    if among.get("cells") != among.get("of"):
        screen.say(f"rank, optimum, mean and median are over the {among['cells']:,} cells of this space")
    elif found.get("benchmark") == "nb101":
        screen.say("ranked among all graphs of NAS-Bench-101, a superset of this space")
    if foreign(result):
        sets = ", ".join(title for name, title in TITLES.items() if name in found)
        there = f"{result['choices'].get('dataset')}: retrain it to measure its accuracy there"
        screen.say(f"these are accuracies of the cell trained on {sets}, not on {there}")


def _accuracies(result: Result, found: Result) -> Table:
    """Return an 80-column table of accuracies in percent, with one row per dataset and split."""
    cells = (result.get("among") or {}).get("cells")
    table = Table(box=None, padding=(0, 1, 0, 0))
    rank = f"rank of\n{cells:,}" if cells else "rank"
    for heading in (
        "accuracy\nin %",
        "this\ncell",
        "mean\nover",
        "better\nthan",
        rank,
        "\noptimum",
        "below\nit",
        "random\nmean",
        "\nmedian",
    ):
        table.add_column(heading, justify="right" if table.columns else "left", no_wrap=True)
    for name, title in TITLES.items():
        known = [part for part in PARTS if (found.get(name) or {}).get(part) is not None]
        if known:
            table.add_row(title)
        for part in known:
            share, place, below, others = (
                ((result.get(key) or {}).get(name) or {}).get(part)
                for key in ("better_than", "rank", "below_optimum", "reference")
            )
            optimum, mean, median = map((others or {}).get, ("optimum", "mean", "median"))
            table.add_row(
                f"  {PARTS[part]}",
                f"{found[name][part]:.2f}",
                over(found[name].get(f"{part}_seeds")),
                "" if share is None else percent(share),
                "" if place is None else f"{place:,}",
                *("n/a" if x is None else f"{x:.2f}" for x in (optimum, below, mean, median)),
            )
    return table


def over(seeds: float | None) -> str:
    """Describe the number of seeds averaged in an accuracy, for example `3 seeds`; `n/a` if it is None."""
    return "n/a" if seeds is None else "1 seed" if seeds == 1 else f"{seeds:.0f} seeds"


def _costs(found: Result) -> Iterator[str]:
    """Yield the costs of the cell in the benchmark: multiply-adds, parameters, and latency on each requested device."""
    if found.get("flops") is not None:
        yield f"{found['flops'] / 1e6:,.2f} M multiply-adds"
    if found.get("params") is not None:
        yield f"{found['params'] / 1e6:,.2f} M parameters"
    if latency := found.get("latency"):
        times = (f"{device} {'n/a' if ms is None else f'{ms:.2f} ms'}" for device, ms in latency.items())
        yield f"latency {', '.join(times)}"


def foreign(result: Result) -> bool:
    """Return whether the benchmark has no accuracies on the dataset of the search."""
    if "benchmark_data" in result:
        return result["benchmark_data"] is None
    return TITLES.keys().isdisjoint([(result.get("choices") or {}).get("dataset")])  # recorded by an earlier version


def percent(share: float) -> str:
    """Format a fraction as a percentage, rounded down so that only 1 gives 100 %; only 0 gives 0 %.

    Percentages below 1 or from 99 upwards have two decimals, except 0 and 100.
    """
    exact = Fraction(share).limit_denominator(10**9) * 100
    if exact in (0, 100) or 1 <= exact < 99:
        return f"{exact.numerator // exact.denominator} %"
    hundredths = exact * 100 // 1
    return f"{hundredths / 100:.2f} %" if hundredths else "< 0.01 %"
