"""The retrained network equals a plain one, written from the description, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nasx.spaces.darts.space import Darts

from reference import retraining

LAYERS, CHANNELS = 4, 6


def ordered(module: nn.Module) -> list[Tensor]:
    """Parameters and running statistics in the order in which both networks have them."""
    return [x for x in module.state_dict().values() if x.is_floating_point()]


@pytest.fixture(scope="module")
def both() -> tuple[nn.Module, retraining.Net]:
    torch.manual_seed(0)
    ours = Darts().network(Darts().parse("DARTS_V2"), 10, layers=LAYERS, channels=CHANNELS, auxiliary=True).double()
    plain = retraining.Net(LAYERS, CHANNELS).double()
    parts = {"stem": "stem", "auxiliary": "head", "classifier": "classifier"}
    parts |= {
        f"cells.{i}.{mine}": f"cells.{i}.{theirs}"
        for i in range(LAYERS)
        for mine, theirs in (("preprocess0", "first"), ("preprocess1", "second"), ("ops", "ops"))
    }
    with torch.no_grad():
        for mine, theirs in parts.items():
            values, places = ordered(ours.get_submodule(mine)), ordered(plain.get_submodule(theirs))
            assert [x.shape for x in values] == [x.shape for x in places], mine
            for value, place in zip(values, places, strict=True):
                place.copy_(value)
    counts = [sum(p.numel() for p in net.parameters()) for net in (ours, plain)]
    assert counts[0] == counts[1]
    return ours, plain


def test_logits_of_both_heads_and_gradients_are_equal(both: tuple[nn.Module, retraining.Net]) -> None:
    ours, plain = both
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, (main, auxiliary) = ours.train()(x), plain.train()(x)
    assert auxiliary is not None
    assert torch.allclose(found.main, main, rtol=0, atol=1e-11)
    assert torch.allclose(found.auxiliary, auxiliary, rtol=0, atol=1e-11)
    (found.main.square().sum() + found.auxiliary.square().sum()).backward()
    (main.square().sum() + auxiliary.square().sum()).backward()
    norms = [torch.stack([p.grad.norm() for p in net.parameters()]).sort().values for net in both]
    assert torch.allclose(*norms, rtol=1e-9, atol=1e-11)
    found, (main, auxiliary) = ours.eval()(x), plain.eval()(x)  # running statistics followed alike
    assert torch.allclose(found.main, main, rtol=0, atol=1e-11)
    assert found.auxiliary is auxiliary is None


def test_plain_cutout_blanks_what_the_definition_says() -> None:
    """Of a square of side 16, 14 rows and 14 columns are inside the image on average."""
    import random

    import numpy as np

    random.seed(0)
    image = np.full((3, 32, 32), 255, np.uint8)
    erased = [(retraining.augmented(image, 16)[0] == 0).sum() for _ in range(3000)]
    assert np.mean(erased) == pytest.approx(196, abs=5)
