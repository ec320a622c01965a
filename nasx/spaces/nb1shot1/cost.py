"""Expected cost of NAS-Bench-1Shot1 cells.

The wiring of a cell determines how many channels its vertices have and which vertices have a projection, so cost is not
a sum over edges. Each wiring has its own table of operation costs, and discretization selects the wiring
(expected_cost.py, deviation 2). Within a wiring, the expectation is linear in the operation probabilities.

Shapes: fixed (wirings,), table (wirings, blocks, operations).
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations, product

import torch
from torch import Tensor

from nasx.core.trees import Tree
from nasx.spaces import modules
from nasx.spaces.expected_cost import CostModel, Counter, probabilities, strongest_mask
from nasx.spaces.nb1shot1.genotype import OPERATIONS, Nb101Genotype
from nasx.spaces.nb1shot1.network import widths


class WiringCosts(CostModel):
    """Cost model with one table per wiring; wirings are in the order of `itertools.product` over the vertex choices."""

    def __init__(self, choices: dict[str, int], options: Sequence[Tensor], fixed: Tensor, table: Tensor) -> None:
        """Create the model. `options`: the allowed subsets of each vertex choice, (options, vertices) of 0s and 1s."""
        self.choices, self.options, self.fixed, self.table = choices, options, fixed, table

    def to(self, device: torch.device) -> WiringCosts:
        options = [x.to(device) for x in self.options]
        return WiringCosts(self.choices, options, self.fixed.to(device), self.table.to(device))

    def least(self) -> float:
        return float((self.fixed + self.table.amin(-1).sum(-1)).min())

    def __call__(self, mix: Tree) -> Tensor:
        wiring = torch.zeros(1, dtype=torch.int64, device=self.fixed.device)
        for (name, keep), options in zip(self.choices.items(), self.options, strict=True):
            chosen = strongest_mask(mix[name][0, 0].double(), keep)
            wiring = wiring * len(options) + (options @ chosen).argmax()
        rows = mix["ops"][0]
        shares = probabilities(rows, torch.ones_like(rows, dtype=torch.float64))
        return self.fixed.index_select(0, wiring)[0] + (self.table.index_select(0, wiring)[0] * shares).sum()


def wiring_costs(
    choices: dict[str, int],
    vertices: dict[str, int],
    build: Callable[[tuple[str, ...], dict[str, tuple[int, ...]]], Nb101Genotype],
    blocks: int,
    counter: Counter,
    layers: int,
    channels: int,
    shape: tuple[int, ...],
) -> WiringCosts:
    """Return the costs of the cells in a network of `layers` cells for images of `shape`.

    The stem and the classifier are not included. `vertices` contains the number of candidate vertices for each of the
    space's `choices`.
    """

    @cache
    def projection(before: int, width: int, h: int, w: int) -> float:
        with torch.device("meta"):
            return counter.network(modules.ConvBNReLU(before, width), torch.zeros(1, before, h, w))

    (h, w), before = shape[-2:], channels
    kinds: Counts[tuple[int, int, int, int]] = Counts()
    for i in range(layers):
        stack = i // (layers // 3)
        kinds[before, channels * 2**stack, h // 2**stack, w // 2**stack] += 1
        before = channels * 2**stack
    subsets = [list(combinations(range(vertices[name]), keep)) for name, keep in choices.items()]
    fixed, table = [], []
    for chosen in product(*subsets):
        cell = build((OPERATIONS[0],) * blocks, dict(zip(choices, chosen, strict=True)))
        matrix = cell.pruned().matrix
        live = [v for v in range(1, blocks + 1) if any(cell.matrix[v])]
        projections, rows = 0.0, [[0.0] * len(OPERATIONS) for _ in range(blocks)]
        for (c_in, c_out, height, width), count in kinds.items():
            sizes = widths(matrix, c_in, c_out)
            for v in range(1, len(matrix)):
                if matrix[0][v]:
                    projections += count * projection(c_in, sizes[v], height, width)
            for v, block in enumerate(live, start=1):
                for k, name in enumerate(OPERATIONS):
                    rows[block - 1][k] += count * counter.operation(name, sizes[v], 1, height, width)
        fixed.append(projections)
        table.append(rows)
    options = [
        torch.tensor([[float(v in subset) for v in range(vertices[name])] for subset in those], dtype=torch.float64)
        for name, those in zip(choices, subsets, strict=True)
    ]
    fixed_costs, costs = (torch.tensor(x, dtype=torch.float64) for x in (fixed, table))
    return WiringCosts(dict(choices), options, fixed_costs, costs)
