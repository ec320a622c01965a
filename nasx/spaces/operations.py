"""Registry of operations by name; each entry serves both supernets and discrete networks.

`@operation("NAME")` registers a subclass of `EdgeOperations` (edge_operations.py). Supernets run it on all edges that
leave a node at once; discrete networks run it on a single edge (`SingleEdge`). A user-defined class is registered when
its module is imported, for example through the `_target_` of a space in the same module. Built-in operations also have
separate modules for discrete networks (modules.py), which determine the parameter names in exported files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from nasx.errors import UserError
from nasx.spaces import edge_operations as edges
from nasx.spaces import modules, rules
from nasx.spaces.edge_operations import EdgeOperations, Style
from nasx.spaces.modules import Norm

Merged = Callable[[int, int, int, Style], EdgeOperations]
"""(number of edges, channels, stride, style) -> operation on that many edges."""
Plain = Callable[[int, int, Norm, Norm | None], nn.Module]
"""(channels, stride, batch-norm factory, factory for the norm after pooling or None) -> operation on one edge."""
T = TypeVar("T", bound=type[EdgeOperations])


class Entry(NamedTuple):
    """Factories for an operation.

    `merged` is None for `none`, which supernets never compute; `plain` is None if discrete networks use `SingleEdge`.
    """

    merged: Merged | None
    plain: Plain | None = None


class BatchNorm(nn.Module):
    """torch's batch norm with the interface of `edge_operations.Norm`, for one edge."""

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        self.norm = modules.batch_norm(affine=style.affine, tracked=style.tracked, momentum=style.momentum)(channels)

    def forward(self, x: Tensor, scale: Tensor | None = None, part: slice | None = None) -> Tensor:
        """Normalize x (n, c, h, w), and multiply it by `scale` (c,) if given."""
        y: Tensor = self.norm(x)
        return y if scale is None else y * scale[:, None, None]


class SingleEdge(nn.Module):
    """An operation on one edge of a discrete network, with torch's batch norm: (n, c, h, w) -> (n, c, h', w')."""

    def __init__(self, merged: Merged, channels: int, stride: int, style: Style) -> None:
        super().__init__()
        self.operation = merged(1, channels, stride, style)
        for parent in list(self.operation.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, edges.Norm):
                    parent.register_module(name, BatchNorm(child.channels, style))

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        """Apply the operation; random tensors are drawn from `gen` (None: the device's default generator)."""
        return self.operation.single(x, 0, self.operation.draw(x.shape, x, gen))


def is_identity(op: nn.Module) -> bool:
    """Return whether an operation of a discrete network is the identity, and therefore exempt from drop-path."""
    return isinstance(op, modules.Identity) or (isinstance(op, SingleEdge) and op.operation.identity)


def operation(name: str) -> Callable[[T], T]:
    """Return a decorator that registers a subclass of `EdgeOperations` as the operation `name`.

    Raises UserError if the name is taken or not valid.
    """

    def register(cls: T) -> T:
        again = repr(_OWN.get(name)) == repr(cls)  # a module may be imported twice
        if name in OPERATIONS and not again:
            raise UserError(f"operation {name!r}", "is already registered", "choose another name")
        if not rules.NAME.fullmatch(name):
            raise UserError(f"operation {name!r}", "is not a valid name", "use letters, digits, '_', '-' and '.'")
        OPERATIONS[name], _OWN[name] = Entry(cls), cls
        if name not in rules.IMAGES:
            rules.IMAGES.append(name)
        return cls

    return register


_OWN: dict[str, type[EdgeOperations]] = {}


def _skip(edges_: int, channels: int, stride: int, style: Style) -> EdgeOperations:
    return (edges.Skip if stride == 1 else edges.FactorizedReduce)(edges_, channels, stride, style)


def _plain_skip(channels: int, stride: int, norm: Norm, pool_norm: Norm | None) -> nn.Module:
    return modules.Identity() if stride == 1 else modules.FactorizedReduce(channels, channels, norm)


def _pool(kind: str) -> Merged:
    return lambda e, c, s, style: edges.Pool(e, c, s, style, kind=kind)


def _separable(kernel: int, dilation: int, depth: int) -> Merged:
    return lambda e, c, s, style: edges.Separable(e, c, s, style, kernel=kernel, dilation=dilation, depth=depth)


def _conv(kernel: int) -> Entry:
    return Entry(
        lambda e, c, s, style: edges.Conv(e, c, s, style, kernel=kernel),
        lambda c, s, norm, pool_norm: modules.ReLUConvBN(c, c, kernel, s, norm),
    )


def _conv_norm_relu(kernel: int) -> Entry:
    return Entry(
        lambda e, c, s, style: edges.ConvNormReLU(e, c, s, style, kernel=kernel),
        lambda c, s, norm, pool_norm: modules.ConvBNReLU(c, c, kernel, s, norm),
    )


OPERATIONS: dict[str, Entry] = {
    "none": Entry(None, lambda c, s, norm, pool_norm: modules.Zero(s)),
    "noise": Entry(edges.Noise, lambda c, s, norm, pool_norm: modules.Noise(s)),
    "max_pool_3x3": Entry(_pool("max"), lambda c, s, norm, pool_norm: modules.Pool("max", c, s, pool_norm)),
    "avg_pool_3x3": Entry(_pool("avg"), lambda c, s, norm, pool_norm: modules.Pool("avg", c, s, pool_norm)),
    "skip_connect": Entry(_skip, _plain_skip),
    "sep_conv_3x3": Entry(_separable(3, 1, 2), lambda c, s, norm, pool_norm: modules.SepConv(c, 3, s, norm)),
    "sep_conv_5x5": Entry(_separable(5, 1, 2), lambda c, s, norm, pool_norm: modules.SepConv(c, 5, s, norm)),
    "dil_conv_3x3": Entry(_separable(3, 2, 1), lambda c, s, norm, pool_norm: modules.DilConv(c, 3, s, norm)),
    "dil_conv_5x5": Entry(_separable(5, 2, 1), lambda c, s, norm, pool_norm: modules.DilConv(c, 5, s, norm)),
    "nor_conv_1x1": _conv(1),
    "nor_conv_3x3": _conv(3),
    "maxpool3x3": Entry(_pool("max"), lambda c, s, norm, pool_norm: modules.Pool("max", c, s)),
    "conv3x3-bn-relu": _conv_norm_relu(3),
    "conv1x1-bn-relu": _conv_norm_relu(1),
}
"""All operations in the order of `rules.IMAGES`, which lists their names without torch."""


def merge(name: str, edges_: int, channels: int, stride: int, style: Style) -> EdgeOperations:
    """Build the operation `name` for `edges_` edges of a supernet. Raises UserError if the name is unknown."""
    rules.known(name, "operation")
    merged = OPERATIONS[name].merged
    assert merged is not None, f"{name} is never computed"
    return merged(edges_, channels, stride, style)


def build(
    name: str,
    channels: int,
    stride: int = 1,
    *,
    affine: bool = True,
    tracked: bool = True,
    momentum: float = 0.1,
    pool_norm: bool = False,
) -> nn.Module:
    """Build the operation `name` for a discrete network; its signature is `forward(x, gen=None)`.

    The operation has `channels` input and output channels. `pool_norm` adds batch norm after DARTS' pooling operations,
    as in supernets. Raises UserError if the name is unknown.
    """
    rules.known(name, "operation")
    merged, plain = OPERATIONS[name]
    if plain is None:
        assert merged is not None
        return SingleEdge(merged, channels, stride, Style(tracked, affine, pool_norm, momentum))
    norm = modules.batch_norm(affine=affine, tracked=tracked, momentum=momentum)
    return plain(channels, stride, norm, norm if pool_norm else None)
