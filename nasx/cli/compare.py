"""Compare two groups of finished runs: difference between means, its uncertainty, and differing settings.

    nasx compare A B [metric=METRIC] [runs=FOLDER]

A and B are each a folder of runs, a single run, a glob, or a filter for the runs under `runs` (default: outputs/). A
filter is a comma-separated list of conditions on columns (method, space, seed, ...) or settings. Examples:

    nasx compare method=darts method=idarts
    nasx compare method=darts,space=nb201 method=random,space=nb201 metric=cifar10.valid
    nasx compare search.arch_lr=0.01 search.arch_lr=0.03 runs=outputs
    nasx compare before/ after/ metric=test_accuracy

metric is a column of `nasx table format=csv` without _mean: cifar10.valid, cifar10.test, test_accuracy,
supernet_valid, test_perplexity, valid_perplexity, supernet_perplexity, cost_s, peak_mb, params, updates, passes. By
default, retrained networks are compared by test accuracy or perplexity, and searches by benchmark accuracy.

The difference is mean(B) - mean(A), with a 95 % interval and a p-value from Welch's t test over searches
(nasx/results/significance.py). Retrainings of the same search count as one value, their mean. If each group contains
only retrainings of one cell, the test is over these retrainings, and a note says so. Misleading comparisons are
rejected: groups with fewer than two values, a run (or a copy of it) in both groups, runs with different protocols,
recipes or benchmarks, and accuracies measured on different datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from nasx.cli import arguments
from nasx.core import spelling
from nasx.errors import UserError, printable
from nasx.results.collect import COLUMNS, collect
from nasx.results.compare import _condition, group, text, written
from nasx.results.conditions import ALIASES

OPTIONS = {"metric": "auto", "runs": "outputs"}


def _option(name: str) -> bool:
    """Return whether `name` is an option, or resembles one, and is not a column of runs."""
    if name in (*COLUMNS, *ALIASES):
        return False
    return name in (*OPTIONS, *arguments.FOLDERS) or spelling.nearest(name, OPTIONS) is not None


def main(given: Sequence[str]) -> int:
    """Run `nasx compare A B [metric=...] [runs=...]`: print the comparison."""
    filters = [word for word in given if _condition(word) and not _option(word.partition("=")[0])]
    marked = [
        ",".join(part.replace("=", ":", 1) for part in word.split(",")) if word in filters else word for word in given
    ]
    args = arguments.parse("compare", marked, OPTIONS, positional="GROUP")
    if len(args.positional) != 2:
        fault = f"needs two groups of runs, {len(args.positional)} given"
        raise UserError("nasx compare", fault, "for example nasx compare method=darts method=random")
    names = [written(word) if _condition(word) else word for word in args.positional]
    read = cache(collect)  # both groups may select from the same runs
    groups = [group(word, args.options["runs"], read) for word in args.positional]
    print(printable(text(names, groups, args.options["metric"])))
    return 0
