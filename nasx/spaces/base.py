"""Interface of a search space. Spaces are independent of methods, datasets and training loops.

An architecture has three forms: architecture parameters `a`, which the search updates; mixture weights `mix`, one copy
per cell, which scale the operations of the supernet; and a `Genotype`, which is stored, looked up and retrained.
`relax` maps architecture parameters to a mixture, `discretize` maps a mixture to a genotype, and `encode` maps a
genotype to a one-hot mixture.
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
    """Class scores (items, classes) of the main head and, in training, of the auxiliary head if there is one.

    `penalty`, a scalar, is added to the training loss. `state` is the recurrent state with which the next batch starts.
    """

    main: Tensor
    auxiliary: Tensor | None = None
    penalty: Tensor | None = None
    state: Tensor | None = None


class Genotype(ABC):
    """A discrete architecture.

    Genotypes are frozen and hashable, and `parse(str(g)) == g`. Parsing never evaluates text as code.
    """

    @abstractmethod
    def __str__(self) -> str: ...

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self:
        """Parse a genotype from its text form. Raises UserError if the text is invalid."""

    @abstractmethod
    def operations(self) -> dict[str, int]:
        """Return the number of occurrences of each operation, by name."""

    def edges(self) -> dict[str, list[Edge]]:
        """Return the edges (source, target, operation) of each cell, by cell name.

        Override this method if `genotypes` cannot parse the text form.
        """
        return genotype_edges(str(self))


class Network(nn.Module, ABC):
    """A discrete network. Random operations draw from `gen` (None: the device's default generator).

    The forward pass of a text network also takes `state` and `regularizers`. An image network also has a method
    `features(x, gen=None, maps=None)`, which returns the feature map (n, channels, h, w) that is pooled for its
    `classifier`, and appends the output of each cell to `maps`. Only method=zen and `nasx.create_model` call this
    method.
    """

    @abstractmethod
    def forward(self, x: Tensor, *, drop_path: float = 0.0, gen: torch.Generator | None = None) -> Logits: ...


class Supernet(nn.Module, ABC):
    """A relaxed network, which takes the mixture as an argument and owns no architecture parameters."""

    @abstractmethod
    def forward(
        self, x: Tensor, mix: Tree, *, drop_path: Number = 0.0, gen: torch.Generator | None = None
    ) -> Logits: ...


class Space(ABC):
    """A search space. Concrete spaces are frozen, keyword-only dataclasses."""

    data: ClassVar[str] = "images"
    """Type of input that the space's networks take: "images" or "text"."""
    single: ClassVar[bool] = False
    """Whether the supernet has only one cell, which rules out methods that compare cells."""
    read_as: ClassVar[str] = ""
    """Key of the space's genotype parser in `published.READERS` and of its checks in `rules`; both work without
    torch. Empty if the space has neither."""

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each architecture parameter: ([cells,] edges, operations), with `cells` if untied."""

    @abstractmethod
    def cells(self) -> dict[str, int]:
        """Return the number of cells in the supernet that use each architecture parameter."""

    @property
    @abstractmethod
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Groups of parameter names, one for each cell type to which layer regularizers apply.

        The parameters in a group together describe one cell.
        """

    @abstractmethod
    def supernet(self, classes: int, *, naive: bool = False) -> Supernet: ...

    @abstractmethod
    def discretize(self, mix: Tree) -> Genotype:
        """Return the genotype derived from a mixture. Deterministic: ties go to the lowest index."""

    @abstractmethod
    def encode(self, genotype: Genotype) -> Tree:
        """Return a genotype as a one-hot mixture, on the CPU and in the default dtype."""

    @abstractmethod
    def sample(self, gen: torch.Generator) -> Genotype:
        """Draw an architecture uniformly from the space."""

    @abstractmethod
    def parse(self, text: str) -> Genotype:
        """Parse a genotype from any known text form. Raises UserError if this space does not contain it."""

    @abstractmethod
    def size(self) -> int:
        """Return the number of genotypes."""

    @abstractmethod
    def network(self, genotype: Genotype, classes: int, **size: Unpack[Size]) -> Network:
        """Return the discrete network of a genotype, by default at the space's retraining size."""

    # ------------------------------------------------------------------------------------- shared by all spaces
    def standalone(self, genotype: Genotype, classes: int) -> Network:
        """Return the discrete network of a genotype with the layers, channels and stem of the supernet."""
        size = {name: getattr(self, name) for name in ("layers", "channels", "stem") if hasattr(self, name)}
        return self.network(genotype, classes, **size)

    def example(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """Return a batch of n items of this shape on the meta device."""
        return torch.zeros(n, *shape, device="meta")

    def edge_operations(self, name: str) -> tuple[tuple[str, ...], ...]:
        """Return the operations of each edge, in the order of the last axis of parameter `name`.

        Returns () if the parameter does not weight operations.
        """
        return ()

    def allowed(self) -> tuple[tuple[str, ...], ...]:
        """Return the operations of each edge, concatenated over all parameters."""
        return tuple(row for name in self.cells() for row in self.edge_operations(name))

    def mask(self, operation: str) -> Tree:
        """Return a mask with the shapes of the mixture, on the CPU: 1 for `operation`, 0 for all others."""
        found = {}
        for name, cells in self.cells().items():
            lists = self.edge_operations(name)
            rows = torch.tensor([[float(own == operation) for own in row] for row in lists])
            found[name] = (rows if lists else torch.zeros(self.shapes()[name][-2:])).expand(cells, -1, -1)
        return found

    def biased(self, mix: Tree, weights: Tree) -> Tree:
        """Return `mix` with an additional `NAME.bias` (cells, 1, edges) for each NAME that weights operations.

        The bias of an edge is the sum of its `weights`. The supernet adds it to every element of the edge's output.
        """
        return mix | {
            f"{name}.bias": weights[name].sum(-1).unsqueeze(-2) for name in self.cells() if self.edge_operations(name)
        }

    def decisions(self) -> tuple[tuple[Decision, ...], ...]:
        """Return the decisions that define a genotype, in phases.

        The first phase selects an operation for each edge; later phases, if any, select the edges to keep.
        """
        return (
            tuple(
                Decision(name, tuple((e, o) for o in range(len(row))))
                for name in self.cells()
                for e, row in enumerate(self.edge_operations(name))
            ),
        )

    def places(self, name: str) -> int:
        """Return the number of cells that decide independently for a parameter: 1 if all cells share the decisions."""
        return 1

    def edge_shares(self, mix: Tree) -> Tree:
        """Return the probability that each edge is kept, (cells, edges), for parameters with separate edge weights."""
        return {}

    def sites(self, shape: tuple[int, ...], **size: Unpack[Size]) -> Iterator[Site]:
        """Yield all edges of a network of this `size` (layers, channels, stem) for inputs of `shape`.

        Raises UserError if the cost of a network is not a sum over its edges.
        """
        raise UserError(
            "budget",
            f"{type(self).__name__} does not define the cost of its networks",
            "set budget=none, or implement sites",
        )

    def cost_model(self, counter: Counter, classes: int, shape: tuple[int, ...], **size: Unpack[Size]) -> CostModel:
        """Return a cost model, on the CPU, for networks of this `size`."""
        genotype = self.sample(torch.Generator().manual_seed(0))
        with torch.device("meta"):
            network = self.network(genotype, classes, **size)
        table = edge_table(self, self.sites(shape, **size), counter)
        edges = float(EdgeCosts(self, table, 0.0)(self.encode(genotype)))
        return EdgeCosts(self, table, counter.network(network, self.example(1, shape)) - edges)

    def tabulated(self, values: Sequence[float]) -> CostModel:
        """Return the cost model for a benchmark's table of all cells. Raises UserError if there is no such table."""
        raise UserError("budget", f"no benchmark has a table of all cells of {type(self).__name__}", "use budget=macs")

    def measured(self, table: Latencies) -> CostModel:
        """Return the cost model for measured latencies, at the network size of the table.

        Raises UserError if the table lacks an operation.
        """
        return EdgeCosts(
            self,
            edge_table(self, self.sites(tuple(table.about["image"]), **table.size), table),
            table.fixed_ms,
        )

    def narrow(self, mix: Tree, keep: int | None) -> Self:
        """Return this space with only the `keep` strongest operations on each edge, in their original order.

        None keeps all operations. Ties go to the lower index. Raises UserError if all edges share one list of
        operations.
        """
        raise UserError(
            "stages",
            f"all edges of {type(self).__name__} share one list of operations, so it cannot be narrowed",
            "use a DARTS space or nb201, or stages=none",
        )

    def init(self, gen: torch.Generator) -> Tree:
        """Draw architecture parameters from 1e-3 N(0, 1) on the CPU, as in DARTS' cnn/model_search.py.

        The paper starts from equal values instead.
        """
        return {name: 1e-3 * torch.randn(shape, generator=gen) for name, shape in self.shapes().items()}

    def relax(self, a: Tree, activate: Activate) -> Tree:
        """Return the mixture (cells, edges, operations): activated parameters, repeated for the cells that use them."""
        shapes = self.shapes()
        return {name: activate(a[name]).expand(cells, *shapes[name][-2:]) for name, cells in self.cells().items()}
