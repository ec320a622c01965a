# ruff: noqa: F401 (the problems of nasx.auditing are part of this module)
"""More bilevel problems with closed forms, and the expectations for all of them. All in float64.

    Alignment       L = sum over cells of p_l' M_l w (+ curvature (sum of s'p_l)^2 ||w||^2 / 2)
    Counterexample  L1 = w'Hw / 2 + a (w_1 + w_2), L2 = v'w: the amended term opposes the exact one
    Correlation     L = sum over samples of ||p W x_j - y_j||^2 / 2
    Smooth          a small classifier with no closed form: curved in everything, softmax mixture, optional noise

test_toy.py derives the expectations with plain matrices. `relax` is the identity for all but `Smooth`, unless
the caller passes an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nasx.auditing.problems import (
    RHO,
    A,
    B,
    C,
    D,
    Quadratic,
    Recorder,
    Scalar,
    flat,
    identity,
    is_train,
    real,
    search,
    train,
    unflat,
    val,
)
from nasx.auditing.problems import ClosedForm as Toy
from nasx.core.bilevel import Activate, Batch, Decision, Outcome, Selection, Tree

TRAIN, VAL = train(), val()


# ---------------------------------------------------------------------------------------------------- problems
M = real(
    [[1.0, 0, 2], [0, 1, -1], [1, 1, 0], [2, -1, 1]],
    [[0.0, 1, 1], [1, 0, 0], [-1, 2, 0], [0, 1, 1]],
    [[1.0, 1, 0], [0, -1, 2], [1, 0, 1], [0, 0, -1]],
)
S = real([1.0, -1.0, 0.5, 2.0])


@dataclass
class Alignment(Toy):
    """T3 and, with `curvature`, T4. Three cells; w (3,). Validation batches give twice the loss of training batches.

    With `split`, the four parameters of a cell have two names with two each, which together describe the cell.
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

    `noise` scales the output of a random operation, drawn again from the batch's seed in every cell.
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
class Watched:
    """A problem that records the batches it evaluates, in order, and whether statistics were tracked."""

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


def selection(
    seed: int = 0,
    score: Callable[[Tree], float | None] = lambda mix: None,
    *,
    train: Iterable[Batch] = (),
    val: Iterable[Batch] = (),
) -> Selection:
    """Return the object with which a method chooses."""
    return Selection(score, iter(train), iter(val), torch.Generator().manual_seed(seed))
