"""Selection by weight for discretization (ties go to the lowest index), and softmax over the edges of a node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Lists = tuple[tuple[str, ...], ...]


def best(weights: Sequence[float], among: Iterable[int] | None = None) -> int:
    """Return the index (one of `among` if given) of the largest weight; ties go to the lowest index."""
    return max(range(len(weights)) if among is None else sorted(among), key=weights.__getitem__)


def top(weights: Sequence[float], k: int) -> tuple[int, ...]:
    """Return the indices of the k largest weights in ascending order; ties go to the lower index."""
    return tuple(sorted(sorted(range(len(weights)), key=lambda i: -weights[i])[:k]))


def choosable(names: Sequence[str]) -> tuple[int, ...]:
    """Return the indices of the operations other than `none`."""
    return tuple(k for k, name in enumerate(names) if name != "none")


def draw(n: int, gen: torch.Generator) -> int:
    """Draw an integer from 0 to n - 1 uniformly."""
    return int(torch.randint(n, (), generator=gen, device=gen.device))


def strongest(mix: Tensor, lists: Lists, keep: int) -> Lists:
    """Return the `keep` strongest operations of each edge in the first cell of `mix` (cells, edges, operations)."""
    rows = mix.detach().cpu()[0].tolist() if len(mix) else [[0.0] * len(own) for own in lists]
    return tuple(tuple(own[k] for k in top(row, keep)) for row, own in zip(rows, lists, strict=True))


def softmax_by_node(logits: Tensor, parts: Sequence[slice]) -> Tensor:
    """Apply a softmax to each part of the last axis, such as the edges that enter a node (PC-DARTS, eq. 3)."""
    return torch.cat([torch.softmax(logits[..., part], dim=-1) for part in parts], dim=-1)
