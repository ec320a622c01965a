"""NAS-Bench-1Shot1: three spaces whose cells are in NAS-Bench-101.

Vertices: 0 the cell's input, then the choice blocks 1..B, then the output. Every block has a fixed number of parents
among the earlier vertices, and so has the output:

    variant   blocks   parents of block 1..B, output
    1         4        1 2 2 2        2
    2         4        1 1 2 2        3
    3         5        1 1 1 2 2      2

Architecture parameters: "ops" (B, 3), "output" (1, B + 1), and "input_i" (1, i) for each block i that has a choice,
that is, fewer parents than earlier vertices (block 1 has only the input; in variant 1 block 2 takes both vertices).
Discretization: best operation of each block; the k best parents and outputs (k from the table; ties to the lower
index). Edges are kept only for blocks that reach the output. Variants 1 and 2 have six vertices: an unconnected one,
labelled conv1x1-bn-relu, is inserted at index 5 to make seven, as in the released code; NAS-Bench-101 prunes it.

Text: {"matrix":[[0,1,…],…],"ops":["input",…,"output"]}.

Counts for variants 1, 2, 3: 14,580, 29,160, 1,312,200 choices (`size`); 3,702, 12,474, 135,900 of them differ once
blocks that do not reach the output are left out (`distinct`); 2,685, 7,773, 55,854 up to isomorphism (`classes`). The
literature's 6,240 and 363,648 for variants 1 and 3 equal none of these.

Network (NAS-Bench-101): 3x3 convolution-BN-ReLU to C = 128, three stacks of three cells, between stacks a 2x2 max-pool
of stride 2 and twice the channels, global average pool, linear. In a cell the output's channels are shared out among
the vertices that enter it; an inner vertex has the widest of its targets; vertices are cut to the width of what they
enter; each vertex that the cell's input enters has a 1x1 convolution-BN-ReLU of it.

Sources: A. Zela, J. Siems, F. Hutter, NAS-Bench-1Shot1, ICLR 2020, section 3; C. Ying et al., NAS-Bench-101, ICML 2019,
appendix; released code of both.

Deviations
1. `sample` draws uniformly from the choices, as random search on these spaces does; several choices are one cell.
2. `bn_momentum` is 0.003: the released supernet's 0.997 copies TensorFlow's decay into PyTorch, where it means the
   reverse. Set 0.997 for parity. It matters only with batch_norm=tracked.

Shapes: mix["ops"] (layers, B, 3), mix["output"] (layers, 1, B + 1); network x (n, 3, h, w) -> (n, classes).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, permutations, product
from math import comb, prod
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core.trees import Decision
from nasx.errors import UserError
from nasx.spaces import genotypes, ops, rules
from nasx.spaces.base import Genotype, Logits, Network, Space, Supernet, Tree
from nasx.spaces.darts.network import no_drop_path, plain_only
from nasx.spaces.published import resolve
from nasx.spaces.selection import best, top

if TYPE_CHECKING:
    from nasx.config.settings import Channels, Layers, PositiveFloat

OPERATIONS = rules.NB101
INPUT, OUTPUT, DUMMY = "input", "output", "conv1x1-bn-relu"
PARENTS = {1: (1, 2, 2, 2, 2), 2: (1, 1, 2, 2, 3), 3: (1, 1, 1, 2, 2, 2)}
"""Number of parents of blocks 1..B and of the output."""
VERTICES = 7  # the limit of NAS-Bench-101

Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Nb101Genotype(Genotype):
    """An upper triangular adjacency matrix (0 and 1) and the label of each vertex, input first and output last."""

    matrix: Matrix
    ops: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", tuple(tuple(int(x) for x in row) for row in self.matrix))
        object.__setattr__(self, "ops", tuple(self.ops))
        n = len(self.matrix)
        if not 2 <= n <= VERTICES:
            raise UserError("genotype, matrix", f"has {n} rows", f"NAS-Bench-101 has cells of 2 to {VERTICES} vertices")
        for i, row in enumerate(self.matrix):
            if len(row) != n or any(x not in (0, 1) or (x and j <= i) for j, x in enumerate(row)):
                raise UserError(f"genotype, matrix, row {i + 1}", f"{list(row)} is not upper triangular",
                                f"write {n} numbers 0 or 1, with 1 only right of the diagonal")
        if len(self.ops) != n or self.ops[:1] != (INPUT,) or self.ops[-1:] != (OUTPUT,):
            raise UserError("genotype, ops", f"{list(self.ops)} does not label {n} vertices from input to output",
                            genotypes.NB101_FORM)
        rules.nb101_fits(None, (self.matrix, self.ops))

    def __str__(self) -> str:
        return json.dumps({"matrix": self.matrix, "ops": self.ops}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(*genotypes.nb101_graph(resolve(text, "nb1shot1")))

    def operations(self) -> dict[str, int]:
        """Counts over the vertices that lie on a path from input to output."""
        return dict(Counter(self.pruned().ops[1:-1]))

    def pruned(self) -> Nb101Genotype:
        """The cell without the vertices that lie on no path from input to output (both always stay)."""
        last = len(self.matrix) - 1
        forward = _reached(self.matrix, 0)
        backward = _reached(tuple(zip(*self.matrix, strict=True)), last)
        kept = sorted((forward & backward) | {0, last})
        matrix = tuple(tuple(self.matrix[i][j] for j in kept) for i in kept)
        return Nb101Genotype(matrix, tuple(self.ops[i] for i in kept))


def _reached(matrix: Matrix, start: int) -> set[int]:
    """Vertices that a path from `start` reaches, `start` included."""
    found, open_ = {start}, [start]
    while open_:
        fresh = {j for j, x in enumerate(matrix[open_.pop()]) if x} - found
        found |= fresh
        open_ += fresh
    return found


@dataclass(frozen=True, kw_only=True)
class Nb1Shot1(Space):
    """NAS-Bench-1Shot1. `layers` counts the supernet's cells, a third of them in each stack."""

    read_as: ClassVar[str] = "nb1shot1"
    variant: Literal[1, 2, 3] = 1
    layers: Layers = 9
    channels: Channels = 16
    batch_norm: Literal["batch", "tracked"] = "batch"
    bn_momentum: PositiveFloat = 0.003

    def __post_init__(self) -> None:
        if self.variant not in PARENTS:
            raise UserError(f"space.variant={self.variant}", "there is no such space", "use 1, 2 or 3")
        rules.nb1shot1(self)

    # ---------------------------------------------------------------------------------------------- structure
    @property
    def operations(self) -> tuple[str, ...]:
        """Operations of a choice block, in the order of the mixture's last axis."""
        return OPERATIONS

    @property
    def cells_per_stack(self) -> int:
        return self.layers // 3

    @property
    def blocks(self) -> int:
        """Number of choice blocks."""
        return len(PARENTS[self.variant]) - 1

    @cached_property
    def inputs(self) -> dict[int, str | None]:
        """Block -> the name of its input weights, or None where it has no choice (an unscaled sum)."""
        return {i: f"input_{i}" if PARENTS[self.variant][i - 1] < i else None for i in range(1, self.blocks + 1)}

    @cached_property
    def choices(self) -> dict[str, int]:
        """Name of a choice of vertices -> how many are chosen; the block's inputs first, then the output's."""
        counts = PARENTS[self.variant]
        return {name: counts[i - 1] for i, name in self.inputs.items() if name} | {"output": counts[-1]}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"ops": (self.blocks, len(OPERATIONS)), "output": (1, self.blocks + 1)}
        return shapes | {name: (1, i) for i, name in self.inputs.items() if name}

    def edge_operations(self, name: str) -> tuple[tuple[str, ...], ...]:
        """The operations of each block; none for the names that weigh inputs and the output."""
        return (OPERATIONS,) * self.blocks if name == "ops" else ()

    def decisions(self) -> tuple[tuple[Decision, ...], ...]:
        """One operation of each block; then the vertices that the blocks and the output read."""
        return (*super().decisions(), tuple(
            Decision(name, tuple((0, k) for k in range(self.shapes()[name][1])), keep, False)
            for name, keep in self.choices.items()))

    def cells(self) -> dict[str, int]:
        return dict.fromkeys(self.shapes(), self.layers)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return (tuple(self.shapes()),)

    def supernet(self, classes: int, *, naive: bool = False) -> Supernet:
        from nasx.spaces.supernet import Nb1Shot1Supernet  # type: ignore[attr-defined,unused-ignore]

        return Nb1Shot1Supernet(self, classes, naive=naive)

    # --------------------------------------------------------------------------------------------- genotypes
    def build(self, names: tuple[str, ...], chosen: dict[str, tuple[int, ...]]) -> Nb101Genotype:
        """The cell of one operation for each block and the chosen vertices of each name in `choices`."""
        parents = {i: chosen[name] if name else tuple(range(i)) for i, name in self.inputs.items()}
        out = self.blocks + 1
        parents[out] = chosen["output"]
        live, open_ = {out}, [out]
        while open_:  # walk back from the output: blocks that do not reach it lose their edges
            fresh = {p for p in parents.get(open_.pop(), ()) if p} - live
            live |= fresh
            open_ += fresh
        matrix = [[int(j in live and i in parents.get(j, ())) for j in range(out + 1)] for i in range(out + 1)]
        labels = [INPUT, *names, OUTPUT]
        if out + 1 < VERTICES:
            matrix = [[*row[:out], 0, row[out]] for row in matrix]
            matrix.insert(out, [0] * VERTICES)
            labels.insert(out, DUMMY)
        return Nb101Genotype(tuple(map(tuple, matrix)), tuple(labels))

    def discretize(self, mix: Tree) -> Nb101Genotype:
        first = {name: mix[name].detach().cpu()[0].tolist() for name in self.shapes()}
        names = tuple(OPERATIONS[best(row)] for row in first["ops"])
        return self.build(names, {name: top(first[name][0], k) for name, k in self.choices.items()})

    def encode(self, genotype: Genotype) -> Tree:
        """Weight 1 on each chosen operation and vertex; a block that does not reach the output has no inputs."""
        assert isinstance(genotype, Nb101Genotype)
        mix = {name: torch.zeros(self.layers, *shape) for name, shape in self.shapes().items()}
        for i, name in enumerate(genotype.ops[1:self.blocks + 1]):
            mix["ops"][:, i, OPERATIONS.index(name)] = 1.0
        for target, key in [*self.inputs.items(), (-1, "output")]:
            if key:
                column = [float(row[target]) for row in genotype.matrix]
                mix[key][:, 0, :] = torch.tensor(column[:mix[key].size(-1)])
        return mix

    def sample(self, gen: torch.Generator) -> Nb101Genotype:
        drawn = torch.randint(len(OPERATIONS), (self.blocks,), generator=gen, device=gen.device).tolist()
        chosen = {}
        for name, k in self.choices.items():
            options = list(combinations(range(self.shapes()[name][-1]), k))
            chosen[name] = options[int(torch.randint(len(options), (), generator=gen, device=gen.device).item())]
        return self.build(tuple(OPERATIONS[i] for i in drawn), chosen)

    def parse(self, text: str) -> Nb101Genotype:
        genotype = Nb101Genotype.parse(text)
        if self.discretize(self.encode_checked(genotype)) != genotype:
            raise UserError("genotype", f"is no cell of variant {self.variant}",
                            f"its blocks and output must have {PARENTS[self.variant]} parents, a block that does "
                            "not reach the output none, and vertex 5 must be empty where there are four blocks")
        return genotype

    def encode_checked(self, genotype: Nb101Genotype) -> Tree:
        """`encode`, after a check of the number of vertices."""
        if len(genotype.matrix) != VERTICES:
            raise UserError("genotype, matrix", f"has {len(genotype.matrix)} vertices instead of {VERTICES}",
                            "write the cell as this space does, pruned vertices included")
        return self.encode(genotype)

    def size(self) -> int:
        """Number of choices; `distinct` counts cells."""
        return len(OPERATIONS) ** self.blocks * prod(comb(self.shapes()[n][-1], k) for n, k in self.choices.items())

    def distinct(self) -> int:
        """Number of choices that differ once blocks that do not reach the output are left out."""
        return sum(len(OPERATIONS) ** (len(pruned) - 2) for pruned in self._wirings().values())

    def classes(self) -> int:
        """Number of cells after pruning, up to isomorphism; enumerates them (seconds for variant 3)."""
        return len({code for pruned in set(self._wirings().values()) for code in _labelled_codes(pruned)})

    def _wirings(self) -> dict[Matrix, Matrix]:
        """Adjacency of every choice of vertices -> the same, pruned."""
        options = [list(combinations(range(self.shapes()[name][-1]), k)) for name, k in self.choices.items()]
        found: dict[Matrix, Matrix] = {}
        for chosen in product(*options):
            cell = self.build((OPERATIONS[0],) * self.blocks, dict(zip(self.choices, chosen, strict=True)))
            if cell.matrix not in found:
                found[cell.matrix] = cell.pruned().matrix
        return found

    def network(self, genotype: Genotype, classes: int, *, layers: int | None = None, channels: int | None = None,
                stem: str = "cifar", auxiliary: bool = False) -> Nb101Network:
        """NAS-Bench-101's network: 9 cells and 128 channels unless given."""
        assert isinstance(genotype, Nb101Genotype)
        plain_only(stem, auxiliary, "nb1shot1")
        if (layers or 9) % 3:
            raise UserError(f"retrain.layers={layers}", "cells do not share out among three stacks",
                            "use a multiple of 3")
        return Nb101Network(genotype, classes, layers or 9, channels or 128, self.bn_momentum)


def _labelled_codes(matrix: Matrix) -> set[int]:
    """Canonical codes of all labellings of one wiring: the smallest code over all orders of the inner vertices."""
    inner = len(matrix) - 2
    count = len(OPERATIONS)
    labels = np.array(list(product(range(count), repeat=inner)), dtype=np.int64).reshape(-1, inner)
    powers = count ** np.arange(inner, dtype=np.int64)
    smallest = np.full(len(labels), np.iinfo(np.int64).max)
    for order in permutations(range(inner)):
        vertex = [0, *(k + 1 for k in order), inner + 1]
        bits = 1  # a leading 1 tells matrices of different sizes apart
        for i in vertex:
            for j in vertex:
                bits = 2 * bits + matrix[i][j]
        smallest = np.minimum(smallest, bits * count**inner + labels[:, list(order)] @ powers)
    return set(smallest.tolist())


# ------------------------------------------------------------------------------------------------- network
def widths(matrix: Matrix, c_in: int, c_out: int) -> list[int]:
    """Channels of each vertex of a pruned cell: the output's shared out, others as wide as their widest target."""
    last = len(matrix) - 1
    out = [c_in, *[0] * (last - 1), c_out]
    entering = [v for v in range(1, last) if matrix[v][last]]
    for place, v in enumerate(entering):
        out[v] = c_out // len(entering) + int(place < c_out % len(entering))
    for v in reversed(range(1, last)):
        if not out[v]:
            out[v] = max(out[j] for j in range(v + 1, last) if matrix[v][j])
    return out


class Nb101Cell(nn.Module):
    """A pruned cell from `c_in` to `c_out` channels."""

    def __init__(self, cell: Nb101Genotype, c_in: int, c_out: int, momentum: float) -> None:
        super().__init__()
        self.matrix, self.last = cell.matrix, len(cell.matrix) - 1
        self.widths = widths(cell.matrix, c_in, c_out)
        norm = ops.batch_norm(momentum=momentum)
        fed = [v for v in range(1, self.last + 1) if cell.matrix[0][v]]
        self.projections = nn.ModuleDict({str(v): ops.ConvBNReLU(c_in, self.widths[v], norm=norm) for v in fed})
        self.ops = nn.ModuleList([ops.build(name, self.widths[v], momentum=momentum)
                                  for v, name in enumerate(cell.ops[1:-1], start=1)])

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        nodes = [x]
        for v, op in enumerate(self.ops, start=1):
            terms = [nodes[u][:, :self.widths[v]] for u in range(1, v) if self.matrix[u][v]]
            if self.matrix[0][v]:
                terms.append(self.projections[str(v)](x))
            nodes.append(op(sum(terms[1:], start=terms[0]), gen))
        joined = [nodes[u] for u in range(1, self.last) if self.matrix[u][self.last]]
        terms = [torch.cat(joined, 1)] if joined else []
        if self.matrix[0][self.last]:
            terms.append(self.projections[str(self.last)](x))
        return sum(terms[1:], start=terms[0])


class Nb101Network(Network):
    """Stem, three stacks of cells with max-pooling between them, pool, linear."""

    def __init__(self, genotype: Nb101Genotype, classes: int, layers: int, channels: int, momentum: float) -> None:
        super().__init__()
        cell = genotype.pruned()
        if len(_reached(cell.matrix, 0)) < len(cell.matrix):
            raise UserError("genotype", "its output is not connected to its input", "choose another cell")
        self.stem = ops.ConvBNReLU(3, channels, 3, norm=ops.batch_norm(momentum=momentum))
        self.cells = nn.ModuleList()
        before = channels
        for i in range(layers):
            width = channels * 2 ** (i // (layers // 3))
            self.cells.append(Nb101Cell(cell, before, width, momentum))
            before = width
        self.stack = layers // 3
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor, *, drop_path: float = 0.0, gen: torch.Generator | None = None) -> Logits:
        no_drop_path(drop_path, "nb1shot1")
        return Logits(self.classifier(self.features(x, gen).mean((2, 3))))

    def features(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        """The map (n, 4 C, h, w) that the classifier pools."""
        x = self.stem(x)
        for i, cell in enumerate(self.cells):
            if i and i % self.stack == 0:
                x = F.max_pool2d(x, 2, 2)
            x = cell(x, gen)
        return x
