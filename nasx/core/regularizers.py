"""Regularizers for recurrent networks."""

from __future__ import annotations

from typing import NamedTuple


class Regularizers(NamedTuple):
    """Dropout rates of a language model, and coefficients of the penalties added to its loss."""

    embedding: float = 0.0
    input: float = 0.0
    x: float = 0.0
    hidden: float = 0.0
    output: float = 0.0
    activation: float = 0.0
    slowness: float = 0.0

    def __bool__(self) -> bool:
        return any(self)
