"""Batch norm and window sums for cells that torch.compile generates for a CPU.

Inductor's own versions are slow there. Its batch norm sums over all images at once, so that a pass over C channels
reads the whole batch C / 16 times from memory, and its variance is a chain of dependent operations. The functions in
this module sum over each image first, which fits into the cache, and then over the images. Values and gradients equal
those of torch's functions (tests/spaces/test_compiled_ops.py).

Source: variance from partial sums, Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def on_cpu(x: Tensor) -> bool:
    """Return whether the code for `x` is being compiled for a CPU, without autocast."""
    return torch.compiler.is_compiling() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the mean and 1 / sqrt(variance + eps) of each channel of x (n, c, h, w): two tensors (c,)."""
    n, _, h, w = x.shape
    means = x.mean((2, 3))
    squares = (x - means[:, :, None, None]).square().sum((2, 3))
    mean = means.mean(0)
    variance = (squares.sum(0) + (means - mean).square().sum(0) * (h * w)) / (n * h * w)
    return mean, torch.rsqrt(variance + eps)


def by_image(x: Tensor) -> Tensor:
    """Sum x (n, c, h, w) over each image and then over the images: (c,)."""
    return x.sum((2, 3)).sum(0)


class BatchNorm(Function):
    """Batch norm with batch statistics and a scale for each channel.

    The backward pass sums over the channels of each edge in a loop of its own, which the compiler fuses with those of
    `Weighted`. Its gradient cannot be differentiated, and neither can that of any function that torch.compile returns.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float, edges: int) -> Tensor:
        mean, inverse = statistics(x, eps)
        ctx.save_for_backward(x, scale, mean, inverse)
        ctx.edges = edges
        return (x - mean[:, None, None]) * (inverse * scale)[:, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (g,), (x, scale, mean, inverse) = grads, ctx.saved_tensors
        count, centered = x.numel() // x.shape[1], x - mean[:, None, None]
        parts = list(zip(g.chunk(ctx.edges, 1), centered.chunk(ctx.edges, 1), strict=True))
        total = torch.cat([by_image(g_e) for g_e, _ in parts])
        product = torch.cat([by_image(g_e * c_e) for g_e, c_e in parts])
        along = product * inverse.square() / count
        rest = g - (total / count)[:, None, None] - centered * along[:, None, None]
        return rest * (inverse * scale)[:, None, None], product * inverse, None, None


def batch_norm(x: Tensor, scale: Tensor, eps: float, edges: int = 1) -> Tensor:
    """Normalize x (n, c, h, w) with the statistics of the batch, and multiply it by `scale` (c,).

    `edges` is the number of edges whose channels x contains.
    """
    out: Tensor = BatchNorm.apply(x, scale, eps, edges)
    return out


def window_sum(x: Tensor, stride: int) -> Tensor:
    """Return the sum over the 3x3 window around each pixel, (n, c, h', w'), computed by a depthwise convolution."""
    return F.conv2d(x, x.new_ones(x.shape[1], 1, 3, 3), stride=stride, padding=1, groups=x.shape[1])


class WindowSum(Function):
    """`window_sum` with stride 1. It is its own transpose, so the backward pass needs no input (nor a dense copy)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return window_sum(x, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        out: Tensor = WindowSum.apply(*grads)
        return out


def average_pool(x: Tensor, stride: int) -> Tensor:
    """Return the average over the 3x3 window around each pixel of x (n, c, h, w), without padding: (n, c, h', w')."""
    count = window_sum(x.new_ones(1, 1, *x.shape[2:]), stride)
    total: Tensor = WindowSum.apply(x) if stride == 1 else window_sum(x, stride)
    return total * count.reciprocal()


class Weighted(Function):
    """Product of a map and the weight of each edge. Its gradient cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(value, scale)
        return value.unsqueeze(1) * scale.view(1, -1, 1, 1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (g,), (value, scale) = grads, ctx.saved_tensors
        products = [by_image(g_e * value).sum() for g_e in g.unbind(1)]
        return (g * scale.view(1, -1, 1, 1, 1)).sum(1), torch.stack(products)


def weighted(value: Tensor, scale: Tensor) -> Tensor:
    """Multiply `value` (n, c, h, w) by the weight of each edge in `scale` (E,): (n, E, c, h, w)."""
    out: Tensor = Weighted.apply(value, scale)
    return out


def dense(x: Tensor) -> Tensor:
    """Return x (n, c, h, w) with dense memory in its own layout; the output of one edge is a slice of a larger map."""
    return x.contiguous(memory_format=torch.channels_last if x.stride(1) == 1 else torch.contiguous_format)
