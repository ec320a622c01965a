"""Edges (source, target, operation) of a cell, parsed from the text of a genotype without torch.

    NAS-Bench-201     each node sums its incoming edges
    DARTS             two edges per node (one per node in the recurrent cell), any number of nodes
    NAS-Bench-101     operations are on the nodes: a node's name ends with its operation, and edges have none

The supported texts are listed in genotypes.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from nasx.errors import UserError
from nasx.spaces import genotypes

Edge = tuple[str, str, str]


def genotype_edges(text: str) -> dict[str, list[Edge]]:
    """Return the edges of each cell, by cell name. Raises UserError if `text` is not a genotype."""
    first = genotypes.checked(text).lstrip()[0]
    if first == "|":
        names = ("input", "1", "2", "output")
        cell = zip(genotypes.NB201_EDGES, genotypes.nb201_cell(text), strict=True)
        return {"cell": [(names[source], names[target], operation) for (source, target), operation in cell]}
    if first == "{":
        return {"cell": _graph(*genotypes.nb101_graph(text))}
    fields = genotypes.darts_fields(text)
    cells = {name: fields[name] for name in ("normal", "reduce", "recurrent") if name in fields}
    concats = {name: fields.get(f"{name}_concat", fields.get("concat")) for name in cells}
    if isinstance(untied := fields.get("cells"), tuple):
        cells |= {f"cell{i}": pairs for i, pairs in enumerate(untied)}
    if not cells:
        raise UserError("genotype", "has no cell", genotypes.DARTS_FORM)
    return {name: _cell(name, pairs, concats.get(name, fields.get("concat"))) for name, pairs in cells.items()}


def _graph(matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> list[Edge]:
    size = range(len(matrix))
    square = len(operations) == len(size) >= 2 and all(len(row) == len(size) for row in matrix)
    if not square or any(matrix[i][j] for i in size for j in range(i + 1)):
        raise UserError("genotype, matrix", "is not an upper triangular matrix over ops", genotypes.NB101_FORM)
    names = ["input", *(f"{i}\n{operation}" for i, operation in enumerate(operations[1:-1], 1)), "output"]
    return [(names[i], names[j], "") for i in size for j in size if matrix[i][j]]


def _cell(name: str, rows: object, concat: object) -> list[Edge]:
    """Return the edges of a DARTS cell; each node takes the next two pairs (one pair in a recurrent cell)."""
    recurrent = name == "recurrent"
    pairs = genotypes.pairs(rows, name)
    per_node = 1 if recurrent else 2
    count = -(-len(pairs) // per_node)
    inputs = ["x, h"] if recurrent else ["c_{k-2}", "c_{k-1}"]
    nodes = [*inputs, *map(str, range(count))]
    edges = []
    for place, (operation, source) in enumerate(pairs):
        node = place // per_node
        if source >= len(inputs) + node:
            raise UserError(f"genotype, {name}, node {node}", f"{source} is not an earlier node", genotypes.DARTS_FORM)
        edges.append((nodes[source], str(node), operation))
    kept = range(len(inputs), len(nodes)) if concat is None else concat
    if not isinstance(kept, range | tuple) or not all(isinstance(i, int) and i < len(nodes) for i in kept):
        raise UserError(f"genotype, {name}", "the output concatenates unknown nodes", genotypes.DARTS_FORM)
    return edges + [(nodes[i], "h" if recurrent else "c_{k}", "") for i in kept]
