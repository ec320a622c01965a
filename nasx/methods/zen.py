"""Zen-NAS: a score that measures how much the features of a network with Gaussian weights change with its input.

    all weights ~ N(0, 1);  x, e ~ N(0, 1), of the size of a batch;  f(x) the feature map before global pooling
    score = log mean over the images of ||f(x) - f(x + gamma e)||  +  sum over the batch norms of log s
    s = sqrt(mean over the channels of the variance of the norm's input)

The second sum restores the scale that each batch norm removes: scaling the weights of the preceding convolution by k
adds log k.

Source: Lin, Wang, Sun, Chen, Sun, Qian, Li, Jin (2021), algorithm 1; released code,
ZeroShotProxy/compute_zen_score.py and evolution_search.py.
Cost per architecture: 2 * `repeats` forward passes. Only the size and number of the images are used.

Deviations
1. Skip connections belong to the cell and are kept; the paper removes the residual links from its ResNets.
2. The change is measured by the Euclidean norm, as in the paper; the released code sums absolute values.
3. s is computed on the batch x, as in the paper; the released code reads running variances after both batches, which
   at momentum 0.1 are still close to their initial value, 1.
4. A batch norm whose input is all zeros (after the operation `none` of NAS-Bench-201) is omitted from the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from nasx.core.bilevel import Batch
from nasx.methods.zero_cost import ZeroCost, features, weights

if TYPE_CHECKING:
    from nasx.core.constraints import PositiveFloat, Repeats


@dataclass(frozen=True, kw_only=True)
class Zen(ZeroCost):
    """Selection of the best of `candidates` random architectures by the Zen-score."""

    sees: ClassVar[bool] = False
    gamma: PositiveFloat = 0.01
    repeats: Repeats = 1

    @torch.no_grad()
    def score(self, network: nn.Module, batch: Batch, gen: torch.Generator) -> float:
        total = 0.0
        for _ in range(self.repeats):
            for w in weights(network):
                w.normal_(generator=gen)
            x, e = (torch.empty_like(batch.x).normal_(generator=gen) for _ in range(2))
            with scales(network) as found:
                clean = features(network, x, gen)
            change = (clean - features(network, x + self.gamma * e, gen)).flatten(1).norm(dim=1).mean()
            total += float(torch.stack([change, *found]).log().double().sum())
        return total / self.repeats


@contextmanager
def scales(network: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list to which each batch norm that runs in the block appends its s, a scalar tensor (1 if s is 0)."""
    found: list[Tensor] = []

    def scale(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        s = given[0].var((0, 2, 3), correction=0).mean().sqrt()
        found.append(torch.where(s > 0, s, 1.0))

    handles = [m.register_forward_pre_hook(scale) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
