"""One operation on all edges that leave a node, computed together.

Every edge that leaves a node applies its operations to the same tensor. `EdgeOperations` holds one operation of E such
edges with merged weights (E * C, ...), so relu, pooling and normalization run once and E convolutions become one. The
mixture weight of an edge scales the operation's last batch norm (its affine scale is unused in search cells), so
scaling costs nothing and batch norm's backward pass computes its gradient.

Two methods return the same values: `forward` (merged) and `single` (edge i alone, as an ordinary operation with a slice
of the merged weights). Tests compare both with the plain modules in modules.py. operations.py registers the operations
by name.

Shapes: x (n, C, h, w); scale (E,) mixture weights; forward -> (n, E, C, h', w'). Batch norm uses batch statistics,
without affine parameters, as in the search cells of DARTS and NAS-Bench-201; merged weights keep the fan-in, hence the
initial distribution, of E separate convolutions. `draw` returns the random tensors of a pass, which both paths use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5  # PyTorch's batch-norm default, as in all released supernets
P = ParamSpec("P")
R = TypeVar("R")


class Wrapper(Protocol):
    """Function that takes a function of tensors and returns a function with the same values."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


class Style(NamedTuple):
    """Batch-norm options: running statistics, affine parameters, batch norm after pooling, momentum."""

    tracked: bool = False
    affine: bool = False
    pool_norm: bool = False
    momentum: float = 0.1


class Norm(nn.Module):
    """Batch norm over merged channels with batch statistics; running statistics are kept only if `tracked`.

    Running statistics are updated only in passes marked by `tracking` (real weight updates), so that probes do not
    change them; they are used if the module is in eval mode.
    """

    def __init__(self, channels: int, *, affine: bool = False, tracked: bool = False, momentum: float = 0.1) -> None:
        super().__init__()
        self.normalize: Callable[..., Tensor] = F.batch_norm
        """torch.nn.functional.batch_norm, or a function of the same arguments that uses the images of all ranks."""
        self.channels, self.momentum, self.tracked, self.tracking = channels, momentum, tracked, False
        self.weight: nn.Parameter | None = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(channels)) if affine else None
        self.mean: Tensor | None
        self.var: Tensor | None
        self.register_buffer("mean", torch.zeros(channels) if tracked else None)
        self.register_buffer("var", torch.ones(channels) if tracked else None)

    def forward(self, x: Tensor, scale: Tensor | None = None, part: slice | None = None) -> Tensor:
        """Normalize (n, c, h, w); `scale` (c,) multiplies the result; `part` is the slice of channels in x."""
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        mean: Tensor | None = None
        var: Tensor | None = None
        if self.tracked and (self.tracking or not self.training):
            mean, var = self.mean, self.var
        if part is not None:
            weight, bias, mean, var = [None if t is None else t[part] for t in (weight, bias, mean, var)]
        if scale is not None:
            weight = scale if weight is None else weight * scale
            bias = None if bias is None else bias * scale
        batch = self.training or not self.tracked
        return self.normalize(x, mean, var, weight, bias, batch, self.momentum, EPS)


def spread(scale: Tensor, channels: int) -> Tensor:
    """Return mixture weights (E,) repeated over each edge's channels: (E * channels,).

    The result is a copy: for a single edge, reshape would return a view of stride 0, which torch's channels-last batch
    norm reads as if it were dense (one-pixel maps are channels-last too), so gradients would come from other memory.
    """
    return scale.unsqueeze(1).expand(-1, channels).contiguous().view(-1)


def shifted(x: Tensor) -> Tensor:
    """Return x without its first row and column; odd sizes get a zero row or column at the far end (as in modules.py).

    Without the padding a one-pixel map would become empty, and torch's convolution returns arbitrary values for it.
    """
    h, w = x.shape[2] % 2, x.shape[3] % 2
    return (F.pad(x, (0, w, 0, h)) if h or w else x)[:, :, 1:, 1:]


def weight(out: int, fan: int, kernel: int) -> nn.Parameter:
    """Return convolution weights (out, fan, kernel, kernel) with PyTorch's default initial distribution."""
    w = torch.empty(out, fan, kernel, kernel)
    nn.init.kaiming_uniform_(w, a=5**0.5)
    return nn.Parameter(w)


class EdgeOperations(nn.Module):
    """One operation on `edges` edges; subclasses define the merged and the single-edge path.

    `stride` divides height and width, rounded up; `style` contains the batch-norm options.
    """

    identity = False
    """Whether the operation returns its input unchanged (and is exempt from drop-path)."""
    rectifies = False
    """Whether the operation starts with a relu, which all operations of a node share."""
    plain = False
    """Whether the operation has no weights, so that `value` computes it once for all edges."""

    def __init__(self, edges: int, channels: int, stride: int, style: Style) -> None:
        super().__init__()
        self.edges, self.channels, self.stride = edges, channels, stride

    def part(self, i: int, per: int | None = None) -> slice:
        per = self.channels if per is None else per
        return slice(i * per, (i + 1) * per)

    def split(self, x: Tensor) -> Tensor:
        """Reshape (n, E * C, h, w) to (n, E, C, h, w)."""
        out: Tensor = x.unflatten(1, (self.edges, -1))
        return out

    def draw(self, shape: torch.Size, like: Tensor, gen: torch.Generator | None) -> Tensor | None:
        """Return the random tensor (first axis E) needed for a pass over an input of this shape; None if none is."""
        return None

    def value(self, x: Tensor) -> Tensor:
        """Return the output (n, C, h', w') of an operation without weights (`plain`), the same on every edge."""
        raise NotImplementedError

    def forward(self, x: Tensor, r: Tensor, scale: Tensor, noise: Tensor | None) -> Tensor:
        """Return the scaled outputs of all edges (n, E, C, h', w'); `r` = relu(x) is shared by all operations.

        An operation that does not override this method runs edge by edge, which is slower and gives the same values.
        """
        if self.plain:
            return self.value(x).unsqueeze(1) * scale.view(1, -1, 1, 1, 1)
        return torch.stack([self.single(x, i, noise) * share for i, share in enumerate(scale.unbind())], 1)

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        """Return the unscaled output of edge i, (n, C, h', w'), computed as an ordinary operation."""
        return self.value(x)


class Skip(EdgeOperations):
    """Identity operation."""

    identity = plain = True

    def value(self, x: Tensor) -> Tensor:
        return x


@lru_cache(maxsize=64)
def averaging(size: int, stride: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix (size', size) that averages each pixel of an axis with its neighbours, padding not counted."""
    at = torch.arange(size)
    near = ((at[::stride, None] - at).abs() <= 1).to(dtype)
    return (near / near.sum(1, keepdim=True)).to(device)  # a blocking copy: streams of several searches share it


def summed(x: Tensor, stride: int) -> Tensor:
    """Return the sums (n, C, h', w') over the 3x3 pixels around each pixel, computed by a depthwise convolution."""
    return F.conv2d(x, x.new_ones(x.shape[1], 1, 3, 3), stride=stride, padding=1, groups=x.shape[1])


class Pool(EdgeOperations):
    """3x3 max or average pooling (padding not counted), followed by batch norm in DARTS' supernets.

    Pooling has no parameters and is the same on every edge, so it runs once. The average is separable and computed as
    two products with banded matrices, one per axis: six times as fast on a CPU as torch's average pooling, forward and
    backward, and nothing is kept for the backward pass. Channels-last maps use torch's average pooling. Compiled cells
    on a CPU use a depthwise convolution, because Inductor's backward pass of torch's has nine divisions per value.
    """

    plain = True

    def __init__(self, edges: int, channels: int, stride: int, style: Style, *, kind: str) -> None:
        super().__init__(edges, channels, stride, style)
        self.kind = kind
        self.norm = Norm(channels, tracked=style.tracked) if style.pool_norm else None

    def value(self, x: Tensor) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        if (
            self.kind == "max"
            or last
            or torch.compiler.is_compiling()
            or x.is_meta
            or torch.is_autocast_enabled(x.device.type)
        ):
            return self.pooled(x)
        matrix = averaging if type(x) is Tensor else averaging.__wrapped__  # a FakeTensor must not stay in the cache
        rows, columns = (matrix(size, self.stride, x.device, x.dtype) for size in x.shape[2:])
        return self.normed(rows @ (x @ columns.T))

    def pooled(self, x: Tensor) -> Tensor:
        if self.kind == "max":
            return self.normed(F.max_pool2d(x, 3, self.stride, 1))
        if torch.compiler.is_compiling() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            return self.normed(summed(x, self.stride) / summed(x.new_ones(1, 1, *x.shape[2:]), self.stride))
        return self.normed(F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False))

    def normed(self, y: Tensor) -> Tensor:
        return y if self.norm is None else self.norm(y)

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        return self.pooled(x)


class Noise(EdgeOperations):
    """Noise of RobustDARTS' S4: N(0, 1) in the shape of the strided input, independent of x and without gradient."""

    def draw(self, shape: torch.Size, like: Tensor, gen: torch.Generator | None) -> Tensor:
        n, c, h, w = shape
        size = (self.edges, n, c, -(-h // self.stride), -(-w // self.stride))
        return torch.randn(size, device=like.device, dtype=like.dtype, generator=gen)

    def forward(self, x: Tensor, r: Tensor, scale: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        return (noise * scale.view(-1, 1, 1, 1, 1)).transpose(0, 1)

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        assert noise is not None
        return noise[i]


class Conv(EdgeOperations):
    """Convolution of NAS-Bench-201: relu, k x k convolution, batch norm."""

    rectifies = True

    def __init__(self, edges: int, channels: int, stride: int, style: Style, *, kernel: int) -> None:
        super().__init__(edges, channels, stride, style)
        self.kernel = kernel
        self.weight = weight(edges * channels, channels, kernel)
        self.norm = Norm(edges * channels, affine=style.affine, tracked=style.tracked)

    def forward(self, x: Tensor, r: Tensor, scale: Tensor, noise: Tensor | None) -> Tensor:
        y = F.conv2d(r, self.weight, stride=self.stride, padding=self.kernel // 2)
        return self.split(self.norm(y, spread(scale, self.channels)))

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        part = self.part(i)
        y = F.conv2d(F.relu(x), self.weight[part], stride=self.stride, padding=self.kernel // 2)
        out: Tensor = self.norm(y, part=part)
        return out


class ConvNormReLU(EdgeOperations):
    """Convolution of NAS-Bench-101: k x k, affine batch norm, relu (so the mixture weight scales the relu's output)."""

    def __init__(
        self, edges: int, channels: int, stride: int, style: Style, *, kernel: int, inputs: int | None = None
    ) -> None:
        super().__init__(edges, channels, stride, style)
        self.kernel = kernel
        self.weight = weight(edges * channels, channels if inputs is None else inputs, kernel)
        self.norm = Norm(edges * channels, affine=True, tracked=style.tracked, momentum=style.momentum)

    def value(self, x: Tensor) -> Tensor:
        """Return the unscaled outputs of all edges, (n, E, C, h, w)."""
        return self.split(F.relu(self.norm(F.conv2d(x, self.weight, padding=self.kernel // 2))))

    def forward(self, x: Tensor, r: Tensor, scale: Tensor, noise: Tensor | None) -> Tensor:
        return self.value(x) * scale.view(1, -1, 1, 1, 1)

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        part = self.part(i)
        return F.relu(self.norm(F.conv2d(x, self.weight[part], padding=self.kernel // 2), part=part))


class FactorizedReduce(EdgeOperations):
    """Skip at stride 2: relu, two 1x1 stride-2 convolutions to C/2 (second shifted by a pixel), concat, batch norm."""

    rectifies = True

    def __init__(self, edges: int, channels: int, stride: int, style: Style) -> None:
        super().__init__(edges, channels, stride, style)
        half = channels // 2
        self.weight1 = weight(edges * half, channels, 1)
        self.weight2 = weight(edges * half, channels, 1)
        self.norm = Norm(edges * channels, tracked=style.tracked)

    def forward(self, x: Tensor, r: Tensor, scale: Tensor, noise: Tensor | None) -> Tensor:
        y1 = self.split(F.conv2d(r, self.weight1, stride=2))
        y2 = self.split(F.conv2d(shifted(r), self.weight2, stride=2))
        y = torch.cat([y1, y2], 2).flatten(1, 2)
        return self.split(self.norm(y, spread(scale, self.channels)))

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        r, half = F.relu(x), self.part(i, self.channels // 2)
        y1, y2 = F.conv2d(r, self.weight1[half], stride=2), F.conv2d(shifted(r), self.weight2[half], stride=2)
        out: Tensor = self.norm(torch.cat([y1, y2], 1), part=self.part(i))
        return out


class Separable(EdgeOperations):
    """`depth` blocks of relu, depthwise k x k, pointwise 1x1, batch norm: dil_conv (1 block) and sep_conv (2).

    There is no nonlinearity between depthwise and pointwise, so both equal one convolution with the outer product of
    their weights. With few channels this `composed` convolution is faster, because a depthwise convolution is bound by
    memory, especially in its backward pass. Otherwise the two run one after the other, merged over edges.
    """

    rectifies = True
    COMPOSED = 16
    """Maximum channels for the composed convolution (measured: 1.1 to 2.4 times as fast at 16, slower at 32)."""

    def __init__(
        self, edges: int, channels: int, stride: int, style: Style, *, kernel: int, dilation: int, depth: int
    ) -> None:
        super().__init__(edges, channels, stride, style)
        self.kernel, self.dilation, self.depth = kernel, dilation, depth
        self.pad = dilation * (kernel - 1) // 2
        wide = edges * channels
        self.depthwise = nn.ParameterList([weight(wide, 1, kernel) for _ in range(depth)])
        self.pointwise = nn.ParameterList([weight(wide, channels, 1) for _ in range(depth)])
        self.norms = nn.ModuleList([Norm(wide, tracked=style.tracked) for _ in range(depth)])

    def composed(self, block: int) -> Tensor:
        """Return one dense kernel per edge, (E * C, C, k, k): pointwise[o, i] depthwise[i]."""
        e, c, k = self.edges, self.channels, self.kernel
        dense = self.pointwise[block].view(e, c, c, 1, 1) * self.depthwise[block].view(e, 1, c, k, k)
        out: Tensor = dense.view(e * c, c, k, k)
        return out

    def spread_out(self, r: Tensor) -> Tensor:
        """Apply the first block's convolutions to one input (n, C, h, w) for all edges; return (n, E * C, h', w')."""
        c, e, k = self.channels, self.edges, self.kernel
        if c <= self.COMPOSED:
            return F.conv2d(r, self.composed(0), stride=self.stride, padding=self.pad, dilation=self.dilation)
        w = self.depthwise[0].view(e, c, 1, k, k).transpose(0, 1).reshape(c * e, 1, k, k)
        stride, pad, dilation = self.stride, self.pad, self.dilation
        if stride == dilation == 2:  # reads even pixels only; on channels-last maps, the plain convolution is faster
            r, stride, pad, dilation = r[:, :, ::2, ::2], 1, pad // 2, 1
        d = F.conv2d(r, w, stride=stride, padding=pad, dilation=dilation, groups=c)
        d = d.unflatten(1, (c, e)).transpose(1, 2).flatten(1, 2)
        return F.conv2d(d, self.pointwise[0], groups=e)

    def along(self, r: Tensor) -> Tensor:
        """Apply the second block's convolutions to each edge's own input, (n, E * C, h, w) -> the same shape."""
        if self.channels <= self.COMPOSED and self.kernel > 3:
            return F.conv2d(r, self.composed(1), padding=self.pad, groups=self.edges)
        d = F.conv2d(r, self.depthwise[1], padding=self.pad, groups=self.edges * self.channels)
        return F.conv2d(d, self.pointwise[1], groups=self.edges)

    def forward(self, x: Tensor, r: Tensor, scale: Tensor, noise: Tensor | None) -> Tensor:
        y = self.spread_out(r)
        if self.depth == 2:
            y = self.along(F.relu(self.norms[0](y)))
        return self.split(self.norms[-1](y, spread(scale, self.channels)))

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        part = self.part(i)
        for block in range(self.depth):
            x = F.conv2d(
                F.relu(x),
                self.depthwise[block][part],
                stride=self.stride if block == 0 else 1,
                padding=self.pad,
                dilation=self.dilation,
                groups=self.channels,
            )
            x = self.norms[block](F.conv2d(x, self.pointwise[block][part]), part=part)
        return x
