"""The 14 edges of a DARTS cell, and the 20 pairs of edges that enter the same node.

Sources: DARTS, section 2.1; Amended-DARTS, eq. 16 (pairs).
"""

from __future__ import annotations

from functools import cache
from itertools import combinations

import torch
from torch import Tensor

from nasx.spaces.darts.genotype import EDGES, NODES

Pair = tuple[int, int]
PAIRS = tuple((node, pair) for node in NODES for pair in combinations(range(node), 2))
"""(node, pair of predecessors), in the order of the pair logits: 1 + 3 + 6 + 10 = 20."""


def edges_of(node: int) -> slice:
    """Return the slice of the edges that enter `node`."""
    start = sum(range(2, node))
    return slice(start, start + node)


@cache
def pair_slices() -> list[slice]:
    counts = [sum(target == node for target, _ in PAIRS) for node in NODES]
    return [slice(sum(counts[:j]), sum(counts[: j + 1])) for j in range(len(counts))]


@cache
@torch.inference_mode(False)  # the cached tensor must also be usable in training
def incidence(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the incidence matrix (20, 14): 1 if the pair contains the edge, else 0.

    The matrix is cached on the device, because a copy in every step would stall the device.
    """
    held = [[float(target == node and source in pair) for source, target in EDGES] for node, pair in PAIRS]
    return torch.tensor(held, dtype=dtype, device=device)


@cache
@torch.inference_mode(False)
def kept_mask(kept: tuple[tuple[Pair, ...], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a mask (cells, 14, 1), or (1, 14, 1) if tied: 1 for kept edges, 0 for all others.

    `kept` contains two predecessors per node for each cell.
    """
    rows = [[float(source in cell[target - NODES[0]]) for source, target in EDGES] for cell in kept]
    return torch.tensor(rows, dtype=dtype, device=device).reshape(-1, len(EDGES), 1)
