"""Products of second derivatives with a vector: Hessian-vector products and mixed derivatives.

All second-order methods use `SecondDerivative`, by a central difference or by double backward. The symbols are
those of docs/methods/README.md: H v = d^2 L / dw^2 v, M v = d^2 L / da dw v.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from nasx.core.trees import Number, Tree, detached, dot, gradient, norm, shift


def step_length(v: Tree, radius: float) -> Tensor:
    """Return the step radius / ||v||, which puts a probe at distance `radius`; it is finite even if v = 0."""
    length = norm(v)
    return radius / length.clamp_min(torch.finfo(length.dtype).tiny ** 0.5)


def directional(g: Callable[[Tree], Tree], x: Tree, v: Tree, radius: float = 0.01, eps: Number | None = None) -> Tree:
    """Compute the derivative of the tree-valued function `g` at `x` along `v`, by a central difference.

    (g(x + eps v) - g(x - eps v)) / (2 eps) with eps = radius / ||v|| unless given: error O(eps^2), exact if g is
    quadratic along v. Cost: two evaluations of `g`. `g` receives fresh leaves; `x` is unchanged.
    """
    eps = step_length(v, radius) if eps is None else eps
    plus, minus = g(shift(x, v, eps)), g(shift(x, v, -eps))
    return {k: (plus[k] - minus[k]) / (2 * eps) for k in plus}


class Length(TypedDict, total=False):
    """Length of a central difference: the distance `radius` to the probes, or the step `eps` if it is given."""

    radius: float
    eps: Number | None


class SecondDerivative(NamedTuple):
    """The map v -> d^2 loss / dy dx v for loss(x, y), or d^2 loss / dx^2 v for loss(x) if `y` is None.

    `v` has the names and shapes of `x`; the tensors in `y` are leaves. No state changes.
    """

    loss: Callable[..., Tensor]
    x: Tree
    y: Tree | None = None

    def slope(self, x: Tree) -> Tree:
        """Compute d loss / dy at x, or d loss / dx if `y` is None. Cost: one pass."""
        if self.y is not None:
            return gradient(self.loss(detached(x), self.y), self.y)
        leaves = detached(x, requires_grad=True)
        return gradient(self.loss(leaves), leaves)

    def central(self, v: Tree, radius: float = 0.01, eps: Number | None = None, shorter: float = 1.0) -> Tree:
        """Compute the product with v by a central difference of length / `shorter`. Cost: two passes."""
        return directional(self.slope, self.x, v, radius / shorter, None if eps is None else eps / shorter)

    def exact(self, v: Tree) -> Tree:
        """Compute the product with v by double backward. Cost: one pass, and a backward pass through its gradient."""
        x = detached(self.x, requires_grad=True)
        y = x if self.y is None else self.y
        slope = dot(gradient(self.loss(x) if self.y is None else self.loss(x, y), x, create=True), v)
        return gradient(slope, y) if slope.requires_grad else {k: torch.zeros_like(t) for k, t in y.items()}
