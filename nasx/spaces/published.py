"""Cells that were published, as facts: name, source, space, text.

The data are in published.yaml in this folder. A name can replace its text wherever a genotype is read
(`nasx retrain genotype=DARTS_V2`). Only cells of the spaces of this package are listed: NASNet and AmoebaNet have
five nodes and other outputs.
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
    """One published cell. `space` is darts, darts_rnn, nb201 or nb1shot1; `text` its genotype as its source has it."""

    name: str
    space: str
    source: str
    text: str


@cache
def cells() -> dict[str, Published]:
    """All published cells by name, in the order of the file."""
    import yaml

    rows = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return {row["name"]: Published(**row) for row in rows}


def find(name: str) -> Published | None:
    """Return the published cell of this name, upper or lower case; None where there is none."""
    return {cell.name.lower(): cell for cell in cells().values()}.get(name.strip().lower())


def resolve(text: str, space: str) -> str:
    """`text` itself, or the genotype that it names; raises UserError for a word that names no cell of `space`."""
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
"""What reads the text of a cell, by the name that `Published.space` and `Space.read_as` use."""


def check(text: str, space: str) -> object:
    """What `text` names or writes, read for `space`, without torch. Raises UserError where that has no such cell.

    Whether the space has its operations is asked by `rules.CELLS`, all else by `Space.parse`.
    """
    return READERS[space](resolve(text, space))
