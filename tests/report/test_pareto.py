"""The front, the hypervolume and the regret of searches under a budget, against their definitions; the files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import jobs
import numpy as np
import pytest

from nasx.benchmarks.nb201 import Nb201, flops
from nasx.report import pareto
from nasx.report.pareto import Plane, Point


def test_the_front_is_that_of_the_definition() -> None:
    for seed in range(20):
        points = np.random.default_rng(seed).integers(0, 9, (30, 2)).astype(float)
        better = [
            p
            for p in points
            if not any((q[0] <= p[0] and q[1] >= p[1]) and (q[0] < p[0] or q[1] > p[1]) for q in points)
        ]
        assert pareto.front(points).tolist() == sorted({tuple(p): list(p) for p in better}.values())
    assert pareto.front(np.zeros((0, 2))).shape == (0, 2)


def test_the_hypervolume_is_the_share_of_dominated_unit_squares() -> None:
    for seed in range(20):
        points = np.random.default_rng(seed).integers(0, 12, (4, 2)).astype(float)
        squares = itertools.product(range(10), range(2, 12))
        covered = sum(any(x >= p[0] and y + 1 <= p[1] for p in points) for x, y in squares)
        assert pareto.hypervolume(points, most=10, worst=2) == covered


def test_regret_and_share_are_exact_on_nb201() -> None:
    plane = Plane(*Nb201().plane("cifar10", "macs", ""), "cifar10")
    assert plane.cost.tolist() == [flops(code) for code in range(15_625)]
    best = int(np.argmax(plane.accuracy))
    assert pareto.regret(plane, plane.cost[best], plane.accuracy[best]) == 0
    target = 60e6
    cells = [code for code in range(15_625) if plane.cost[code] <= target]
    assert pareto.regret(plane, target, 80.0) == max(plane.accuracy[code] for code in cells) - 80.0
    whole = pareto.front(np.column_stack([plane.cost, plane.accuracy]))
    points = [Point("", "darts", 1.0, cost, accuracy) for cost, accuracy in whole]
    assert pareto.share(points, "darts", plane) == pytest.approx(1)
    assert 0 < pareto.share(points[:3], "darts", plane) < 1


@pytest.mark.parametrize(("accuracy", "shown"), [(0.25, 25.0), (0.0, 0.0)])
def test_a_point_without_a_table_has_the_supernet_s_accuracy(accuracy: float, shown: float) -> None:
    record = {"name": "x", "choices": {"method": "darts"}, "budget": {"target": 2.0, "cost": 1.0}}
    found = pareto.point_of({**record, "supernet": {"valid_accuracy": accuracy}}, None)
    assert found == Point("x", "darts", 2.0, 1.0, shown)
    assert pareto.point_of({**record, "supernet": None}, None) is None


@pytest.mark.slow
def test_a_sweep_over_targets_ends_with_the_table_and_the_picture(tmp_path: Path) -> None:
    words = [word for word in jobs.TINY_NB201 if word != "search"]
    done = jobs.nasx(
        tmp_path, "search", "--multirun", *words, "budget=macs", "budget.target=0.5,0.9", "budget.image=32"
    )
    assert done.code == 0, done
    table = next((tmp_path / "runs").glob("pareto-macs-nb201-*.md")).read_text()
    assert len(list((tmp_path / "runs").glob("pareto-macs-nb201-*.png"))) == 1
    runs = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/result.json")]
    assert len(runs) == 2
    for run in runs:
        assert run["budget"]["cost"] == run["lookup"]["flops"] - 10  # the benchmark counts the classifier's bias
        assert f"{run['lookup']['cifar10']['valid']:.2f}" in table
    assert "ypervolume of darts" in table
    assert "Accuracy against cost" in done.out
