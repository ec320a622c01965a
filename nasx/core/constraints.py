"""Constrained types for settings, against which the command line checks values without importing torch."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Positive = Annotated[int, Gt(0)]
Layers = Annotated[int, Gt(0), Le(1000)]
"""Number of cells of a network, at most fifty times the published number (20)."""
ThreeOrMoreLayers = Annotated[int, Ge(3), Le(1000)]
Channels = Annotated[int, Gt(0), Le(65536)]
Pixels = Annotated[int, Gt(0), Le(4096)]
"""Height and width of an image, in pixels."""
Count = Annotated[int, Gt(0), Le(1024)]
"""Number of processes, threads, or interleaved searches on one machine."""
Draws = Annotated[int, Gt(0), Le(100_000)]
"""Number of random architectures that a selection records, at most 100 times the published maximum (NASWOT: 1,000)."""
Repeats = Annotated[int, Gt(0), Le(1000)]
"""Number of passes in one uninterruptible step or score, at most ten times the published maximum (TSE: T = 100)."""
Terms = Annotated[int, Ge(0), Le(1000)]
Nodes = Annotated[int, Gt(0), Le(100)]
NonNegative = Annotated[int, Ge(0)]
Searches = Annotated[int, Ge(0), Le(1024)]
Workers = Annotated[int, Ge(0), Le(1024)]
SEEDS = 2**64
"""Number of seeds that torch's generators accept, starting at 0."""
Seed = Annotated[int, Ge(0), Lt(SEEDS)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
AtLeast1 = Annotated[float, Ge(1)]
Fraction = Annotated[float, Ge(0), Le(1)]
Below1 = Annotated[float, Ge(0), Lt(1)]
"""A number in [0, 1): momenta, drop probabilities, decay rates."""
