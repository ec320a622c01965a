"""Trees (flat mappings from names to tensors): gradients, arithmetic, decisions.

Two trees in one expression have the same names and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from nasx.errors import UserError

Tree = dict[str, Tensor]
Activate = Callable[[Tensor], Tensor]
"""Map from logits to mixture weights along the last axis."""
Number = float | Tensor
"""A Python number, or a 0-d tensor on the device (in steps that may be replayed from a CUDA graph)."""


class Decision(NamedTuple):
    """A decision to keep `keep` of several options: (edge, operation) in mix[name], or (edge, None) for a whole edge.

    `cell` is the index along the mixture's first axis; None if all cells share the decision. A kept operation gets
    weight 1; kept edges keep their weights.
    """

    name: str
    options: tuple[tuple[int, int | None], ...]
    keep: int = 1
    operations: bool = True
    cell: int | None = None


def gradient(loss: Tensor, tree: Tree, *, retain: bool = False, create: bool = False) -> Tree:
    """Compute d loss / d tree, zero for leaves that the loss does not depend on. Cost: one backward pass.

    Raises UserError if the gradient of compiled cells would have to be differentiated.
    """
    try:
        grads = torch.autograd.grad(
            loss, list(tree.values()), retain_graph=retain or create, create_graph=create, allow_unused=True
        )
    except RuntimeError as error:
        if "donated buffers" in str(error) or "double backward" in str(error):  # torch's two messages for it
            fault = "compiled cells have no second derivatives, which this method computes by double backward"
            raise UserError("engine.compile=on", fault, "use engine.compile=off") from error
        raise
    return {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(tree.items(), grads, strict=True)}


def gradients(loss: Tensor, x: Tree, y: Tree) -> tuple[Tree, Tree]:
    """Compute (d loss / d x, d loss / d y) in one backward pass."""
    joint = gradient(loss, {f"{i} {k}": t for i, tree in enumerate((x, y)) for k, t in tree.items()})
    return {k: joint[f"0 {k}"] for k in x}, {k: joint[f"1 {k}"] for k in y}


def check_gradient(call: str, g: Tree, x: Tree) -> None:
    """Raise UserError if `g`, the argument of `call`, lacks the gradient of a leaf of `x`."""
    lacking = [k for k in x if not (isinstance(g, Mapping) and isinstance(g.get(k), Tensor))]
    if lacking:
        names = f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}"
        raise UserError(
            call, f"its gradient has no tensor for {names}", "pass the result of nasx.core.bilevel.gradient(loss, ...)"
        )


def detached(tree: Tree, *, requires_grad: bool = False) -> Tree:
    """Detach a tree; with `requires_grad`, the tensors are leaves that require gradients. Storage is shared."""
    return {k: x.detach().requires_grad_(requires_grad) for k, x in tree.items()}


def vanishes(number: Number) -> bool:
    """Return whether a coefficient is known to be zero; False for a tensor, which is not read (no synchronization)."""
    return not isinstance(number, Tensor) and number == 0


def scaling(tensors: list[Tensor], scale: Number) -> list[Tensor]:
    """Compute scale * x for each tensor, with a scale of the same dtype, which fused kernels need."""
    return list(torch._foreach_mul(tensors, scale.to(tensors[0].dtype) if isinstance(scale, Tensor) else scale))


def like(g: Tensor, x: Tensor) -> Tensor:
    """Return `g` in the memory layout of `x`, which fused optimizers need; `g` itself if the layouts match."""
    same = all(a == b for n, a, b in zip(x.shape, g.stride(), x.stride(), strict=True) if n != 1)
    return g if same else torch.empty_like(x).copy_(g)


def shift(x: Tree, v: Tree, scale: Number) -> Tree:
    """Compute x + scale * v, detached, as fresh leaves."""
    scaled = scaling([v[k].detach() for k in x], scale)
    moved = torch._foreach_add([t.detach() for t in x.values()], scaled)
    return {k: t.requires_grad_() for k, t in zip(x, moved, strict=True)}


def combine(x: Tree, y: Tree, scale: Number) -> Tree:
    """Compute x + scale * y for two gradients, without creating leaves."""
    return dict(zip(x, torch._foreach_add(list(x.values()), scaling([y[k] for k in x], scale)), strict=True))


def norm(tree: Tree) -> Tensor:
    """Compute the global Euclidean norm as a 0-d tensor, without host synchronization."""
    out: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tree.values()))))
    return out


def dot(x: Tree, y: Tree) -> Tensor:
    """Compute the global inner product as a 0-d tensor."""
    return torch.stack([(x[k] * y[k]).sum() for k in x]).sum()


@contextmanager
def frozen(tree: Tree) -> Iterator[Tree]:
    """Assert (in debug runs and tests) that the block leaves `tree` bit-identical."""
    before = {k: x.detach().clone() for k, x in tree.items()}
    yield tree
    moved = [k for k, x in tree.items() if not torch.equal(x.detach(), before[k])]
    assert not moved, f"moved: {moved}"
