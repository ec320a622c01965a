"""Agreement of scores with accuracies: Kendall's tau-b, Spearman's rho and top-k regret, with intervals.

    tau-b    = (C - D) / sqrt((C + D + S)(C + D + A))    C, D: concordant and discordant pairs of architectures;
                                                         S, A: pairs with equal scores alone, equal accuracies alone
    rho      = Pearson's correlation of the ranks; equal values have their mean rank
    regret@k = best accuracy of all - best accuracy of the k architectures with the largest scores (in percent)

If several architectures have the k-th largest score, regret@k is the mean over all selections among them, so that it
does not depend on the order of the rows. A score of minus infinity is the lowest.

Intervals are percentile bootstrap intervals over architectures: B samples of n drawn with replacement, with the 2.5th
and 97.5th percentiles of the statistic. Resamples with an undefined correlation are excluded. The interval of a regret
is only approximate, because the best architecture of a sample is repeated in or absent from a resample.

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
    """The statistics of `n` scores and accuracies; `best` is the largest accuracy in percent."""

    n: int
    tau: Estimate
    rho: Estimate
    regret: Estimate
    best: float


def ranking(scores: np.ndarray, accuracies: np.ndarray, *, k: int, resamples: int = 1000, seed: int = 0) -> Ranking:
    """Compute all statistics of scores and accuracies, both (n,) without NaN; n and k must be at least 1."""
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
    """Return the dense rank of each value, (n,) unsigned."""
    found = np.unique(values, return_inverse=True)[1]
    return found.astype(np.uint16 if len(values) <= 1 << 16 else np.uint32)


def kendall_tau(scores: np.ndarray, accuracies: np.ndarray) -> float:
    """Return Kendall's tau-b; NaN if all scores or all accuracies are equal."""
    from scipy.stats import kendalltau  # slow to import

    method = "asymptotic" if len(scores) > 2 else "exact"  # the cheapest p value, which is not used
    return float(kendalltau(scores, accuracies, method=method).statistic)


def spearman_rho(scores: np.ndarray, accuracies: np.ndarray) -> float:
    """Return Spearman's rank correlation; NaN if all scores or all accuracies are equal."""
    from scipy.stats import rankdata

    x, y = rankdata(scores), rankdata(accuracies)
    x, y = x - x.mean(), y - y.mean()
    length = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / length if length else float("nan")


def regret(scores: np.ndarray, accuracies: np.ndarray, k: int) -> float:
    """Return the best accuracy minus the best among the k largest scores, averaged over all selections among ties."""
    k = min(k, len(scores))
    last = np.partition(scores, -k)[-k]  # the k-th largest score
    sure, tied = accuracies[scores > last], np.sort(accuracies[scores == last])[::-1]
    best, wanted, count = sure.max() if len(sure) else -np.inf, k - len(sure), len(tied)
    chance, expected = wanted / count, 0.0  # probability that the j-th best of the tied is the best selected
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
    """Return the statistics as plain values, by their names in tables."""
    record: dict[str, object] = {"n": found.n}
    for name, each in (("kendall_tau", found.tau), ("spearman", found.rho), ("regret", found.regret)):
        record |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
    return record | {"k": k, "best": found.best}
