"""Parameters and multiply-adds of a network, and the widest network within given cost limits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from nasx.core import budgets
from nasx.core.trees import Number
from nasx.errors import UserError
from nasx.spaces import operations
from nasx.spaces.latency import Size


def plain_only(size: Size, space: str) -> None:
    """Raise UserError if `size` has a stem or an auxiliary head that networks of `space` do not support."""
    if (stem := size.get("stem", "cifar")) != "cifar":
        raise UserError(
            f"retrain.stem={stem}", f"networks of {space} support only stem=cifar", "set retrain.stem=cifar"
        )
    if size.get("auxiliary"):
        raise UserError("retrain.auxiliary", f"networks of {space} have no auxiliary head", "set retrain.auxiliary=0")


def no_drop_path(drop_path: Number, space: str) -> None:
    """Raise UserError if `drop_path` is not zero, because networks of `space` do not support drop-path."""
    if drop_path:
        raise UserError(
            f"retrain.drop_path={drop_path}", f"networks of {space} have no drop-path", "set retrain.drop_path=0"
        )


class Cost(NamedTuple):
    """Number of parameters without and with the auxiliary head, and multiply-adds per item in evaluation."""

    params: int
    params_with_auxiliary: int
    macs: int


def cost(network: nn.Module, example: Tensor) -> Cost:
    """Return the cost of `network` for one item, `example` (see `Space.example`), without modifying the network.

    Multiply-adds of convolutions and linear layers are counted exactly, on the meta device, without running them.
    Publications count differently: P-DARTS and PC-DARTS add 2 for each output element of batch norm and 1 for each
    output element of ReLU, so they report 557, 586 and 597 million for networks with 543, 571 and 582 million here.
    Counted that way, DARTS_V2 has 544 million (530 here); its paper reports 574 without describing the method, and
    others obtained 523 and 545 (quark0/darts, issue 46, unanswered).
    """
    counts = {name: x.numel() for name, x in network.named_parameters()}
    total = sum(counts.values())
    head = sum(n for name, n in counts.items() if name.startswith("auxiliary."))
    dtype = next((x.dtype for x in network.parameters()), example.dtype)
    return Cost(total - head, total, _macs(network, example.to(dtype) if example.is_floating_point() else example))


def _macs(module: nn.Module, example: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    shadow = copy.deepcopy(module).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(example)
    return int(counter.get_total_flops() // 2)


@cache
def operation_cost(name: str, channels: int, stride: int, height: int, width: int) -> Cost:
    """Return the cost of the operation `name` for one input (channels, height, width)."""
    with torch.device("meta"):
        return cost(operations.build(name, channels, stride), torch.zeros(1, channels, height, width))


class Counts(NamedTuple):
    """Exact counts of `macs` (multiply-adds per item, see `cost`) or `params` (without the auxiliary head)."""

    quantity: Literal["macs", "params"]

    def operation(self, name: str, channels: int, stride: int, height: int, width: int) -> float:
        """Return the cost of an operation with `channels` input and output channels for an input of this size."""
        if self.quantity == "params":
            height = width = 8  # parameters do not depend on the resolution, so one cached count is enough
        return float(getattr(operation_cost(name, channels, stride, height, width), self.quantity))

    def network(self, network: nn.Module, example: Tensor) -> float:
        """Return the cost of a whole network for one item."""
        return float(getattr(cost(network, example), self.quantity))


class Limit(NamedTuple):
    """Upper limit on the cost of a network, in multiply-adds, parameters or milliseconds."""

    where: str
    """Setting that defines the limit, for error messages."""
    quantity: str
    most: float
    measured: Callable[[int], float] | None = None
    """Function that measures the cost of a network with a given number of channels; if None, `quantity` is counted."""


def widest(build: Callable[[int], nn.Module], example: Tensor, limits: Sequence[Limit]) -> int:
    """Return the largest even number of channels for which `build(channels)` is within all limits.

    Costs are for one item, `example` (see `cost`). The number is found by bisection, because more channels never cost
    less. Raises UserError for the first limit that even two channels exceed.
    """

    def exceeded(channels: int) -> Iterator[tuple[Limit, float]]:
        with torch.device("meta"):
            counted = cost(build(channels), example)
        for limit in limits:
            found = limit.measured(channels) if limit.measured else float(getattr(counted, limit.quantity))
            if found > limit.most:
                yield limit, found

    def fits(channels: int) -> bool:
        return next(exceeded(channels), None) is None

    low, high = 2, 4
    for limit, found in exceeded(low):
        raise UserError(
            limit.where,
            f"is too low even for two channels, which cost {budgets.text(found, limit.quantity)}",
            f"raise {limit.where.partition('=')[0]}, or lower retrain.layers or dataset.size",
        )
    while fits(high):
        low, high = high, 2 * high
    while high - low > 2:
        middle = (low + high) // 4 * 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
