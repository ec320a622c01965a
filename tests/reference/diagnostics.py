"""The diagnostics by their definitions: double sums, full matrices, enumerated paths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from reference import methods

Tree = dict[str, Tensor]


def alpha_hessian(loss: Callable[[Tree], Tensor], a: Tree, weight_decay: float = 0.0) -> np.ndarray:
    """d2 L / da2 + weight_decay I, (m, m), all leaves stacked in the order of the tree, entry by entry."""
    a = methods.leaves(a)
    first = methods.vector(methods.grad(loss(a), a))
    rows = [methods.vector(methods.plain(methods.grad(entry, a))) for entry in first]
    return torch.stack(rows).numpy() + weight_decay * np.eye(len(rows))


def top_eigenvalue(loss: Callable[[Tree], Tensor], a: Tree, weight_decay: float = 0.0) -> float:
    """Largest (most positive) real part of the eigenvalues; weights are fixed inside `loss`."""
    return float(np.linalg.eigvals(alpha_hessian(loss, a, weight_decay)).real.max())


def gradient_correlation(grad_val: Tensor, x_val: Tensor, grad_train: Tensor, x_train: Tensor) -> float:
    """1/(N M) sum over j in val, k in train of (g_j . g_k)(x_j . x_k); per-sample gradients and features, flattened."""
    total = 0.0
    for g_j, x_j in zip(grad_val.flatten(1), x_val.flatten(1), strict=True):
        for g_k, x_k in zip(grad_train.flatten(1), x_train.flatten(1), strict=True):
            total += float(g_j @ g_k) * float(x_j @ x_k)
    return total / (len(x_val) * len(x_train))


def layer_alignment(layers: Sequence[Tensor], signed: bool = False) -> float:
    """Mean over pairs of layers of the cosine of their flattened gradients (or of the signed ratio)."""
    values = []
    for x, y in itertools.combinations([g.flatten().tolist() for g in layers], 2):
        product = sum(p * q for p, q in zip(x, y, strict=True))
        scale = (
            sum(abs(p * q) for p, q in zip(x, y, strict=True))
            if signed
            else math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))
        )
        values.append(product / scale)
    return sum(values) / len(values)


def paths(edges: Iterable[tuple[int, int]], start: int, ends: Iterable[int]) -> Iterator[list[int]]:
    """Every path from `start` to one of `ends`; an edge is (node, predecessor)."""
    edges, ends = list(edges), set(ends)
    if start in ends:
        yield [start]
    for node, predecessor in edges:
        if predecessor == start:
            for rest in paths(edges, node, ends):
                yield [start, *rest]


def depth(
    edges: Iterable[tuple[int, int]], inputs: Iterable[int] = (0, 1), concat: Iterable[int] = (2, 3, 4, 5)
) -> int:
    """Edges on the longest path from an input to the cell output, the last step node -> output included."""
    edges, concat = list(edges), list(concat)
    return max((len(path) for start in inputs for path in paths(edges, start, concat)), default=0)


def width(edges: Iterable[tuple[int, int]], inputs: Iterable[int] = (0, 1)) -> float:
    """One half per edge that starts at an input."""
    inputs = set(inputs)
    return 0.5 * sum(predecessor in inputs for _, predecessor in edges)


def entropy(p: Tensor) -> float:
    """Mean over edges of - sum p ln p, with 0 ln 0 = 0. p (..., operations)."""
    rows = p.reshape(-1, p.shape[-1]).tolist()
    return sum(-sum(x * math.log(x) for x in row if x > 0) for row in rows) / len(rows)


def change(p: Tensor, q: Tensor) -> float:
    """L1 distance of two mixtures."""
    return float((p - q).abs().sum())
