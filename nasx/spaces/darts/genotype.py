"""Genotypes of the DARTS space: two cells for the whole network, or one cell per layer.

A cell is eight (operation, predecessor) pairs, two for each of the nodes 2 to 5, ordered by predecessor. Text form:
`Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), reduce=[…], reduce_concat=range(2, 6))`, as in the
released code of DARTS; for untied cells `Genotype(cells=[[('sep_conv_3x3', 0), …], …], concat=range(2, 6))`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Self

from nasx.core import spelling
from nasx.errors import UserError
from nasx.spaces import genotypes, rules
from nasx.spaces.base import Genotype
from nasx.spaces.darts.network import plan
from nasx.spaces.genotypes import Cell
from nasx.spaces.published import resolve

NODES, KINDS, EDGES = rules.NODES, rules.KINDS, rules.EDGES


@dataclass(frozen=True)
class DartsGenotype(Genotype):
    """A normal and a reduction cell, each shared by all layers of its kind."""

    normal: Cell
    reduce: Cell

    def __post_init__(self) -> None:
        for kind in KINDS:
            object.__setattr__(self, kind, canonical(getattr(self, kind), kind))

    def __str__(self) -> str:
        return (
            f"Genotype(normal={list(self.normal)}, normal_concat=range(2, 6), "
            f"reduce={list(self.reduce)}, reduce_concat=range(2, 6))"
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(*genotypes.darts_cells(resolve(text, "darts")))

    def operations(self) -> dict[str, int]:
        """Return the number of occurrences of each operation in both cells, 16 in total."""
        return dict(Counter(name for name, _ in self.normal + self.reduce))

    def layers(self, count: int) -> tuple[Cell, ...]:
        """Return the cells of a network with `count` layers, one per layer."""
        return tuple(self.normal if kind == "normal" else self.reduce for kind in plan(count))


@dataclass(frozen=True)
class UntiedDartsGenotype(Genotype):
    """A genotype with one cell per layer."""

    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(canonical(cell, f"cells[{i}]") for i, cell in enumerate(self.cells)))

    def __str__(self) -> str:
        return f"Genotype(cells={[list(cell) for cell in self.cells]}, concat=range(2, 6))"

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(genotypes.untied_cells(text))

    def operations(self) -> dict[str, int]:
        """Return the number of occurrences of each operation in all cells, eight per cell."""
        return dict(Counter(name for cell in self.cells for name, _ in cell))

    def layers(self, count: int) -> tuple[Cell, ...]:
        """Return the cells, one per layer. Raises UserError if `count` is not the number of cells."""
        if count != len(self.cells):
            raise UserError(
                f"retrain.layers={count}",
                f"the genotype has cells for {spelling.counted(len(self.cells), 'layer')}",
                f"set retrain.layers={len(self.cells)} or null",
            )
        return self.cells


def read(text: str) -> DartsGenotype | UntiedDartsGenotype:
    """Parse a tied or untied genotype from `text`, or return the published genotype that `text` names."""
    text = resolve(text, "darts")
    return UntiedDartsGenotype.parse(text) if genotypes.is_untied(text) else DartsGenotype.parse(text)


def canonical(cell: Cell, where: str) -> Cell:
    """Return the pairs ordered by node and predecessor. Raises UserError unless they form a valid cell."""
    pairs = [(str(name), int(pred)) for name, pred in cell]
    if len(pairs) != 2 * len(NODES):
        raise UserError(
            f"genotype, {where}", f"has {spelling.counted(len(pairs), 'pair')} instead of 8", genotypes.DARTS_FORM
        )
    out: list[tuple[str, int]] = []
    for j, node in enumerate(NODES):
        two = pairs[2 * j : 2 * j + 2]
        for name, pred in two:
            rules.known(name, f"genotype, {where}, node {node}")
            if name == "none":
                raise UserError(
                    f"genotype, {where}, node {node}", "'none' cannot be selected", "choose another operation"
                )
            if not 0 <= pred < node:
                raise UserError(
                    f"genotype, {where}, node {node}",
                    f"{pred} is not an earlier node",
                    f"predecessors of node {node} are 0 to {node - 1}",
                )
        if two[0][1] == two[1][1]:
            raise UserError(
                f"genotype, {where}, node {node}",
                f"both pairs have predecessor {two[0][1]}",
                "the two edges into a node must come from different nodes",
            )
        out += sorted(two, key=lambda pair: pair[1])
    return tuple(out)
