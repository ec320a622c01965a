"""SmoothDARTS: weight steps under perturbed mixture weights, architecture steps as DARTS' first order.

    random        p~ = renormalize(clamp(p + U(-eps, eps), 0, 1))                                      (RS)
    adversarial   p~ = maximizer of L1 within the eps-box around p, by signed gradient steps            (ADV)
    eps_e = eps_start + (eps_end - eps_start) e / E

Source: Chen and Hsieh (2020), eqs. 4-6, algorithm 1.
Cost per weight step: one pass (random), 1 + `ascents` + 2 (adversarial); per architecture step one pass.

Deviations
1. Noise draws from the batch's seed, so a step is a function of its batches.
2. The ascent starts at p itself, takes `ascents` steps of size 2 eps / `ascents`, is clamped to the box and to
   [0, 1] and renormalized, and is kept only where it raised the loss. It runs with batch statistics (the supernet
   keeps no others by default), not in eval mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nasx.bilevel import Batch, Method, Search, Tree, detached, gradient, logs

if TYPE_CHECKING:
    from nasx.settings import NonNegativeFloat, Positive


def normalized(p: Tensor) -> Tensor:
    """p clamped to [0, 1] and scaled to sum 1 along the last axis."""
    p = p.clamp(0, 1)
    return p / p.sum(-1, keepdim=True)


def identity(p: Tensor) -> Tensor:
    """Mixture weights that are given as such."""
    return p


@dataclass(frozen=True, kw_only=True)
class Sdarts(Method):
    """First-order DARTS with perturbed weight steps."""

    perturbation: Literal["random", "adversarial"] = "random"
    eps_start: NonNegativeFloat = 0.03
    eps_end: NonNegativeFloat = 0.3
    ascents: Positive = 7

    def eps(self, search: Search) -> float:
        """Radius of the current epoch."""
        return self.eps_start + (self.eps_end - self.eps_start) * search.epoch / max(search.epochs, 1)

    def random(self, p: Tree, eps: float, seed: int) -> Tree:
        gen = torch.Generator().manual_seed(seed)
        return {k: normalized(x + eps * (2 * torch.rand(x.shape, generator=gen, dtype=torch.float64).to(x) - 1))
                for k, x in p.items()}

    def adversarial(self, search: Search, p: Tree, eps: float, batch: Batch) -> Tree:
        w = detached(search.w)

        def loss(q: Tree) -> Tensor:
            return search.problem.outcome(w, search.problem.relax(q, identity), batch).loss

        q = detached(p)
        for _ in range(self.ascents):
            leaf = detached(q, requires_grad=True)
            g = gradient(loss(leaf), leaf)
            q = {k: normalized(torch.clamp(q[k] + 2 * eps / self.ascents * g[k].sign(), p[k] - eps, p[k] + eps)) for k in q}
        with torch.no_grad():
            better = loss(q) > loss(p)
        return {k: torch.where(better, q[k], p[k]) for k in q}

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        validated = None if search.warming else search.update_a(val)
        p, eps = {k: self.activate(x).detach() for k, x in search.a.items()}, self.eps(search)
        if self.perturbation == "random":
            p = self.random(p, eps, train[0].seed)
        else:
            p = self.adversarial(search, p, eps, train[0])
        return logs(search.update_w(train[0], search.problem.relax(p, identity)), validated)
