"""Built-in operations as plain modules for discrete networks: `forward(x, gen=None)`, x (n, channels, h, w).

Compositions (layers in order; no convolution has a bias):

    none            zeros, spatially strided                                              DARTS, NAS-Bench-201
    max/avg_pool    3x3, padding 1; the average excludes the padding                      DARTS, NAS-Bench-201
    skip_connect    identity at stride 1, FactorizedReduce at stride 2                    DARTS
    sep_conv_k      twice: ReLU, depthwise k (the first is strided), pointwise, BN        DARTS
    dil_conv_k      ReLU, depthwise k with dilation 2, pointwise, BN                      DARTS
    noise           new N(0, 1) samples in the strided input's shape, no gradient         RobustDARTS, S4
    nor_conv_k      ReLU, convolution, BN                                                 NAS-Bench-201
    convkxk-bn-relu convolution, BN, ReLU                                                 NAS-Bench-101

Sources: H. Liu et al. 2019 (DARTS), A. Zela et al. 2020 (RobustDARTS), X. Dong and Y. Yang 2020 (NAS-Bench-201),
C. Ying et al. 2019 (NAS-Bench-101), and their released code.

Deviations
1. `none` returns exact zeros; the released code multiplies by 0, which propagates NaN.
2. FactorizedReduce accepts odd sizes: if the height or width is odd, the shifted copy is padded with a zero row or
   column at the end. The released code fails for odd sizes.
3. `noise` draws from the caller's generator, so that one seed per batch determines the whole forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
Generator = torch.Generator | None


def batch_norm(*, affine: bool = True, tracked: bool = True, momentum: float = 0.1) -> Norm:
    """Return a batch-norm factory, channels -> layer; unless `tracked`, evaluation also uses batch statistics."""
    return partial(nn.BatchNorm2d, affine=affine, track_running_stats=tracked, momentum=momentum)


class Identity(nn.Module):
    """Identity operation."""

    def forward(self, x: Tensor, gen: Generator = None) -> Tensor:
        return x


class Zero(nn.Module):
    """Operation that returns zeros in the shape of the strided input."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, gen: Generator = None) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """Operation that returns new N(0, 1) samples in the shape of the strided input; x receives no gradient."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, gen: Generator = None) -> Tensor:
        shape = x[:, :, :: self.stride, :: self.stride].shape
        return torch.randn(shape, generator=gen, dtype=x.dtype, device=x.device)


class Pool(nn.Module):
    """3x3 max or average pooling with padding 1, followed by a norm only in DARTS supernets."""

    def __init__(self, kind: str, channels: int, stride: int, norm: Norm | None = None) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride, 1) if kind == "max" else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        self.norm = None if norm is None else norm(channels)

    def forward(self, x: Tensor, gen: Generator = None) -> Tensor:
        x = self.pool(x)
        return x if self.norm is None else self.norm(x)


class ConvBN(nn.Module):
    """Base class for a convolution (padding kernel // 2) and BN with a ReLU before or after them."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.norm = norm(c_out)


class ReLUConvBN(ConvBN):
    """ReLU, convolution (padding kernel // 2), BN."""

    def forward(self, x: Tensor, gen: Generator = None) -> Tensor:
        out: Tensor = self.norm(self.conv(F.relu(x)))
        return out


class ConvBNReLU(ConvBN):
    """Convolution (padding kernel // 2), BN, ReLU: the order of NAS-Bench-101."""

    def forward(self, x: Tensor, gen: Generator = None) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class SepConv(nn.Module):
    """Two blocks of ReLU, depthwise k x k, pointwise and BN; only the first depthwise convolution is strided."""

    def __init__(self, channels: int, kernel: int, stride: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        pad = kernel // 2
        self.depthwise1 = nn.Conv2d(channels, channels, kernel, stride, pad, groups=channels, bias=False)
        self.pointwise1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm1 = norm(channels)
        self.depthwise2 = nn.Conv2d(channels, channels, kernel, 1, pad, groups=channels, bias=False)
        self.pointwise2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm2 = norm(channels)

    def forward(self, x: Tensor, gen: Generator = None) -> Tensor:
        x = self.norm1(self.pointwise1(self.depthwise1(F.relu(x))))
        out: Tensor = self.norm2(self.pointwise2(self.depthwise2(F.relu(x))))
        return out


class DilConv(nn.Module):
    """ReLU, depthwise k x k with dilation 2, pointwise, BN."""

    def __init__(self, channels: int, kernel: int, stride: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, stride, kernel - 1, dilation=2, groups=channels, bias=False
        )
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = norm(channels)

    def forward(self, x: Tensor, gen: Generator = None) -> Tensor:
        out: Tensor = self.norm(self.pointwise(self.depthwise(F.relu(x))))
        return out


class FactorizedReduce(nn.Module):
    """ReLU, two parallel 1x1 convolutions with stride 2 (the second on the shifted input), concatenation, BN."""

    def __init__(self, c_in: int, c_out: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out - c_out // 2, 1, 2, bias=False)
        self.norm = norm(c_out)

    def forward(self, x: Tensor, gen: Generator = None) -> Tensor:
        x = F.relu(x)
        shifted = F.pad(x, (0, x.size(3) % 2, 0, x.size(2) % 2))[:, :, 1:, 1:]
        out: Tensor = self.norm(torch.cat([self.conv1(x), self.conv2(shifted)], dim=1))
        return out


class ResidualBlock(nn.Module):
    """NAS-Bench-201's block between stages: two ReLU-conv3x3-BN (stride 2, then 1) plus an avgpool-conv1x1 shortcut."""

    def __init__(self, c_in: int, c_out: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv_a = ReLUConvBN(c_in, c_out, 3, 2, norm)
        self.conv_b = ReLUConvBN(c_out, c_out, 3, 1, norm)
        self.pool = nn.AvgPool2d(2, 2)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, bias=False)  # no BN on the shortcut, as in the released code

    def forward(self, x: Tensor, gen: Generator = None) -> Tensor:
        # pooling drops the last row of an odd map, but the strided convolution does not: repeat the row
        pooled = self.pool(F.pad(x, (0, x.size(3) % 2, 0, x.size(2) % 2), mode="replicate"))
        out: Tensor = self.conv_b(self.conv_a(x)) + self.shortcut(pooled)
        return out
