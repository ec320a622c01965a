"""The DARTS space and its variants: S1 to S4, partial channels, untied cells, searched and fixed edges.

A cell has inputs 0 and 1, nodes 2 to 5 and 14 edges, ordered by target: into node 2 from 0, 1; node 3 from 0, 1, 2;
node 4 from 0..3; node 5 from 0..4. In the supernet, node j is the sum over its edges of sum_o mix[edge, o] o(node i);
in a genotype, it keeps two edges with one operation each. Discretization scores each edge by its largest weight over
the operations other than `none`, keeps the two best edges into each node (ties: the lower predecessor), and selects the
best operation other than `none` on each kept edge (ties: the lower index). With `max_skips`, the weakest skip
connection of the normal cell is then removed and the cell selected again, until at most that many skip connections
remain (P-DARTS, section 3.3).

Edge weights (they scale the rows of mix["normal"] and mix["reduce"], so the supernet need not apply them)
    edge_norm        one logit per edge, with a softmax over the edges into a node (PC-DARTS, eq. 3); mix also has
                     "normal.edge" (cells, 1, 14), which scales the bypassed channels if `partial` > 1
    edges=searched   one logit beta for each unordered pair of predecessors of a node; the weight of an edge is the sum
                     of softmax(beta) over the pairs that contain it (Amended-DARTS, eq. 16); mix also has
                     "normal.pair" (cells, 1, 20), and the genotype keeps the best pair of each node
    edges=fixed      node i keeps only the edges from i - 1 and 0 (Amended-DARTS, appendix C.2), or those of the
                     genotype `keep` (second stage, after edges=searched); the rows of all other edges are zero

Sources: H. Liu et al., DARTS, ICLR 2019, sections 2.1, 2.4; A. Zela et al., RobustDARTS, ICLR 2020 (S1 to S4);
Y. Xu et al., PC-DARTS, ICLR 2020; Amended-DARTS (ICLR 2021 submission), section 3.1.2, appendices B.2 and C.2.

Deviations
1. The pairs of a node are ordered by predecessor; the released code writes the stronger pair first. The order does not
   affect what the network computes, and a fixed order gives each cell only one text.
2. Operations are looked up by the global index of the edge; RobustDARTS looks up `none` by an index within the node.
3. Edge and pair weights are always a softmax, whatever activation the method uses, because they weight edges, not
   operations.

Shapes: a["normal"] (14, operations), untied (cells, 14, operations); a["normal.edge"] (1, 14); a["normal.pair"]
(1, 20); mix (cells, 14, operations).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal, Self, Unpack

import torch
from torch import nn

from nasx.core import spelling
from nasx.core.trees import Activate, Decision, Tree
from nasx.errors import UserError
from nasx.spaces import rules
from nasx.spaces.base import Genotype, Network, Space, Supernet
from nasx.spaces.darts.edges import PAIRS, Pair, edges_of, incidence, kept_mask, pair_slices
from nasx.spaces.darts.genotype import EDGES, KINDS, NODES, DartsGenotype, UntiedDartsGenotype, read
from nasx.spaces.darts.network import SIZES, AuxiliaryHead, DartsNetwork, plan, sites
from nasx.spaces.expected_cost import Site
from nasx.spaces.genotypes import Cell
from nasx.spaces.latency import Size
from nasx.spaces.selection import Lists, best, choosable, draw, softmax_by_node, strongest, top

if TYPE_CHECKING:
    from nasx.core.constraints import Channels, NonNegative, Positive, ThreeOrMoreLayers

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


@dataclass(frozen=True, kw_only=True)
class Darts(Space):
    """The DARTS space. Its fields describe the supernet; `network` uses the published retraining sizes by default.

    A supernet needs at least three layers, because with one or two it has no normal cell.
    """

    read_as: ClassVar[str] = "darts"
    layers: ThreeOrMoreLayers = 8
    channels: Channels = 16
    operations: tuple[str, ...] = OPERATIONS
    normal: Lists | None = None
    reduce: Lists | None = None
    partial: Positive = 1
    edge_norm: bool = False
    untied: bool = False
    edges: Literal["pruned", "fixed", "searched"] = "pruned"
    keep: str | None = None
    max_skips: NonNegative | None = None
    auxiliary: bool = False
    stem: Literal["cifar", "imagenet", "single"] = "cifar"
    batch_norm: Literal["batch", "tracked"] = "batch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        for kind in KINDS:
            given = getattr(self, kind)
            object.__setattr__(self, kind, None if given is None else tuple(tuple(row) for row in given))
        rules.darts(self)
        _ = self._kept

    # ---------------------------------------------------------------------------------------------- structure
    def edge_operations(self, name: str) -> Lists:
        """Return the operations of each of the 14 edges of "normal" or "reduce"; () for edge and pair weights."""
        return rules.rows(self, name, len(EDGES)) if name in KINDS else ()

    def auxiliary_head(self, channels: int, classes: int) -> nn.Module:
        """Return the auxiliary head that reads the output (n, channels, h, w) of cell 2 L // 3."""
        return AuxiliaryHead(channels, classes, self.stem, without="space.auxiliary=false")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for kind in KINDS:
            shapes[kind] = (len(EDGES), len(self.edge_operations(kind)[0]))
            if self.edge_norm:
                shapes[f"{kind}.edge"] = (1, len(EDGES))
            if self.edges == "searched":
                shapes[f"{kind}.pair"] = (1, len(PAIRS))
        counts = self.cells()
        return {name: (counts[name], *shape) if self.untied else shape for name, shape in shapes.items()}

    def cells(self) -> dict[str, int]:
        suffixes = ["", *([".edge"] if self.edge_norm else []), *([".pair"] if self.edges == "searched" else [])]
        return {kind + suffix: plan(self.layers).count(kind) for kind in KINDS for suffix in suffixes}

    def places(self, name: str) -> int:
        return self.cells()[name] if self.untied else 1

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Parameters of normal cells only: layer regularizers skip reduction cells (Lambda-DARTS, section 4)."""
        return (tuple(name for name in self.cells() if name.startswith("normal")),)

    def supernet(self, classes: int, *, naive: bool = False) -> Supernet:
        from nasx.spaces.darts.supernet import DartsSupernet

        return DartsSupernet(
            {kind: self.edge_operations(kind) for kind in KINDS},
            self.layers,
            self.channels,
            self.stem,
            self.partial,
            classes,
            tracked=self.batch_norm == "tracked",
            naive=naive,
            auxiliary=self.auxiliary_head if self.auxiliary else None,
        )

    # ------------------------------------------------------------------------------------------------ mixtures
    def relax(self, a: Tree, activate: Activate) -> Tree:
        mix: Tree = {}
        for kind in KINDS:
            cells = self.cells()[kind]
            rows = activate(a[kind])
            if self.edge_norm:
                edge = softmax_by_node(a[f"{kind}.edge"], [edges_of(node) for node in NODES])
                rows = rows * edge.transpose(-1, -2)
                mix[f"{kind}.edge"] = edge.expand(cells, 1, len(EDGES))
            if self.edges == "searched":
                pair = softmax_by_node(a[f"{kind}.pair"], pair_slices())
                rows = rows * (pair @ incidence(pair.dtype, pair.device)).transpose(-1, -2)
                mix[f"{kind}.pair"] = pair.expand(cells, 1, len(PAIRS))
            if self.edges == "fixed":
                rows = rows * kept_mask(self._kept[kind], rows.dtype, rows.device)
            mix[kind] = rows.expand(cells, *rows.shape[-2:])
        return mix

    def discretize(self, mix: Tree) -> Genotype:
        return self._join({kind: [self._cell(kind, mix, i) for i in range(self.places(kind))] for kind in KINDS})

    def edge_shares(self, mix: Tree) -> Tree:
        """Return the total weight of the pairs that contain each edge, (cells, 14); {} unless edges are searched."""
        pairs = {kind: mix[f"{kind}.pair"] for kind in KINDS if self.edges == "searched"}
        return {kind: (pair @ incidence(pair.dtype, pair.device))[:, 0] for kind, pair in pairs.items()}

    def mask(self, operation: str) -> Tree:
        found = super().mask(operation)
        for kind in KINDS if self.edges == "fixed" else ():
            found[kind] = found[kind] * kept_mask(self._kept[kind], found[kind].dtype, found[kind].device)
        return found

    def decisions(self) -> tuple[tuple[Decision, ...], ...]:
        """Return two phases: an operation for each edge, then two edges for each node.

        If edges are fixed, only kept edges have decisions. Unless edges are pruned, the second phase is empty.
        """
        first: list[Decision] = []
        then: list[Decision] = []
        for kind in KINDS:
            for place in range(self.places(kind)):
                cell = place if self.untied else None
                kept = self._kept[kind][place] if self.edges == "fixed" else [range(node) for node in NODES]
                for node, preds in zip(NODES, kept, strict=True):
                    edges = [edges_of(node).start + pred for pred in preds]
                    first += [
                        Decision(kind, tuple((e, o) for o in choosable(self.edge_operations(kind)[e])), cell=cell)
                        for e in edges
                    ]
                    if len(edges) > 2 and self.edges == "pruned":
                        then.append(Decision(kind, tuple((e, None) for e in edges), 2, False, cell))
        return tuple(first), tuple(then)

    def narrow(self, mix: Tree, keep: int | None) -> Self:
        """Narrow as in `Space.narrow`, and fix searched edges to those that `mix` keeps (Amended-DARTS, B.2)."""
        space = self if self.edges != "searched" else replace(self, edges="fixed", keep=str(self.discretize(mix)))
        if keep is None:
            return space
        if self.untied:
            raise UserError(
                "stages.keep",
                "operations cannot be dropped per cell: even untied cells share one list of operations for each edge",
                "set space.untied=false, or stages.keep=[null]",
            )
        normal, reduce = (strongest(mix[kind], self.edge_operations(kind), keep) for kind in KINDS)
        return replace(space, normal=normal, reduce=reduce)

    def _cell(self, kind: str, mix: Tree, i: int) -> Cell:
        names = self.edge_operations(kind)
        weights = mix[kind].detach().cpu()
        assert weights.shape[1:] == (len(EDGES), len(names[0])), weights.shape
        rows = weights[i].tolist()
        betas = mix[f"{kind}.pair"].detach().cpu()[:, 0].tolist() if self.edges == "searched" else []
        cell = self._strongest(kind, rows, betas, i)
        while kind == "normal" and self.max_skips is not None:
            at = [edges_of(NODES[place // 2]).start + pred for place, (_, pred) in enumerate(cell)]
            skips = [
                (rows[e][names[e].index(name)], e)
                for e, (name, _) in zip(at, cell, strict=True)
                if name == "skip_connect"
            ]
            if len(skips) <= self.max_skips or min(skips)[0] <= 0:
                break
            weakest = min(skips)[1]
            rows[weakest][names[weakest].index("skip_connect")] = 0.0
            cell = self._strongest(kind, rows, betas, i)
        return cell

    def _strongest(self, kind: str, rows: list[list[float]], betas: list[list[float]], i: int) -> Cell:
        """Select a cell by weights `rows` (14, operations), and by pair weights `betas` if edges are searched."""
        names = self.edge_operations(kind)
        chosen = [best(row, choosable(ops_)) for row, ops_ in zip(rows, names, strict=True)]
        strength = [row[k] for row, k in zip(rows, chosen, strict=True)]
        pairs: list[tuple[str, int]] = []
        for j, node in enumerate(NODES):
            edges = range(len(EDGES))[edges_of(node)]
            if self.edges == "fixed":
                kept: tuple[int, ...] = self._kept[kind][i if self.untied else 0][j]
            elif self.edges == "searched":
                options = [k for k, (target, _) in enumerate(PAIRS) if target == node]
                kept = PAIRS[best(betas[i], options) if betas else options[0]][1]
            else:
                kept = top([strength[e] for e in edges], 2)
            pairs += [(names[edges[p]][chosen[edges[p]]], p) for p in kept]
        return tuple(pairs)

    def encode(self, genotype: Genotype) -> Tree:
        """Return a mixture with weight 1 for each kept edge, its operation and its pair, and 0 elsewhere."""
        cells = self._by_kind(genotype)
        mix: Tree = {}
        for kind, count in ((kind, self.cells()[kind]) for kind in KINDS):
            names = self.edge_operations(kind)
            rows = torch.zeros(count, *self.shapes()[kind][-2:])
            pair = torch.zeros(count, 1, len(PAIRS))
            for i in range(count):
                cell = cells[kind][i if self.untied else 0]
                for place, (name, pred) in enumerate(cell):
                    edge = edges_of(NODES[place // 2]).start + pred
                    rows[i, edge, names[edge].index(name)] = 1.0
                for j, node in enumerate(NODES):
                    pair[i, 0, PAIRS.index((node, (cell[2 * j][1], cell[2 * j + 1][1])))] = 1.0
            mix[kind] = rows
            if self.edge_norm:
                mix[f"{kind}.edge"] = rows.sum(-1).unsqueeze(1)
            if self.edges == "searched":
                mix[f"{kind}.pair"] = pair
        return mix

    # ----------------------------------------------------------------------------------------------- genotypes
    def options(self, kind: str, place: int = 0) -> tuple[tuple[Cell, ...], ...]:
        """Return the options of each node; an option is two (operation, predecessor) pairs.

        `place` is the index of the cell among those of its kind; untied cells may keep different edges.
        """
        names = self.edge_operations(kind)
        out = []
        for j, node in enumerate(NODES):
            start = edges_of(node).start
            kept = (
                [self._kept[kind][place if self.untied else 0][j]]
                if self.edges == "fixed"
                else combinations(range(node), 2)
            )
            out.append(
                tuple(
                    choice
                    for preds in kept
                    for choice in product(
                        *([(names[start + p][k], p) for k in choosable(names[start + p])] for p in preds)
                    )
                )
            )
        return tuple(out)

    def _free(self) -> Iterator[tuple[str, int, tuple[tuple[Cell, ...], ...]]]:
        """Yield (kind, place, options) for every cell that is chosen independently."""
        for kind in KINDS:
            for place in range(self.places(kind)):
                yield kind, place, self.options(kind, place)

    def size(self) -> int:
        return prod(len(node) for _, _, nodes in self._free() for node in nodes)

    def sample(self, gen: torch.Generator) -> Genotype:
        found: dict[str, list[Cell]] = {kind: [] for kind in KINDS}
        for kind, _, nodes in self._free():
            found[kind].append(tuple(pair for node in nodes for pair in node[draw(len(node), gen)]))
        return self._join(found)

    def parse(self, text: str) -> Genotype:
        genotype = read(text)
        cells = self._by_kind(genotype)
        for kind, place, nodes in self._free():
            for j, (node, allowed) in enumerate(zip(NODES, nodes, strict=True)):
                given = cells[kind][place][2 * j : 2 * j + 2]
                if given not in allowed:
                    raise self._foreign(kind, place, node, given)
        return genotype

    def _foreign(self, kind: str, place: int, node: int, given: Cell) -> UserError:
        names = self.edge_operations(kind)
        cell = f"{kind} cell{f' {place}' if self.untied else ''}"
        for name, pred in given:
            rules.darts_has(names[edges_of(node).start + pred], name, (pred, node), cell)
        return UserError(
            f"genotype, {cell}, node {node}",
            f"this space does not keep the edges from {' and '.join(str(pred) for _, pred in given)}",
            "see space.edges and space.keep",
        )

    def _by_kind(self, genotype: Genotype) -> dict[str, tuple[Cell, ...]]:
        """Return the cells of each kind: one if tied, otherwise as many as the supernet has."""
        if isinstance(genotype, UntiedDartsGenotype) != self.untied:
            own, other = ("untied", "tied") if self.untied else ("tied", "untied")
            raise UserError(
                "genotype",
                f"its cells are {other}, but those of this space are {own}",
                f"use a space with space.untied={str(not self.untied).lower()}",
            )
        if isinstance(genotype, DartsGenotype):
            return {"normal": (genotype.normal,), "reduce": (genotype.reduce,)}
        assert isinstance(genotype, UntiedDartsGenotype)
        if len(genotype.cells) != self.layers:
            raise UserError(
                "genotype",
                f"has {spelling.counted(len(genotype.cells), 'cell')}, but this space has {self.layers}",
                f"set space.layers={len(genotype.cells)}",
            )
        return {
            kind: tuple(c for c, k in zip(genotype.cells, plan(self.layers), strict=True) if k == kind)
            for kind in KINDS
        }

    def _join(self, found: dict[str, list[Cell]]) -> Genotype:
        if not self.untied:
            return DartsGenotype(found["normal"][0], found["reduce"][0])
        queues = {kind: iter(cells) for kind, cells in found.items()}
        return UntiedDartsGenotype(tuple(next(queues[kind]) for kind in plan(self.layers)))

    @cached_property
    def _kept(self) -> dict[str, tuple[tuple[Pair, ...], ...]]:
        """The two fixed predecessors of each node, by kind and cell (one cell if tied); {} unless edges are fixed."""
        if self.edges != "fixed":
            return {}
        if self.keep is None:
            return {kind: (tuple((0, node - 1) for node in NODES),) * self.places(kind) for kind in KINDS}
        by_kind = self._by_kind(read(self.keep))
        return {
            kind: tuple(tuple((cell[2 * j][1], cell[2 * j + 1][1]) for j in range(len(NODES))) for cell in cells)
            for kind, cells in by_kind.items()
        }

    def network(self, genotype: Genotype, classes: int, **size: Unpack[Size]) -> Network:
        """Return a network, by default with L = 20, C = 36 (cifar) or L = 14, C = 48 (imagenet); untied cells set L."""
        stem = size.get("stem", "cifar")
        depth, width = SIZES.get(stem, SIZES["cifar"])
        if isinstance(genotype, UntiedDartsGenotype):
            depth = len(genotype.cells)
        assert isinstance(genotype, DartsGenotype | UntiedDartsGenotype)
        cells, auxiliary = genotype.layers(size.get("layers") or depth), size.get("auxiliary", False)
        return DartsNetwork(cells, classes, size.get("channels") or width, stem=stem, auxiliary=auxiliary)

    def sites(self, shape: tuple[int, ...], **size: Unpack[Size]) -> Iterator[Site]:
        """Yield the edges of the network that `network` returns for `size`; see `Space.sites`."""
        stem = size.get("stem", "cifar")
        depth, width = SIZES.get(stem, SIZES["cifar"])
        layers = self.layers if self.untied else size.get("layers") or depth
        return sites(layers, size.get("channels") or width, stem, shape, untied=self.untied)
