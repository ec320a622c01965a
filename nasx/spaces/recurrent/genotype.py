"""Genotype of the recurrent cell."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Self

from nasx.errors import UserError
from nasx.spaces import genotypes, rules
from nasx.spaces.base import Genotype
from nasx.spaces.genotypes import Cell
from nasx.spaces.published import resolve

OPERATIONS = rules.TEXT


@dataclass(frozen=True)
class RecurrentGenotype(Genotype):
    """An (operation, predecessor) pair for each node; predecessor 0 is the state s_0, predecessor j is node j."""

    nodes: Cell

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple((str(name), int(pred)) for name, pred in self.nodes))
        for node, (name, pred) in enumerate(self.nodes, start=1):
            where = f"genotype, node {node}"
            if name not in OPERATIONS or name == "none":
                raise UserError(where, f"{name!r} cannot be selected", f"use one of {', '.join(OPERATIONS[1:])}")
            if not 0 <= pred < node:
                raise UserError(
                    where, f"{pred} is not an earlier node", f"predecessors of node {node} are 0 to {node - 1}"
                )

    def __str__(self) -> str:
        return f"Genotype(recurrent={list(self.nodes)}, concat=range(1, {len(self.nodes) + 1}))"

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(genotypes.recurrent_cell(resolve(text, "darts_rnn")))

    def operations(self) -> dict[str, int]:
        return dict(Counter(name for name, _ in self.nodes))
