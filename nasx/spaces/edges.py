"""The edges of a cell, read from the text of a genotype without evaluating it and without torch.

    NAS-Bench-201     |op~0|+|op~0|op~1|+|op~0|op~1|op~2|        node i sums its edges; op~j comes from node j
    DARTS             Genotype(normal=[('op', j), …], normal_concat=range(2, 6), reduce=…, reduce_concat=…)
                      two edges a node (one a node in the recurrent cell), flat or nested pairs; untied cells as
                      Genotype(cells=[[('op', j), …], …], concat=range(2, 6))
    NAS-Bench-101     {"matrix": [[0, 1, …], …], "ops": ["input", …, "output"]}: operations sit on the nodes
An edge is (source, target, operation).
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from nasx.errors import UserError

Edge = tuple[str, str, str]
LONGEST = 100_000
"""Longest genotype text that is read: twenty untied cells take 6,000 letters."""
_NB201 = re.compile(r"\|(?:[\w.]+~\d+\|)+(?:\+\|(?:[\w.]+~\d+\|)+)*")


def genotype_edges(text: str, space_name: str = "") -> dict[str, list[Edge]]:
    """Cell name -> edges of a genotype's text; `space_name` only names the place in an error.

    Raises UserError where the text is no genotype of the three forms. Nothing of it is ever executed.
    """
    text = text.strip()
    where = f"genotype of {space_name}" if space_name else "genotype"
    if len(text) > LONGEST:
        raise UserError(where, f"too long ({len(text)} letters)", f"give at most {LONGEST}")
    try:
        if text.startswith("|"):
            return {"cell": _nb201(text)}
        if text.startswith("{"):
            return {"cell": _nb101(json.loads(text))}
        return _darts(text)
    except (ValueError, TypeError, KeyError, IndexError, SyntaxError, RecursionError, MemoryError) as fault:
        shown = text if len(text) <= 60 else text[:57] + "…"
        raise UserError(
            f"{where}={shown}",
            str(fault).partition("\n")[0] or "cannot be read",
            "give the text that genotype.txt of a run holds",
        ) from fault


def _nb201(text: str) -> list[Edge]:
    if not _NB201.fullmatch(text):
        raise ValueError("not of the form |op~0|+|op~0|op~1|+…")
    nodes = text.split("+")
    names = ["input", *map(str, range(1, len(nodes))), "output"]
    edges = []
    for target, node in enumerate(nodes, 1):
        for item in node.strip("|").split("|"):
            operation, _, source = item.partition("~")
            if int(source) >= target:
                raise ValueError(f"node {target} cannot read from node {source}")
            edges.append((names[int(source)], names[target], operation))
    return edges


def _nb101(graph: Any) -> list[Edge]:
    matrix = graph.get("matrix") or graph.get("adjacency") or graph["module_adjacency"]
    operations = [str(x) for x in graph.get("ops") or graph.get("operations") or graph["module_operations"]]
    size = len(matrix)
    if size != len(operations) or any(len(row) != size for row in matrix) or not 2 <= size <= 64:
        raise ValueError("adjacency and operations do not fit")
    names = ["input", *(f"{i}\n{operation}" for i, operation in enumerate(operations[1:-1], 1)), "output"]
    if any(matrix[i][j] for i in range(size) for j in range(i + 1)):
        raise ValueError("adjacency is not upper triangular")
    return [(names[i], names[j], "") for i in range(size) for j in range(size) if matrix[i][j]]


def _darts(text: str) -> dict[str, list[Edge]]:
    call = ast.parse(text, mode="eval").body
    if not isinstance(call, ast.Call) or call.args or not call.keywords:
        raise ValueError("not of the form Genotype(normal=[('op', 0), …], normal_concat=range(2, 6), …)")
    fields = {str(item.arg): _literal(item.value) for item in call.keywords}
    cells: dict[str, Any] = {}
    for name, pairs in fields.items():
        if name.endswith("concat") or not isinstance(pairs, (list, tuple)) or not pairs:
            continue
        if name == "cells":  # untied: one cell for each layer
            kept = fields.get("concat")
            cells |= {f"cell{i}": _cell(list(own), kept, recurrent=False) for i, own in enumerate(pairs)}
            continue
        concat = fields.get(f"{name}_concat", fields.get("concat") if name == "recurrent" else None)
        cells[name] = _cell(list(pairs), concat, recurrent=name == "recurrent")
    if not cells:
        raise ValueError("holds no cell")
    return cells


def _literal(node: ast.expr) -> Any:
    """A literal, or the list of `range(a, b)`; anything else raises ValueError."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("range", "list"):
        values = [_literal(argument) for argument in node.args]
        if node.func.id == "list" and len(values) == 1:
            return list(values[0])
        if all(isinstance(v, int) and abs(v) < 100 for v in values) and 1 <= len(values) <= 3:
            return list(range(*values))
    return ast.literal_eval(node)


def _cell(pairs: list[Any], concat: Any, *, recurrent: bool) -> list[Edge]:
    """Edges of one DARTS cell; flat pairs fill the nodes two by two (one by one in the recurrent cell)."""
    if isinstance(pairs[0][0], (list, tuple)):
        nodes = [list(node) for node in pairs]
    else:
        width = 1 if recurrent else 2
        nodes = [pairs[i : i + width] for i in range(0, len(pairs), width)]
    first = ["x, h"] if recurrent else ["c_{k-2}", "c_{k-1}"]
    names = [*first, *map(str, range(len(nodes)))]
    edges = []
    for i, node in enumerate(nodes):
        for operation, source in node:
            if not 0 <= int(source) < len(first) + i:
                raise ValueError(f"node {i} cannot read from node {source}")
            edges.append((names[int(source)], str(i), str(operation)))
    output = "h" if recurrent else "c_{k}"
    kept = range(len(first), len(names)) if concat is None else [int(i) for i in concat]
    return edges + [(names[i], output, "") for i in kept]
