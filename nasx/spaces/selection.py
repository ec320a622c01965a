"""Choosing by weight, with ties to the lowest index: the rule of every discretization; weights of edges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Lists = tuple[tuple[str, ...], ...]


def best(weights: Sequence[float], among: Iterable[int] | None = None) -> int:
    """Index of the largest weight (of the indices `among`), the lowest one where several are equal."""
    return max(range(len(weights)) if among is None else sorted(among), key=weights.__getitem__)


def top(weights: Sequence[float], k: int) -> tuple[int, ...]:
    """Indices of the k largest weights, ascending; lower indices win ties."""
    return tuple(sorted(sorted(range(len(weights)), key=lambda i: -weights[i])[:k]))


def choosable(names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the operations that a genotype may have where `none` is never selected."""
    return tuple(k for k, name in enumerate(names) if name != "none")


def strongest(mix: Tensor, lists: Lists, keep: int) -> Lists:
    """Each edge's `keep` operations of the largest weight in the first cell of `mix` (cells, edges, operations)."""
    rows = mix.detach().cpu()[0].tolist() if len(mix) else [[0.0] * len(own) for own in lists]
    return tuple(tuple(own[k] for k in top(row, keep)) for row, own in zip(rows, lists, strict=True))


def softmax_by_node(logits: Tensor, parts: Sequence[slice]) -> Tensor:
    """Softmax over each part of the last axis (PC-DARTS, eq. 3: the edges that enter a node)."""
    return torch.cat([torch.softmax(logits[..., part], dim=-1) for part in parts], dim=-1)
