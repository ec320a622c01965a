"""Isomorphism of NAS-Bench-201 cells, to find cells that compute the same function.

Each node of a cell is a sum of branches, so the output of a cell is a term over its input, ``0``. A convolution or
pooling edge has the term ``(term)@operation``, where ``term`` is the term of its source node. A skip edge has the term
of its source node, and a zero edge has the term ``#``. The term of a node is the sorted sum of its branches. Cells with
the same term are the same network, up to the order of the sums.

Zero edges can be interpreted in three ways, which divide the 15,625 cells into different numbers of classes (counted in
tests/benchmarks/test_nb201_table.py):

* ``mark``: a zero edge, or any edge from a node with the term ``#``, has the term ``#``
  (``to_unique_str(consider_zero=True)`` in the reference; NAS-Bench-201, section 2.1): **6,466** classes.
* ``operation``: zero is an ordinary operation, and only skip is resolved (``consider_zero=False``): **12,751** classes.
* ``delete``: zero branches are omitted from sums: **5,390** classes. The term of 341 cells is then ``#``, that is,
  their output does not depend on their input.

Deviations: 1. none in the terms. As in the reference, ``mark`` keeps ``#`` in sums, and does not treat a *sum* of
zeros, such as ``#+#``, as zero downstream; therefore, it has more classes than ``delete``.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Literal

from nasx.errors import UserError

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (node, predecessor), in the order of the cell string
CELLS: int = len(OPERATIONS) ** len(EDGES)
Zero = Literal["mark", "operation", "delete"]
_DIGIT = {name: digit for digit, name in enumerate(OPERATIONS)}
_TOKEN = {f"{name}~{source}": (digit, source) for name, digit in _DIGIT.items() for source in range(3)}


@lru_cache(maxsize=CELLS)
def cell_code(text: str) -> int:
    """Return the row of a cell: the base-5 number whose digits are its six operations, in the order of the cell string.

    Raises UserError if `text` is not a NAS-Bench-201 cell such as ``|a~0|+|b~0|c~1|+|d~0|e~1|f~2|``.
    """
    nodes = text.strip().split("+")
    tokens = [token for node in nodes for token in node.split("|")[1:-1]]
    code = 0
    for token, (_, source) in zip(tokens, EDGES):
        digit, found = _TOKEN.get(token, (0, -1))
        if found != source:
            break
        code = 5 * code + digit
    else:
        if len(tokens) == len(EDGES) and text.strip() == cell_text(code):
            return code
    raise UserError(
        f"cell={text[:200]!r}",
        "is not a NAS-Bench-201 cell",
        f"write |op~0|+|op~0|op~1|+|op~0|op~1|op~2| with op one of {', '.join(OPERATIONS)}",
    )


def cell_digits(code: int) -> tuple[int, ...]:
    """Return the six operations of a row as indices in `OPERATIONS`, in the order of the cell string."""
    return tuple(code // 5**power % 5 for power in range(5, -1, -1))


def cell_text(code: int) -> str:
    """Return the cell string of a row; the inverse of `cell_code`."""
    a, b, c, d, e, f = (OPERATIONS[digit] for digit in cell_digits(code))
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


@lru_cache(maxsize=1)
def official_order() -> tuple[int, ...]:
    """Return the rows in the order of the official index (`arch_index`): entry i is the row of the cell with index i.

    The authors enumerate all cells (the last edge varies fastest, as in the rows) and shuffle the list with Python's
    random number generator, seed 88 (AutoDL-Projects, exps/NAS-Bench-201/main.py).
    """
    order = list(range(CELLS))
    random.Random(88).shuffle(order)
    return tuple(order)


def canonical(text: str, zero: Zero = "mark") -> str:
    """Return the term of a cell (see the module docstring). Cells of the same class under `zero` have the same term.

    Raises UserError if `text` is not a NAS-Bench-201 cell.
    """
    digits = cell_digits(cell_code(text))
    terms = {0: "0"}
    for node in (1, 2, 3):
        branches = [
            _branch(OPERATIONS[digit], terms[source], zero)
            for digit, (target, source) in zip(digits, EDGES)
            if target == node
        ]
        if zero == "delete":
            branches = [branch for branch in branches if branch != "#"] or ["#"]
        terms[node] = "+".join(sorted(branches))
    return terms[3]


def _branch(operation: str, term: str, zero: Zero) -> str:
    if zero != "operation" and (operation == "none" or term == "#"):
        return "#"
    return term if operation == "skip_connect" else f"({term})@{operation}"
