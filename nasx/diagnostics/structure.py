"""Structure of cells and mixtures: depth, width, counts, entropy, change. Pure Python, no torch, no forward pass.

A cell is a list of edges (source, target, operation), as `edges.genotype_edges` parses from a genotype.

    depth       number of edges on the longest path from an input to the cell's output, including the edge from a node
                to the output if the space concatenates nodes; edges with `none` do not count; 0 without a path
    width       half the number of edges that start at an input; edges with `none` do not count
    counts      skip, pool, parametric (operations with weights), none, noise; skip_ratio = skip / all operations;
                parametric_used: number of parametric operations on paths from an input to the output
    entropy     mean over edges of - sum p ln p in nats, with p the mixture row divided by its sum
    saturation  mean over edges of 1 - entropy / ln(operations): 0 for uniform weights, 1 for one-hot rows
    change      L1 distance between two mixtures
    none_weight mean weight of `none` over the edges with this operation

Sources: depth and width, the TSE-DARTS authors' fork of RobustDARTS (train_search.py, genotype_depth) and TSE-DARTS
section 3.3; counts, TSE-DARTS figure 3 and Amended-DARTS table 3; none weight, Amended-DARTS figures 1 and 8; change,
Lambda-DARTS figure 3. Entropy and saturation are defined by nasx.

Deviations
1. Lambda-DARTS does not say from which mixture it measures the change; nasx logs the change since the previous epoch
   and since the start.
2. Rows are divided by their sums, which are 1 for a softmax but not for a sigmoid or for rows scaled by edge weights;
   rows of closed edges (all zeros) and rows with a single operation are omitted.

Shapes: a mixture is {name: (edges, operations)} with nested lists, averaged over the cells that share it, as in metrics
rows. Entries with a dot in their name contain weights of edges, not of operations, and only count in `change`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from nasx.spaces.edges import Edge, genotype_edges
from nasx.spaces.families import family

if TYPE_CHECKING:
    from nasx.spaces.base import Space

Mixture = Mapping[str, Sequence[Sequence[float]]]
INPUTS = frozenset({"input", "c_{k-2}", "c_{k-1}", "x, h"})
OUTPUTS = frozenset({"output", "c_{k}", "h"})
FAMILIES = {"skip": "skip", "pool": "pool", "conv": "parametric", "none": "none", "noise": "noise"}


# ---------------------------------------------------------------------------------------------------------- cells
def live(edges: Sequence[Edge]) -> list[Edge]:
    """Return the edges whose operation is not `none`."""
    return [edge for edge in edges if edge[2] != "none"]


def depth(edges: Sequence[Edge]) -> int:
    """Return the number of edges on the longest path from an input to the output; 0 without a path."""
    leaving: dict[str, list[str]] = {}
    for source, target, _ in live(edges):
        leaving.setdefault(source, []).append(target)

    @cache
    def left(node: str) -> float:
        if node in OUTPUTS:
            return 0
        return max((1 + left(target) for target in leaving.get(node, ())), default=-math.inf)

    longest = max((left(node) for node in INPUTS), default=-math.inf)
    return max(int(longest), 0) if longest > 0 else 0


def width(edges: Sequence[Edge]) -> float:
    """Return half the number of edges that start at an input; edges with `none` do not count."""
    return 0.5 * sum(source in INPUTS for source, _, _ in live(edges))


def on_path(edges: Sequence[Edge]) -> list[Edge]:
    """Return the edges on paths from an input to the output."""
    carrying = live(edges)
    forth, back = _reached(carrying, INPUTS, 0), _reached(carrying, OUTPUTS, 1)
    return [edge for edge in carrying if edge[0] in forth and edge[1] in back]


def operations(edges: Sequence[Edge]) -> Iterator[str]:
    """Yield the operations of a cell, on all edges or, for NAS-Bench-101, on the nodes on a path to the output."""
    named = [operation for _, _, operation in edges if operation]
    if named:
        yield from named
        return
    nodes = {node for source, target, _ in on_path(edges) for node in (source, target)}
    yield from (node.partition("\n")[2] for node in sorted(nodes) if "\n" in node)


def _reached(edges: Sequence[Edge], start: frozenset[str], side: int) -> set[str]:
    found, last = set(start), -1
    while len(found) != last:
        last = len(found)
        found |= {edge[1 - side] for edge in edges if edge[side] in found}
    return found


def describe(edges: Sequence[Edge]) -> dict[str, float]:
    """Return the depth, width and counts of a cell."""
    counts = dict.fromkeys(FAMILIES.values(), 0)
    for operation in operations(edges):
        counts[FAMILIES[family(operation)]] += 1
    total = sum(counts.values())
    used = sum(FAMILIES[family(operation)] == "parametric" for operation in operations(on_path(edges)))
    return {
        "depth": depth(edges),
        "width": width(edges),
        **counts,
        "parametric_used": used,
        "skip_ratio": round(counts["skip"] / total, 4) if total else 0.0,
    }


def cells(genotype: str) -> dict[str, dict[str, float]]:
    """Return the result of `describe` for each cell of a genotype, given as text. Raises UserError if it is invalid."""
    return {name: describe(edges) for name, edges in genotype_edges(genotype).items()}


# -------------------------------------------------------------------------------------------------------- mixture
def rows(mix: Mixture) -> Iterator[list[float]]:
    """Yield the weights of each open edge with several operations, normalized to a sum of 1."""
    for name, edges in mix.items():
        for row in edges if "." not in name else ():
            total = sum(row)
            if len(row) > 1 and total > 0:
                yield [p / total for p in row]


def _entropy(row: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in row if p > 0)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def entropy(mix: Mixture) -> float:
    """Return the entropy of the weights of an edge in nats, averaged over edges."""
    return _mean([_entropy(row) for row in rows(mix)])


def saturation(mix: Mixture) -> float:
    """Return the saturation, averaged over edges: 0 for uniform weights, 1 for one-hot rows."""
    return _mean([1 - _entropy(row) / math.log(len(row)) for row in rows(mix)])


def change(one: Mixture, other: Mixture) -> float:
    """Return the sum of the absolute differences between two mixtures of the same shape."""
    return math.fsum(
        abs(p - q)
        for name in one
        for row, same in zip(one[name], other[name], strict=True)
        for p, q in zip(row, same, strict=True)
    )


def none_weight(mix: Mixture, names: Mapping[str, Sequence[Sequence[str]]]) -> float | None:
    """Return the mean weight of `none` over the edges with this operation; None if there are no such edges.

    `names` contains the operations of each edge, by mixture name.
    """
    found = [
        row[own.index("none")] / sum(row)
        for name, lists in names.items()
        for row, own in zip(mix.get(name, ()), lists, strict=False)
        if "none" in own and sum(row) > 0
    ]
    return _mean(found) if found else None


def operation_names(space: Space, names: Sequence[str]) -> dict[str, Sequence[Sequence[str]]]:
    """Return the operations of each edge, by mixture name, in the order of the last axis; edge weights are omitted."""
    named = {name: space.edge_operations(name) for name in names if "." not in name}
    return {name: own for name, own in named.items() if own}
