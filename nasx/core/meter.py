"""Running means of the values logged in an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nasx.core.plain import State
from nasx.errors import UserError


class Meter:
    """Running means of logged values, summed on the device in float64 and copied to the host only by `means`."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], weight: int = 1) -> None:
        """Add 0-d tensors. Raises TypeError for other shapes, AttributeError for values that are not tensors."""
        for name, value in values.items():
            total = value.detach().double() * weight
            if total.dim():
                raise TypeError(f"{name} has the shape {tuple(total.shape)}")
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.counts[name] = self.counts.get(name, 0) + weight

    def means(self) -> dict[str, float]:
        names = list(self.sums)
        if not names:
            return {}
        values = torch.stack([self.sums[n] for n in names]).tolist()
        return {n: v / self.counts[n] for n, v in zip(names, values, strict=True)}

    def state(self) -> State:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load(self, state: State) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


def refused(where: str, values: object) -> UserError:
    """Return the error for a step whose values `Meter.add` has rejected."""
    remedy = "return the result of nasx.core.bilevel.logs(...), or {} if there is nothing to log"
    fault = "returned None" if values is None else f"returned {type(values).__name__}, not a dictionary"
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if not isinstance(value, Tensor) or value.dim():
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            fault, remedy = f"returned {found} for {name!r}", "return 0-d tensors, such as those of logs(...)"
            break
    return UserError(where, f"step() {fault}", remedy)


def check_finite(
    means: Mapping[str, float], weights: Sequence[Tensor], *, kind: str, update: int, lr: float, clip: float | None
) -> None:
    """Raise UserError if a mean or a weight is NaN or infinite.

    The remedy names `lr` and `clip` in the settings group `kind` (search or retrain).
    """
    names = [name for name, value in means.items() if not math.isfinite(value)]
    if weights and not names:
        norms = torch._foreach_norm([x.detach() for x in weights])
        names = [] if bool(torch.stack(norms).isfinite().all()) else ["a weight"]
    if names:
        raise UserError(
            f"{kind}, update {update}",
            f"{', '.join(names)} became NaN or infinite",
            f"lower {kind}.lr={lr:g}"
            + ("" if clip else f" or set {kind}.clip=5")
            + "; any earlier checkpoints are kept",
        )
