"""Every operation: its composition from torch's functions, its shapes, its parameters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nasx.errors import UserError
from nasx.spaces import edge_operations, modules, operations, rules
from nasx.spaces.edge_operations import Style

NAMES = sorted(operations.OPERATIONS)


def image(c: int = 4, size: int = 8) -> torch.Tensor:
    return torch.randn(2, c, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def bn(x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [8, 7])
def test_shape_is_that_of_the_strided_input(name: str, stride: int, size: int) -> None:
    x = image(size=size)
    assert operations.build(name, 4, stride).double()(x).shape == x[:, :, ::stride, ::stride].shape


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("affine", [True, False])
def test_affine_and_tracking_reach_every_norm(name: str, affine: bool) -> None:
    op = operations.build(name, 4, 2, affine=affine, tracked=affine, momentum=0.25, pool_norm=True)
    norms = [m for m in op.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(m.affine == affine and m.track_running_stats == affine and m.momentum == 0.25 for m in norms)
    assert not any(k.endswith("conv.bias") for k in op.state_dict())


def test_compositions() -> None:
    x, r = image(), F.relu(image())
    sep = operations.build("sep_conv_5x5", 4, 2, affine=False).double()
    y = bn(F.conv2d(F.conv2d(r, sep.depthwise1.weight, None, 2, 2, 1, 4), sep.pointwise1.weight))
    y = bn(F.conv2d(F.conv2d(F.relu(y), sep.depthwise2.weight, None, 1, 2, 1, 4), sep.pointwise2.weight))
    torch.testing.assert_close(sep(x), y)
    for kernel, pad in ((3, 2), (5, 4)):
        dil = operations.build(f"dil_conv_{kernel}x{kernel}", 4, 2, affine=False).double()
        y = bn(F.conv2d(F.conv2d(r, dil.depthwise.weight, None, 2, pad, 2, 4), dil.pointwise.weight))
        torch.testing.assert_close(dil(x), y)
    nor = operations.build("nor_conv_3x3", 4).double()
    torch.testing.assert_close(nor(x), bn(F.conv2d(r, nor.conv.weight, padding=1)))
    nb101 = operations.build("conv3x3-bn-relu", 4).double()
    torch.testing.assert_close(nb101(x), F.relu(bn(F.conv2d(x, nb101.conv.weight, padding=1))))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [8, 7])
def test_compiled_average_pooling_equals_torchs(stride: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = edge_operations.Pool(3, 4, stride, Style(pool_norm=False), kind="avg")
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        x = image(size=size).contiguous(memory_format=torch.channels_last).requires_grad_()
        y = pool.value(x)
        (g,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        found.append([y, g, *torch.autograd.grad((g**2).sum(), x)])
    expected = F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    torch.testing.assert_close(found[1][0], expected, rtol=1e-12, atol=1e-12)
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["dil_conv_3x3", "dil_conv_5x5", "sep_conv_3x3", "sep_conv_5x5"])
def test_merged_separable_convolutions_equal_those_of_each_edge(
    name: str, stride: int, size: int, layout: torch.memory_format
) -> None:
    """With more channels than are composed: the merged depthwise convolution, which reads even pixels at stride 2."""
    channels = edge_operations.Separable.COMPOSED + 2
    torch.manual_seed(0)
    op = operations.merge(name, 2, channels, stride, Style()).double()
    x = image(channels, size).contiguous(memory_format=layout).requires_grad_()
    scale = torch.tensor([0.3, 0.7], dtype=torch.float64)
    found = []
    for merged in (True, False):
        y = (
            op(x, F.relu(x), scale, None)
            if merged
            else torch.stack([s * op.single(x, i, None) for i, s in enumerate(scale)], 1)
        )
        firsts = torch.autograd.grad((y**3).sum(), [x, *op.parameters()], create_graph=True)
        found.append([y, *firsts, *torch.autograd.grad(sum((g**2).sum() for g in firsts), [x, *op.parameters()])])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10 * float(plain.detach().abs().max()))


def test_factorized_reduce_reads_even_and_odd_pixels() -> None:
    x = image()
    op = modules.FactorizedReduce(4, 6, modules.batch_norm(affine=False)).double()
    even = F.conv2d(F.relu(x)[:, :, ::2, ::2], op.conv1.weight)
    odd = F.conv2d(F.relu(x)[:, :, 1::2, 1::2], op.conv2.weight)
    torch.testing.assert_close(op(x), bn(torch.cat([even, odd], 1)))


def test_average_pool_leaves_the_padding_out() -> None:
    ones = torch.ones(1, 2, 4, 4)
    assert torch.equal(operations.build("avg_pool_3x3", 2)(ones), ones)


def test_skip_is_identity_at_stride_1_and_none_is_zero() -> None:
    x = image()
    assert operations.build("skip_connect", 4)(x) is x
    assert isinstance(operations.build("skip_connect", 4, 2), modules.FactorizedReduce)
    assert torch.equal(operations.build("none", 4, 2)(x), torch.zeros(2, 4, 4, 4, dtype=torch.float64))


def test_noise_is_drawn_from_the_generator_and_ignores_its_input() -> None:
    noise = operations.build("noise", 4, 2)
    first = noise(image(), torch.Generator().manual_seed(1))
    again = noise(image() * 5, torch.Generator().manual_seed(1))
    other = noise.eval()(image(), torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not noise(image().requires_grad_()).requires_grad


def test_residual_block() -> None:
    x = image()
    block = modules.ResidualBlock(4, 8, modules.batch_norm(affine=False)).double()
    y = bn(F.conv2d(F.relu(x), block.conv_a.conv.weight, stride=2, padding=1))
    y = bn(F.conv2d(F.relu(y), block.conv_b.conv.weight, padding=1))
    torch.testing.assert_close(block(x), y + F.conv2d(F.avg_pool2d(x, 2), block.shortcut.weight))
    assert block(image(size=7)).shape == (2, 8, 4, 4)


def test_the_names_that_are_known_without_torch_are_all() -> None:
    assert list(operations.OPERATIONS) == rules.IMAGES


def test_unknown_operation_is_named() -> None:
    with pytest.raises(UserError, match=r"sep_conv_9x9.*is not an operation"):
        operations.build("sep_conv_9x9", 4)
