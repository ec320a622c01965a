"""SmoothDARTS: weight steps under perturbed mixture weights, architecture steps as DARTS' first order.

    random        p~ = renormalize(clamp(p + U(-eps, eps), 0, 1))                                      (RS)
    adversarial   p~ = maximizer of L1 within the eps-box around p, by signed gradient steps            (ADV)
    eps_e = eps_start + (eps_end - eps_start) e / E

Source: Chen and Hsieh (2020), eqs. 4-6, algorithm 1.
Cost per weight step: one pass (random), 1 + `ascents` + 2 (adversarial); per architecture step one pass.

Deviations
1. Noise draws from the batch's seed, so a step is a function of its batches.
2. The ascent starts at p itself (the released code: at a random point of the box), takes `ascents` steps of size
   2 eps / `ascents`, is clamped to the box and to [0, 1] and renormalized, and is kept only where it raised the loss.
   It runs with batch statistics (the supernet keeps no others by default), not in eval mode.
3. Operation weights alone are perturbed, not the edge weights that a space may have besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from nasx.bilevel import Activate, Batch, Method, Search, detached, logs

if TYPE_CHECKING:
    from nasx.settings import NonNegativeFloat, Positive


def normalized(p: Tensor) -> Tensor:
    """p clamped to [0, 1] and scaled to sum 1 along the last axis; where nothing is left, 1 on the largest entry."""
    kept = p.clamp(0, 1)
    total = kept.sum(-1, keepdim=True)
    largest = torch.zeros_like(p).scatter_(-1, p.argmax(-1, keepdim=True), 1.0)
    return torch.where(total > 0, kept / total.clamp_min(torch.finfo(p.dtype).tiny), largest)


def given(weights: Sequence[Tensor]) -> Activate:
    """An activation that returns `weights` in the order of its calls, whatever the logits."""
    rest = iter(weights)
    return lambda logits: next(rest)


@dataclass(frozen=True, kw_only=True)
class Sdarts(Method):
    """First-order DARTS with perturbed weight steps."""

    replayable: ClassVar[bool] = False
    perturbation: Literal["random", "adversarial"] = "random"
    eps_start: NonNegativeFloat = 0.03
    eps_end: NonNegativeFloat = 0.3
    ascents: Positive = 7

    def eps(self, search: Search) -> float:
        """Radius of the current epoch."""
        return self.eps_start + (self.eps_end - self.eps_start) * search.epoch / max(search.epochs, 1)

    def clean(self, search: Search) -> list[Tensor]:
        """The operation weights, one for each call of the activation; edge weights of a space are not among them."""
        found: list[Tensor] = []

        def note(logits: Tensor) -> Tensor:
            found.append(self.activate(logits).detach())
            return found[-1]

        search.problem.relax(search.a, note)
        return found

    def random(self, p: Sequence[Tensor], eps: float, seed: int) -> list[Tensor]:
        gen = torch.Generator().manual_seed(seed)
        noise = [torch.rand(x.shape, generator=gen, dtype=torch.float64).to(x) for x in p]
        return [normalized(x + eps * (2 * u - 1)) for x, u in zip(p, noise, strict=True)]

    def adversarial(self, search: Search, p: Sequence[Tensor], eps: float, batch: Batch) -> list[Tensor]:
        w, a = detached(search.w), detached(search.a)

        def loss(q: Sequence[Tensor]) -> Tensor:
            return search.problem.outcome(w, search.problem.relax(a, given(q)), batch).loss

        q = list(p)
        for _ in range(self.ascents):
            leaves = [x.detach().requires_grad_() for x in q]
            g = torch.autograd.grad(loss(leaves), leaves)
            moved = [x + 2 * eps / self.ascents * slope.sign() for x, slope in zip(q, g, strict=True)]
            q = [normalized(torch.clamp(x, y - eps, y + eps)) for x, y in zip(moved, p, strict=True)]
        with torch.no_grad():
            better = loss(q) > loss(p)
        return [torch.where(better, x, y) for x, y in zip(q, p, strict=True)]

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        validated = None if search.warming else search.update_a(val)
        p, eps = self.clean(search), self.eps(search)
        if self.perturbation == "random":
            p = self.random(p, eps, train[0].seed)
        else:
            p = self.adversarial(search, p, eps, train[0])
        return logs(search.update_w(train[0], search.problem.relax(search.a, given(p))), validated)
