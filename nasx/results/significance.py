"""Welch's t test for the difference of the means of two groups of runs with unequal variances.

    d  = mean(b) - mean(a)                     s² = s_a²/n_a + s_b²/n_b     (sample variances, n - 1)
    df = s⁴ / ((s_a²/n_a)²/(n_a - 1) + (s_b²/n_b)²/(n_b - 1))              Welch and Satterthwaite
    interval  d ± t(df, 0.975) s               p = 2 P(T_df > |d| / s)

The values of a group must be independent: one per search, because retrainings of one cell are correlated (`by_search`).
If neither group has any spread, the interval is the point d, and p is 1 for d = 0, else 0: such values are not random.

Source: Welch, "The generalization of Student's problem when several different population variances are involved",
Biometrika 34 (1947). Quantiles are computed by scipy.special, which is imported at first use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nasx.core.plain import Row

LEVEL = 0.95
"""Confidence level of the interval; 1 - LEVEL is the significance level."""


class Difference(NamedTuple):
    """mean(b) - mean(a) with its 95 % interval, two-sided p value, degrees of freedom, and both sample sizes."""

    mean: float
    low: float
    high: float
    p: float
    df: float
    n_a: int
    n_b: int

    @property
    def found(self) -> bool:
        """Whether the interval excludes zero."""
        return self.p < 1 - LEVEL


def welch(a: Sequence[float], b: Sequence[float]) -> Difference | None:
    """Test the difference mean(b) - mean(a); return None if a group has fewer than two values."""
    if min(len(a), len(b)) < 2:
        return None
    (mean_a, var_a), (mean_b, var_b) = moments(a), moments(b)
    part_a, part_b = var_a / len(a), var_b / len(b)
    d, s = mean_b - mean_a, math.sqrt(part_a + part_b)
    if s <= 1e-12 * max(abs(mean_a), abs(mean_b)):  # the spread is only rounding error
        same = abs(d) <= 1e-12 * max(abs(mean_a), abs(mean_b))
        return Difference(d, d, d, float(same), math.inf, len(a), len(b))
    from scipy.special import stdtr, stdtrit

    df = s**4 / (part_a**2 / (len(a) - 1) + part_b**2 / (len(b) - 1))
    half = float(stdtrit(df, (1 + LEVEL) / 2)) * s
    return Difference(d, d - half, d + half, 2 * float(stdtr(df, -abs(d) / s)), df, len(a), len(b))


def by_search(runs: Iterable[Row], measure: str) -> list[float]:
    """Return one value of `measure` per search in `runs` (rows of `collect`); retrainings of its cell are averaged.

    Runs without the measure are omitted; a cell given on the command line counts as one search.
    """
    values: dict[str, list[float]] = {}
    for run in runs:
        if not math.isnan(run[measure]):
            trained = run["parent_folder"] or run["parent"] + run["genotype"] if run["kind"] == "retrain" else ""
            values.setdefault(trained or run["folder"], []).append(float(run[measure]))
    return [math.fsum(own) / len(own) for own in values.values()]


def moments(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample variance (denominator n - 1), summed by math.fsum; NaN for too few values."""
    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    return mean, math.fsum((x - mean) ** 2 for x in values) / (n - 1) if n > 1 else math.nan


def p_text(p: float) -> str:
    """Format a p value as `p = 0.042` or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"
