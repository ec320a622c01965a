"""Checks of the settings and genotypes of each space, without torch.

A space runs its checks when it is created; `nasx.config.space_rules` runs them before a run starts, to report errors
early. Every failed check raises UserError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nasx.core.plain import Config
from nasx.errors import UserError
from nasx.spaces.genotypes import NB201_EDGES, Cell

Lists = tuple[tuple[str, ...], ...]
Settings = Any
"""A space, or an object with the same settings as attributes."""
IMAGES = [
    "none", "noise", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5", "nor_conv_1x1", "nor_conv_3x3", "maxpool3x3", "conv3x3-bn-relu", "conv1x1-bn-relu",
]  # fmt: skip
"""Names of the operations in operations.py, in the same order; `operations.operation` appends user-defined ones."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,60}", re.ASCII)
TEXT = ("none", "tanh", "relu", "sigmoid", "identity")
"""Operations of the recurrent space."""
NB101 = ("maxpool3x3", "conv3x3-bn-relu", "conv1x1-bn-relu")
"""Operations of NAS-Bench-101."""
NODES = (2, 3, 4, 5)
KINDS = ("normal", "reduce")
EDGES = tuple((source, target) for target in NODES for source in range(target))
"""(source, target) of the 14 edges of a DARTS cell, ordered by target."""
STACKS = 3
"""Number of stacks of cells in a NAS-Bench-101 network."""


def known(name: str, where: str) -> None:
    """Raise UserError unless `name` is a registered operation."""
    if name not in IMAGES:
        raise UserError(f"{where}={name!r}", "is not an operation", f"use one of {', '.join(IMAGES)}")


def listed(names: Sequence[str], where: str, among: Sequence[str] = ()) -> None:
    """Raise UserError unless `names` are one or more distinct operations from `among` (default: all registered)."""
    among = among or IMAGES
    place = f"{where}=[{','.join(map(str, names))}]"
    if not names:
        raise UserError(place, "is empty", f"choose from {', '.join(among)}")
    for name in names:
        if name not in among:
            raise UserError(place, f"{name} is not an operation", f"choose from {', '.join(among)}")
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise UserError(place, f"{twice[0]} is listed twice", "list each operation once")


def choosable(names: Sequence[str], where: str) -> None:
    """Raise UserError unless `names` has an operation other than `none`, which cannot be selected."""
    if not set(names) - {"none"}:
        raise UserError(f"{where}=[{','.join(names)}]", "no operation can be selected", "add one other than none")


def rows(space: Settings, key: str, edges: int) -> Lists:
    """Return the operations of each edge: the lists in setting `key`, or `operations` for all edges if it is None."""
    own: Lists | None = getattr(space, key)
    return (tuple(space.operations),) * edges if own is None else own


def lists(space: object, key: str, edges: int) -> None:
    """Raise UserError unless each edge has a valid list of operations, and all lists have the same length."""
    found = rows(space, key, edges)
    if len(found) != edges or len({len(row) for row in found}) != 1:
        raise UserError(
            f"space.{key}", f"must be {edges} lists of the same length", "give one list of operations for each edge"
        )
    for i, row in enumerate(found):
        listed(row, _place(space, key, i))


def _place(space: object, key: str, i: int) -> str:
    return "space.operations" if getattr(space, key) is None else f"space.{key}[{i}]"


def divided(space: Settings) -> None:
    """Raise UserError unless the number of channels is divisible by `partial`."""
    if space.channels % space.partial:
        raise UserError(
            f"space.partial={space.partial}",
            f"does not divide {space.channels} channels",
            f"use a multiple of {space.partial} for space.channels, or a divisor of it for space.partial",
        )


# ------------------------------------------------------------------------------------------------------- spaces
def darts(space: Settings) -> None:
    for kind in KINDS:
        lists(space, kind, len(EDGES))
        for i, row in enumerate(rows(space, kind, len(EDGES))):
            choosable(row, _place(space, kind, i))
    if space.layers < 3:
        raise UserError(f"space.layers={space.layers}", "leaves no normal cell", "use 3 or more")
    if space.edges == "searched" and (space.edge_norm or space.partial > 1):
        raise UserError(
            "space.edges=searched",
            "edge weights would be learned twice",
            "set space.edge_norm=false and space.partial=1",
        )
    divided(space)
    if space.keep is not None and space.edges != "fixed":
        raise UserError(
            "space.keep",
            f"is used only with space.edges=fixed, not with {space.edges}",
            "set space.edges=fixed, or space.keep=null",
        )


def nb201(space: Settings) -> None:
    lists(space, "cell", len(NB201_EDGES))
    divided(space)
    for i, row in enumerate([] if space.derive_none else rows(space, "cell", len(NB201_EDGES))):
        choosable(row, _place(space, "cell", i))


def nb1shot1(space: Settings) -> None:
    stacked("space.layers", space.layers)


def stacked(key: str, layers: int) -> None:
    """Raise UserError unless `layers`, the value of the setting `key`, is divisible by the number of stacks."""
    if layers % STACKS:
        fault = f"cells cannot be divided evenly among {STACKS} stacks"
        raise UserError(f"{key}={layers}", fault, f"use a multiple of {STACKS}")


def benchmark_size(kind: str | None, group: str, node: Config) -> Iterator[UserError]:
    """Yield an error for each setting, `group`.layers or `group`.stem, that networks of `kind` do not support."""
    if kind == "nb1shot1" and node.get("layers"):
        try:
            stacked(f"{group}.layers", node["layers"])
        except UserError as error:
            yield error
    if kind in ("nb201", "nb1shot1") and (stem := node.get("stem")) not in (None, "cifar"):
        yield UserError(
            f"{group}.stem={stem}", f"networks of {kind} support only stem=cifar", f"set {group}.stem=cifar"
        )


def recurrent(space: Settings) -> None:
    listed(space.operations, "space.operations", TEXT)
    choosable(space.operations, "space.operations")


SPACES: dict[str, Callable[[object], None]] = {
    "darts": darts,
    "nb201": nb201,
    "nb1shot1": nb1shot1,
    "darts_rnn": recurrent,
}
"""Functions that check the settings of a space, by `Space.read_as`."""


# ---------------------------------------------------------------------------------------------------- genotypes
def nb201_fits(space: Settings, cell: Sequence[str]) -> None:
    """Raise UserError unless the space allows the operation of each of the six edges."""
    for name, own, (source, target) in zip(cell, rows(space, "cell", len(NB201_EDGES)), NB201_EDGES, strict=True):
        if name not in own or (name == "none" and not space.derive_none):
            place, known = f"genotype, edge {source}->{target}", [x for x in own if x != "none" or space.derive_none]
            raise UserError(place, f"this space has no operation {name}", f"it has {', '.join(known)}")


def darts_fits(space: Settings, cells: Sequence[Cell]) -> None:
    """Raise UserError unless the space allows the operations of both cells; untied cells are not checked."""
    for kind, cell in zip(KINDS, cells, strict=True) if len(cells) == len(KINDS) and not space.untied else ():
        for place, (name, pred) in enumerate(cell):
            edge = (pred, NODES[place // 2])
            if edge in EDGES:
                darts_has(rows(space, kind, len(EDGES))[EDGES.index(edge)], name, edge, f"{kind} cell")


def darts_has(own: Sequence[str], name: str, edge: tuple[int, int], cell: str) -> None:
    """Raise UserError unless operation `name` can be selected on an edge with the operations `own`."""
    if name not in own or name == "none":
        raise UserError(
            f"genotype, {cell}, node {edge[1]}",
            f"this space has no {name} on edge {edge[0]}->{edge[1]}",
            f"it has {', '.join(x for x in own if x != 'none')} there",
        )


def nb101_fits(space: object, graph: tuple[object, Sequence[str]]) -> None:
    """Raise UserError unless every inner vertex has an operation of NAS-Bench-101."""
    for place, name in enumerate(graph[1][1:-1], start=1):
        if name not in NB101:
            raise UserError(
                f"genotype, ops[{place}]={name}",
                "is not an operation of NAS-Bench-101",
                f"use one of {', '.join(NB101)}",
            )


def recurrent_fits(space: Settings, cell: Cell) -> None:
    """Raise UserError unless the space allows the operation of each node."""
    own = [name for name in space.operations if name != "none"]
    for node, (name, _) in enumerate(cell, start=1):
        if name not in own:
            raise UserError(f"genotype, node {node}", f"this space has no operation {name}", f"it has {', '.join(own)}")


CELLS: dict[str, Callable[[Settings, Any], None]] = {
    "darts": darts_fits,
    "nb201": nb201_fits,
    "nb1shot1": nb101_fits,
    "darts_rnn": recurrent_fits,
}
"""Functions that check whether a space contains a cell returned by `published.READERS`, by `Space.read_as`."""
