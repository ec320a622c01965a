"""SmoothDARTS: training losses with perturbed mixture weights, validation losses with clean ones.

    random        p~ = renormalize(clamp(p + U(-eps, eps), 0, 1))                                      (RS)
    adversarial   p~ = maximizer of L1 within the eps-box around p, by signed gradient steps            (ADV)
    eps_e = eps_start + (eps_end - eps_start) e / E

The steps are those of `inner`, with p~ instead of p on training batches. With first-order DARTS as `inner`, this is the
published method; with Lambda-DARTS, the layer gradients and their probes are computed at p~ (Lambda-SDARTS-RS).

The ascent takes `ascents` steps of size 2 eps / `ascents`. After each step, p~ is clamped to the box and to [0, 1], and
renormalized; if the final loss is lower than at p, p~ = p. The released code starts at a random point in the box and
ascends in eval mode, with the running statistics of batch norm. The published numbers belong to this variant, so it is
the default (`random_start=true`, `ascent=eval`). With `random_start=false`, the ascent starts at p; with
`ascent=train`, it normalizes with batch statistics, as the following weight step does. A supernet keeps running
statistics only with `space.batch_norm=tracked`; without them, eval mode could only use batch statistics, and the
command line rejects `ascent=eval`.

Source: Chen and Hsieh (2020), eqs. 4-6, algorithm 1; SmoothDARTS d3dbfed, attacker/perturb.py and linf_sgd.py;
Lambda-DARTS appendix A.5.
Cost: that of `inner`; for `adversarial`, an additional `ascents` + 2 passes for each mixture of a training batch.

Deviations
1. Noise is drawn from the batch's seed, so a step is a function of its batches.
2. Only real weight updates change the running statistics; in the released code, passes on validation batches also
   change them.
3. Only operation weights are perturbed, not the edge weights that a space may have.
4. If the inner method differentiates a training loss with respect to the architecture, p~ - p is treated as a constant
   (adversarial), while clamping and renormalization are differentiated (random).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from nasx.core.bilevel import Activate, Batch, Cost, Number, Search, Tree, detached
from nasx.methods.wrapper import Wrapper

if TYPE_CHECKING:
    from nasx.core.constraints import NonNegativeFloat, Repeats


def normalized(p: Tensor) -> Tensor:
    """Clamp p to [0, 1] and scale it to sum to 1 along the last axis; if the sum is 0, set the largest entry to 1."""
    kept = p.clamp(0, 1)
    total = kept.sum(-1, keepdim=True)
    largest = torch.zeros_like(p).scatter_(-1, p.argmax(-1, keepdim=True), 1.0)
    return torch.where(total > 0, kept / total.clamp_min(torch.finfo(p.dtype).tiny), largest)


def noisy(p: Tensor, eps: Number, gen: torch.Generator) -> Tensor:
    """Add uniform noise in (-eps, eps) to p and renormalize it with `normalized`."""
    noise = torch.rand(p.shape, generator=gen, dtype=torch.float64, device=gen.device).to(p)
    return normalized(p + eps * (2 * noise - 1))


def given(weights: Sequence[Tensor]) -> Activate:
    """Return an activation that ignores its logits and returns `weights` in the order of its calls."""
    rest = iter(weights)
    return lambda logits: next(rest)


@dataclass(frozen=True, kw_only=True)
class Sdarts(Wrapper):
    """Steps of the inner method with perturbed mixture weights on training batches."""

    samples_mixture: ClassVar[bool] = True
    perturbation: Literal["random", "adversarial"] = "random"
    eps_start: NonNegativeFloat = 0.03
    eps_end: NonNegativeFloat = 0.3
    ascents: Repeats = 7
    random_start: bool = True
    ascent: Literal["eval", "train"] = "eval"

    @property
    def cost(self) -> Cost | None:
        """The cost of `inner`; None for `adversarial`, whose cost depends on the number of mixtures in `inner`."""
        return self.inner.cost if self.perturbation == "random" else None

    def eps(self, search: Search) -> Number:
        """Return the perturbation radius for the current epoch."""
        return self.eps_start + (self.eps_end - self.eps_start) * search.epoch / max(search.epochs, 1)

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        eps = self.eps(search)

        def draw(a: Tree, batch: Batch) -> Tree:
            if not any(batch is own for own in train):
                return search.problem.relax(a)
            if self.perturbation == "random":
                return search.problem.relax(a, self.random(eps, search.generator(batch)))
            p = self.clean(search, a)
            q = self.adversarial(search, [x.detach() for x in p], eps, batch)
            return search.problem.relax(a, given([x + (y - y.detach()) for x, y in zip(q, p, strict=True)]))

        return self.inner.step(search.with_sampler(draw), train, val)

    def random(self, eps: Number, gen: torch.Generator) -> Activate:
        """Return the activation of the method with added noise of radius `eps`."""
        return lambda logits: noisy(self.activate(logits), eps, gen)

    def clean(self, search: Search, a: Tree) -> list[Tensor]:
        """Return the operation weights, one tensor per call of the activation; edge weights are not included."""
        found: list[Tensor] = []

        def note(logits: Tensor) -> Tensor:
            found.append(self.activate(logits))
            return found[-1]

        search.problem.relax(a, note)
        return found

    def adversarial(self, search: Search, p: Sequence[Tensor], eps: Number, batch: Batch) -> list[Tensor]:
        """Return the worst operation weights that the ascent finds in the box around `p`. Changes no state."""
        w, a = detached(search.w), detached(search.a)

        def loss(q: Sequence[Tensor]) -> Tensor:
            mix = search.transformed(search.problem.relax(a, given(q)))
            return search.problem.outcome(w, mix, batch, evaluation=self.ascent == "eval").loss

        gen = search.generator(batch)
        q = [noisy(x, eps, gen) for x in p] if self.random_start else list(p)
        for _ in range(self.ascents):
            leaves = [x.detach().requires_grad_() for x in q]
            g = torch.autograd.grad(loss(leaves), leaves)
            moved = [x + 2 * eps / self.ascents * slope.sign() for x, slope in zip(q, g, strict=True)]
            q = [normalized(torch.clamp(x, y - eps, y + eps)) for x, y in zip(moved, p, strict=True)]
        with torch.no_grad():
            better = loss(q) >= loss(p)
        return [torch.where(better, x, y) for x, y in zip(q, p, strict=True)]
