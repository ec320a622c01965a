"""Operations that are computed jointly for all edges that leave a node.

All edges that leave a node apply their operations to the same tensor. `EdgeOperations` implements one operation on E
such edges with merged weights (E * C, ...), so that relu, pooling and normalization run once and a single convolution
replaces E convolutions. The mixture weight of an edge becomes the affine scale of the operation's last batch norm,
which search cells do not use otherwise. Scaling is therefore free, and the backward pass of batch norm computes its
gradient.

`forward` computes all edges at once; `single` computes edge i alone, as an ordinary operation with a slice of the
merged weights. Except for the scale, both return the same values. Tests compare them with the plain modules in
modules.py. operations.py registers the operations by name.

Shapes: x (n, C, h, w); scale (E,) mixture weights; forward -> (n, E, C, h', w'). Batch norm uses batch statistics and
has no affine parameters, as in the search cells of DARTS and NAS-Bench-201. Merged weights have the fan-in, and hence
the initial distribution, of E separate convolutions. `draw` returns the random tensors for a pass, which `forward` and
`single` share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.spaces import compiled_ops

EPS = 1e-5  # PyTorch's batch-norm default, as in all released supernets
P = ParamSpec("P")
R = TypeVar("R")


class Wrapper(Protocol):
    """Function that wraps a function of tensors without changing its values, such as torch.compile."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


class Style(NamedTuple):
    """Batch-norm options: running statistics, affine parameters, batch norm after pooling, momentum."""

    tracked: bool = False
    affine: bool = False
    pool_norm: bool = False
    momentum: float = 0.1


class Norm(nn.Module):
    """Batch norm over merged channels with batch statistics; running statistics are kept only if `tracked`.

    Running statistics are updated only while `tracking` is set (in weight updates), so that passes at trial weights do
    not change them. They are used in eval mode.
    """

    def __init__(self, channels: int, *, affine: bool = False, tracked: bool = False, momentum: float = 0.1) -> None:
        super().__init__()
        self.normalize: Callable[..., Tensor] = F.batch_norm
        """torch.nn.functional.batch_norm, or a function with its signature that normalizes over all ranks."""
        self.channels, self.momentum, self.tracked, self.tracking = channels, momentum, tracked, False
        self.weight: nn.Parameter | None = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(channels)) if affine else None
        self.mean: Tensor | None
        self.var: Tensor | None
        self.register_buffer("mean", torch.zeros(channels) if tracked else None)
        self.register_buffer("var", torch.ones(channels) if tracked else None)

    def forward(self, x: Tensor, scale: Tensor | None = None, part: slice | None = None, *, edges: int = 1) -> Tensor:
        """Normalize x (n, c, h, w) and multiply it by `scale` (c,); `part` is the slice of channels that x contains.

        `edges` only affects speed: compiled code may sum over the channels of each edge separately.
        """
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
        plain = batch and mean is None and bias is None and self.normalize is F.batch_norm
        if plain and compiled_ops.on_cpu(x):
            return compiled_ops.batch_norm(x, x.new_ones(x.shape[1]) if weight is None else weight, EPS, edges)
        return self.normalize(x, mean, var, weight, bias, batch, self.momentum, EPS)


def spread(scale: Tensor, channels: int) -> Tensor:
    """Repeat each edge's mixture weight for all of its channels: (E,) -> (E * channels,).

    The result is a copy. For a single edge, reshape would return a view with stride 0, which torch's channels-last
    batch norm reads as if it were dense (1x1 maps are also channels-last), so that gradients would be computed from
    unrelated memory.
    """
    return scale.unsqueeze(1).expand(-1, channels).contiguous().view(-1)


def shifted(x: Tensor) -> Tensor:
    """Return x without its first row and column; odd sizes are first zero-padded at the end, as in modules.py.

    Without the padding, a 1x1 map would become empty, and torch's convolution returns arbitrary values for empty maps.
    """
    h, w = x.shape[2] % 2, x.shape[3] % 2
    return (F.pad(x, (0, w, 0, h)) if h or w else x)[:, :, 1:, 1:]


def weight(out: int, fan: int, kernel: int) -> nn.Parameter:
    """Return convolution weights (out, fan, kernel, kernel) with PyTorch's default initialization."""
    w = torch.empty(out, fan, kernel, kernel)
    nn.init.kaiming_uniform_(w, a=5**0.5)
    return nn.Parameter(w)


class EdgeOperations(nn.Module):
    """One operation on `edges` edges; subclasses define how it is computed for all edges and for one edge.

    Height and width are divided by `stride` and rounded up; `style` contains the batch-norm options.
    """

    identity = False
    """Whether the operation returns its input unchanged, and is therefore exempt from drop-path."""
    rectifies = False
    """Whether the operation starts with a relu, which is computed once per node and shared by its operations."""
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
        """Draw the random tensor (first axis E) for a pass over an input of this shape; None if none is needed."""
        return None

    def value(self, x: Tensor) -> Tensor:
        """Return the output (n, C, h', w') of a `plain` operation, which is the same on every edge."""
        raise NotImplementedError

    def forward(self, x: Tensor, r: Tensor, scale: Tensor, noise: Tensor | None) -> Tensor:
        """Return the scaled outputs of all edges, (n, E, C, h', w'); `r` is relu(x), shared by all operations.

        By default, an operation with weights runs edge by edge, which is slower but gives the same values.
        """
        if self.plain:
            value = self.value(x)
            if compiled_ops.on_cpu(x):
                return compiled_ops.weighted(value, scale)
            return value.unsqueeze(1) * scale.view(1, -1, 1, 1, 1)
        return torch.stack([self.single(x, i, noise) * share for i, share in enumerate(scale.unbind())], 1)

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        """Return the unscaled output (n, C, h', w') of edge i, computed as an ordinary operation."""
        return self.value(x)


class Skip(EdgeOperations):
    """Identity operation."""

    identity = plain = True

    def value(self, x: Tensor) -> Tensor:
        return x


@lru_cache(maxsize=64)
def averaging(size: int, stride: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix (size', size) that averages each pixel along an axis with its neighbours, without padding."""
    at = torch.arange(size)
    near = ((at[::stride, None] - at).abs() <= 1).to(dtype)
    return (near / near.sum(1, keepdim=True)).to(device)  # blocking copy: the streams of several searches share it


class Pool(EdgeOperations):
    """3x3 max or average pooling (the average excludes padding), followed by batch norm in DARTS' supernets.

    Pooling has no parameters and gives the same output on every edge, so it runs once. Average pooling is separable and
    is computed as two products with banded matrices, one per axis. On a CPU, the forward and backward passes are six
    times as fast as those of torch's average pooling, and no activations are saved. Channels-last maps and autocast use
    torch's average pooling. Compiled cells on a CPU use a depthwise convolution, because Inductor's backward pass of
    average pooling performs nine divisions per element.
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
        matrix = averaging if type(x) is Tensor else averaging.__wrapped__  # a FakeTensor must not be cached
        rows, columns = (matrix(size, self.stride, x.device, x.dtype) for size in x.shape[2:])
        return self.normed(rows @ (x @ columns.T))

    def pooled(self, x: Tensor) -> Tensor:
        if self.kind == "max":
            return self.normed(F.max_pool2d(x, 3, self.stride, 1))
        if compiled_ops.on_cpu(x):
            return self.normed(compiled_ops.average_pool(x, self.stride))
        return self.normed(F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False))

    def normed(self, y: Tensor) -> Tensor:
        return y if self.norm is None else self.norm(y)

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        return self.pooled(x)


class Noise(EdgeOperations):
    """Noise operation of RobustDARTS' S4: N(0, 1) samples in the shape of the strided input; x receives no gradient."""

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
        return self.split(self.norm(y, spread(scale, self.channels), edges=self.edges))

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        part = self.part(i)
        y = F.conv2d(F.relu(x), self.weight[part], stride=self.stride, padding=self.kernel // 2)
        out: Tensor = self.norm(y, part=part)
        return out


class ConvNormReLU(EdgeOperations):
    """Convolution of NAS-Bench-101: k x k, affine batch norm, relu; the mixture weight scales the relu's output."""

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
    """Skip connection with stride 2: relu, two 1x1 stride-2 convolutions, concatenation, batch norm.

    Each convolution has C/2 output channels; the input of the second is shifted by one pixel.
    """

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
    """Separable convolution: `depth` blocks of relu, depthwise k x k, pointwise 1x1 and batch norm.

    dil_conv has one block, sep_conv two. There is no nonlinearity between the depthwise and the pointwise convolution,
    so together they equal one dense convolution, whose weights are the products of theirs. With few channels, this
    `composed` convolution is faster, because depthwise convolutions are memory-bound, especially in the backward pass.
    Otherwise the two run one after the other, merged over edges.
    """

    rectifies = True
    COMPOSED = 16
    """Maximum number of channels for the composed convolution: 1.1 to 2.4 times as fast with 16, slower with 32."""

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
        """Return the dense kernels of all edges, (E * C, C, k, k): pointwise[o, i] * depthwise[i]."""
        e, c, k = self.edges, self.channels, self.kernel
        dense = self.pointwise[block].view(e, c, c, 1, 1) * self.depthwise[block].view(e, 1, c, k, k)
        out: Tensor = dense.view(e * c, c, k, k)
        return out

    def spread_out(self, r: Tensor) -> Tensor:
        """Apply the first block's convolutions on all edges to one input: (n, C, h, w) -> (n, E * C, h', w')."""
        c, e, k = self.channels, self.edges, self.kernel
        if c <= self.COMPOSED:
            return F.conv2d(r, self.composed(0), stride=self.stride, padding=self.pad, dilation=self.dilation)
        w = self.depthwise[0].view(e, c, 1, k, k).transpose(0, 1).reshape(c * e, 1, k, k)
        stride, pad, dilation = self.stride, self.pad, self.dilation
        if stride == dilation == 2:  # reads only even pixels; on channels-last maps, an undilated convolution is faster
            r, stride, pad, dilation = r[:, :, ::2, ::2], 1, pad // 2, 1
        d = F.conv2d(r, w, stride=stride, padding=pad, dilation=dilation, groups=c)
        d = d.unflatten(1, (c, e)).transpose(1, 2).flatten(1, 2)
        return F.conv2d(d, self.pointwise[0], groups=e)

    def along(self, r: Tensor) -> Tensor:
        """Apply the second block's convolutions to each edge's own input, keeping the shape (n, E * C, h, w)."""
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
