"""How far a method's finite differences are from double backward, on the batches and at the weights of its own steps.

    cosine   <d, e> / (||d|| ||e||)        d the difference, e the same second derivative along the same direction
    norm     ||d|| / ||e||                 by double backward

On a smooth loss both tend to 1 with the square of the probe's length. With relu they need not: between the two points
of a probe lie kinks, whose jumps the difference counts and double backward does not see (docs/methods/README.md).

A method reports each difference by a name of its own (`Search.probed`), for example Mv; a step may report several by
one name. Values stay on the device until a row is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nasx.core.bilevel import Tree


class Probes:
    """Means over an epoch of cosine and relative norm, by the name of the difference."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, found: Tree, exact: Tree) -> None:
        """Take in one difference and the same by double backward."""
        d, e = (torch.cat([tree[k].detach().double().flatten() for k in exact]) for tree in (found, exact))
        tiny = torch.finfo(d.dtype).tiny ** 0.5
        lengths = d.norm().clamp_min(tiny), e.norm().clamp_min(tiny)
        values = torch.stack([d @ e / (lengths[0] * lengths[1]), lengths[0] / lengths[1], torch.ones_like(lengths[0])])
        self.sums[name] = self.sums[name] + values if name in self.sums else values

    def entries(self) -> dict[str, Any]:
        """{name: {cosine, norm, count}} of this epoch, after which the next one starts; empty where none was taken."""
        found = {}
        for name, sums in self.sums.items():
            cosine, norm, count = sums.tolist()
            found[name] = {"cosine": cosine / count, "norm": norm / count, "count": int(count)}
        self.sums = {}
        return found

    def state(self) -> dict[str, Any]:
        """Tensors that `load` continues from."""
        return {"sums": dict(self.sums)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.sums = dict(state["sums"])
