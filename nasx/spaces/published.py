"""Published cells: name, source, space and text.

The data are in published.yaml in this folder. A cell's name can replace its text wherever a genotype is expected
(`nasx retrain genotype=DARTS_V2`). Only cells of the spaces in this package are listed. NASNet and AmoebaNet are
excluded, because their cells have five nodes and different outputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nasx.errors import UserError
from nasx.spaces import genotypes

DATA = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published cell. `space` is darts, darts_rnn, nb201 or nb1shot1; `text` is the genotype as given in `source`."""

    name: str
    space: str
    source: str
    text: str


@cache
def cells() -> dict[str, Published]:
    """Return all published cells by name, in file order."""
    import yaml

    rows = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return {row["name"]: Published(**row) for row in rows}


def find(name: str) -> Published | None:
    """Return the published cell with this name (case-insensitive), or None if there is none."""
    return {cell.name.lower(): cell for cell in cells().values()}.get(name.strip().lower())


def resolve(text: str, space: str) -> str:
    """Return the genotype that `text` names, or `text` itself if it is not a name.

    Raises UserError if no published cell of `space` has that name.
    """
    word = text.strip() if isinstance(text, str) else ""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_\-]{0,60}", word):
        return text
    cell = find(word)
    if cell is None:
        raise UserError(
            f"genotype={word}",
            f"no published cell of this space ({space}) has that name",
            f"write the genotype itself, or one of {', '.join(c.name for c in cells().values() if c.space == space)}",
        )
    if cell.space != space:
        other = cell.space
        raise UserError(f"genotype={word}", f"is a cell of the space {other}, not of {space}", f"add space={other}")
    return cell.text


READERS: dict[str, Callable[[str], object]] = {
    "darts": lambda text: (genotypes.untied_cells if genotypes.is_untied(text) else genotypes.darts_cells)(text),
    "darts_rnn": genotypes.recurrent_cell,
    "nb201": genotypes.nb201_cell,
    "nb1shot1": genotypes.nb101_graph,
}
"""Parsers of genotype text, by the name of the space (`Published.space`, `Space.read_as`)."""


def check(text: str, space: str) -> object:
    """Parse the genotype of `space` that `text` names or contains, without torch. Raises UserError if it is invalid.

    Only the name and the form of the text are checked here. `rules.CELLS` checks whether the space has the cell's
    operations, and `Space.parse` checks everything else.
    """
    return READERS[space](resolve(text, space))
