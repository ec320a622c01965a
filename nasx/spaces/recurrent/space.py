"""The recurrent space of DARTS: one cell with 36 edges and five operations that reads text word by word.

    s_0 = h + sigmoid(c) (tanh(g) - h),   [c, g] = [x; h] W_0            x the word, h the state after the previous word
    s_i = s_j + sigmoid(c) (f(g) - s_j),  [c, g] = s_j W_i               f the operation on edge j -> i, j < i
    h'  = mean of s_1 .. s_8, the state after this word, from which the next word is predicted

In the supernet, s_i is the sum of the right-hand side over all j < i and all operations f, each multiplied by its
mixture weight. All edges into i share W_i, and `none` contributes nothing. Batch norm without affine parameters follows
s_0 and every node, only in the supernet. A genotype has one predecessor and one operation per node: those with the
largest mixture weight among all edges into the node, excluding `none`. Edges are ordered by target.

Source: Liu, Simonyan, Yang, DARTS, ICLR 2019, sections 2.1, 3.1.2 and appendix A.1.2; released code, rnn/.

Deviations
1. Batch norm also uses batch statistics in evaluation, as in the other supernets; the released code keeps running
   statistics, as `batch_norm=tracked` does here.
2. The output of a genotype is the mean of all its nodes; ENAS' cell in the released code averages some of 11 nodes.

Shapes: a["recurrent"] (36, operations), mix["recurrent"] (1, 36, operations); network x (n, steps) word indices,
state (n, channels) -> scores (n * steps, vocabulary size), ordered by item, then by step.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial
from typing import TYPE_CHECKING, ClassVar, Literal, Unpack

import torch
from torch import Tensor

from nasx.core import spelling
from nasx.core.trees import Decision, Tree
from nasx.errors import UserError
from nasx.spaces import rules
from nasx.spaces.base import Genotype, Network, Space, Supernet
from nasx.spaces.cost import plain_only
from nasx.spaces.latency import Size
from nasx.spaces.recurrent.genotype import OPERATIONS, RecurrentGenotype
from nasx.spaces.selection import best, choosable, draw

if TYPE_CHECKING:
    from nasx.core.constraints import Channels, Nodes

SIZE = 850
"""Default width of retrained networks."""


@dataclass(frozen=True, kw_only=True)
class Recurrent(Space):
    """The recurrent space. `channels` is the width of word embeddings and states in the supernet."""

    data: ClassVar[str] = "text"
    single: ClassVar[bool] = True
    read_as: ClassVar[str] = "darts_rnn"
    channels: Channels = 300
    nodes: Nodes = 8
    operations: tuple[str, ...] = OPERATIONS
    batch_norm: Literal["batch", "tracked"] = "batch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        rules.recurrent(self)

    @property
    def choosable(self) -> tuple[int, ...]:
        """Indices of the operations that can be selected."""
        return choosable(self.operations)

    def into(self, node: int) -> slice:
        """Return the slice of the edges into a node (numbered from 1), ordered by source."""
        return slice(node * (node - 1) // 2, node * (node + 1) // 2)

    def edge_operations(self, name: str) -> tuple[tuple[str, ...], ...]:
        """Return the operations of each edge, which are the same for all edges."""
        return (self.operations,) * (self.nodes * (self.nodes + 1) // 2)

    def decisions(self) -> tuple[tuple[Decision, ...], ...]:
        """Return two phases: an operation for each edge, then an edge into each node."""
        edges = range(self.nodes * (self.nodes + 1) // 2)
        return (
            tuple(Decision("recurrent", tuple((e, o) for o in self.choosable)) for e in edges),
            tuple(
                Decision("recurrent", tuple((e, None) for e in edges[self.into(node)]), 1, False)
                for node in range(2, self.nodes + 1)
            ),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"recurrent": (self.nodes * (self.nodes + 1) // 2, len(self.operations))}

    def cells(self) -> dict[str, int]:
        return {"recurrent": 1}

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return (("recurrent",),)

    def supernet(self, classes: int, *, naive: bool = False) -> Supernet:
        from nasx.spaces.recurrent.network import RecurrentSupernet

        names = [(k, self.operations[k]) for k in self.choosable]
        into, tracked = [self.into(node) for node in range(1, self.nodes + 1)], self.batch_norm == "tracked"
        return RecurrentSupernet(names, into, self.channels, classes, tracked=tracked, naive=naive)

    def discretize(self, mix: Tree) -> RecurrentGenotype:
        rows = mix["recurrent"].detach().cpu()
        assert rows.shape[1:] == self.shapes()["recurrent"], rows.shape
        weights, nodes = rows[0].tolist(), []
        for node in range(1, self.nodes + 1):
            entering = weights[self.into(node)]
            chosen = [best(row, self.choosable) for row in entering]
            source = best([row[k] for row, k in zip(entering, chosen, strict=True)])
            nodes.append((self.operations[chosen[source]], source))
        return RecurrentGenotype(tuple(nodes))

    def encode(self, genotype: Genotype) -> Tree:
        """Return a mixture with weight 1 for the selected operation on each selected edge, and 0 elsewhere."""
        assert isinstance(genotype, RecurrentGenotype)
        hot = torch.zeros(1, *self.shapes()["recurrent"])
        for node, (name, source) in enumerate(genotype.nodes, start=1):
            hot[0, self.into(node).start + source, self.operations.index(name)] = 1.0
        return {"recurrent": hot}

    def sample(self, gen: torch.Generator) -> RecurrentGenotype:
        names = [self.operations[k] for k in self.choosable]
        nodes = ((names[draw(len(names), gen)], draw(node, gen)) for node in range(1, self.nodes + 1))
        return RecurrentGenotype(tuple(nodes))

    def parse(self, text: str) -> RecurrentGenotype:
        genotype = RecurrentGenotype.parse(text)
        if len(genotype.nodes) != self.nodes:
            raise UserError(
                "genotype",
                f"has {spelling.counted(len(genotype.nodes), 'node')}, but the cells of this space have {self.nodes}",
                f"set space.nodes={len(genotype.nodes)}",
            )
        rules.recurrent_fits(self, genotype.nodes)
        return genotype

    def size(self) -> int:
        count: int = factorial(self.nodes) * len(self.choosable) ** self.nodes
        return count

    def example(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """Return `n` text segments of word indices, (n, *shape), on the meta device."""
        return torch.zeros(n, *shape, dtype=torch.long, device="meta")

    def network(self, genotype: Genotype, classes: int, **size: Unpack[Size]) -> Network:
        """Return a network with one cell, by default with width 850 (appendix A.1.2)."""
        from nasx.spaces.recurrent.network import RecurrentNetwork

        assert isinstance(genotype, RecurrentGenotype)
        plain_only(size, "darts_rnn")
        if (layers := size.get("layers")) not in (None, 1):
            raise UserError(f"retrain.layers={layers}", "networks of darts_rnn have one cell", "remove retrain.layers")
        return RecurrentNetwork(genotype, classes, size.get("channels") or SIZE)
