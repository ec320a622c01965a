"""Error bars of a method's gradient: its approximations are compared with better ones, at the same weights and batch.

    cosine       <d, e> / (||d|| ||e||)        d: value used by the method, e: better estimate of the same value
    norm         ||d|| / ||e||
    difference   ||d - e|| / ||e||

A method passes d and e to `Search.compare` under a name, which it may use several times in a step:

    NAME         a finite difference (for example Mv) compared with double backward along the same direction
    NAME-half    the finite difference compared with one of half the length
    g-2K, g-CG   iDARTS' hypergradient compared with the series of twice as many terms, and with conjugate gradients

On a smooth loss, the error of a finite difference is proportional to the square of its length. With relu, it need not
be: the difference includes the jumps of the gradient at kinks between its two points, double backward does not
(docs/methods/kinks.md). Values stay on the device until a metrics row is written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nasx.core.bilevel import Tree
from nasx.core.plain import State

STATISTICS = ("cosine", "norm", "difference")


def compared(found: Tree, better: Tree) -> Tensor:
    """Return the `STATISTICS` of two trees with the same names as a float64 tensor (3,)."""
    d, e = (torch.cat([tree[k].detach().double().flatten() for k in better]) for tree in (found, better))
    tiny = torch.finfo(d.dtype).tiny ** 0.5
    lengths = d.norm().clamp_min(tiny), e.norm().clamp_min(tiny)
    return torch.stack([d @ e / (lengths[0] * lengths[1]), lengths[0] / lengths[1], (d - e).norm() / lengths[1]])


class Probes:
    """Means of the statistics over an epoch, for each name under which values are compared."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, found: Tree, better: Tree) -> None:
        """Add the statistics of one comparison."""
        values = compared(found, better)
        values = torch.cat([values, torch.ones_like(values[:1])])
        self.sums[name] = self.sums[name] + values if name in self.sums else values

    def entries(self) -> dict[str, dict[str, float]]:
        """Return {name: {cosine, norm, difference, count}} for this epoch, and reset it; empty without comparisons."""
        found = {}
        for name, sums in self.sums.items():
            *values, count = sums.tolist()
            found[name] = {key: x / count for key, x in zip(STATISTICS, values, strict=True)} | {"count": int(count)}
        self.sums = {}
        return found

    def state(self) -> State:
        """Return the tensors from which `load` resumes."""
        return {"sums": dict(self.sums)}

    def load(self, state: State) -> None:
        """Resume from a state; sums saved by older versions, which lack a statistic, are dropped."""
        self.sums = {name: sums for name, sums in state["sums"].items() if len(sums) == len(STATISTICS) + 1}
