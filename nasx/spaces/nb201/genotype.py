"""Genotype of NAS-Bench-201: an operation for each edge."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Self

from nasx.core import spelling
from nasx.errors import UserError
from nasx.spaces import genotypes, rules
from nasx.spaces.base import Genotype
from nasx.spaces.published import resolve

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = genotypes.NB201_EDGES
"""(source, target) in the order of the architecture string."""


@dataclass(frozen=True)
class Nb201Genotype(Genotype):
    """Six operations in the order of the architecture string."""

    ops: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))
        if len(self.ops) != len(EDGES):
            raise UserError(
                "genotype", f"has {spelling.counted(len(self.ops), 'operation')} instead of 6", genotypes.NB201_FORM
            )
        for place, name in enumerate(self.ops, start=1):
            rules.known(name, f"genotype, operation {place}")

    def __str__(self) -> str:
        word = [f"{name}~{source}" for name, (source, _) in zip(self.ops, EDGES, strict=True)]
        return f"|{word[0]}|+|{'|'.join(word[1:3])}|+|{'|'.join(word[3:])}|"

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(genotypes.nb201_cell(resolve(text, "nb201")))

    def operations(self) -> dict[str, int]:
        return dict(Counter(self.ops))
