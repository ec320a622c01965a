"""What a search does inside: the curvature in the architecture, and whether layers and batches pull together.

    eigenvalue          largest eigenvalue of d^2 L2 / da^2 + wd I on one validation batch, weights fixed (not unrolled)
    operator gradients  g_l = d L / d p_l, p_l cell l's own copy of the mixture weights
    alignment           mean over pairs of cells of cos(g_l, g_l')
    signed alignment    mean over pairs of g_l . g_l' / (|g_l| . |g_l'|)
    correlation         1 / (N M) sum over j in val, k in train of (G_j . G_k) (X_j . X_k) at one node, X its value and
                        G = d L_j / d X of each sample (mean loss times N); train with train for single-level search
    node cosine         mean over pairs of cells of one shape of cos(d L / d x_j), node by node

The Hessian is dense (one double backward a row) up to `DENSE` entries of `a`, else Lanczos (scipy eigsh, largest
algebraic) over one retained graph. Batch norm uses batch statistics (train mode), running ones never follow.

Sources: eigenvalue, Zela et al. (2020), automl/RobustDARTS src/search/analyze.py (the decay term is the code's);
alignment, Lambda-DARTS section 3.2, eqs. 5 and 24, node cosine appendix A.2.2; correlation and operator gradients,
Single-DARTS eq. 8, figure 2, section 5.2.2.
Cost of `measure`: three forward passes, three backward ones, and one backward pass a Hessian row or Lanczos step.

Deviations
1. The correlation sums over N x M Gram matrices, which equals <G_val' X_val, G_train' X_train> (a d x d product) and
   is smaller where a node has more than a few hundred values.
2. The Hessian is made symmetric before its eigenvalues are taken; the released code takes real parts.
3. Lambda-DARTS averages the alignment over all steps of an epoch; here it is that of one batch.
4. Convolution outputs are not compared: merged operations never exist one by one. Node gradients are.

Shapes: mix and its gradients (cells, edges, operations); node values (n, C, h, w).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nasx import structure
from nasx.bilevel import Batch, Problem, Search, Tree, detached
from nasx.errors import UserError

DENSE = 64
"""Largest number of architecture parameters whose Hessian is computed whole."""
BATCH_NORM = "train"


class Draws(Protocol):
    """A stream that gives a batch by its position and draws nothing by it."""

    position: int

    def at(self, i: int) -> Any: ...


# ----------------------------------------------------------------------------------------------------- eigenvalue
class Eigenvalue(NamedTuple):
    """The value, how it was found (dense or lanczos), and backward passes."""

    value: float
    solver: str
    backward: int


def eigenvalue(problem: Problem, w: Tree, a: Tree, batch: Batch, *, weight_decay: float = 0.0,
               dense: int = DENSE) -> Eigenvalue:
    """Largest eigenvalue of d^2 L / da^2 + weight_decay I at (w, a) on `batch`. Nothing moves; one forward pass.

    Lanczos starts from a fixed vector and works to 3/4 of the dtype's digits; where it does not converge, the whole
    Hessian is computed. NaN where the Hessian is not finite.
    """
    leaves = detached(a, requires_grad=True)
    loss = problem.outcome(detached(w), problem.relax(leaves), batch).loss
    slope = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, allow_unused=True)
    g = torch.cat([torch.zeros_like(x).flatten() if s is None else s.flatten()
                   for x, s in zip(leaves.values(), slope, strict=True)])
    size, used = g.numel(), 1

    def product(v: Tensor) -> Tensor:
        nonlocal used
        used += 1
        if not g.requires_grad:
            return torch.zeros_like(g)
        parts = torch.autograd.grad(g, list(leaves.values()), v, retain_graph=True, allow_unused=True)
        return torch.cat([torch.zeros_like(x).flatten() if p is None else p.flatten()
                          for x, p in zip(leaves.values(), parts, strict=True)])

    top = None if size <= dense else lanczos(product, size, g)
    if top is not None:
        return Eigenvalue(top + weight_decay, "lanczos", used)
    rows = torch.stack([product(v) for v in torch.eye(size, dtype=g.dtype, device=g.device)]).double()
    if not rows.isfinite().all():
        return Eigenvalue(math.nan, "dense", used)
    return Eigenvalue(float(torch.linalg.eigvalsh((rows + rows.T).cpu() / 2)[-1]) + weight_decay, "dense", used)


def lanczos(product: Callable[[Tensor], Tensor], size: int, like: Tensor) -> float | None:
    """Largest eigenvalue of a symmetric map on vectors (size,), None where it does not converge (or size < 3)."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    def matvec(v: np.ndarray) -> np.ndarray:
        return product(torch.as_tensor(v.reshape(-1), dtype=like.dtype, device=like.device)).double().cpu().numpy()

    if size < 3:
        return None
    start = np.random.default_rng(0).standard_normal(size)
    tolerance = float(torch.finfo(like.dtype).eps) ** 0.75
    try:
        found = eigsh(LinearOperator((size, size), matvec=matvec, dtype=np.float64), k=1, which="LA", v0=start,
                      tol=tolerance, return_eigenvectors=False, maxiter=10)
    except ArpackError:  # no convergence, or values that are not finite
        return None
    return float(found[0])


# -------------------------------------------------------------------------------------------------------- layers
def pairwise(g: Tensor, *, signed: bool = False) -> float | None:
    """Mean over pairs of rows of g (L, D) of their cosine, or of the signed ratio; None for fewer than two rows."""
    layers = g.shape[0]
    if layers < 2:
        return None
    g = g.double()
    tiny = torch.finfo(g.dtype).tiny
    if signed:
        size = g.abs()
        ratio = (g @ g.T) / (size @ size.T).clamp_min(tiny)
    else:
        u = g / g.norm(dim=1, keepdim=True).clamp_min(tiny ** 0.5)
        ratio = u @ u.T
    return float((ratio.sum() - ratio.diagonal().sum()) / (layers * (layers - 1)))


def alignment(g: Tree, groups: Sequence[Sequence[str]], *, signed: bool = False) -> float | None:
    """Layer alignment of mixture gradients (cells, edges, operations), mean over the groups of two cells and more."""
    found = [pairwise(torch.cat([g[name].flatten(1) for name in names], 1), signed=signed) for names in groups]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else None


# --------------------------------------------------------------------------------------------------------- nodes
class Look(NamedTuple):
    """One pass: mixture gradients, and for each watched cell its nodes' values and sample gradients, (n, D) each."""

    mix: Tree
    values: list[list[Tensor]]
    slopes: list[list[Tensor]]


@contextmanager
def watching(modules: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """What the modules put out in the passes inside the block, a list of tensors each."""
    seen: list[list[Tensor]] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        seen.append([output] if type(output) is Tensor else list(output))

    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def look(problem: Problem, w: Tree, mix: Tree, batch: Batch, modules: Sequence[nn.Module] = ()) -> Look:
    """Gradients of one batch by the mixture and by the nodes of the watched cells. One forward, one backward pass."""
    leaves = detached(mix, requires_grad=True)
    with watching(modules) as seen:
        loss = problem.outcome(detached(w), leaves, batch).loss
    nodes = [node for cell in seen for node in cell]
    found = torch.autograd.grad(loss, [*leaves.values(), *nodes], allow_unused=True)
    zeros = [torch.zeros_like(x) if g is None else g for x, g in zip([*leaves.values(), *nodes], found, strict=True)]
    own, rest = dict(zip(leaves, zeros, strict=False)), iter(zeros[len(leaves):])
    samples = len(batch.y)
    slopes = [[next(rest).flatten(1) * samples for _ in cell] for cell in seen]
    return Look(own, [[node.detach().flatten(1) for node in cell] for cell in seen], slopes)


def correlation(grad_val: Tensor, x_val: Tensor, grad_train: Tensor, x_train: Tensor) -> float:
    """1/(N M) sum over j, k of (g_j . g_k) (x_j . x_k), per-sample gradients and values (n, D) or (n, ...)."""
    g = grad_val.flatten(1).double() @ grad_train.flatten(1).double().T
    x = x_val.flatten(1).double() @ x_train.flatten(1).double().T
    return float((g * x).sum() / g.numel())


def node_cosine(slopes: Sequence[Sequence[Tensor]]) -> list[float]:
    """Mean cosine of d L / d x_j over pairs of neighbouring cells of one shape: a value a shape, in their order."""
    stages: dict[tuple[int, int], list[Tensor]] = {}
    for cell in slopes:
        for j, node in enumerate(cell):
            stages.setdefault((node.shape[1], j), []).append(node.flatten())
    found: dict[int, list[float]] = {}
    for (size, _), nodes in stages.items():
        value = pairwise(torch.stack(nodes))
        if value is not None:
            found.setdefault(size, []).append(value)
    return [sum(values) / len(values) for values in found.values()]


# -------------------------------------------------------------------------------------------------------- a row
def short(values: Tensor) -> Any:
    """Nested lists with four significant digits, for records."""
    return torch.tensor([float(f"{x:.4g}") for x in values.double().flatten().tolist()],
                        dtype=torch.float64).view(values.shape).tolist()


def measure(problem: Problem, w: Tree, a: Tree, train: Batch, val: Batch, *, modules: Sequence[nn.Module] = (),
            weight_decay: float = 0.0) -> dict[str, Any]:
    """All that needs passes, as entries of a metrics row, with their cost in passes and seconds."""
    row, began = curvature(problem, w, a, val, weight_decay=weight_decay), time.perf_counter()
    mix = detached(problem.relax(a))
    seen = {"train": look(problem, w, mix, train, modules), "val": look(problem, w, mix, val, modules)}
    for part, found in seen.items():
        for name, signed in (("alignment", False), ("signed", True)):
            row[f"{name}_{part}"] = alignment(found.mix, problem.groups, signed=signed)
    row["operator_gradients"] = {name: short(g) for name, g in seen["val"].mix.items()}
    if modules:
        places = {"first": 0, "middle": len(modules) // 2, "last": len(modules) - 1}
        for name, (one, other) in {"correlation": ("val", "train"), "correlation_single": ("train", "train")}.items():
            left, right = seen[one], seen[other]
            row[name] = {place: [correlation(*four) for four in zip(left.slopes[i], left.values[i], right.slopes[i],
                                                                    right.values[i], strict=True)]
                         for place, i in places.items()}
        row["node_cosine"] = node_cosine(seen["val"].slopes)
    cost = row["diagnostics"]
    cost["forward"] += 2
    cost["backward"] += 2
    cost["seconds"] = round(cost["seconds"] + time.perf_counter() - began, 4)
    return row


def curvature(problem: Problem, w: Tree, a: Tree, val: Batch, *, weight_decay: float = 0.0) -> dict[str, Any]:
    """The dominant eigenvalue as entries of a metrics row, with its cost."""
    began = time.perf_counter()
    found = eigenvalue(problem, w, a, val, weight_decay=weight_decay)
    return {"eigenvalue": found.value if math.isfinite(found.value) else None,
            "diagnostics": {"solver": found.solver, "batch_norm": BATCH_NORM, "forward": 1, "backward": found.backward,
                            "seconds": round(time.perf_counter() - began, 4)}}


class Watch:
    """The diagnostics of one search: made before its first step, asked for a row's entries at each epoch's end.

    Nothing moves and nothing is drawn: the batches are those that come next, looked at without taking them, so a
    search with diagnostics takes the same path as one without.
    """

    def __init__(self, search: Search, space: Any, supernet: nn.Module, train: Draws, val: Draws, *, every: int,
                 epochs: int, weight_decay: float, stop: Any) -> None:
        self.search, self.train, self.val = search, train, val
        self.every, self.epochs, self.weight_decay, self.stop = every, epochs, weight_decay, stop
        self.modules = list(getattr(supernet, "cells", ()))
        names = [name for group in space.groups for name in group]
        self.names = structure.operation_names(space, names)
        self.start = means(detached(search.problem.relax(search.a)))
        self.rows: list[dict[str, Any]] = []

    def due(self, epoch: int) -> bool:
        """Whether the costly part is due after `epoch` (from 1): after 1, 1 + every, ..., and after the last."""
        return bool(self.every) and ((epoch - 1) % self.every == 0 or epoch == self.epochs)

    def entries(self, epoch: int, mix: Tree, genotype: str) -> dict[str, Any]:
        """What the row of `epoch` says of mixture, cell and, where due, curvature and gradients."""
        now = means(mix)
        before = self.rows[-1]["mix"] if self.rows else self.start
        row: dict[str, Any] = {"mix": now, "entropy": structure.entropy(now),
                               "saturation": structure.saturation(now), "change": structure.change(now, before),
                               "moved": structure.change(now, self.start)}
        with suppress(UserError):  # a space of the user's own, with a genotype that no picture knows
            row["cells"] = structure.cells(genotype)
        weight = structure.none_weight(now, self.names)
        row |= {} if weight is None else {"none_weight": weight}
        problem, w, a = self.search.problem, self.search.w, self.search.a
        if self.due(epoch):
            row |= measure(problem, w, a, self.train.at(self.train.position), self.val.at(self.val.position),
                           modules=self.modules, weight_decay=self.weight_decay)
        elif self.stop.due(epoch):
            row |= curvature(problem, w, a, self.val.at(self.val.position), weight_decay=self.weight_decay)
        return row

    def ended(self) -> dict[str, Any] | None:
        """What the stopping rule has found in the rows so far."""
        return self.stop.found(self.rows, self.epochs)

    def cost(self) -> dict[str, Any] | None:
        """Forward and backward passes and seconds of all diagnostics so far, None where there were none."""
        costs = [row["diagnostics"] for row in self.rows if "diagnostics" in row]
        return {key: round(sum(cost[key] for cost in costs), 4) for key in ("forward", "backward", "seconds")} \
            if costs else None

    @property
    def stopped(self) -> bool:
        """Whether the search ends here."""
        return self.stop.acts and self.ended() is not None


def means(mix: Tree) -> dict[str, Any]:
    """A mixture as metrics rows hold it: mean over cells, nested lists (edges, operations)."""
    return {name: x.mean(0).tolist() for name, x in mix.items()}
