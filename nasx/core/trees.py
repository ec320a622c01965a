"""Trees: named tensors, flat. Gradients of and arithmetic on them, derivatives along a direction, choices in them.

Two trees in one expression have the same names and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

Tree = dict[str, Tensor]
Number = float | Tensor
"""A Python number, or a 0-d tensor on the device (in steps that may be replayed from a CUDA graph)."""


class Decision(NamedTuple):
    """`keep` of several options: each an index (edge, operation) into mix[name], or (edge, None) for a whole edge.

    `cell` is the place along the mixture's first axis, None where all cells share the decision. Of `operations` the
    kept one gets weight 1; kept edges keep their weights.
    """

    name: str
    options: tuple[tuple[int, int | None], ...]
    keep: int = 1
    operations: bool = True
    cell: int | None = None


def gradient(loss: Tensor, tree: Tree, *, retain: bool = False, create: bool = False) -> Tree:
    """d loss / d tree, zeros where the loss does not depend on a leaf. One backward pass."""
    grads = torch.autograd.grad(
        loss, list(tree.values()), retain_graph=retain or create, create_graph=create, allow_unused=True
    )
    return {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(tree.items(), grads, strict=True)}


def gradients(loss: Tensor, x: Tree, y: Tree) -> tuple[Tree, Tree]:
    """(d loss / d x, d loss / d y) in one backward pass."""
    joint = gradient(loss, {f"{i} {k}": t for i, tree in enumerate((x, y)) for k, t in tree.items()})
    return {k: joint[f"0 {k}"] for k in x}, {k: joint[f"1 {k}"] for k in y}


def detached(tree: Tree, *, requires_grad: bool = False) -> Tree:
    """The same values without history; as fresh leaves where `requires_grad`. Storage is shared."""
    return {k: x.detach().requires_grad_(requires_grad) for k, x in tree.items()}


def vanishes(number: Number) -> bool:
    """Whether a coefficient is zero; of one on the device that is not known (asking would make the host wait)."""
    return not isinstance(number, Tensor) and number == 0


def scaling(tensors: list[Tensor], scale: Number) -> list[Tensor]:
    """scale * x for each tensor; a scale of their own dtype, which fused kernels need."""
    return list(torch._foreach_mul(tensors, scale.to(tensors[0].dtype) if isinstance(scale, Tensor) else scale))


def like(g: Tensor, x: Tensor) -> Tensor:
    """`g` in the memory layout of `x`, which fused optimizers need; `g` itself where it has it."""
    same = all(a == b for n, a, b in zip(x.shape, g.stride(), x.stride(), strict=True) if n != 1)
    return g if same else torch.empty_like(x).copy_(g)


def shift(x: Tree, v: Tree, scale: Number) -> Tree:
    """x + scale * v, detached, as fresh leaves."""
    scaled = scaling([v[k].detach() for k in x], scale)
    moved = torch._foreach_add([t.detach() for t in x.values()], scaled)
    return {k: t.requires_grad_() for k, t in zip(x, moved, strict=True)}


def combine(x: Tree, y: Tree, scale: Number) -> Tree:
    """x + scale * y, for gradients (no leaves made)."""
    return dict(zip(x, torch._foreach_add(list(x.values()), scaling([y[k] for k in x], scale)), strict=True))


def norm(tree: Tree) -> Tensor:
    """Global Euclidean norm, as a 0-d tensor (no host synchronization)."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tree.values()))))


def dot(x: Tree, y: Tree) -> Tensor:
    """Global inner product, as a 0-d tensor."""
    return torch.stack([(x[k] * y[k]).sum() for k in x]).sum()


def step_length(v: Tree, radius: float) -> Tensor:
    """The probe length radius / ||v||, so that the probe moves by `radius` in all. Finite where v = 0."""
    length = norm(v)
    return radius / length.clamp_min(torch.finfo(length.dtype).tiny ** 0.5)


def directional(g: Callable[[Tree], Tree], x: Tree, v: Tree, radius: float = 0.01, eps: Number | None = None) -> Tree:
    """Derivative of the tree-valued function `g` at `x` along `v`, by a central difference.

    (g(x + eps v) - g(x - eps v)) / (2 eps) with eps = radius / ||v|| unless given: error O(eps^2), exact where g is
    quadratic along v. Costs two evaluations of `g`. `g` receives fresh leaves, `x` is not touched.
    """
    eps = step_length(v, radius) if eps is None else eps
    plus, minus = g(shift(x, v, eps)), g(shift(x, v, -eps))
    return {k: (plus[k] - minus[k]) / (2 * eps) for k in plus}


class Second(NamedTuple):
    """d^2 loss / dy dx of loss(x, y), or d^2 loss / dx^2 of loss(x) where `y` is None, applied to a tree v like x.

    `y` are leaves. Nothing moves.
    """

    loss: Callable[..., Tensor]
    x: Tree
    y: Tree | None = None

    def slope(self, x: Tree) -> Tree:
        """d loss / dy (d loss / dx without `y`) at x. One pass."""
        if self.y is not None:
            return gradient(self.loss(detached(x), self.y), self.y)
        leaves = detached(x, requires_grad=True)
        return gradient(self.loss(leaves), leaves)

    def central(self, v: Tree, radius: float = 0.01, eps: Tensor | float | None = None) -> Tree:
        """Along v, by a central difference. Two passes."""
        return directional(self.slope, self.x, v, radius, eps)

    def exact(self, v: Tree) -> Tree:
        """Along v, by double backward: one pass, and one backward pass through it."""
        x = detached(self.x, requires_grad=True)
        y = x if self.y is None else self.y
        slope = dot(gradient(self.loss(x) if self.y is None else self.loss(x, y), x, create=True), v)
        return gradient(slope, y) if slope.requires_grad else {k: torch.zeros_like(t) for k, t in y.items()}


@contextmanager
def frozen(tree: Tree) -> Iterator[Tree]:
    """Checks (in debug runs and tests) that a block leaves `tree` bit-identical."""
    before = {k: x.detach().clone() for k, x in tree.items()}
    yield tree
    moved = [k for k, x in tree.items() if not torch.equal(x.detach(), before[k])]
    assert not moved, f"moved: {moved}"
