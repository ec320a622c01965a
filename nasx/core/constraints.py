"""Constrained types of settings: the command line checks values by these annotations without importing torch."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Positive = Annotated[int, Gt(0)]
Layers = Annotated[int, Gt(0), Le(1000)]
"""Cells of a network, at most fifty times the published number (20)."""
ThreeOrMoreLayers = Annotated[int, Ge(3), Le(1000)]
Channels = Annotated[int, Gt(0), Le(65536)]
Pixels = Annotated[int, Gt(0), Le(4096)]
"""Height and width of an image."""
Count = Annotated[int, Gt(0), Le(1024)]
"""Processes, threads, and interleaved searches on one machine."""
Draws = Annotated[int, Gt(0), Le(100_000)]
"""Architectures drawn by a choice, at most a hundred times the published maximum (NASWOT: 1,000); each is recorded."""
Repeats = Annotated[int, Gt(0), Le(1000)]
"""Passes of one uninterruptible step or score, at most ten times the published maximum (TSE: T = 100)."""
Terms = Annotated[int, Ge(0), Le(1000)]
Nodes = Annotated[int, Gt(0), Le(100)]
NonNegative = Annotated[int, Ge(0)]
Searches = Annotated[int, Ge(0), Le(1024)]
Workers = Annotated[int, Ge(0), Le(1024)]
SEEDS = 2**64
"""Number of seeds of torch's generators, from 0."""
Seed = Annotated[int, Ge(0), Lt(SEEDS)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
AtLeast1 = Annotated[float, Ge(1)]
Fraction = Annotated[float, Ge(0), Le(1)]
Below1 = Annotated[float, Ge(0), Lt(1)]
"""At least 0 and below 1: momenta, drop probabilities, decay rates."""
