"""The expected cost of the discrete network of a mixture, and its gradient.

An architecture is drawn in two steps: the space's rule selects the edges, and each of these edges independently takes
one operation, with the operation's mixture weight, normalized over the operations that can be selected on this edge, as
its probability. Cost is a sum over a network's parts, so the expectation is exact and linear in these probabilities:

    E[cost](mix) = fixed + sum over edges e, operations o of  kept_e  p_eo  c_eo
    p_eo = mix_eo / sum over selectable o' of mix_eo'

c_eo is the cost of operation o summed over all cells of the network that share the decision, each at its own width and
resolution. `fixed` is the cost of stems, preprocessing, reductions between stages, and the classifier.

Deviations from the mixture that a supernet is trained with
1. Weights are normalized over the operations that can be selected: in the DARTS space these exclude `none`, and
   sigmoids (FairDARTS, Single-DARTS) need not sum to 1. For a softmax over selectable operations p = mix.
2. kept_e is 1 on the edges that discretization would keep for this mixture (the two strongest edges of a node in the
   DARTS space; the wiring in NAS-Bench-1Shot1), 0 on the dropped edges, and constant for the gradient: a cost changes
   the operations of kept edges, never the selection of edges. If pairs of edges have their own weights
   (`space.edges=searched`), kept_e is the sum of the weights of the pairs that contain edge e, and has a gradient.
3. `space.max_skips` is not considered. The cost of the discrete network itself is always the cost of its genotype.

Costs are counted on the discrete network, not on the supernet: at the retraining size, without partial channels.

Shapes: mix as in the space, probabilities and c (cells or 1, edges, operations), cost ().
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
    """An edge of one cell of a discrete network."""

    name: str
    """Name of the parameter that decides the operation."""
    place: int
    """Index on the mixture's first axis; 0 if all cells share the decision."""
    edge: int
    channels: int
    stride: int
    height: int
    width: int
    """Height and width are those of the operation's input."""


class OperationCosts(Protocol):
    """Costs of operations: exact counts (cost.py) or measured latencies (latency.py)."""

    def operation(self, name: str, channels: int, stride: int, height: int, width: int) -> float:
        """Return the cost of an operation with `channels` input and output channels on an input of this size."""


class Counter(OperationCosts, Protocol):
    """Costs of operations and of whole networks."""

    def network(self, network: nn.Module, example: Tensor) -> float:
        """Return the cost of a whole network for one item."""


class Choices(Protocol):
    """The methods of a space that a cost model uses."""

    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    def cells(self) -> dict[str, int]: ...

    def places(self, name: str) -> int: ...

    def edge_operations(self, name: str) -> tuple[tuple[str, ...], ...]: ...

    def edge_shares(self, mix: Tree) -> Tree: ...

    def decisions(self) -> tuple[tuple[Decision, ...], ...]: ...


class Discretization(Choices, Protocol[Genotype]):
    """The methods of a space that a search for an architecture within a budget uses."""

    def discretize(self, mix: Tree) -> Genotype: ...

    def encode(self, genotype: Genotype) -> Tree: ...


class CostModel(ABC):
    """The cost of all discrete networks of a space at one size, as a function of the mixture."""

    @abstractmethod
    def __call__(self, mix: Tree) -> Tensor:
        """Compute the expected cost () in float64, exact for a one-hot mixture, without host synchronization."""

    @abstractmethod
    def least(self) -> float:
        """Return a lower bound on the cost of all networks of the space."""

    @abstractmethod
    def to(self, device: torch.device) -> CostModel:
        """Return the model on another device."""


def reachable(space: Choices) -> Tree:
    """Return a tree (places, edges, operations): 1 for each operation that a genotype may have, 0 elsewhere.

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
    """Normalize weights (..., operations) over the operations that can be selected; 0 on edges without any."""
    weights = rows.double() * among
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, torch.ones_like(total))


def strongest_mask(strength: Tensor, keep: int) -> Tensor:
    """Return 1 for the `keep` largest values on the last axis, 0 elsewhere; lower indices win ties."""
    order = torch.sort(strength.detach(), dim=-1, descending=True, stable=True).indices[..., :keep]
    return torch.zeros_like(strength, dtype=torch.float64).scatter_(-1, order, 1.0)


class EdgeCosts(CostModel):
    """Cost model of a space in which a network's cost is the sum over its edges plus a constant."""

    def __init__(self, space: Choices, table: Tree, fixed: float) -> None:
        """Create the model from `table` (places, edges, operations), the float64 costs c_eo counted by `edge_table`."""
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
    """Return the costs c_eo of a network with these edges, (places, edges, operations) in float64."""
    table = {name: torch.zeros_like(x) for name, x in reachable(space).items()}
    for site in sites:
        names = space.edge_operations(site.name)[site.edge]
        costs = [counter.operation(name, site.channels, site.stride, site.height, site.width) for name in names]
        table[site.name][site.place, site.edge] += torch.tensor(costs, dtype=torch.float64)
    return table


def swaps(space: Discretization[Genotype], mix: Tree, weights: Tree) -> Iterator[tuple[Tree, float]]:
    """Yield mixtures whose genotype differs from that of `mix` in the operation of one kept edge, and the weight lost.

    The new operation takes the weight of the old operation, so that the same edges are kept; the lost weight is the
    difference of the two in `weights`, the mixture before any swap. Both trees are on the CPU.
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
    """Return a mixture whose architecture costs at most `target`: `mix` after greedy swaps of operations on kept edges.

    Among the swaps that reach the target at once, the swap that loses the least mixture weight is made; if no swap
    does, the swap that loses the least weight per unit of cost saved. The edges that the rule keeps for `mix` do not
    change. Returns None if these edges allow no architecture within the target. Deterministic; ties go to the first
    edge and operation.
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
