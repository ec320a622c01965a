"""Rank statistics equal scipy, O(n^2) references, and the mean over all orders of ties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from nasx.benchmarks.columns import Table
from nasx.benchmarks.nb201 import EMBEDDED, params
from nasx.benchmarks.ranking import Estimate, as_record, kendall_tau, ranking, regret, spearman_rho

ROWS = np.random.default_rng(1).choice(15625, 200, replace=False)


def column(name: str) -> np.ndarray:
    if name == "params":  # with many ties
        return np.array([params(int(row)) for row in ROWS], np.float64)
    return Table.read(EMBEDDED).statistics(name, "valid")[ROWS, 0]


def naive_tau(x: np.ndarray, y: np.ndarray) -> float:
    concordant = discordant = only_x = only_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
        concordant += a * b > 0
        discordant += a * b < 0
        only_x += a == 0 != b
        only_y += b == 0 != a
    pairs = concordant + discordant
    return float((concordant - discordant) / math.sqrt((pairs + only_x) * (pairs + only_y)))


def naive_rank(values: np.ndarray) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def naive_rho(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(naive_rank(x), naive_rank(y))[0, 1])


def naive_regret(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Over all orders of the rows, the k first by score."""
    lost = []
    for order in itertools.permutations(range(len(x))):
        chosen = sorted(order, key=lambda i: -x[i])[:k]  # a stable sort
        lost.append(max(y) - max(y[i] for i in chosen))
    return float(np.mean(lost))


@pytest.mark.parametrize("score", ["params", "cifar100", "imagenet16"])
def test_correlations_equal_scipy_and_the_definition_on_200_cells(score: str) -> None:
    x, y = column(score), column("cifar10")
    found = ranking(x, y, k=10, resamples=1)
    assert found.tau.value == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert found.tau.value == pytest.approx(naive_tau(x, y), abs=1e-12)
    assert found.rho.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found.rho.value == pytest.approx(naive_rho(x, y), abs=1e-12)
    assert (found.n, found.best) == (200, y.max())
    assert 0 < found.tau.value < found.rho.value < 1


def test_regret_without_ties_is_that_of_the_first_k() -> None:
    x, y = column("cifar100"), column("cifar10")
    assert len(np.unique(x)) > 190
    for k in (1, 5, 10, 200, 500):
        assert regret(np.arange(200.0), y, k) == y.max() - y[-k:].max()
    assert regret(x, y, 10) == pytest.approx(y.max() - max(y[i] for i in np.argsort(-x, kind="stable")[:10]), abs=0.5)


@pytest.mark.parametrize(
    "scores", [[1, 2, 2, 2, 3, 0], [1, 1, 1, 1, 1, 1], [2, 2, 1, 1, 0, 0], [-math.inf, 1, 1, 0, 0, 0]]
)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_regret_averages_over_the_orders_of_ties(scores: list[float], k: int) -> None:
    x, y = np.array(scores, np.float64), np.array([50.0, 90.0, 70.0, 60.0, 65.0, 91.0])
    assert regret(x, y, k) == pytest.approx(naive_regret(x, y, k), abs=1e-12)


def test_intervals_are_those_of_resampled_cells() -> None:
    x, y = column("params")[:40], column("cifar10")[:40]
    found, draws, rows = ranking(x, y, k=3, resamples=50, seed=5), np.random.default_rng(5), []
    for _ in range(50):
        i = draws.integers(40, size=40)
        rows.append(
            (stats.kendalltau(x[i], y[i]).statistic, stats.spearmanr(x[i], y[i]).statistic, regret(x[i], y[i], 3))
        )
    for own, values in zip((found.tau, found.rho, found.regret), np.array(rows).T, strict=True):
        assert (own.low, own.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)
        assert own.low < own.value < own.high or own is found.regret
    assert ranking(x, y, k=3, resamples=50, seed=5) == found
    assert ranking(x, y, k=3, resamples=50, seed=6) != found


def test_equal_scores_have_a_regret_but_no_correlation() -> None:
    found = ranking(np.ones(5), np.arange(5.0), k=5, resamples=10)
    assert (found.tau, found.rho) == (Estimate(None, None, None),) * 2
    assert found.regret.value == 0
    record = as_record(found, 5)
    assert [record[name] for name in ("kendall_tau", "kendall_tau_low", "regret", "best")] == [None, None, 0.0, 4.0]


def test_resamples_without_a_correlation_are_left_out() -> None:
    found = ranking(np.array([1.0, 2.0]), np.array([1.0, 2.0]), k=1, resamples=200)
    assert found.tau == Estimate(1.0, 1.0, 1.0)
    assert math.isnan(kendall_tau(np.ones(3), np.arange(3.0)))
    assert math.isnan(spearman_rho(np.arange(3.0), np.ones(3)))


def test_a_score_of_minus_infinity_is_the_lowest() -> None:
    y = np.array([3.0, 1.0, 2.0, 4.0])
    one, two = (ranking(np.array([x, 5.0, 7.0, 9.0]), y, k=2, resamples=20) for x in (-math.inf, -1.0))
    assert one == two
