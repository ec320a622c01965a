"""Methods that alternate T weight steps with one architecture step along a hypergradient.

Each method defines its hypergradient: its approximation of d L2(w*(a), a) / d a. These approximations need second-order
products of the training loss L1 on one batch,

    H u = d^2 L1 / dw^2 u,     M u = d^2 L1 / da dw u        (u is a tree like the weights)

which `Exact` computes by double backward, and `Difference` by central differences.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from nasx.core.bilevel import (
    Batch,
    Method,
    Number,
    Outcome,
    Search,
    SecondDerivative,
    Tree,
    combine,
    detached,
    dot,
    gradient,
    gradients,
    logs,
)


class Hypergradient(NamedTuple):
    """The hypergradient `g` (a tree like `a`) and the outcome of L2; for second-order methods also v and s (like `w`).

    v = d L2 / dw, and s is the tree that M is applied to: v itself (DARTS), H v (Amended) or a series (iDARTS).
    """

    g: Tree
    outcome: Outcome
    v: Tree | None = None
    s: Tree | None = None


def first_order(search: Search, val: Batch) -> Hypergradient:
    """Compute d L2 / d a at the current weights. Cost: one pass, without weight gradients."""
    outcome = search.outcome(detached(search.w), search.a, val)
    return Hypergradient(gradient(outcome.loss, search.a), outcome)


def outer_gradients(search: Search, val: Batch, w: Tree | None = None) -> tuple[Outcome, Tree, Tree]:
    """Compute the outcome of L2, v = d L2 / d w and d L2 / d a at `w` (None: current weights). Cost: one pass."""
    w = detached(search.w, requires_grad=True) if w is None else w
    outcome = search.outcome(w, search.a, val)
    v, direct = gradients(outcome.loss, w, search.a)
    return outcome, v, direct


class Difference:
    """Products H u and M u at the current weights, by central differences with probes at distance `radius`.

    Cost: two passes per product. Each product is passed with its name to the `probe` of the search.
    """

    def __init__(self, search: Search, batch: Batch, radius: float) -> None:
        self.search, self.batch, self.radius = search, batch, radius

    @cached_property
    def _loss_w(self) -> SecondDerivative:
        search, batch = self.search, self.batch
        mix = detached(search.mixture(search.a, batch))
        return SecondDerivative(lambda w: search.problem.outcome(w, mix, batch).loss, search.w)

    @cached_property
    def _loss_wa(self) -> SecondDerivative:
        search, batch = self.search, self.batch
        return SecondDerivative(lambda w, a: search.loss(w, a, batch), search.w, search.a)

    def hessian(self, u: Tree, name: str = "Hu") -> Tree:
        """Compute H u, a tree like the weights."""
        return self.search.probed(name, self._loss_w, u, radius=self.radius)

    def mixed(self, u: Tree, name: str = "Mu", eps: Number | None = None) -> Tree:
        """Compute M u, a tree like the architecture, with the step radius / ||u|| unless `eps` is given."""
        return self.search.probed(name, self._loss_wa, u, radius=self.radius, eps=eps)


class Exact:
    """Products H u and M u at the current weights, by double backward through one graph that they share.

    Cost: one pass, and one backward pass per product.
    """

    def __init__(self, search: Search, batch: Batch) -> None:
        self.w, self.a = detached(search.w, requires_grad=True), search.a
        self.slope = gradient(search.loss(self.w, self.a, batch), self.w, create=True)

    def hessian(self, u: Tree) -> Tree:
        """Compute H u, a tree like the weights. The graph is kept."""
        return gradient(dot(self.slope, u), self.w, retain=True)

    def mixed(self, u: Tree) -> Tree:
        """Compute M u, a tree like the architecture. Frees the graph, so this must be the last product."""
        return gradient(dot(self.slope, u), self.a)


def conjugate_gradients(product: Callable[[Tree], Tree], v: Tree, steps: int, tolerance: float = 1e-10) -> Tree:
    """Solve H x = v approximately with `steps` Hessian products (`product`).

    The iteration stops when the residual norm falls to `tolerance` times that of v, or at a direction of nonpositive
    curvature (truncated Newton: Nocedal and Wright (2006), algorithm 7.1); x is zero if this is the first direction.
    All products are computed even then, to avoid host synchronization.
    """
    x, r, p = {k: torch.zeros_like(t) for k, t in v.items()}, v, v
    left = start = dot(r, r)
    going = torch.ones_like(start, dtype=torch.bool)
    for _ in range(steps):
        Hp = product(p)
        curved = dot(p, Hp)
        going = going & (curved > 0) & (left > tolerance**2 * start)
        length = torch.where(going, left / torch.where(going, curved, 1.0), 0.0)
        x, r = combine(x, p, length), combine(r, Hp, -length)
        before, left = left, dot(r, r)
        p = combine(r, p, torch.where(going, left / torch.where(going, before, 1.0), 0.0))
    return x


@dataclass(frozen=True, kw_only=True)
class Alternating(Method):
    """Base class of methods that alternate weight steps with one architecture step along `hypergradient`."""

    @property
    def weights_first(self) -> bool:
        """Whether a step updates the weights before the architecture."""
        return False

    @abstractmethod
    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        """Compute the method's approximation of d L2(w*(a), a) / d a. Changes no state."""

    def move_w(self, search: Search, train: Sequence[Batch]) -> dict[str, Tensor]:
        """Take a weight step on each training batch, and return the logs of the last one."""
        for batch in train:
            outcome = search.update_w(batch)
        return logs(outcome)

    def move_a(self, search: Search, train: Batch, val: Batch) -> dict[str, Tensor]:
        """Take an architecture step along the hypergradient and return its logs; do nothing during warm-up."""
        if search.warming:
            return {}
        found = self.hypergradient(search, train, val)
        search.descend_a(found.g)
        return logs(val=found.outcome)

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        if self.weights_first:
            moved_w = self.move_w(search, train)
            return moved_w | self.move_a(search, train[-1], val)
        moved_a = self.move_a(search, train[-1], val)
        return self.move_w(search, train) | moved_a
