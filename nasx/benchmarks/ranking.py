"""Agreement of scores with accuracies: Kendall's tau-b, Spearman's rho and top-k regret, with confidence intervals.

    tau-b    = (C - D) / sqrt((C + D + S)(C + D + A))    C, D: concordant and discordant pairs of architectures;
                                                         S, A: pairs tied only in score, pairs tied only in accuracy
    rho      = Pearson's correlation of the ranks; tied values have their mean rank
    regret@k = best accuracy of all architectures - best accuracy among the k with the highest scores (in points)

If several architectures have the k-th highest score, regret@k is the mean over all ways to select among them, so it
does not depend on the order of the rows. A score of minus infinity is the lowest.

Intervals are percentile bootstrap intervals over architectures: the 2.5th and 97.5th percentiles of the statistic over
B resamples, each of n architectures drawn with replacement. Resamples with an undefined correlation are excluded. The
interval of the regret is only approximate, because a resample may omit or repeat the best architecture.

Sources: Kendall (1945), tau-b; Spearman (1904); Efron and Tibshirani (1993), chapter 13, percentile intervals.
Shapes: scores, accuracies (n,) float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEVEL = 0.95
"""Confidence level of the intervals."""


class Estimate(NamedTuple):
    """A statistic with its confidence interval; undefined values are None."""

    value: float | None
    low: float | None
    high: float | None


class Ranking(NamedTuple):
    """The statistics of `n` pairs of a score and an accuracy; `best` is the highest accuracy in percent."""

    n: int
    tau: Estimate
    rho: Estimate
    regret: Estimate
    best: float


def ranking(scores: np.ndarray, accuracies: np.ndarray, *, k: int, resamples: int = 1000, seed: int = 0) -> Ranking:
    """Compute all statistics of scores and accuracies (percent), both (n,) without NaN; n and k must be at least 1."""
    draws, n = np.random.default_rng(seed), len(scores)
    x, y = places(scores), places(accuracies)  # integers are sorted several times faster than float64
    found: list[list[float]] = []
    for i in range(resamples + 1):
        rows = draws.integers(n, size=n) if i else np.arange(n)
        found.append(
            [kendall_tau(x[rows], y[rows]), spearman_rho(x[rows], y[rows]), regret(x[rows], accuracies[rows], k)]
        )
    values = np.array(found)
    tau, rho, lost = (_estimate(own[0], own[1:]) for own in values.T)
    return Ranking(n, tau, rho, lost, float(accuracies.max()))


def places(values: np.ndarray) -> np.ndarray:
    """Return the dense rank of each value, as unsigned integers (n,)."""
    found = np.unique(values, return_inverse=True)[1]
    return found.astype(np.uint16 if len(values) <= 1 << 16 else np.uint32)


def kendall_tau(scores: np.ndarray, accuracies: np.ndarray) -> float:
    """Return Kendall's tau-b; NaN if all scores or all accuracies are equal."""
    from scipy.stats import kendalltau  # slow to import

    method = "asymptotic" if len(scores) > 2 else "exact"  # the cheapest method, because the p value is not used
    return float(kendalltau(scores, accuracies, method=method).statistic)


def spearman_rho(scores: np.ndarray, accuracies: np.ndarray) -> float:
    """Return Spearman's rank correlation; NaN if all scores or all accuracies are equal."""
    from scipy.stats import rankdata

    x, y = rankdata(scores), rankdata(accuracies)
    x, y = x - x.mean(), y - y.mean()
    length = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / length if length else float("nan")


def regret(scores: np.ndarray, accuracies: np.ndarray, k: int) -> float:
    """Return the best accuracy minus the best accuracy among the k highest scores (see the module docstring)."""
    k = min(k, len(scores))
    last = np.partition(scores, -k)[-k]  # the k-th largest score
    sure, tied = accuracies[scores > last], np.sort(accuracies[scores == last])[::-1]
    best, wanted, count = sure.max() if len(sure) else -np.inf, k - len(sure), len(tied)
    chance, expected = wanted / count, 0.0  # probability that the j-th best of the ties is the best one selected
    for j, value in enumerate(tied[: count - wanted + 1], start=1):
        expected += chance * max(best, value)
        chance *= (count - j - wanted + 1) / max(count - j, 1)
    return float(accuracies.max() - expected)


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    known = resampled[~np.isnan(resampled)]
    if np.isnan(value):
        return Estimate(None, None, None)
    if not len(known):
        return Estimate(float(value), None, None)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def as_record(found: Ranking, k: int) -> dict[str, object]:
    """Return the statistics as plain values, keyed by their column names in tables."""
    record: dict[str, object] = {"n": found.n}
    for name, each in (("kendall_tau", found.tau), ("spearman", found.rho), ("regret", found.regret)):
        record |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
    return record | {"k": k, "best": found.best}
