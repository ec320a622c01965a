"""NAS-Bench-1Shot1: three spaces whose cells are in NAS-Bench-101.

Vertex 0 is the cell's input, followed by the choice blocks 1..B and the output. The output and every block have a fixed
number of parents among the earlier vertices:

    variant   blocks   parents of blocks 1..B, output
    1         4        1 2 2 2        2
    2         4        1 1 2 2        3
    3         5        1 1 1 2 2      2

Architecture parameters: "ops" (B, 3), "output" (1, B + 1), and "input_i" (1, i) for each block i that has a choice of
parents, that is, fewer parents than earlier vertices (block 1 has only the input; in variant 1, block 2 takes both
earlier vertices). Discretization selects the best operation of each block, and the k best parents of each block and of
the output (k from the table; ties: the lower index). Only blocks that reach the output keep their edges. Variants 1 and
2 have six vertices; as in the released code, an unconnected vertex labelled conv1x1-bn-relu is inserted at index 5 to
make seven, and NAS-Bench-101 prunes it.

Text form: {"matrix":[[0,1,…],…],"ops":["input",…,"output"]}.

Variants 1, 2 and 3 have 14,580, 29,160 and 1,312,200 combinations of choices (`size`); 3,702, 12,474 and 135,900 of
them are distinct once blocks that do not reach the output are removed; 2,685, 7,773 and 55,854 are distinct up to
isomorphism (tests/spaces/test_nb1shot1_space.py). The numbers in the literature for variants 1 and 3, 6,240 and
363,648, match none of these.

Network (NAS-Bench-101): 3x3 convolution-BN-ReLU to C = 128 channels; three stacks of three cells, with 2x2 max pooling
of stride 2 between stacks, after which the channels double; global average pooling; linear layer. In a cell, the
channels of the output are divided among the vertices that enter it, and every other inner vertex is as wide as its
widest target. A vertex is truncated to the width of the vertex that it enters. Each vertex that the cell's input enters
has its own 1x1 convolution-BN-ReLU of the input.

Sources: A. Zela, J. Siems, F. Hutter, NAS-Bench-1Shot1, ICLR 2020, section 3; C. Ying et al., NAS-Bench-101, ICML 2019,
appendix; released code of both.

Deviations
1. `sample` draws uniformly from the combinations of choices, as random search on these spaces does; several
   combinations can give the same cell.
2. `bn_momentum` is 0.003: the released supernet uses TensorFlow's decay of 0.997 as PyTorch's momentum, which has the
   opposite meaning. Set 0.997 for parity. In supernets, the value matters only with batch_norm=tracked.

Shapes: mix["ops"] (layers, B, 3), mix["output"] (layers, 1, B + 1); network x (n, 3, h, w) -> (n, classes).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb, prod
from typing import TYPE_CHECKING, ClassVar, Literal, Unpack

import torch

from nasx.core.trees import Decision, Tree
from nasx.errors import UserError
from nasx.spaces import rules
from nasx.spaces.base import Genotype, Space, Supernet
from nasx.spaces.cost import plain_only
from nasx.spaces.edge_operations import Style
from nasx.spaces.expected_cost import CostModel, Counter
from nasx.spaces.latency import Size
from nasx.spaces.nb1shot1.cost import WiringCosts, wiring_costs
from nasx.spaces.nb1shot1.genotype import DUMMY, INPUT, OPERATIONS, OUTPUT, PARENTS, VERTICES, Nb101Genotype, reached
from nasx.spaces.nb1shot1.network import Nb101Network
from nasx.spaces.selection import best, draw, top

if TYPE_CHECKING:
    from nasx.core.constraints import Channels, Layers, PositiveFloat


@dataclass(frozen=True, kw_only=True)
class Nb1Shot1(Space):
    """NAS-Bench-1Shot1. `layers` is the number of cells in the supernet, a third of them in each stack."""

    read_as: ClassVar[str] = "nb1shot1"
    variant: Literal[1, 2, 3] = 1
    layers: Layers = 9
    channels: Channels = 16
    batch_norm: Literal["batch", "tracked"] = "batch"
    bn_momentum: PositiveFloat = 0.003

    def __post_init__(self) -> None:
        if self.variant not in PARENTS:
            raise UserError(f"space.variant={self.variant}", "is not a NAS-Bench-1Shot1 space", "use 1, 2 or 3")
        rules.nb1shot1(self)

    # ---------------------------------------------------------------------------------------------- structure
    @property
    def operations(self) -> tuple[str, ...]:
        """Operations of a choice block, in the order of the mixture's last axis."""
        return OPERATIONS

    @property
    def blocks(self) -> int:
        """Number of choice blocks."""
        return len(PARENTS[self.variant]) - 1

    @cached_property
    def inputs(self) -> dict[int, str | None]:
        """Name of the input weights of each block; None if the block has no choice of inputs and sums them unscaled."""
        return {i: f"input_{i}" if PARENTS[self.variant][i - 1] < i else None for i in range(1, self.blocks + 1)}

    @cached_property
    def choices(self) -> dict[str, int]:
        """Number of vertices selected in each choice, by name: first the inputs of blocks, then those of the output."""
        counts = PARENTS[self.variant]
        return {name: counts[i - 1] for i, name in self.inputs.items() if name} | {"output": counts[-1]}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"ops": (self.blocks, len(OPERATIONS)), "output": (1, self.blocks + 1)}
        return shapes | {name: (1, i) for i, name in self.inputs.items() if name}

    def edge_operations(self, name: str) -> tuple[tuple[str, ...], ...]:
        """Return the operations of each block; () for input and output weights."""
        return (OPERATIONS,) * self.blocks if name == "ops" else ()

    def decisions(self) -> tuple[tuple[Decision, ...], ...]:
        """Return two phases: the operation of each block, then the inputs of each block and of the output."""
        return (
            *super().decisions(),
            tuple(
                Decision(name, tuple((0, k) for k in range(self.shapes()[name][1])), keep, False)
                for name, keep in self.choices.items()
            ),
        )

    def cells(self) -> dict[str, int]:
        return dict.fromkeys(self.shapes(), self.layers)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return (tuple(self.shapes()),)

    def supernet(self, classes: int, *, naive: bool = False) -> Supernet:
        from nasx.spaces.nb1shot1.supernet import Nb1Shot1Supernet  # type: ignore[attr-defined,unused-ignore]

        style, inputs = Style(self.batch_norm == "tracked", momentum=self.bn_momentum), list(self.inputs.values())
        return Nb1Shot1Supernet(inputs, OPERATIONS, self.layers, self.channels, style, classes, naive=naive)

    # --------------------------------------------------------------------------------------------- genotypes
    def build(self, names: tuple[str, ...], chosen: dict[str, tuple[int, ...]]) -> Nb101Genotype:
        """Return the cell with the operations `names` of the blocks and the `chosen` vertices for each of `choices`."""
        parents = {i: chosen[name] if name else tuple(range(i)) for i, name in self.inputs.items()}
        out = self.blocks + 1
        parents[out] = chosen["output"]
        incoming = tuple(tuple(int(i in parents.get(j, ())) for i in range(out + 1)) for j in range(out + 1))
        live = reached(incoming, out)  # blocks that do not reach the output lose their edges
        matrix = [[incoming[j][i] if j in live else 0 for j in range(out + 1)] for i in range(out + 1)]
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
        """Return a mixture with weight 1 for each selected operation and vertex, and 0 elsewhere.

        Blocks that do not reach the output have no inputs.
        """
        assert isinstance(genotype, Nb101Genotype)
        mix = {name: torch.zeros(self.layers, *shape) for name, shape in self.shapes().items()}
        for i, name in enumerate(genotype.ops[1 : self.blocks + 1]):
            mix["ops"][:, i, OPERATIONS.index(name)] = 1.0
        for target, key in [*self.inputs.items(), (-1, "output")]:
            if key:
                column = [float(row[target]) for row in genotype.matrix]
                mix[key][:, 0, :] = torch.tensor(column[: mix[key].size(-1)])
        return mix

    def sample(self, gen: torch.Generator) -> Nb101Genotype:
        drawn = torch.randint(len(OPERATIONS), (self.blocks,), generator=gen, device=gen.device).tolist()
        chosen = {}
        for name, k in self.choices.items():
            options = list(combinations(range(self.shapes()[name][-1]), k))
            chosen[name] = options[draw(len(options), gen)]
        return self.build(tuple(OPERATIONS[i] for i in drawn), chosen)

    def parse(self, text: str) -> Nb101Genotype:
        genotype = Nb101Genotype.parse(text)
        if len(genotype.matrix) != VERTICES:
            raise UserError(
                "genotype, matrix",
                f"has {len(genotype.matrix)} vertices instead of {VERTICES}",
                "write all vertices, including the pruned ones",
            )
        if self.discretize(self.encode(genotype)) != genotype:
            raise UserError(
                "genotype",
                f"is not a cell of variant {self.variant}",
                f"its blocks and output must have {PARENTS[self.variant]} parents, blocks that do not "
                "reach the output must have none, and with four blocks vertex 5 must be empty",
            )
        return genotype

    def size(self) -> int:
        """Return the number of combinations of choices; several combinations can give the same cell."""
        count: int = len(OPERATIONS) ** self.blocks * prod(
            comb(self.shapes()[n][-1], k) for n, k in self.choices.items()
        )
        return count

    def network(self, genotype: Genotype, classes: int, **size: Unpack[Size]) -> Nb101Network:
        """Return NAS-Bench-101's network, by default with 9 cells and 128 channels."""
        assert isinstance(genotype, Nb101Genotype)
        plain_only(size, "nb1shot1")
        layers, channels = size.get("layers") or 9, size.get("channels") or 128
        rules.stacked("retrain.layers", layers)
        return Nb101Network(genotype, classes, layers, channels, self.bn_momentum)

    def cost_model(self, counter: Counter, classes: int, shape: tuple[int, ...], **size: Unpack[Size]) -> CostModel:
        layers, channels = size.get("layers") or 9, size.get("channels") or 128
        genotype, shapes = self.sample(torch.Generator().manual_seed(0)), self.shapes()
        vertices = {name: shapes[name][-1] for name in self.choices}
        with torch.device("meta"):
            network = self.network(genotype, classes, **size)
        cells = wiring_costs(self.choices, vertices, self.build, self.blocks, counter, layers, channels, shape)
        outside = counter.network(network, self.example(1, shape)) - float(cells(self.encode(genotype)))
        return WiringCosts(cells.choices, cells.options, cells.fixed + outside, cells.table)
