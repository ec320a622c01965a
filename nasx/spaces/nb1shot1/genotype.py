"""Genotype of NAS-Bench-101: a graph with operations on its vertices."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Self

from nasx.core import spelling
from nasx.errors import UserError
from nasx.spaces import genotypes, rules
from nasx.spaces.base import Genotype
from nasx.spaces.published import resolve

OPERATIONS = rules.NB101
INPUT, OUTPUT, DUMMY = "input", "output", "conv1x1-bn-relu"
PARENTS = {1: (1, 2, 2, 2, 2), 2: (1, 1, 2, 2, 3), 3: (1, 1, 1, 2, 2, 2)}
"""Number of parents of blocks 1 to B and of the output, by variant."""
VERTICES = 7  # the maximum in NAS-Bench-101
Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Nb101Genotype(Genotype):
    """An upper triangular adjacency matrix of 0s and 1s, and the label of each vertex, input first and output last."""

    matrix: Matrix
    ops: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", tuple(tuple(int(x) for x in row) for row in self.matrix))
        object.__setattr__(self, "ops", tuple(self.ops))
        n = len(self.matrix)
        if not 2 <= n <= VERTICES:
            raise UserError(
                "genotype, matrix",
                f"has {spelling.counted(n, 'row')}",
                f"NAS-Bench-101 has cells of 2 to {VERTICES} vertices",
            )
        for i, row in enumerate(self.matrix):
            if len(row) != n or any(x not in (0, 1) or (x and j <= i) for j, x in enumerate(row)):
                raise UserError(
                    f"genotype, matrix, row {i + 1}",
                    f"{list(row)} is not upper triangular",
                    f"write {n} numbers, each 0 or 1, with 1 only to the right of the diagonal",
                )
        if len(self.ops) != n or self.ops[:1] != (INPUT,) or self.ops[-1:] != (OUTPUT,):
            raise UserError(
                "genotype, ops",
                f"{list(self.ops)} does not label {n} vertices from input to output",
                genotypes.NB101_FORM,
            )
        rules.nb101_fits(None, (self.matrix, self.ops))

    def __str__(self) -> str:
        return json.dumps({"matrix": self.matrix, "ops": self.ops}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(*genotypes.nb101_graph(resolve(text, "nb1shot1")))

    def operations(self) -> dict[str, int]:
        """Return the number of occurrences of each operation among the vertices on paths from input to output."""
        return dict(Counter(self.pruned().ops[1:-1]))

    def pruned(self) -> Nb101Genotype:
        """Return the cell with only the vertices on paths from input to output; input and output are always kept."""
        last = len(self.matrix) - 1
        forward = reached(self.matrix, 0)
        backward = reached(tuple(zip(*self.matrix, strict=True)), last)
        kept = sorted((forward & backward) | {0, last})
        matrix = tuple(tuple(self.matrix[i][j] for j in kept) for i in kept)
        return Nb101Genotype(matrix, tuple(self.ops[i] for i in kept))


def reached(matrix: Matrix, start: int) -> set[int]:
    """Return the vertices that are reachable from `start`, including `start`."""
    found, open_ = {start}, [start]
    while open_:
        fresh = {j for j, x in enumerate(matrix[open_.pop()]) if x} - found
        found |= fresh
        open_ += fresh
    return found
