"""SmoothDARTS: training losses under perturbed mixture weights, validation losses under the clean ones.

    random        p~ = renormalize(clamp(p + U(-eps, eps), 0, 1))                                      (RS)
    adversarial   p~ = maximizer of L1 within the eps-box around p, by signed gradient steps            (ADV)
    eps_e = eps_start + (eps_end - eps_start) e / E

The steps are those of `inner`, with p~ instead of p on training batches: around first-order DARTS this is the published
method; around Lambda-DARTS the layer gradients and their probes are computed at p~ (Lambda-SDARTS-RS).

The ascent takes `ascents` steps of size 2 eps / `ascents`. After each one p~ is clamped to the box, then to [0, 1] and
renormalized; if the final loss is lower than at p, p~ = p. The released code starts at a random point of the box and
ascends in eval mode, with the running statistics of batch norm. The published numbers are those of this variant, so it
is the default here (`random_start=true`, `ascent=eval`). With `random_start=false` the ascent starts at p;
`ascent=train` normalizes by the batch's own statistics, as the following weight step does. A supernet keeps running
statistics only with `space.batch_norm=tracked`; without them eval mode could only normalize by the batch, and the
command line refuses `ascent=eval`.

Source: Chen and Hsieh (2020), eqs. 4-6, algorithm 1; SmoothDARTS d3dbfed, attacker/perturb.py and linf_sgd.py;
Lambda-DARTS appendix A.5.
Cost: that of `inner`; for `adversarial`, an additional `ascents` + 2 passes for each mixture of a training batch.

Deviations
1. Noise is drawn from the batch's seed, so a step is a function of its batches.
2. Only real weight updates change the running statistics; in the released code, passes over validation batches change
   them too.
3. Only operation weights are perturbed, not the edge weights that a space may have.
4. If an inner method differentiates a training loss with respect to the architecture, p~ - p is a constant
   (adversarial), and clamping and renormalization are differentiated (random).
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
    """Return p clamped to [0, 1] and scaled to sum 1 along the last axis; if the sum is 0, 1 on the largest entry."""
    kept = p.clamp(0, 1)
    total = kept.sum(-1, keepdim=True)
    largest = torch.zeros_like(p).scatter_(-1, p.argmax(-1, keepdim=True), 1.0)
    return torch.where(total > 0, kept / total.clamp_min(torch.finfo(p.dtype).tiny), largest)


def noisy(p: Tensor, eps: Number, gen: torch.Generator) -> Tensor:
    """Return p with uniform noise in (-eps, eps), `normalized`."""
    noise = torch.rand(p.shape, generator=gen, dtype=torch.float64, device=gen.device).to(p)
    return normalized(p + eps * (2 * noise - 1))


def given(weights: Sequence[Tensor]) -> Activate:
    """Return an activation that ignores its logits and returns `weights` in the order of its calls."""
    rest = iter(weights)
    return lambda logits: next(rest)


@dataclass(frozen=True, kw_only=True)
class Sdarts(Wrapper):
    """Steps of the inner method, with perturbed mixture weights on training batches."""

    samples_mixture: ClassVar[bool] = True
    perturbation: Literal["random", "adversarial"] = "random"
    eps_start: NonNegativeFloat = 0.03
    eps_end: NonNegativeFloat = 0.3
    ascents: Repeats = 7
    random_start: bool = True
    ascent: Literal["eval", "train"] = "eval"

    @property
    def cost(self) -> Cost | None:
        """Return the cost of `inner`; None for `adversarial`: it depends on how many mixtures `inner` uses."""
        return self.inner.cost if self.perturbation == "random" else None

    def eps(self, search: Search) -> Number:
        """Return the radius of the current epoch."""
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
        """Return the method's activation with noise of radius `eps`."""
        return lambda logits: noisy(self.activate(logits), eps, gen)

    def clean(self, search: Search, a: Tree) -> list[Tensor]:
        """Return the operation weights, one for each call of the activation; edge weights are not included."""
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
