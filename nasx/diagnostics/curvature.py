"""The largest eigenvalue of the architecture Hessian, d^2 L2 / da^2 + wd I, on one validation batch.

Weights are fixed (not unrolled), and batch norm uses batch statistics (train mode) without updating its running
statistics. With at most `DENSE` architecture parameters, the dense Hessian is computed (one double backward per row);
with more, Lanczos is used (scipy's eigsh, largest algebraic eigenvalue) on one retained graph.

Source: Zela et al. (2020); automl/RobustDARTS, src/search/analyze.py (the weight decay term is only in the code).
Cost: one forward pass, and one backward pass per Hessian row or Lanczos step.

Deviation: the Hessian is symmetrized before its eigenvalues are computed; the released code takes
the real parts of the eigenvalues.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Problem, Tree, detached, gradient

DENSE = 64
"""Maximum number of architecture parameters for which the dense Hessian is computed."""
BATCH_NORM = "train"


class Cost(TypedDict):
    """Numbers of passes and wall time of diagnostics and, if an eigenvalue is among them, how it was computed."""

    solver: NotRequired[str]
    batch_norm: NotRequired[str]
    forward: int
    backward: int
    seconds: float


class Curvature(TypedDict):
    """Entries of a metrics row: the dominant eigenvalue (None if it is not finite) and its cost."""

    eigenvalue: float | None
    diagnostics: Cost


class Eigenvalue(NamedTuple):
    """An eigenvalue, the algorithm that computed it (dense or lanczos), and the number of backward passes."""

    value: float
    solver: str
    backward: int


def eigenvalue(
    problem: Problem, w: Tree, a: Tree, batch: Batch, *, weight_decay: float = 0.0, dense: int = DENSE
) -> Eigenvalue:
    """Compute the largest eigenvalue of d^2 L / da^2 + weight_decay I at (w, a) on `batch`, with one forward pass.

    Lanczos starts from a fixed vector, with tolerance eps^(3/4) for the machine epsilon of the dtype. If it does not
    converge, the dense Hessian is computed. The value is NaN if the Hessian is not finite. No state changes.
    """
    leaves = detached(a, requires_grad=True)
    loss = problem.outcome(detached(w), problem.relax(leaves), batch).loss
    g = torch.cat([slope.flatten() for slope in gradient(loss, leaves, create=True).values()])
    size, used = g.numel(), 1

    def product(v: Tensor) -> Tensor:
        nonlocal used
        used += 1
        if not g.requires_grad:
            return torch.zeros_like(g)
        parts = torch.autograd.grad(g, list(leaves.values()), v, retain_graph=True, allow_unused=True)
        whole = [torch.zeros_like(x) if p is None else p for x, p in zip(leaves.values(), parts, strict=True)]
        return torch.cat([part.flatten() for part in whole])

    top = None if size <= dense else lanczos(product, size, g)
    if top is not None:
        return Eigenvalue(top + weight_decay, "lanczos", used)
    rows = torch.stack([product(v) for v in torch.eye(size, dtype=g.dtype, device=g.device)]).double()
    if not rows.isfinite().all():
        return Eigenvalue(math.nan, "dense", used)
    return Eigenvalue(float(torch.linalg.eigvalsh((rows + rows.T).cpu() / 2)[-1]) + weight_decay, "dense", used)


def lanczos(product: Callable[[Tensor], Tensor], size: int, like: Tensor) -> float | None:
    """Return the largest eigenvalue of a symmetric matrix, given its product with vectors (size,).

    None if Lanczos does not converge, if the result is not finite, or if `size` is below 3.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    def matvec(v: np.ndarray) -> np.ndarray:
        return product(torch.as_tensor(v.reshape(-1), dtype=like.dtype, device=like.device)).double().cpu().numpy()

    if size < 3:
        return None
    start = np.random.default_rng(0).standard_normal(size)
    tolerance = float(torch.finfo(like.dtype).eps) ** 0.75
    try:
        found = eigsh(
            LinearOperator((size, size), matvec=matvec, dtype=np.float64),
            k=1,
            which="LA",
            v0=start,
            tol=tolerance,
            return_eigenvectors=False,
            maxiter=10,
        )
    except ArpackError:  # no convergence, or values that are not finite
        return None
    return float(found[0]) if math.isfinite(found[0]) else None  # ARPACK's result for NaN depends on its version


def curvature(problem: Problem, w: Tree, a: Tree, val: Batch, *, weight_decay: float = 0.0) -> Curvature:
    """Return the dominant eigenvalue and its cost as entries of a metrics row."""
    began = time.perf_counter()
    found = eigenvalue(problem, w, a, val, weight_decay=weight_decay)
    return {
        "eigenvalue": found.value if math.isfinite(found.value) else None,
        "diagnostics": {
            "solver": found.solver,
            "batch_norm": BATCH_NORM,
            "forward": 1,
            "backward": found.backward,
            "seconds": round(time.perf_counter() - began, 4),
        },
    }
