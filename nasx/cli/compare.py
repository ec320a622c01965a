"""`nasx compare`: two groups of runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from nasx.cli import arguments
from nasx.errors import UserError, printable
from nasx.results.collect import collect
from nasx.results.compare import _condition, group, text

OPTIONS = {"metric": "auto", "runs": "outputs"}


def main(given: Sequence[str]) -> int:
    """`nasx compare A B [metric=...] [runs=...]`: print the comparison."""
    filters = [word for word in given if _condition(word)]
    marked = [
        ",".join(part.replace("=", ":", 1) for part in word.split(",")) if word in filters else word for word in given
    ]
    asked = arguments.parse("compare", marked, OPTIONS, positional="GROUP")
    if len(asked.positional) != 2:
        raise UserError(
            "nasx compare",
            f"needs two groups of runs, {len(asked.positional)} given",
            "for example nasx compare method=darts method=random",
        )
    names = [word.replace(":", "=") if _condition(word) else word for word in asked.positional]
    read = cache(collect)  # both groups may be conditions over the same runs
    groups = [group(word, asked.options["runs"], read) for word in asked.positional]
    print(printable(text(names, groups, asked.options["metric"])))
    return 0
