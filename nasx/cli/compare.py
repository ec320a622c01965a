"""Compare two groups of finished runs: difference of the means, its uncertainty, and differing settings.

    nasx compare A B [metric=METRIC] [runs=FOLDER]

A and B are each a folder of runs, a run, a glob, or a filter over the runs in `runs` (default outputs/): conditions
joined by commas, each on a column (method, space, seed, ...) or a setting of the configuration:

    nasx compare method=darts method=idarts
    nasx compare method=darts,space=nb201 method=random,space=nb201 metric=cifar10.valid
    nasx compare search.arch_lr=0.01 search.arch_lr=0.03 runs=outputs
    nasx compare before/ after/ metric=test_accuracy

metric is a column of `nasx table format=csv` without _mean: cifar10.valid, cifar10.test, test_accuracy,
supernet_valid, test_perplexity, valid_perplexity, supernet_perplexity, cost_s, peak_mb, params, updates, passes. By
default retrained networks are compared by test accuracy or perplexity, and searches by benchmark accuracy.

The difference is mean(B) - mean(A) with a 95 % interval and a p value (Welch's t test over searches, significance.py).
Several retrainings of one search count as one value, their mean; if each group consists of retrainings of a single
cell, the test is over the retrainings, and a note says so. These comparisons would be misleading and are rejected:
groups of fewer than two values, a run (or its copy) in both groups, runs of several protocols, recipes or benchmarks,
and measured accuracies on several datasets.
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
    """Return whether a name is, or is close to, that of an option, and does not name a column of runs."""
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
