"""The interface of a search space. A space does not depend on methods, datasets or loops.

An architecture has three forms: logits `a`, which a search updates; mixture weights `mix`, one copy per cell, by which
the supernet multiplies its operations; and a `Genotype`, which is stored, looked up and retrained. `relax` maps the
first to the second, `discretize` the second to the third, and `encode` a genotype to a one-hot mixture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, Self, Unpack

import torch
from torch import Tensor, nn

from nasx.core.trees import Activate, Decision, Number, Tree
from nasx.errors import UserError
from nasx.spaces.edges import Edge, genotype_edges
from nasx.spaces.expected_cost import CostModel, Counter, EdgeCosts, Site, edge_table
from nasx.spaces.latency import Latencies, Size


class Logits(NamedTuple):
    """Class scores (items, classes) of the main head, and in training also of the auxiliary head if there is one.

    `penalty` () is added to the training loss. `state` is the recurrent state that the next batch continues from.
    """

    main: Tensor
    auxiliary: Tensor | None = None
    penalty: Tensor | None = None
    state: Tensor | None = None


class Genotype(ABC):
    """A discrete architecture: frozen, hashable, and `parse(str(g)) == g` without evaluating any text."""

    @abstractmethod
    def __str__(self) -> str: ...

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form. Raises UserError."""

    @abstractmethod
    def operations(self) -> dict[str, int]:
        """Return the number of times that each operation occurs."""

    def edges(self) -> dict[str, list[Edge]]:
        """Return the edges (source, target, operation) by cell name. Override for text that `genotypes` cannot read."""
        return genotype_edges(str(self))


class Network(nn.Module, ABC):
    """A discrete network. Random operations draw from `gen` (None: the device's default generator).

    A text network also takes `state` and `regularizers`. An image network has a method
    `features(x, gen=None, maps=None)`, which returns the feature map (n, channels, h, w) that the network pools for its
    `classifier`, and appends the feature map after each cell to `maps`. Only method=zen and `nasx.create_model` need
    this method.
    """

    @abstractmethod
    def forward(self, x: Tensor, *, drop_path: float = 0.0, gen: torch.Generator | None = None) -> Logits: ...


class Supernet(nn.Module, ABC):
    """A relaxed network: it takes the mixture as an argument and owns no architecture parameter."""

    @abstractmethod
    def forward(
        self, x: Tensor, mix: Tree, *, drop_path: Number = 0.0, gen: torch.Generator | None = None
    ) -> Logits: ...


class Space(ABC):
    """A search space; concrete spaces are frozen keyword-only dataclasses."""

    data: ClassVar[str] = "images"
    """Input of the space's networks: images or text."""
    single: ClassVar[bool] = False
    """Whether a supernet has a single cell, so that methods cannot compare cells."""
    read_as: ClassVar[str] = ""
    """Key of the space's genotype parser in `published.READERS` and of its checks in `rules`, which need no torch;
    empty for a space with other settings."""

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the architecture parameters: ([cells,] edges, operations), with cells if untied."""

    @abstractmethod
    def cells(self) -> dict[str, int]:
        """Return the number of cells of the supernet that use each parameter."""

    @property
    @abstractmethod
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """One group of parameter names per cell type to which layer regularizers apply; a group describes one cell."""

    @abstractmethod
    def supernet(self, classes: int, *, naive: bool = False) -> Supernet: ...

    @abstractmethod
    def discretize(self, mix: Tree) -> Genotype:
        """Return the genotype of a mixture. Deterministic; ties go to the lowest index."""

    @abstractmethod
    def encode(self, genotype: Genotype) -> Tree:
        """Return the one-hot mixture of a genotype, on the CPU in the default dtype."""

    @abstractmethod
    def sample(self, gen: torch.Generator) -> Genotype:
        """Draw an architecture uniformly from the space."""

    @abstractmethod
    def parse(self, text: str) -> Genotype:
        """Parse a genotype of this space in any known text form. Raises UserError if the space does not contain it."""

    @abstractmethod
    def size(self) -> int:
        """Return the number of genotypes."""

    @abstractmethod
    def network(self, genotype: Genotype, classes: int, **size: Unpack[Size]) -> Network:
        """Return the discrete network, by default at the space's retraining size."""

    # ------------------------------------------------------------------------------------- common to all spaces
    def standalone(self, genotype: Genotype, classes: int) -> Network:
        """Return the discrete network at the size of the search: the layers, channels and stem of this space."""
        size = {name: getattr(self, name) for name in ("layers", "channels", "stem") if hasattr(self, name)}
        return self.network(genotype, classes, **size)

    def example(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """Return an input of n items of this shape on the meta device."""
        return torch.zeros(n, *shape, device="meta")

    def edge_operations(self, name: str) -> tuple[tuple[str, ...], ...]:
        """Return the operations of each edge of a parameter, ordered as on its last axis; empty if there are none."""
        return ()

    def allowed(self) -> tuple[tuple[str, ...], ...]:
        """Return the operations of each edge, concatenated over all parameters."""
        return tuple(row for name in self.cells() for row in self.edge_operations(name))

    def mask(self, operation: str) -> Tree:
        """Return a tree with the mixture's shapes, on the CPU: 1 at operations of this name, 0 elsewhere."""
        found = {}
        for name, cells in self.cells().items():
            lists = self.edge_operations(name)
            rows = torch.tensor([[float(own == operation) for own in row] for row in lists])
            found[name] = (rows if lists else torch.zeros(self.shapes()[name][-2:])).expand(cells, -1, -1)
        return found

    def biased(self, mix: Tree, weights: Tree) -> Tree:
        """Return `mix` extended by `NAME.bias` (cells, 1, edges), the sum of an edge's `weights`, for each NAME.

        The supernet adds an edge's bias to all entries of the edge's output.
        """
        return mix | {
            f"{name}.bias": weights[name].sum(-1).unsqueeze(-2) for name in self.cells() if self.edge_operations(name)
        }

    def decisions(self) -> tuple[tuple[Decision, ...], ...]:
        """Return the decisions of a genotype in phases: an operation for each edge, then the edges that are kept."""
        return (
            tuple(
                Decision(name, tuple((e, o) for o in range(len(row))))
                for name in self.cells()
                for e, row in enumerate(self.edge_operations(name))
            ),
        )

    def places(self, name: str) -> int:
        """Return the number of independent copies of a parameter's decisions: 1 if all cells share them."""
        return 1

    def edge_shares(self, mix: Tree) -> Tree:
        """Return the probability (cells, edges) that an edge is kept, for parameters with separate edge weights."""
        return {}

    def sites(self, shape: tuple[int, ...], **size: Unpack[Size]) -> Iterator[Site]:
        """Yield all edges of the network of this `size` (layers, channels, stem) for items of `shape`.

        Raises UserError if the cost of a network is not a sum over its edges.
        """
        raise UserError(
            "budget",
            f"{type(self).__name__} does not define the cost of its networks",
            "set budget=none, or implement sites",
        )

    def cost_model(self, counter: Counter, classes: int, shape: tuple[int, ...], **size: Unpack[Size]) -> CostModel:
        """Return the cost of the networks of this `size` as a function of the mixture, on the CPU."""
        genotype = self.sample(torch.Generator().manual_seed(0))
        with torch.device("meta"):
            network = self.network(genotype, classes, **size)
        table = edge_table(self, self.sites(shape, **size), counter)
        edges = float(EdgeCosts(self, table, 0.0)(self.encode(genotype)))
        return EdgeCosts(self, table, counter.network(network, self.example(1, shape)) - edges)

    def tabulated(self, values: Sequence[float]) -> CostModel:
        """Return the cost model of a benchmark's table of all cells. Raises UserError if there is no such table."""
        raise UserError("budget", f"no benchmark has a table of all cells of {type(self).__name__}", "use budget=macs")

    def measured(self, table: Latencies) -> CostModel:
        """Return the cost model of a table of measured latencies, for networks of that size. Raises UserError."""
        return EdgeCosts(
            self,
            edge_table(self, self.sites(tuple(table.about["image"]), **table.size), table),
            table.fixed_ms,
        )

    def narrow(self, mix: Tree, keep: int | None) -> Self:
        """Return this space with only the `keep` strongest operations of each edge, in their order (None: all).

        Ties go to the lower index. Raises UserError if edges cannot have different operations.
        """
        raise UserError(
            "stages",
            f"all edges of {type(self).__name__} share one list of operations, so it cannot be narrowed",
            "use a DARTS space or nb201, or stages=none",
        )

    def init(self, gen: torch.Generator) -> Tree:
        """Draw architecture parameters 1e-3 N(0, 1) on the CPU (DARTS' cnn/model_search.py; equal in the paper)."""
        return {name: 1e-3 * torch.randn(shape, generator=gen) for name, shape in self.shapes().items()}

    def relax(self, a: Tree, activate: Activate) -> Tree:
        """Return the mixture (cells, edges, operations): an activated copy for each cell that uses a parameter."""
        shapes = self.shapes()
        return {name: activate(a[name]).expand(cells, *shapes[name][-2:]) for name, cells in self.cells().items()}
