"""The recurrent cell of DARTS written down word by word, node by node, edge by edge, from the paper's formulas.

Nothing is shared with nasx: weights come as plain tensors. Shapes: x (n, steps) words, one row a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda v: 1 - 2 / (1 + (2 * v).exp()),
    "relu": lambda v: v * (v > 0),
    "sigmoid": lambda v: 1 / (1 + (-v).exp()),
    "identity": lambda v: v,
}


class Weights(NamedTuple):
    """Embedding (words, d) and bias (words,) of the decoder, first (2 d, 2 d), nodes (d, 2 d) each."""

    embedding: Tensor
    bias: Tensor
    first: Tensor
    nodes: Sequence[Tensor]


class Masks(NamedTuple):
    """What dropout multiplies with; 1 where there is none."""

    embedding: Tensor | float = 1.0
    input: Tensor | float = 1.0
    x: Tensor | float = 1.0
    hidden: Tensor | float = 1.0
    output: Tensor | float = 1.0


def normalized(s: Tensor) -> Tensor:
    """Batch norm of (n, d) by its own statistics."""
    mean = s.sum(0) / len(s)
    variance = ((s - mean) ** 2).sum(0) / len(s)
    return (s - mean) / (variance + 1e-5) ** 0.5


def edge(s: Tensor, weight: Tensor, mask: Tensor | float, function: str) -> Tensor:
    d = s.shape[1]
    product = (s * mask) @ weight
    gate = FUNCTIONS["sigmoid"](product[:, :d])
    return s + gate * (FUNCTIONS[function](product[:, d:]) - s)


def first(word: Tensor, h: Tensor, weight: Tensor, masks: Masks) -> Tensor:
    d = h.shape[1]
    product = (word * masks.x) @ weight[:d] + (h * masks.hidden) @ weight[d:]
    return h + FUNCTIONS["sigmoid"](product[:, :d]) * (FUNCTIONS["tanh"](product[:, d:]) - h)


def relaxed(
    word: Tensor, h: Tensor, w: Weights, mix: Tensor, names: Sequence[str], masks: Masks, *, norm: bool = True
) -> Tensor:
    """One word through the cell of mixed edges; mix (edges, operations)."""
    after = normalized if norm else lambda s: s
    states, row = [after(first(word, h, w.first, masks))], 0
    for weight in w.nodes:
        total = torch.zeros_like(h)
        for source in list(states):
            for k, name in enumerate(names):
                if name != "none":
                    total = total + mix[row, k] * edge(source, weight, masks.hidden, name)
            row += 1
        states.append(after(total))
    return sum(states[1:], torch.zeros_like(h)) / len(w.nodes)


def discrete(word: Tensor, h: Tensor, w: Weights, pairs: Sequence[tuple[str, int]], masks: Masks) -> Tensor:
    """One word through the cell of a genotype."""
    states = [first(word, h, w.first, masks)]
    for weight, (name, source) in zip(w.nodes, pairs, strict=True):
        states.append(edge(states[source], weight, masks.hidden, name))
    return sum(states[1:], torch.zeros_like(h)) / len(pairs)


def scores(
    x: Tensor, w: Weights, step: Callable[[Tensor, Tensor], Tensor], h: Tensor, masks: Masks
) -> tuple[Tensor, Tensor, Tensor]:
    """(scores (n, steps, words), states (n, steps, d), what the decoder reads) of a text."""
    embedding = w.embedding * masks.embedding
    states, seen = [], []
    for t in range(x.shape[1]):
        h = step(embedding[x[:, t]] * masks.input, h)
        states.append(h)
        seen.append(h * masks.output)
    out = torch.stack([s @ w.embedding.T + w.bias for s in seen], 1)
    return out, torch.stack(states, 1), torch.stack(seen, 1)


def derived(weights: Sequence[Sequence[float]], names: Sequence[str], nodes: int) -> list[tuple[str, int]]:
    """The genotype of mixture weights by the paper's rule, all comparisons written out."""
    found, row = [], 0
    for node in range(1, nodes + 1):
        strongest: tuple[float, str, int] | None = None
        for source in range(node):
            for k, name in enumerate(names):
                if name != "none" and (strongest is None or weights[row][k] > strongest[0]):
                    strongest = weights[row][k], name, source
            row += 1
        assert strongest is not None
        found.append(strongest[1:])
    return found
