"""Running means: weighted, and of 0-d tensors only."""

from __future__ import annotations

import pytest
import torch

from nasx.core.meter import Meter


def test_means_are_weighted() -> None:
    meter = Meter()
    meter.add({"loss": torch.tensor(1.0)}, weight=3)
    meter.add({"loss": torch.tensor(5.0)})
    assert meter.means() == {"loss": 2.0}


def test_a_later_value_of_another_shape_is_refused() -> None:
    meter = Meter()
    meter.add({"loss": torch.tensor(1.0)})
    with pytest.raises(TypeError, match=r"loss has the shape \(2,\)"):
        meter.add({"loss": torch.ones(2)})
    assert meter.means() == {"loss": 1.0}
