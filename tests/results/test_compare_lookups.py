"""The metric of a comparison of searches of which some have no benchmark accuracy."""

from __future__ import annotations

import pandas as pd
import pytest

from nasx.errors import UserError
from nasx.results import compare


@pytest.mark.parametrize(
    ("accuracies", "fault"),
    [([0.9, 0.8, None], r"1 of 3 searches have no benchmark accuracy \(c\)"), ([None] * 3, "accuracy in common")],
)
def test_searches_without_a_benchmark_accuracy_are_named(accuracies: list[float | None], fault: str) -> None:
    frame = pd.DataFrame({"kind": "search", "dataset": "cifar10", "folder": ["runs/a", "runs/b", "runs/c"]})
    frame["cifar10.valid"] = pd.Series(accuracies, dtype=float)
    with pytest.raises(UserError, match=fault):
        compare.choose(frame)
