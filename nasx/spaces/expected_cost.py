"""Expected cost of the discrete networks that a mixture describes, differentiable with respect to the mixture.

An architecture is drawn in two steps: the space's discretization rule selects the edges, and each selected edge
independently draws one operation. The probability of an operation is its mixture weight, normalized over the operations
that can be selected on the edge. Cost is a sum over the parts of a network, so the expectation is exact and linear in
these probabilities:

    E[cost](mix) = fixed + sum over edges e, operations o of  kept_e  p_eo  c_eo
    p_eo = mix_eo / sum over selectable o' of mix_eo'

c_eo is the cost of operation o on edge e, summed over all cells that share the decision, each with its own width and
resolution. `fixed` is the cost of stems, preprocessing, reductions between stages, and the classifier.

Deviations from the mixture with which the supernet is trained
1. Weights are normalized over the selectable operations: the DARTS space excludes `none`, and sigmoids (FairDARTS,
   Single-DARTS) need not sum to 1. For a softmax over selectable operations, p = mix.
2. kept_e is 1 for the edges that discretization would keep for this mixture (the two strongest edges into each node in
   the DARTS space; the wiring in NAS-Bench-1Shot1) and 0 for all others. It has no gradient: a cost changes the
   operations on kept edges, never the selection of edges. If pairs of edges have their own weights
   (`space.edges=searched`), kept_e is the sum of the weights of the pairs that contain edge e, and has a gradient.
3. `space.max_skips` is ignored. The cost of a derived network is always computed from its genotype.

Costs are those of the discrete network at the retraining size, without partial channels, not of the supernet.

Shapes: mix as defined by the space; p and c (cells or 1, edges, operations); the cost is a scalar.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from nasx.core.trees import Decision, Tree

Genotype = TypeVar("Genotype")


class Site(NamedTuple):
    """An edge in one cell of a discrete network."""

    name: str
    """Name of the architecture parameter that selects the operation."""
    place: int
    """Index along the mixture's first axis; 0 if all cells share the decision."""
    edge: int
    channels: int
    stride: int
    height: int
    width: int
    """`height` and `width` are the size of the operation's input."""


class OperationCosts(Protocol):
    """Costs of operations: exact counts (cost.py) or measured latencies (latency.py)."""

    def operation(self, name: str, channels: int, stride: int, height: int, width: int) -> float:
        """Return the cost of an operation with `channels` input and output channels for an input of this size."""


class Counter(OperationCosts, Protocol):
    """Costs of operations and of whole networks."""

    def network(self, network: nn.Module, example: Tensor) -> float:
        """Return the cost of a whole network for one item."""


class Choices(Protocol):
    """Methods of a space that cost models use."""

    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    def cells(self) -> dict[str, int]: ...

    def places(self, name: str) -> int: ...

    def edge_operations(self, name: str) -> tuple[tuple[str, ...], ...]: ...

    def edge_shares(self, mix: Tree) -> Tree: ...

    def decisions(self) -> tuple[tuple[Decision, ...], ...]: ...


class Discretization(Choices, Protocol[Genotype]):
    """Methods of a space that are needed to find an architecture within a budget."""

    def discretize(self, mix: Tree) -> Genotype: ...

    def encode(self, genotype: Genotype) -> Tree: ...


class CostModel(ABC):
    """Cost of the discrete networks of a space at one size, as a function of the mixture."""

    @abstractmethod
    def __call__(self, mix: Tree) -> Tensor:
        """Return the expected cost (a float64 scalar, exact for a one-hot mixture) without host synchronization."""

    @abstractmethod
    def least(self) -> float:
        """Return a lower bound on the cost of any network in the space."""

    @abstractmethod
    def to(self, device: torch.device) -> CostModel:
        """Return a copy of the model on `device`."""


def reachable(space: Choices) -> Tree:
    """Return a mask (places, edges, operations) per parameter: 1 for operations that can be selected, 0 elsewhere.

    Parameters without operations are omitted.
    """
    found: Tree = {}
    for name in space.cells():
        rows = space.edge_operations(name)
        if rows:
            found[name] = torch.zeros(space.places(name), len(rows), len(rows[0]), dtype=torch.float64)
    for decision in space.decisions()[0]:
        for edge, operation in decision.options:
            assert operation is not None
            found[decision.name][slice(None) if decision.cell is None else decision.cell, edge, operation] = 1.0
    return found


def probabilities(rows: Tensor, among: Tensor) -> Tensor:
    """Normalize weights (..., operations) over the mask `among`; rows without weight in the mask become 0."""
    weights = rows.double() * among
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, torch.ones_like(total))


def strongest_mask(strength: Tensor, keep: int) -> Tensor:
    """Return a mask: 1 for the `keep` largest values along the last axis, 0 elsewhere; ties go to lower indices."""
    order = torch.sort(strength.detach(), dim=-1, descending=True, stable=True).indices[..., :keep]
    return torch.zeros_like(strength, dtype=torch.float64).scatter_(-1, order, 1.0)


class EdgeCosts(CostModel):
    """Cost model in which the cost of a network is a constant plus a sum over its edges."""

    def __init__(self, space: Choices, table: Tree, fixed: float) -> None:
        """Create the model from `table` (places, edges, operations), the float64 costs c_eo from `edge_table`."""
        self.space, self.table, self.fixed, self.among = space, table, fixed, reachable(space)
        self.weighed = space.edge_shares(
            {name: torch.zeros(1, *shape) for name, shape in space.shapes().items()}
        ).keys()
        self.choices = [
            (d.name, slice(None) if d.cell is None else d.cell, torch.tensor([e for e, _ in d.options]), d.keep)
            for phase in space.decisions()[1:]
            for d in phase
        ]

    def to(self, device: torch.device) -> EdgeCosts:
        moved = EdgeCosts(self.space, {name: x.to(device) for name, x in self.table.items()}, self.fixed)
        moved.among = {name: x.to(device) for name, x in self.among.items()}
        moved.choices = [(name, place, edges.to(device), keep) for name, place, edges, keep in self.choices]
        return moved

    def least(self) -> float:
        total = self.fixed
        for name, table in self.table.items():
            costs = torch.where(self.among[name] > 0, table, torch.inf).amin(-1)
            kept = torch.isfinite(costs)
            for own, place, edges, keep in self.choices:
                if own == name:
                    kept[place, edges] = strongest_mask(-costs[place][..., edges], keep).bool()
            total += float(costs[kept].sum()) if name not in self.weighed else 0.0
        return total

    def __call__(self, mix: Tree) -> Tensor:
        total = torch.full((), self.fixed, dtype=torch.float64, device=next(iter(self.table.values())).device)
        shares = self.space.edge_shares(mix)
        for name, table in self.table.items():
            rows, among = mix[name][: len(table)], self.among[name]
            per_edge = (probabilities(rows, among) * table).sum(-1)
            if name in shares:
                per_edge = per_edge * shares[name][: len(table)].double()
            strength, kept = (rows.double() * among).amax(-1), torch.ones_like(per_edge)
            for own, place, edges, keep in self.choices:
                if own == name:
                    kept[place, edges] = strongest_mask(strength[place][..., edges], keep)
            total = total + (per_edge * kept).sum()
        return total


def edge_table(space: Choices, sites: Iterable[Site], counter: OperationCosts) -> Tree:
    """Return the float64 costs c_eo of a network with these edges, (places, edges, operations) per parameter."""
    table = {name: torch.zeros_like(x) for name, x in reachable(space).items()}
    for site in sites:
        names = space.edge_operations(site.name)[site.edge]
        costs = [counter.operation(name, site.channels, site.stride, site.height, site.width) for name in names]
        table[site.name][site.place, site.edge] += torch.tensor(costs, dtype=torch.float64)
    return table


def swaps(space: Discretization[Genotype], mix: Tree, weights: Tree) -> Iterator[tuple[Tree, float]]:
    """Yield (mixture, lost weight) for every genotype that differs from that of `mix` in one operation.

    The new operation takes over the weight of the old operation, so that the same edges are kept. The lost weight is
    the difference between the weights of the two in `weights`, the mixture before any swap. Both trees must be on the
    CPU.
    """
    hot = space.encode(space.discretize(mix))
    for name, among in reachable(space).items():
        for place in range(len(among)):
            cells = slice(None) if len(among) == 1 else place
            for edge, operation in (hot[name][place] > 0).nonzero().tolist():
                row = weights[name][place, edge].tolist()
                for other in among[place, edge].nonzero().flatten().tolist():
                    if other != operation:
                        swapped = dict(mix) | {name: mix[name].clone()}
                        swapped[name][cells, edge] = 0.0
                        swapped[name][cells, edge, other] = mix[name][place, edge, operation]
                        yield swapped, row[operation] - row[other]


def nearest(space: Discretization[Genotype], mix: Tree, model: CostModel, target: float) -> Tree | None:
    """Greedily swap operations in `mix` until its architecture costs at most `target`, and return the new mixture.

    If any swap reaches the target, the one that loses the least mixture weight is made; otherwise, the one that loses
    the least weight per unit of cost saved. The edges that discretization keeps for `mix` do not change. Returns None
    if the target cannot be reached with these edges. Deterministic: ties go to the first edge and operation.
    """

    def cost(tree: Tree) -> float:
        return float(model(space.encode(space.discretize(tree))))

    mix = {name: x.detach().cpu() for name, x in mix.items()}
    now, costs = mix, cost(mix)
    while costs > target:
        found = [(lost, price, swapped) for swapped, lost in swaps(space, now, mix) if (price := cost(swapped)) < costs]
        if not found:
            return None
        enough = [each for each in found if each[1] <= target]
        _, costs, now = min(enough or found, key=lambda each: each[0] if enough else each[0] / (costs - each[1]))
    return now
