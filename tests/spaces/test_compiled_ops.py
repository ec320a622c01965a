"""Functions that compiled cells use on a CPU, compared with torch's and with the naive path. Here they run eagerly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nasx.spaces import compiled_ops
from nasx.spaces.base import Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

import small

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "last"])


def gradients(y: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return the value and the gradients of the sum of its cubes."""
    return [y.detach(), *torch.autograd.grad((y**3).sum(), inputs)]


@LAYOUTS
@pytest.mark.parametrize(
    ("shape", "edges"), [((2, 4, 8, 8), 2), ((5, 3, 7, 1), 3), ((1, 2, 3, 5), 1), ((4, 1, 1, 1), 1)]
)
def test_batch_norm_equals_torchs(shape: tuple[int, ...], edges: int, layout: torch.memory_format) -> None:
    gen = torch.Generator().manual_seed(0)
    x = (1 + 3 * torch.randn(shape, generator=gen, dtype=torch.float64)).contiguous(memory_format=layout)
    scale = torch.rand(shape[1], generator=gen, dtype=torch.float64)
    found = []
    for fast in (True, False):
        leaves = x.clone().requires_grad_(), scale.clone().requires_grad_()
        y = (
            compiled_ops.batch_norm(*leaves, 1e-5, edges)
            if fast
            else F.batch_norm(leaves[0], None, None, leaves[1], None, True)
        )
        found.append(gradients(y, *leaves))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()) + 1e-12)


def test_batch_norm_refuses_a_second_derivative() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    (g,) = torch.autograd.grad(compiled_ops.batch_norm(x, torch.ones(3), 1e-5).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_batch_norm_loses_only_the_rounding_of_the_mean_far_from_zero() -> None:
    """A variance that is a difference of squares has an error of about 0.1 here."""
    x = 1000 + torch.randn(16, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    exact = F.batch_norm(x.double(), None, None, training=True)
    error = (compiled_ops.batch_norm(x, x.new_ones(4), 1e-5).double() - exact).abs().max()
    assert float(error) <= 4 * 1000 * torch.finfo(x.dtype).eps


@pytest.mark.parametrize("slices", [False, True])
@LAYOUTS
def test_dense_keeps_values_and_layout(layout: torch.memory_format, slices: bool) -> None:
    x = torch.randn(2, 8, 3, 3).contiguous(memory_format=layout)
    x = x[:, 4:] if slices else x
    y = compiled_ops.dense(x)
    assert torch.equal(x, y)
    assert y.is_contiguous(memory_format=layout)
    assert (y is x) is not slices


@LAYOUTS
@pytest.mark.parametrize(
    "space", [Nb201(layers=1, channels=4), Darts(layers=3, channels=4), Nb1Shot1(layers=3, channels=4)]
)
def test_cells_that_are_being_compiled_equal_the_naive_path(
    space: Space, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small.batch(1, size=9)
    found = []
    for naive in (False, True):
        net, mix = small.build(space, naive=naive), small.mixture(space, 2)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=not naive: compiling)
        leaves = [*net.parameters(), *mix.values()]
        logits = net(data.x.contiguous(memory_format=layout), mix).main
        found.append(gradients(logits, *leaves))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()) + 1e-12)
