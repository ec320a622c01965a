"""Operations and edges of the reference supernets, one module each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def norm(channels: int, affine: bool = False) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)


def conv(c_in: int, c_out: int, size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, size, stride=stride, padding=size // 2, bias=bias)


def depthwise(channels: int, size: int, stride: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        channels,
        channels,
        size,
        stride=stride,
        padding=dilation * (size // 2),
        dilation=dilation,
        groups=channels,
        bias=False,
    )


# ------------------------------------------------------------------------------------------------ operations
class Operation(nn.Module):
    """forward(x, gen); `gen` is read by random operations alone."""


class Zero(Operation):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(Zero):
    """Fresh N(0, 1) values shaped like the strided input; no norm, no gradient."""

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        shape = x[:, :, :: self.stride, :: self.stride].shape
        return torch.randn(shape, generator=gen, dtype=x.dtype, device=x.device)


class Identity(Operation):
    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        return x


class FactorizedReduce(Operation):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.norm = norm(c_out)

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        x = F.relu(x)
        return self.norm(torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], dim=1))


class Pool(Operation):
    def __init__(self, kind: str, channels: int, stride: int, normed: bool = True) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride
        self.norm: nn.Module = norm(channels) if normed else nn.Identity()

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        if self.kind == "max":
            return self.norm(F.max_pool2d(x, 3, stride=self.stride, padding=1))
        return self.norm(F.avg_pool2d(x, 3, stride=self.stride, padding=1, count_include_pad=False))


class ReLUConvNorm(Operation):
    def __init__(
        self, c_in: int, c_out: int, size: int, stride: int = 1, affine: bool = False, bias: bool = False
    ) -> None:
        super().__init__()
        self.conv = conv(c_in, c_out, size, stride, bias)
        self.norm = norm(c_out, affine)

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        return self.norm(self.conv(F.relu(x)))


class Separable(Operation):
    def __init__(self, channels: int, size: int, stride: int) -> None:
        super().__init__()
        self.depthwise1, self.pointwise1 = depthwise(channels, size, stride), conv(channels, channels, 1)
        self.depthwise2, self.pointwise2 = depthwise(channels, size, 1), conv(channels, channels, 1)
        self.norm1, self.norm2 = norm(channels), norm(channels)

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        x = self.norm1(self.pointwise1(self.depthwise1(F.relu(x))))
        return self.norm2(self.pointwise2(self.depthwise2(F.relu(x))))


class Dilated(Operation):
    def __init__(self, channels: int, size: int, stride: int) -> None:
        super().__init__()
        self.depthwise, self.pointwise = depthwise(channels, size, stride, dilation=2), conv(channels, channels, 1)
        self.norm = norm(channels)

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        return self.norm(self.pointwise(self.depthwise(F.relu(x))))


def darts_operation(name: str, c: int, stride: int) -> Operation:
    if name == "skip_connect":
        return Identity() if stride == 1 else FactorizedReduce(c, c)
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        return Pool(name[:3], c, stride)
    if name in ("sep_conv_3x3", "sep_conv_5x5"):
        return Separable(c, int(name[-1]), stride)
    if name in ("dil_conv_3x3", "dil_conv_5x5"):
        return Dilated(c, int(name[-1]), stride)
    return {"none": Zero, "noise": Noise}[name](c, stride)


class Edge(nn.Module):
    """sum over o of p_o op_o(x)."""

    def __init__(self, ops: Sequence[Operation]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)

    def forward(self, x: Tensor, p: Tensor, gen: torch.Generator | None = None) -> Tensor:
        total = p[0] * self.ops[0](x, gen)
        for weight, op in zip(p[1:], list(self.ops)[1:], strict=True):
            total = total + weight * op(x, gen)
        return total


class PartialEdge(Edge):
    """The mixed operation on the first 1/K of the channels, the rest bypasses; then the channels are shuffled."""

    def __init__(self, ops: Sequence[Operation], stride: int, k: int) -> None:
        super().__init__(ops)
        self.stride, self.k = stride, k

    def forward(self, x: Tensor, p: Tensor, gen: torch.Generator | None = None) -> Tensor:
        c = x.shape[1] // self.k
        mixed, rest = super().forward(x[:, :c], p, gen), x[:, c:]
        if self.stride == 2:
            rest = F.max_pool2d(rest, 2, stride=2)
        y = torch.cat([mixed, rest], dim=1)
        n, channels, height, width = y.shape
        return y.reshape(n, self.k, channels // self.k, height, width).transpose(1, 2).reshape(y.shape)
