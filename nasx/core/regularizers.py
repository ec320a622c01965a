"""Regularizers of recurrent networks."""

from __future__ import annotations

from typing import NamedTuple


class Regularizers(NamedTuple):
    """What a language model is given in training: rates of dropout, and factors of what is added to its loss."""

    embedding: float = 0.0
    input: float = 0.0
    x: float = 0.0
    hidden: float = 0.0
    output: float = 0.0
    activation: float = 0.0
    slowness: float = 0.0

    def __bool__(self) -> bool:
        return any(self)
