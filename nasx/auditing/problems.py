"""Bilevel problems with closed-form solutions, and a search on them, all in float64.

    Scalar      L = (w x - a)^2, x = 1 on training batches and 2 on validation batches
    Quadratic   L1 = w'Aw / 2 - w'B a, L2 = ||w - c||^2 / 2 + w'D a + rho ||a||^2 / 2; `drawn`: random, larger

The tests of the built-in methods and `nasx audit` use the same problems. The constants are small round numbers.

Shapes: architecture parameters (edges, operations), mixtures (cells, edges, operations). Without an activation, `relax`
only adds the cell axis. `Batch.x` is [1] in training batches and [2] in validation batches; the problems read nothing
else from a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import torch
from torch import Tensor

from nasx.core.bilevel import Activate, Batch, Decision, Outcome, Search, Tree


def real(*values: object) -> Tensor:
    """Return a float64 tensor with the given values; several arguments are stacked on a new first axis."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def flat(tree: Tree) -> Tensor:
    """Return all leaves of a tree as one detached vector, in order."""
    return torch.cat([x.detach().reshape(-1) for x in tree.values()])


def unflat(vector: Tensor, like: Tree) -> Tree:
    """Return the tree with the names and shapes of `like` for which `flat` returns `vector`."""
    pieces = vector.split([x.numel() for x in like.values()])
    return {k: piece.reshape(x.shape).clone() for (k, x), piece in zip(like.items(), pieces, strict=True)}


def train(seed: int = 0) -> Batch:
    """Return a training batch; training batches differ only in their seeds."""
    return Batch(real([1.0]), torch.zeros(1, dtype=torch.long), seed)


def val(seed: int = 1000) -> Batch:
    """Return a validation batch; validation batches differ only in their seeds."""
    return Batch(real([2.0]), torch.zeros(1, dtype=torch.long), seed)


def identity(logits: Tensor) -> Tensor:
    return logits


def copied(tree: Tree) -> Tree:
    """Return a tree with detached copies of all leaves."""
    return {k: x.detach().clone() for k, x in tree.items()}


# ---------------------------------------------------------------------------------------------------- problems
@dataclass
class ClosedForm(ABC):
    """Base class of the closed-form `bilevel.Problem`s; `activation` is the default activation of `relax`."""

    activation: Activate = identity
    cells: int = 1
    groups: tuple[tuple[str, ...], ...] = (("a",),)

    @abstractmethod
    def w0(self) -> Tree:
        """Return the initial weights, for which the tests have expected values."""

    @abstractmethod
    def a0(self) -> Tree:
        """Return the initial architecture parameters, for which the tests have expected values."""

    @abstractmethod
    def value(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        """Return the loss () on a batch."""

    def relax(self, a: Tree, activate: Activate | None = None) -> Tree:
        activate = self.activation if activate is None else activate
        return {k: activate(x).expand(self.cells, *x.shape) for k, x in a.items()}

    def sample(self, gen: torch.Generator) -> Tree:
        def one_hot(x: Tensor) -> Tensor:
            choice = torch.randint(x.shape[-1], x.shape[:-1], generator=gen)
            return torch.nn.functional.one_hot(choice, x.shape[-1]).to(torch.float64).expand(self.cells, *x.shape)

        return {k: one_hot(x) for k, x in self.a0().items()}

    def mask(self, operation: str) -> Tree:
        """Return the mask of an operation; the first operation of each edge is a skip connection."""
        found = {k: torch.zeros(self.cells, *x.shape, dtype=torch.float64) for k, x in self.a0().items()}
        for x in found.values():
            x[..., 0] = float(operation == "skip_connect")
        return found

    def biased(self, mix: Tree, weights: Tree) -> Tree:
        return mix | {f"{k}.bias": x.sum(-1).unsqueeze(-2) for k, x in weights.items()}

    def decisions(self) -> list[list[Decision]]:
        """Return the decisions in two phases: one operation per edge, then one edge among those of the last mixture."""
        each = {k: x.shape for k, x in self.a0().items()}
        first = [
            Decision(k, tuple((e, o) for o in range(operations)))
            for k, (edges, operations) in each.items()
            for e in range(edges)
        ]
        name, (edges, _) = list(each.items())[-1]
        return [first, [Decision(name, tuple((e, None) for e in range(edges)), 1, False)]]

    def outcome(self, w: Tree, mix: Tree, batch: Batch, *, track: bool = False, evaluation: bool = False) -> Outcome:
        loss = self.value(w, mix, batch)
        return Outcome(loss, torch.zeros((), dtype=torch.float64))


def is_train(batch: Batch) -> bool:
    return bool(batch.x[0] == 1)


@dataclass
class Scalar(ClosedForm):
    """Problem T1: w (1,), a (1, 1); the initial weight equals `a` and minimizes the training loss."""

    def w0(self) -> Tree:
        return {"w": real([0.7])}

    def a0(self) -> Tree:
        return {"a": real([[0.7]])}

    def value(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        return (w["w"] * batch.x - mix["a"].reshape(-1)).square().sum()

    def exact(self) -> Tensor:
        """Return the exact hypergradient (1,) at (w0, a0): w*(a) = a, so the outer objective is a^2."""
        return 2 * flat(self.a0())


A = real([2.0, 0.5], [0.5, 1.0])
B = real([1.0, 0.0], [0.5, -1.0])
C = real([1.0, -1.0])
D = real([0.2, 0.1], [0.0, 0.3])
RHO = 0.1


@dataclass
class Quadratic(ClosedForm):
    """Problem T2; by default, it has two weights and `a` is (1, 2).

    The weights are split into two leaves, so that global norms differ from the norms of leaves. With n weights and m
    architecture parameters, A (n, n) is symmetric and positive definite, B and D are (n, m), and c is (n,).
    """

    A: Tensor = field(default_factory=lambda: A)
    B: Tensor = field(default_factory=lambda: B)
    c: Tensor = field(default_factory=lambda: C)
    D: Tensor = field(default_factory=lambda: D)
    w: Tensor = field(default_factory=lambda: real([0.5, 0.25]))
    a: Tensor = field(default_factory=lambda: real([[0.3, -0.2]]))

    @classmethod
    def drawn(cls, h: Tensor, edges: int, operations: int, seed: int = 0) -> Self:
        """Return a problem whose Hessian has the eigenvalues `h` (n,); all else is drawn from N(0, 1) with `seed`."""
        gen = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=gen, dtype=torch.float64)

        n, m = len(h), edges * operations
        basis, _ = torch.linalg.qr(normal(n, n))
        A = basis @ torch.diag(h) @ basis.T
        return cls(A=A, B=normal(n, m), c=normal(n), D=normal(n, m), w=normal(n), a=normal(edges, operations))

    def w0(self) -> Tree:
        first, second = self.w.clone().split([1, len(self.w) - 1])
        return {"first": first, "second": second}

    def w_star(self) -> Tree:
        """Return the minimizer of the training loss at a0."""
        return unflat(torch.linalg.solve(self.A, self.B @ flat(self.a0())), self.w0())

    def a0(self) -> Tree:
        return {"a": self.a.clone()}

    def value(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        x, a = torch.cat([w["first"], w["second"]]), mix["a"].reshape(-1)
        if is_train(batch):
            return x @ self.A @ x / 2 - x @ self.B @ a
        return (x - self.c).square().sum() / 2 + x @ self.D @ a + RHO / 2 * a.square().sum()

    def exact(self) -> Tensor:
        """Return the exact hypergradient (m,) at (w_star, a0)."""
        w, a = flat(self.w_star()), flat(self.a0())
        out: Tensor = self.D.T @ w + RHO * a + self.B.T @ torch.linalg.solve(self.A, w - self.c + self.D @ a)
        return out


# ------------------------------------------------------------------------------------------------------ search
class Moment(NamedTuple):
    """Position in a search: the epoch (from 0), the number of epochs, and the completed fraction of the search."""

    epoch: int
    epochs: int
    progress: float

    def set(self, search: Search) -> None:
        """Move `search` to this position."""
        search.epoch, search.epochs, search.progress = self


EARLY = Moment(1, 3, 0.0)
"""Start of the audited search: the second epoch, because coefficients that grow from zero are zero in the first."""
LATE = Moment(2, 4, 0.5)
"""Halfway through the search, where terms that are scaled by the progress are not zero."""


class Taken(NamedTuple):
    """An architecture step taken by a method, and the state of the search before it."""

    g: Tree
    """The argument of `descend_a`."""
    view: Search
    """The search on which `descend_a` was called, with the sampler and transform that wrappers have set."""
    w: Tree
    a: Tree
    moved: int
    """Number of weight steps before the architecture step."""


@dataclass
class Recorder(Search):
    """A search that records copies of its gradients, before clipping, and its state before each step."""

    grads_w: list[Tensor] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    visited: list[Tree] = field(default_factory=list)
    """The weights before each weight step."""

    @property
    def grads_a(self) -> list[Tensor]:
        return [flat({k: each.g[k] for k in self.a}) for each in self.taken]

    def descend_w(self, g: Tree, rate: float = 1.0) -> None:
        self.grads_w.append(flat({k: g[k] for k in self.w}).clone())
        self.visited.append(copied(self.w))
        super().descend_w(g, rate)

    def descend_a(self, g: Tree) -> None:
        self.taken.append(Taken(copied(g), self, copied(self.w), copied(self.a), len(self.visited)))
        super().descend_a(g)


def search(
    problem: ClosedForm,
    *,
    w: Tree | None = None,
    a: Tree | None = None,
    lr: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    buffer: Tree | None = None,
    clip: float | None = None,
    adam: bool = False,
    a_lr: float = 1.0,
    a_weight_decay: float = 0.0,
) -> Recorder:
    """Return a search at (w, a), by default (w0, a0), with SGD for the weights, and SGD or Adam for `a`.

    By default, a step subtracts the gradient from `a`, and weight gradients are not clipped, so that the expected
    values are exact. `buffer` sets the momentum buffers. Adam has betas (0.5, 0.999).
    """
    w = {k: x.detach().clone().requires_grad_() for k, x in (w or problem.w0()).items()}
    a = {k: x.detach().clone().requires_grad_() for k, x in (a or problem.a0()).items()}
    w_opt = torch.optim.SGD(w.values(), lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    for k, x in (buffer or {}).items():
        w_opt.state[w[k]]["momentum_buffer"] = x.detach().clone()
    a_opt: torch.optim.Optimizer = (
        torch.optim.Adam(a.values(), lr=a_lr, betas=(0.5, 0.999), weight_decay=a_weight_decay)
        if adam
        else torch.optim.SGD(a.values(), lr=a_lr, weight_decay=a_weight_decay)
    )
    return Recorder(problem=problem, w=w, a=a, w_opt=w_opt, a_opt=a_opt, clip=clip)
