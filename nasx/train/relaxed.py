"""Training of the supernet of a search with fixed mixture weights: `nasx retrain from=RUN relaxed=true`.

The mixture weights are those in the metrics row of an epoch, by default the last one; the network weights are newly
initialized. The gap between the accuracy of the trained network and that of the supernet in the search shows how far
the weights were from convergence in the search.

Source: Amended-DARTS, appendix A.1 (600 epochs of search, 600 of training).

Deviations
1. Size, operations and batch norm are those of the search's supernet; the layers, channels and stem of the recipe are
   not used.
2. The paper does not state its recipe; here, it is the recipe selected by `retrain=`, on all training images.

Shapes: mixtures (cells, edges, operations); metrics rows have (edges, operations), because all cells share a mixture.
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
    """A supernet with constant mixture weights, which is called like a discrete network."""

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
    """Build a supernet of `space` with new weights and the mixture weights in `row`, a metrics row of the run `where`.

    Raises UserError if the mixture weights do not match the space, or if the cells have separate architectures.
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
