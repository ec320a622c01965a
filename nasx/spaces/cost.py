"""Parameters and multiply-adds of a network, and the widest network within a bound."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nasx.core.trees import Number
from nasx.errors import UserError


def plain_only(stem: str, auxiliary: bool, space: str) -> None:
    """Raises UserError for a stem or an auxiliary head that the networks of a tabular space do not have."""
    if stem != "cifar":
        raise UserError(f"retrain.stem={stem}", f"networks of {space} have one stem, cifar", "set retrain.stem=cifar")
    if auxiliary:
        raise UserError("retrain.auxiliary", f"networks of {space} have no auxiliary head", "set retrain.auxiliary=0")


def no_drop_path(drop_path: Number, space: str) -> None:
    """Raises UserError for drop-path in a network that has none."""
    if drop_path:
        raise UserError(
            f"retrain.drop_path={drop_path}", f"networks of {space} have no drop-path", "set retrain.drop_path=0"
        )


class Cost(NamedTuple):
    """Parameters without and with the auxiliary head, and multiply-adds of one item in evaluation."""

    params: int
    params_with_auxiliary: int
    macs: int


def cost(network: nn.Module, example: Tensor) -> Cost:
    """What `network` costs on one item (`example`, without values: Space.example); it is left as it is.

    Multiply-adds are those of convolutions and linear layers, counted exactly on the meta device (no arithmetic is
    done). Publications differ: P-DARTS and PC-DARTS add 2 for each value of a batch norm and 1 for each of a ReLU,
    which makes their 557, 586 and 597 million of our 543, 571 and 582; by that custom DARTS_V2 has 544 (530 here),
    where its own paper prints 574 and says not how: others found 523 and 545 (quark0/darts, issue 46, unanswered).
    """
    from torch.utils.flop_counter import FlopCounterMode

    counts = {name: x.numel() for name, x in network.named_parameters()}
    total = sum(counts.values())
    head = sum(n for name, n in counts.items() if name.startswith("auxiliary."))
    shadow = copy.deepcopy(network).to("meta").eval()
    dtype = next(shadow.parameters()).dtype
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(example.to(dtype) if example.is_floating_point() else example)
    return Cost(total - head, total, counter.get_total_flops() // 2)


def widest(build: Callable[[int], nn.Module], example: Tensor, limit: int) -> int:
    """The largest even number of channels with which `build(channels)` takes at most `limit` multiply-adds.

    For one item (`example`, see `cost`). Bisection: more channels never cost less. Raises UserError where not even
    two channels keep below.
    """

    def fits(channels: int) -> bool:
        with torch.device("meta"):
            return cost(build(channels), example).macs <= limit

    low, high = 2, 4
    if not fits(low):
        raise UserError(
            f"retrain.max_macs={limit}", "is less than two channels need", "raise it, or lower retrain.layers"
        )
    while fits(high):
        low, high = high, 2 * high
    while high - low > 2:
        middle = (low + high) // 4 * 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
