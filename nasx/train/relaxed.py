"""The supernet of a search as a network to train, its architecture fixed: `nasx retrain from=RUN relaxed=true`.

The mixture is the one that the metrics row of an epoch holds, the last one's by default; the weights are new. What such
a network reaches, next to the supernet's accuracy in the search, is what the weights had not yet learned there.

Source: Amended-DARTS, appendix A.1 (600 epochs of search, 600 of training).

Deviations
1. Size, operations and batch norm are those of the search's supernet; layers, channels and stem of the recipe are not
   read.
2. The paper does not state its recipe; it is that of `retrain=`, on all training images.

Shapes: mixtures (cells, edges, operations); rows hold them without the cells, which share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nasx.core.plain import Row
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.spaces.base import Logits, Space, Supernet


class Relaxed(nn.Module):
    """A supernet with a constant mixture; called as a discrete network is."""

    def __init__(self, supernet: Supernet, mix: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.supernet, self.names = supernet, tuple(mix)
        for i, x in enumerate(mix.values()):
            self.register_buffer(f"mix{i}", x)

    def forward(self, x: Tensor, **options: object) -> Logits:
        mix = {name: self.get_buffer(f"mix{i}") for i, name in enumerate(self.names)}
        found: Logits = self.supernet(x, mix, **options)
        return found


def network(space: Space, row: Row, classes: int, where: str) -> Relaxed:
    """The supernet of `space`, newly initialized, at the mixture of a metrics row of the run `where`.

    Raises UserError if the row's mixture is not one of the space, or cells do not share it.
    """
    shapes = {name: x.shape for name, x in space.relax(space.init(torch.Generator()), lambda x: x).items()}
    held = {name: torch.tensor(values, dtype=torch.float32) for name, values in (row.get("mix") or {}).items()}
    if any(len(own) == 3 and own[0] > 1 for own in space.shapes().values()):
        raise UserError(
            f"from={where}",
            "has a separate architecture for each cell",
            "use a search whose cells share one architecture",
        )
    if {name: x.shape for name, x in held.items()} != {name: own[1:] for name, own in shapes.items()}:
        raise UserError(f"from={where}", "its mixture weights belong to another space", "use the space of that search")
    return Relaxed(space.supernet(classes), {name: x.expand(shapes[name]).clone() for name, x in held.items()})
