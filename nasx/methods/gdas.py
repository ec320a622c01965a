"""GDAS: one operation per edge is sampled by a hard Gumbel softmax, with the gradient of the soft one.

    q = softmax((log p + Gumbel noise) / tau),  mix = onehot(argmax q) forward,  p = softmax(a)

tau decreases linearly with the epoch from `tau_max` to `tau_min`. The steps are those of `inner` (first-order DARTS),
with a separate sample for each batch, shared by all cells. With g = d L / d (output of an edge), k the sampled
operation and o_j(x) the output of operation j, `gradient` selects the formula for d L / d q_j:

    released            <g, o_k(x)> for j = k,  sum of all entries of g for j != k
    sampled             <g, o_k(x)> for j = k,  0 for j != k
    straight_through    <g, o_j(x)> for all j

Source: Dong and Yang (2019), eqs. 5-7; AutoDL-Projects f46486e, the network of its NAS-Bench-201 search (`released`)
and of its DARTS space (`sampled`); schedule and order of the NAS-Bench-201 script (weights first, tau 10 to 0.1).
Cost per step: that of `inner`; one pass for the weights, one for the architecture.

Default gradient: the released NAS-Bench-201 code does not compute operations that were not sampled. Instead of their
weighted outputs, it adds only their weights, which are 0; the author states in issue 36 that this is intended. The
published NAS-Bench-201 numbers therefore belong to `released`, the default on this space (conf/pair/nb201_gdas.yaml).
For the DARTS space, the same repository uses `sampled`, which is the default on all other spaces, because no code was
released for them. `straight_through` is the usual estimator for eqs. 5-7; it needs the outputs of all operations.

Deviations
1. Operations that were not sampled are computed and multiplied by zero: the same values, a fixed graph.
2. Noise is drawn from the batch's seed, so a step is a function of its batches.
3. If a space also weights inputs and outputs (NAS-Bench-1Shot1), these are sampled in the same way, and `released` uses
   the gradient of `sampled` for them; the weights of edges and edge pairs in the DARTS space remain softmaxes. In the
   recurrent space, `released` equals `sampled`, because the batch norm of a node subtracts the constant that the
   weights add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nasx.core.bilevel import Activate, Batch, Number, Search, Tree
from nasx.methods.wrapper import Sampling, concrete

if TYPE_CHECKING:
    from nasx.core.constraints import PositiveFloat


def hard(tau: Number, gen: torch.Generator, slope: Literal["all", "sampled", "others"]) -> Activate:
    """Return a sampler of one-hot weights along the last axis; `slope` selects the entries with a gradient.

    The gradient is that of the soft sample. With `others`, only the entries that were not sampled are returned: zeros
    with their gradient.
    """
    sample = concrete(tau, gen)

    def activate(logits: Tensor) -> Tensor:
        soft = sample(logits)
        hot = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        moving = soft - soft.detach()  # 0, with the gradient of `soft`
        if slope == "others":
            return (1 - hot) * moving
        return hot + (moving if slope == "all" else hot * moving)

    return activate


@dataclass(frozen=True, kw_only=True)
class Gdas(Sampling):
    """Steps of the inner method on sampled architectures."""

    tau_max: PositiveFloat = 10.0
    tau_min: PositiveFloat = 0.1
    gradient: Literal["released", "sampled", "straight_through"] = "sampled"

    def tau(self, search: Search) -> Number:
        """Return the temperature for the current epoch."""
        return self.tau_max + (self.tau_min - self.tau_max) * search.epoch / max(search.epochs - 1, 1)

    def sample(self, search: Search, a: Tree, batch: Batch) -> Tree:
        tau, problem = self.tau(search), search.problem
        slope: Literal["all", "sampled"] = "all" if self.gradient == "straight_through" else "sampled"
        mix = problem.relax(a, hard(tau, search.generator(batch), slope))
        if self.gradient != "released":
            return mix
        return problem.biased(mix, problem.relax(a, hard(tau, search.generator(batch), "others")))
