"""Bilevel problems with closed forms, their exact expectations, and a search around them. All in float64.

    Scalar          L = (w x - a)^2, x = 1 on training batches and 2 on validation batches
    Quadratic       L1 = w'Aw / 2 - w'B a, L2 = ||w - c||^2 / 2 + w'D a + rho ||a||^2 / 2
    Alignment       L = sum over cells of p_l' M_l w (+ curvature (sum of s'p_l)^2 ||w||^2 / 2)
    Counterexample  L1 = w'Hw / 2 + a (w_1 + w_2), L2 = v'w: the amended term opposes the exact one
    Correlation     L = sum over samples of ||p W x_j - y_j||^2 / 2
    Smooth          a small classifier with no closed form: curved in everything, softmax mixture, optional noise

The constants are small round numbers; test_toy.py derives what is expected of them with plain matrices.

Shapes: architecture parameters (edges, operations), mixtures (cells, edges, operations). `relax` is the identity
(with the cell axis in front) for all but `Smooth`, unless the caller passes an activation. `Batch.x` of `TRAIN` is
[1] and of `VAL` is [2]; the first four problems read nothing else of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nasx.core.bilevel import Activate, Batch, Decision, Outcome, Problem, Search, Selection, Tree


def real(*values: Any) -> Tensor:
    """A float64 tensor of nested lists; several arguments make the leading axis."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def flat(tree: Tree) -> Tensor:
    """All leaves as one detached vector, in the order of the tree."""
    return torch.cat([x.detach().reshape(-1) for x in tree.values()])


def unflat(vector: Tensor, like: Tree) -> Tree:
    """The tree shaped `like` whose `flat` is `vector`."""
    pieces = vector.split([x.numel() for x in like.values()])
    return {k: piece.reshape(x.shape).clone() for (k, x), piece in zip(like.items(), pieces, strict=True)}


def train(seed: int = 0) -> Batch:
    """A training batch; those of the closed forms differ in the seed alone."""
    return Batch(real([1.0]), torch.zeros(1, dtype=torch.long), seed)


def val(seed: int = 1000) -> Batch:
    """A validation batch."""
    return Batch(real([2.0]), torch.zeros(1, dtype=torch.long), seed)


TRAIN, VAL = train(), val()


def identity(logits: Tensor) -> Tensor:
    return logits


# ---------------------------------------------------------------------------------------------------- problems
@dataclass
class Toy(ABC):
    """A bilevel.Problem of one loss function; `activation` is what `relax` applies when it is given none."""

    activation: Activate = identity
    cells: int = 1
    groups: tuple[tuple[str, ...], ...] = (("a",),)

    @abstractmethod
    def w0(self) -> Tree:
        """The weights at which the expectations hold."""

    @abstractmethod
    def a0(self) -> Tree:
        """The architecture parameters at which the expectations hold."""

    @abstractmethod
    def value(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        """The loss, ()."""

    def relax(self, a: Tree, activate: Activate | None = None) -> Tree:
        activate = self.activation if activate is None else activate
        return {k: activate(x).expand(self.cells, *x.shape) for k, x in a.items()}

    def sample(self, gen: torch.Generator) -> Tree:
        def one_hot(x: Tensor) -> Tensor:
            choice = torch.randint(x.shape[-1], x.shape[:-1], generator=gen)
            return torch.nn.functional.one_hot(choice, x.shape[-1]).to(torch.float64).expand(self.cells, *x.shape)

        return {k: one_hot(x) for k, x in self.a0().items()}

    def mask(self, operation: str) -> Tree:
        """The first operation of each edge is a skip connection."""
        found = {k: torch.zeros(self.cells, *x.shape, dtype=torch.float64) for k, x in self.a0().items()}
        for x in found.values():
            x[..., 0] = float(operation == "skip_connect")
        return found

    def biased(self, mix: Tree, weights: Tree) -> Tree:
        return mix | {f"{k}.bias": x.sum(-1).unsqueeze(-2) for k, x in weights.items()}

    def decisions(self) -> list[list[Decision]]:
        """One operation of each edge; then one edge of the last name."""
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
class Scalar(Toy):
    """T1. w (1,), a (1, 1); w0 = a0 minimizes the training loss."""

    def w0(self) -> Tree:
        return {"w": real([0.7])}

    def a0(self) -> Tree:
        return {"a": real([[0.7]])}

    def value(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        return (w["w"] * batch.x - mix["a"].reshape(-1)).square().sum()


A = real([2.0, 0.5], [0.5, 1.0])
B = real([1.0, 0.0], [0.5, -1.0])
C = real([1.0, -1.0])
D = real([0.2, 0.1], [0.0, 0.3])
RHO = 0.1


@dataclass
class Quadratic(Toy):
    """T2. The two weights are two leaves, so that global norms differ from norms of leaves; a (1, 2)."""

    def w0(self) -> Tree:
        return {"first": real([0.5]), "second": real([0.25])}

    def w_star(self) -> Tree:
        """The minimizer of the training loss at a0."""
        return unflat(torch.linalg.solve(A, B @ flat(self.a0())), self.w0())

    def a0(self) -> Tree:
        return {"a": real([[0.3, -0.2]])}

    def value(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        x, a = torch.cat([w["first"], w["second"]]), mix["a"].reshape(-1)
        if is_train(batch):
            return x @ A @ x / 2 - x @ B @ a
        return (x - C).square().sum() / 2 + x @ D @ a + RHO / 2 * a.square().sum()


M = real(
    [[1.0, 0, 2], [0, 1, -1], [1, 1, 0], [2, -1, 1]],
    [[0.0, 1, 1], [1, 0, 0], [-1, 2, 0], [0, 1, 1]],
    [[1.0, 1, 0], [0, -1, 2], [1, 0, 1], [0, 0, -1]],
)
S = real([1.0, -1.0, 0.5, 2.0])


@dataclass
class Alignment(Toy):
    """T3 and, with `curvature`, T4. Three cells; w (3,). Validation batches give twice the loss of training batches.

    With `split`, the four parameters of a cell are two names of two, which together describe the cell.
    """

    curvature: float = 0.0
    split: bool = False
    cells: int = 3

    def __post_init__(self) -> None:
        if self.split:
            self.groups = (("ops", "inputs"),)

    def w0(self) -> Tree:
        return {"w": real([1.0, -0.5, 2.0])}

    def a0(self) -> Tree:
        p = real([[0.1, 0.2, 0.3, 0.4]])
        return {"ops": p[:, :2].clone(), "inputs": p[:, 2:].clone()} if self.split else {"a": p}

    def value(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        p = torch.cat([mix[name].reshape(self.cells, -1) for name in self.groups[0]], dim=1)
        loss = torch.einsum("lp,lpw,w->", p, M, w["w"])
        return batch.x[0] * (loss + self.curvature / 2 * (p @ S).sum().square() * w["w"].square().sum())


H6 = real([1.0, 0.0], [0.0, 10.0])
V6 = real([1.0, -0.3])


@dataclass
class Counterexample(Toy):
    """T6. w (2,), a (1, 1); the derivatives do not depend on the point."""

    def w0(self) -> Tree:
        return {"w": real([0.5, 0.25])}

    def a0(self) -> Tree:
        return {"a": real([[0.3]])}

    def value(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        x = w["w"]
        if is_train(batch):
            return x @ H6 @ x / 2 + mix["a"].sum() * x.sum()
        return V6 @ x + 0.0 * mix["a"].sum()  # independent of `a` in value, but part of its graph


@dataclass
class Correlation(Toy):
    """T7. W (2, 3), p (1, 1) with value 1; batches carry features (n, 3) and targets (n, 2); the loss is a sum.

    The weight gradient is the sum of g_j x_j' over samples, with g_j = p (p W x_j - y_j) the gradient of sample j at
    the layer's output (divided by p = 1): the inner product of two such gradients is the gradient correlation.
    """

    def w0(self) -> Tree:
        return {"W": real([1.0, -0.5, 0.25], [0.5, 2.0, -1.0])}

    def a0(self) -> Tree:
        return {"a": real([[1.0]])}

    def train(self) -> Batch:
        return Batch(real([1.0, 0, 2], [0, -1, 1]), real([1.0, 0], [0.5, -1]), 0)

    def val(self) -> Batch:
        return Batch(real([2.0, 1, 0], [1, 1, -1], [0, 3, 1]), real([0.0, 1], [2, 0], [-1, 1]), 1000)

    def residual(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        """Gradient of each sample's loss at the layer's output, (n, 2)."""
        return mix["a"].sum() * batch.x @ w["W"].T - batch.y

    def value(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        return self.residual(w, mix, batch).square().sum() / 2


@dataclass
class Smooth(Toy):
    """A classifier of 4 features in 3 classes: 2 cells, 2 edges, 3 operations (tanh, sine, softplus), shared weights.

    `noise` scales a random operation's output, drawn anew from the batch's seed in every cell.
    """

    activation: Activate = field(default=lambda logits: torch.softmax(logits, dim=-1))
    cells: int = 2
    noise: float = 0.0

    def w0(self) -> Tree:
        gen = torch.Generator().manual_seed(3)
        shapes = {"edge0": (4, 4), "edge1": (4, 4), "head": (4, 3)}
        return {k: 0.6 * torch.randn(shape, generator=gen, dtype=torch.float64) for k, shape in shapes.items()}

    def a0(self) -> Tree:
        return {"a": real([0.3, -0.2, 0.1], [-0.4, 0.5, 0.2])}

    def batch(self, seed: int, n: int = 6) -> Batch:
        """Features (n, 4) and labels (n,) drawn from `seed`."""
        gen = torch.Generator().manual_seed(seed)
        return Batch(torch.randn(n, 4, generator=gen, dtype=torch.float64), torch.randint(3, (n,), generator=gen), seed)

    def value(self, w: Tree, mix: Tree, batch: Batch) -> Tensor:
        gen = torch.Generator().manual_seed(batch.seed)
        operations: tuple[Callable[[Tensor], Tensor], ...] = (torch.tanh, torch.sin, torch.nn.functional.softplus)
        h = batch.x
        bias = mix["a.bias"].flatten(1).sum(1) if "a.bias" in mix else [None] * self.cells
        for p, by in zip(mix["a"], bias, strict=True):
            pre = (h @ w["edge0"], h @ w["edge1"])
            h = sum((p[e, o] * op(pre[e]) for e in range(2) for o, op in enumerate(operations)), h)
            h = h if by is None else h + by
            h = h + self.noise * torch.randn(h.shape, generator=gen, dtype=h.dtype)
        return torch.nn.functional.cross_entropy(h @ w["head"], batch.y)


# ------------------------------------------------------------------------------------------------ expectations
SCALAR: dict[str, Any] = {
    "exact": 1.4,
    "darts1": -1.4,
    "darts2": {0.025: -1.26, 0.25: 0.0, 0.5: 1.4},  # by the inner learning rate
    "amended": {0.01: -1.288, 0.1: -0.28, 0.125: 0.0, 0.25: 1.4, 1.0: 9.8},  # by eta
    "amended_wrong_sign": {0.1: -2.52},
    "idarts": {
        (0.25, 0): 0.0,
        (0.25, 1): 0.7,
        (0.25, 2): 1.05,
        (0.25, 5): 1.35625,
        (0.25, 50): 1.4,
        (0.1, 2): -0.0336,
    },  # by (gamma, K): K + 1 terms
}
QUADRATIC: dict[str, Any] = {
    "w_star": [0.0714285714, 0.3142857143],
    "exact": [0.0218367347, -1.6059183673],  # at w*
    "darts1": {"w0": [0.13, 0.105], "w_star": [0.0442857143, 0.0814285714]},
    "darts2": [0.118, -0.02525],  # at w0, inner learning rate 0.1
    "darts2_momentum": [0.1128875, -0.02535],  # the same with the next three
    "momentum": 0.9,
    "buffer": [0.2, -0.1],
    "weight_decay": 0.01,
    "amended": {"w_star": [-0.0302142857, 0.0004285714], "w0": [0.1455, 0.009]},  # eta 0.1
    "idarts": {
        0: [0.0181428571, -0.044],
        1: [-0.00055, -0.1613285714],
        2: [-0.0135703571, -0.2707921429],
    },  # at w*, gamma 0.1, by K
    "idarts_w0": [0.16607875, -0.2239975],  # gamma 0.1, K = 2
    "w_after_5": [0.2265950469, 0.2185715312],  # five gradient steps of length 0.1 from w0
    "idarts_after_5": [0.0426258813, -0.2559325307],  # there, gamma 0.1, K = 2
    "tse_first_order": [-1.6250625, 0.710625],  # T = 3, learning rate 0.1, from w0
    "tse_exact": [-1.4586445313, 0.6940040625],
    "single_a": [-0.625, 0.25],
    "single_w": [0.825, 0.15],  # at w0
}
ALIGNMENT: dict[str, Any] = {  # at w0; `signed` is the variant that divides by the absolute values
    "cosine": -0.0385514178,
    "cosine_gradient": [0.0343704853, 0.3394859937, 0.0676862558],
    "cosine_norm": 0.4781809266,
    "signed": -0.1092090616,
    "signed_gradient": [0.1621399692, 0.3822052843, 0.0144813365],
    "signed_norm": 0.6142271449,
}
COUNTEREXAMPLE: dict[str, float] = {"exact_term": -0.97, "amended_term_over_eta": 2.0}


# ------------------------------------------------------------------------------------------------------ search
@dataclass
class Recorder(Search):
    """A search that keeps copies of the gradients it is given, as vectors, before clipping."""

    grads_w: list[Tensor] = field(default_factory=list)
    grads_a: list[Tensor] = field(default_factory=list)

    def descend_w(self, g: Tree, rate: float = 1.0) -> None:
        self.grads_w.append(flat({k: g[k] for k in self.w}).clone())
        super().descend_w(g, rate)

    def descend_a(self, g: Tree) -> None:
        self.grads_a.append(flat({k: g[k] for k in self.a}).clone())
        super().descend_a(g)


@dataclass
class Watched:
    """A problem that notes the batches it evaluates, in order, and whether statistics were tracked."""

    problem: Toy
    seeds: list[int] = field(default_factory=list)
    tracked: list[bool] = field(default_factory=list)
    groups: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        self.groups = self.problem.groups

    def w0(self) -> Tree:
        return self.problem.w0()

    def a0(self) -> Tree:
        return self.problem.a0()

    def relax(self, a: Tree, activate: Activate | None = None) -> Tree:
        return self.problem.relax(a, activate)

    def sample(self, gen: torch.Generator) -> Tree:
        return self.problem.sample(gen)

    def mask(self, operation: str) -> Tree:
        return self.problem.mask(operation)

    def biased(self, mix: Tree, weights: Tree) -> Tree:
        return self.problem.biased(mix, weights)

    def decisions(self) -> list[list[Decision]]:
        return self.problem.decisions()

    def outcome(self, w: Tree, mix: Tree, batch: Batch, *, track: bool = False, evaluation: bool = False) -> Outcome:
        self.seeds.append(batch.seed)
        self.tracked.append(track)
        return self.problem.outcome(w, mix, batch, track=track, evaluation=evaluation)


def search(
    problem: Toy | Watched,
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
    """A search at (w0, a0) unless given: SGD on the weights, plain SGD or Adam(0.5, 0.999) on the architecture.

    With the default architecture optimizer one step moves `a` by minus its gradient. `buffer` sets the momentum
    buffers; `clip` is off, so that expectations are exact.
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
    bound: Problem = problem
    return Recorder(problem=bound, w=w, a=a, w_opt=w_opt, a_opt=a_opt, clip=clip)


def selection(
    seed: int = 0,
    score: Callable[[Tree], float | None] = lambda mix: None,
    *,
    train: Iterable[Batch] = (),
    val: Iterable[Batch] = (),
) -> Selection:
    """What a method gets to choose with."""
    return Selection(score, iter(train), iter(val), torch.Generator().manual_seed(seed))
