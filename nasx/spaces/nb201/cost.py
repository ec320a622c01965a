"""Expected cost of NAS-Bench-201 cells from a table of all cells, for costs that are not sums over edges (latency).

    E[cost](mix) = sum over cells of p_1(o_1) ... p_6(o_6) cost(o_1, ..., o_6)

The expectation is exact, and linear in the probabilities on each edge. Shapes: table (operations,) * 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nasx.core.trees import Tree
from nasx.spaces.expected_cost import CostModel, probabilities
from nasx.spaces.nb201.genotype import EDGES, OPERATIONS
from nasx.spaces.selection import Lists


class CellCosts(CostModel):
    """Cost model from a table with the cost of each cell in a space.

    `choices` has the mixture columns of the operations along each axis of the table.
    """

    def __init__(self, table: Tensor, choices: Sequence[Tensor]) -> None:
        self.table, self.choices = table, choices

    @classmethod
    def of(cls, values: Sequence[float], lists: Lists, choices: Sequence[Sequence[int]]) -> CellCosts:
        """Create the model from the values of all 15,625 cells, in benchmark order.

        In this order, the index of a cell is a base-5 number whose first digit is the operation of the first edge.
        `lists` has the operations of each edge, and `choices` the indices of those that can be selected.
        """
        table = torch.as_tensor(values, dtype=torch.float64).reshape((len(OPERATIONS),) * len(EDGES))
        for edge, (names, own) in enumerate(zip(lists, choices, strict=True)):
            table = table.index_select(edge, torch.tensor([OPERATIONS.index(names[i]) for i in own]))
        return cls(table, [torch.tensor(own) for own in choices])

    def to(self, device: torch.device) -> CellCosts:
        return CellCosts(self.table.to(device), [own.to(device) for own in self.choices])

    def least(self) -> float:
        return float(self.table.min())

    def __call__(self, mix: Tree) -> Tensor:
        total = self.table
        for row, own in zip(mix["cell"][0], self.choices, strict=True):
            chosen = row[own]
            total = torch.tensordot(probabilities(chosen, torch.ones_like(chosen, dtype=torch.float64)), total, 1)
        return total
