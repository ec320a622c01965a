"""DrNAS: mixtures are samples from a Dirichlet distribution, and architecture gradients flow through the samples.

    mix ~ Dir(elu(a) + 1), d mix / d a by the pathwise derivative;  loss + kl * KL(Dir(elu(a) + 1) || Dir(1))

The steps are those of `inner`, with a separate sample for each batch. With first-order DARTS as `inner`, this is the
published method; with TSE-DARTS, it is TSE-DrNAS. Architectures are chosen by softmax(a). The progressive stages of the
paper are `stages=drnas_darts` and `stages=drnas_nb201`.

Source: Chen, Wang, Cheng, Tang, Hsieh (2021), section 3; released code (utils.py, process_step_vector).
Cost per step: that of `inner`.

Deviations
1. Noise is drawn from the batch's seed, so a step is a function of its batches. Samples are drawn in double precision,
   and all cells share one sample.
2. Diagnostics and evaluations of the supernet use softmax(a); the released code evaluates at a sample.
3. With `kl`, all architecture parameters are penalized, including those of edges and edge pairs in spaces that have
   them, although these are not sampled.
4. `kl` = 0 by default, as in the released code, which has an L2 penalty on `a` instead (`search.arch_weight_decay`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable
from torch.distributions import Dirichlet, kl_divergence

from nasx.core.bilevel import Batch, Search, Tree, detached, gradient
from nasx.methods.wrapper import Sampling

if TYPE_CHECKING:
    from nasx.core.constraints import NonNegativeFloat


def dirichlet(logits: Tensor) -> Dirichlet:
    """Return the distribution Dir(elu(logits) + 1) along the last axis, in double precision."""
    return Dirichlet((F.elu(logits) + 1).double(), validate_args=False)


class Sample(torch.autograd.Function):
    """A Dirichlet sample with its pathwise derivative: `Dirichlet.rsample` with a generator argument."""

    @staticmethod
    def forward(ctx: FunctionCtx, concentration: Tensor, gen: torch.Generator) -> Tensor:
        sample = torch._sample_dirichlet(concentration, generator=gen)
        ctx.save_for_backward(sample, concentration)
        return sample

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, grad: Tensor) -> tuple[Tensor, None]:
        saved: Sequence[Tensor] = ctx.saved_tensors
        sample, concentration = saved
        total = concentration.sum(-1, keepdim=True).expand_as(concentration)
        slope = torch._dirichlet_grad(sample, concentration, total)
        return slope * (grad - (sample * grad).sum(-1, keepdim=True)), None


@dataclass(frozen=True, kw_only=True)
class DrNas(Sampling):
    """Steps of the inner method on mixtures sampled from a Dirichlet distribution."""

    kl: NonNegativeFloat = 0.0

    def sample(self, search: Search, a: Tree, batch: Batch) -> Tree:
        gen = search.generator(batch)
        return search.problem.relax(a, lambda logits: Sample.apply(dirichlet(logits).concentration, gen).to(logits))

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        return super().step(search.with_arch_penalty(self.penalty) if self.kl else search, train, val)

    def penalty(self, a: Tree) -> Tree:
        """Return the gradient of kl * KL(Dir(elu(a) + 1) || Dir(1)), summed over edges."""
        leaves = detached(a, requires_grad=True)
        total = torch.stack(
            [
                kl_divergence(q, Dirichlet(torch.ones_like(q.concentration), validate_args=False)).sum()
                for q in map(dirichlet, leaves.values())
            ]
        ).sum()
        return gradient(self.kl * total, leaves)
