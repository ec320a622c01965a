"""Naive architects, each written from its paper's equation, exact by double backward (no finite difference).

L1 is the training loss, L2 the validation loss, H = d2 L1 / dw2, M = d2 L1 / da dw, v = d L2 / dw.

    darts1            d L2 / da                                            DARTS, first order
    darts2            d L2(w - lr (mu buf + d L1/dw + wd w), a) / da       DARTS, second order, with its optimizer
    idarts            d L2 / da - lr M sum over k <= K of (I - lr H)^k v   iDARTS, eqs 6 to 9: K + 1 terms
    amended           d L2 / da - eta M H v                                Amended-DARTS, eq 8
    hypergradient     d L2 / da - M H^-1 v                                 implicit function theorem
    single            both gradients at one point                          Single-DARTS, eq 16
    tse               sum of d L1_t / da along T weight steps              TSE-DARTS, eq 6 (tse_exact: eq 13)
    alignment         mean over pairs of cells of cos(g_l, g_l')           Lambda-DARTS, eqs 5 to 13

All are pure: a loss maps two trees, (w, a) or (w, mix), to a scalar, and trees go in and come out untouched.
Functions that end in `_dense` build H (n, n) and M (m, n) explicitly and work with numpy; they return vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Tree = dict[str, Tensor]
Loss = Callable[[Tree, Tree], Tensor]


def leaves(tree: Tree) -> Tree:
    return {k: x.detach().clone().requires_grad_() for k, x in tree.items()}


def grad(value: Tensor, tree: Tree) -> Tree:
    """d value / d tree with its graph, zeros where there is no dependence."""
    if not value.requires_grad:
        return {k: torch.zeros_like(x) for k, x in tree.items()}
    grads = torch.autograd.grad(value, list(tree.values()), create_graph=True, materialize_grads=True)
    return dict(zip(tree, grads, strict=True))


def inner(x: Tree, y: Tree) -> Tensor:
    return torch.stack([(x[k] * y[k]).sum() for k in x]).sum()


def plain(tree: Tree) -> Tree:
    return {k: x.detach() for k, x in tree.items()}


# --------------------------------------------------------------------------------------------- hypergradients
def darts1(loss2: Loss, w: Tree, a: Tree) -> Tree:
    a = leaves(a)
    return plain(grad(loss2(plain(w), a), a))


def unrolled(
    loss1: Loss,
    w: Tree,
    a: Tree,
    lr: float,
    momentum: float = 0.0,
    buffers: Tree | None = None,
    weight_decay: float = 0.0,
) -> Tree:
    """w' = w - lr (momentum buf + d L1 / dw + weight_decay w), with its dependence on `a`."""
    g = grad(loss1(w, a), w)
    return {k: x - lr * (g[k] + weight_decay * x + (momentum * buffers[k] if buffers else 0.0)) for k, x in w.items()}


def darts2(
    loss1: Loss,
    loss2: Loss,
    w: Tree,
    a: Tree,
    lr: float,
    momentum: float = 0.0,
    buffers: Tree | None = None,
    weight_decay: float = 0.0,
) -> Tree:
    w, a = leaves(w), leaves(a)
    moved = unrolled(loss1, w, a, lr, momentum, buffers, weight_decay)
    return plain(grad(loss2(moved, a), a))


def hessian_product(loss1: Loss, w: Tree, a: Tree, u: Tree) -> Tree:
    """H u."""
    w = leaves(w)
    return plain(grad(inner(grad(loss1(w, plain(a)), w), plain(u)), w))


def mixed_product(loss1: Loss, w: Tree, a: Tree, u: Tree) -> Tree:
    """M u."""
    w, a = leaves(w), leaves(a)
    return plain(grad(inner(grad(loss1(w, a), w), plain(u)), a))


def both(loss2: Loss, w: Tree, a: Tree) -> tuple[Tree, Tree]:
    """(d L2 / da, v)."""
    w, a = leaves(w), leaves(a)
    value = loss2(w, a)
    return plain(grad(value, a)), plain(grad(value, w))


def idarts(loss1: Loss, loss2: Loss, w: Tree, a: Tree, lr: float, terms: int) -> Tree:
    """`terms` is the paper's K, so K + 1 terms are summed; K = 0 is the correction of darts2 taken at w."""
    direct, v = both(loss2, w, a)
    u, total = v, v
    for _ in range(terms):
        product = hessian_product(loss1, w, a, u)
        u = {k: u[k] - lr * product[k] for k in u}
        total = {k: total[k] + u[k] for k in u}
    correction = mixed_product(loss1, w, a, total)
    return {k: direct[k] - lr * correction[k] for k in direct}


def amended(loss1: Loss, loss2: Loss, w: Tree, a: Tree, eta: float) -> Tree:
    direct, v = both(loss2, w, a)
    correction = mixed_product(loss1, w, a, hessian_product(loss1, w, a, v))
    return {k: direct[k] - eta * correction[k] for k in direct}


class Matrices(NamedTuple):
    """H (n, n), M (m, n), v (n,) and d L2 / da (m,)."""

    hessian: np.ndarray
    mixed: np.ndarray
    v: np.ndarray
    direct: np.ndarray


def vector(tree: Tree) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tree.values()])


def matrices(loss1: Loss, loss2: Loss, w: Tree, a: Tree) -> Matrices:
    """Every second derivative, entry by entry of d L1 / dw."""
    direct, v = both(loss2, w, a)
    w, a = leaves(w), leaves(a)
    rows = [(vector(plain(grad(entry, w))), vector(plain(grad(entry, a)))) for entry in vector(grad(loss1(w, a), w))]
    hessian = torch.stack([row for row, _ in rows]).numpy()
    mixed = torch.stack([column for _, column in rows], dim=1).numpy()
    return Matrices(hessian, mixed, vector(v).numpy(), vector(direct).numpy())


def hypergradient_dense(loss1: Loss, loss2: Loss, w: Tree, a: Tree) -> np.ndarray:
    """Exact where w minimizes L1."""
    m = matrices(loss1, loss2, w, a)
    return m.direct - m.mixed @ np.linalg.solve(m.hessian, m.v)


def idarts_dense(loss1: Loss, loss2: Loss, w: Tree, a: Tree, lr: float, terms: int) -> np.ndarray:
    """The geometric sum in closed form: H^-1 (I - (I - lr H)^(K + 1)) v."""
    m = matrices(loss1, loss2, w, a)
    eye = np.eye(len(m.v))
    rest = eye - np.linalg.matrix_power(eye - lr * m.hessian, terms + 1)
    return m.direct - m.mixed @ np.linalg.solve(m.hessian, rest @ m.v)


def amended_dense(loss1: Loss, loss2: Loss, w: Tree, a: Tree, eta: float) -> np.ndarray:
    m = matrices(loss1, loss2, w, a)
    return m.direct - eta * m.mixed @ m.hessian @ m.v


# ------------------------------------------------------------------------------------------- one-level methods
SINGLE_MODES = ("same_batch", "same_split_other_batch", "other_split")


def single(losses: dict[str, Loss], w: Tree, a: Tree, mode: str) -> tuple[Tree, Tree]:
    """(dw, da) at the same (w, a); `losses` are those of the batches "train", "other_train" and "val"."""
    chosen = {"same_batch": "train", "same_split_other_batch": "other_train", "other_split": "val"}[mode]
    w, a = leaves(w), leaves(a)
    return plain(grad(losses["train"](w, a), w)), plain(grad(losses[chosen](w, a), a))


def sgd(
    w: Tree,
    g: Tree,
    buffers: Tree | None,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    clip: float | None = None,
) -> tuple[Tree, Tree | None]:
    """One step of stochastic gradient descent as a function: (new weights, new buffers). Keeps graphs."""
    if clip is not None:
        length = torch.sqrt(inner(g, g))
        g = {k: x * torch.clamp(clip / (length + 1e-6), max=1.0) for k, x in g.items()}
    g = {k: x + weight_decay * w[k] for k, x in g.items()}
    if momentum:
        buffers = g if buffers is None else {k: momentum * buffers[k] + g[k] for k in g}
        g = {k: g[k] + momentum * buffers[k] for k in g} if nesterov else buffers
    return {k: x - lr * g[k] for k, x in w.items()}, buffers


class Estimate(NamedTuple):
    """The summed architecture gradient of pass 1, and where T weight steps end."""

    gradient: Tree
    w: Tree
    buffers: Tree | None


def tse(losses: Sequence[Loss], w: Tree, a: Tree, buffers: Tree | None = None, **sgd_settings: Any) -> Estimate:
    """Sum over t of d L1_t / da at the weights before step t; the weight steps do not depend on `a`."""
    w, total = plain(w), {k: torch.zeros_like(x) for k, x in a.items()}
    for loss in losses:
        w, a = leaves(w), leaves(a)
        value = loss(w, a)
        dw, da = plain(grad(value, w)), plain(grad(value, a))
        total = {k: total[k] + da[k] for k in total}
        w, buffers = sgd(plain(w), dw, buffers, **sgd_settings)
    return Estimate(total, w, buffers)


def tse_exact(losses: Sequence[Loss], w: Tree, a: Tree, buffers: Tree | None = None, **sgd_settings: Any) -> Tree:
    """d/da of sum over t of L1_t(w_t(a), a), through every weight step."""
    w, a = leaves(w), leaves(a)
    total = torch.zeros((), dtype=next(iter(w.values())).dtype)
    for loss in losses:
        value = loss(w, a)
        total = total + value
        w, buffers = sgd(w, grad(value, w), buffers, **sgd_settings)
    return plain(grad(total, a))


def tse_step(
    losses: Sequence[Loss],
    w: Tree,
    a: Tree,
    move: Callable[[Tree, Tree], Tree],
    buffers: Tree | None = None,
    restore_momentum: bool = True,
    **sgd_settings: Any,
) -> tuple[Tree, Tree, Tree | None]:
    """A whole outer step, (w, a, buffers): pass 1, `move(a, gradient)`, pass 2 from the same w on the same batches."""
    first = tse(losses, w, a, buffers, **sgd_settings)
    a = move(plain(a), first.gradient)
    second = tse(losses, w, a, buffers if restore_momentum else first.buffers, **sgd_settings)
    return second.w, a, second.buffers


# ------------------------------------------------------------------------------------------- layer alignment
def layer_gradients(loss: Loss, w: Tree, mix: Tree, group: Sequence[str]) -> Tensor:
    """g (cells, d): the gradient of each cell's own mixture, the names of `group` concatenated. Keeps its graph."""
    mix = {k: x.detach().clone().requires_grad_() for k, x in mix.items()}
    gradients = grad(loss(w, mix), {k: mix[k] for k in group})
    return torch.cat([gradients[k].flatten(1) for k in group], dim=1)


def alignment(g: Tensor, signed: bool = False) -> Tensor:
    """Mean over pairs of rows of the cosine, or (`signed`) of g'h / |g|'|h|. Layers (cells, d)."""
    values = []
    for i in range(len(g)):
        for j in range(i):
            scale = g[i].abs() @ g[j].abs() if signed else g[i].norm() * g[j].norm()
            values.append(g[i] @ g[j] / scale)
    return torch.stack(values).mean()


def perturbation(g: Tensor, signed: bool = False) -> Tensor:
    """Delta (cells, d): the derivative of the sum over pairs by the layer gradients, by the paper's formulas."""
    delta = torch.zeros_like(g)
    for i in range(len(g)):
        for j in range(len(g)):
            if i == j:
                continue
            x, y = g[i], g[j]
            if signed:
                scale = x.abs() @ y.abs()
                delta[i] += (y - (x @ y / scale) * torch.sign(x) * torch.sign(y) * y) / scale
            else:
                projected = y - x * (x @ y) / (x @ x)
                delta[i] += projected / (x.norm() * y.norm())
    return delta


def alignment_gradient(
    loss: Loss,
    w: Tree,
    mix: Tree,
    group: Sequence[str],
    signed: bool = False,
) -> tuple[Tensor, Tree]:
    """(value, d value / dw) by double backward."""
    w = leaves(w)
    value = alignment(layer_gradients(loss, w, mix, group), signed)
    return value.detach(), plain(grad(value, w))


def aligned_weight_gradient(
    loss: Loss, w: Tree, mix: Tree, group: Sequence[str], strength: float, signed: bool = False
) -> Tree:
    """d L1 / dw - strength d value / dw: the weights also ascend the alignment."""
    _, penalty = alignment_gradient(loss, w, mix, group, signed)
    w = leaves(w)
    ordinary = plain(grad(loss(w, plain(mix)), w))
    return {k: ordinary[k] - strength * penalty[k] for k in ordinary}


# ------------------------------------------------------------------------------------------------- mixtures
def project(p: Tensor) -> Tensor:
    """Clamp to [0, 1] and renormalize each edge, entry by entry."""
    rows = p.clamp(0.0, 1.0).reshape(-1, p.shape[-1])
    return torch.stack([row / row.sum() for row in rows]).reshape(p.shape)


def sdarts_radius(epoch: int, epochs: int, low: float = 0.03, high: float = 0.3) -> float:
    return low + (high - low) * epoch / epochs


def sdarts_random(mix: Tree, noise: Tree) -> Tree:
    """SDARTS-RS: `noise` is already uniform in (-eps, eps)."""
    return {k: project(x.detach() + noise[k]) for k, x in mix.items()}


def sdarts_adversarial(loss: Loss, w: Tree, mix: Tree, eps: float, steps: int = 7, start: Tree | None = None) -> Tree:
    """SDARTS-ADV: sign ascent by 2 eps / steps in the box |p - mix| <= eps, projected; dropped if the loss is lower.

    `start` is the first offset (None: zero), projected before the first step.
    """
    w, clean = plain(w), plain(mix)
    p = clean if start is None else {k: project(x + start[k]) for k, x in clean.items()}
    for _ in range(steps):
        p = leaves(p)
        ascent = plain(grad(loss(w, p), p))
        p = {k: x.detach() + 2 * eps / steps * torch.sign(ascent[k]) for k, x in p.items()}
        p = {k: project(torch.minimum(torch.maximum(x, clean[k] - eps), clean[k] + eps)) for k, x in p.items()}
    return p if loss(w, p) >= loss(w, clean) else clean


def gdas(logits: Tensor, gumbel: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """(one-hot choice, soft weights) of softmax((log softmax(logits) + gumbel) / tau), along the last axis."""
    soft = torch.softmax((torch.log_softmax(logits, dim=-1) + gumbel) / tau, dim=-1)
    return torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype), soft


def gdas_gradient(
    loss: Loss,
    w: Tree,
    logits: Tree,
    gumbel: Tree,
    tau: float,
    cells: dict[str, int],
    reading: str = "straight_through",
    biased: Sequence[str] = (),
) -> Tree:
    """d L / d logits with the loss at the one-hot mixture and the derivative of the soft one.

    Row by row with the softmax Jacobian (diag(q) - q q') / tau; every cell of a name shares one draw. By `reading` the
    entries that were not sampled have the gradient of their products (straight_through), none (sampled), or that of a
    number added to the edge's result (released; for the names of `biased`, whose edges the loss reads as `NAME.bias`).
    """
    pairs = {k: gdas(x.detach(), gumbel[k], tau) for k, x in logits.items()}
    mix = {k: hard.expand(cells[k], *hard.shape) for k, (hard, _) in pairs.items()}
    mix = leaves(mix | {f"{k}.bias": torch.zeros_like(mix[k][..., 0]).unsqueeze(-2) for k in biased})
    upstream = plain(grad(loss(plain(w), mix), mix))
    result = {}
    for k, (hard, soft) in pairs.items():
        total = upstream[k].sum(0)
        if reading != "straight_through":
            other = upstream[f"{k}.bias"].sum(0).transpose(-1, -2) if k in biased else torch.zeros_like(total)
            total = torch.where(hard > 0, total, other)
        rows = [
            (torch.diag(q) - torch.outer(q, q)) @ t / tau
            for q, t in zip(soft.reshape(-1, soft.shape[-1]), total.reshape(-1, soft.shape[-1]), strict=True)
        ]
        result[k] = torch.stack(rows).reshape(soft.shape)
    return result


def edge_weights(beta: Tensor, fan_in: Sequence[int] = (2, 3, 4, 5)) -> Tensor:
    """PC-DARTS: beta (edges,) softmaxed over the incoming edges of each node."""
    return torch.cat([torch.softmax(x, dim=0) for x in beta.split(list(fan_in))])


def pc_scores(alpha: Tensor, beta: Tensor, fan_in: Sequence[int] = (2, 3, 4, 5)) -> Tensor:
    """(edges, operations) by which PC-DARTS ranks edges and operations: softmax(alpha) times the edge weight."""
    return torch.softmax(alpha, dim=-1) * edge_weights(beta, fan_in)[:, None]
