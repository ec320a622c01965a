"""Lambda-DARTS: the weights are regularized so that the layers' architecture gradients agree.

    Lambda   = mean over pairs (l, l') of cos(g_l, g_l'),                 g_l = d L1 / d p_l
    Lambda+- = mean over pairs of g_l . g_l' / (|g_l| . |g_l'|)           (elementwise absolute values)
    w-gradient = d/dw L1 - lambda_e * d/dw Lambda

p_l is layer l's own copy of the mixture weights. With Delta = d Lambda / d g,

    d/dw Lambda = [d/dw L1(w, P + eps Delta) - d/dw L1(w, P - eps Delta)] / (2 eps),   eps = eps0 / ||Delta||_F

The mixture weights themselves are perturbed, so P leaves the simplex, as intended. The architecture step is that of
first-order DARTS.

`difference` selects how d/dw Lambda is computed: by the `central` difference above, by a `one_sided` difference with
alternating sign, or exactly by double backward (`exact`). The default is the central difference at eps0 = 1e-4, as in
the released code. On networks with ReLU, it is far from the gradient of the penalty: on a NAS-Bench-201 supernet, its
cosine similarity to `exact` is -0.03 before the first update and 0.08 after 60 updates, and its norm is 40 and 17 times
as large, because it includes the jumps of the gradient at the kinks between the two probes (docs/methods/kinks.md).

Source: Movahedi, Adabinejad, Imani, Keshavarz, Dehghani, Shakery, Araabi (2023), eqs. 5-13, 24-25, appendix A.
Cost per weight step: three passes (`central`), two (`one_sided`) or two plus one backward pass (`exact`); per
architecture step, one pass. If lambda_e = 0 (in the first epoch), the extra passes are skipped, with the same result.

Deviations
1. lambda_e = lambda * e / (E - 1) in epoch e, as in the released code; the paper has lambda t / T.
2. The released NAS-Bench-201 script uses lambda = 0.25, weight decay 3e-4 and no Nesterov momentum; nasx uses the
   paper's values (0.125, 5e-4, Nesterov).
3. `target=outer` adds the same term to the architecture's objective, through d p / d a (the ablation of Table 5).
4. If several mixtures describe a cell (NAS-Bench-1Shot1), their gradients are concatenated into one g_l.
5. Only weights are clipped, never the architecture (the released code clips both).
6. The released train.py also reports the best epoch on the test set; nasx reports the last epoch of a retraining.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from nasx.core.bilevel import (
    Batch,
    Cost,
    Number,
    Search,
    SecondDerivative,
    Tree,
    combine,
    detached,
    gradient,
    gradients,
    logs,
    shift,
    step_length,
    vanishes,
)
from nasx.methods.alternating import Alternating, Hypergradient, first_order

if TYPE_CHECKING:
    from nasx.core.constraints import NonNegativeFloat, PositiveFloat


class Alignment(NamedTuple):
    """Mean pairwise alignment of layer gradients, a scalar, and its derivative with respect to the gradients (L, D)."""

    value: Tensor
    delta: Tensor


def cosine(g: Tensor) -> Alignment:
    """Compute Lambda and its derivative for layer gradients g (L, D); eqs. 5 and 10."""
    layers = g.shape[0]
    length = g.norm(dim=1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny ** 0.5)
    u = g / length
    others = u.sum(0) - u
    pairs = layers * (layers - 1)
    value = (u * others).sum() / max(pairs, 1)
    return Alignment(value, (others - u * (u * others).sum(1, keepdim=True)) / length * (2 / max(pairs, 1)))


def signed(g: Tensor) -> Alignment:
    """Compute Lambda+- and its derivative for layer gradients g (L, D); eqs. 24-25."""
    layers = g.shape[0]
    size = g.abs()
    inverse = (size @ size.T).clamp_min(torch.finfo(g.dtype).tiny).reciprocal()
    inverse = inverse - torch.diag_embed(inverse.diagonal())
    ratio = (g @ g.T) * inverse
    pairs = layers * (layers - 1)
    delta = inverse @ g - g.sign() * ((ratio * inverse) @ size)
    return Alignment(ratio.sum() / max(pairs, 1), delta * (2 / max(pairs, 1)))


@dataclass(frozen=True, kw_only=True)
class Lambda(Alternating):
    """First-order DARTS with the layer-alignment regularizer on the weights."""

    needs_two_cells: ClassVar[bool] = True
    strength: NonNegativeFloat = 0.125
    eps0: PositiveFloat = 1e-4
    alignment: Literal["cosine", "signed"] = "cosine"
    difference: Literal["central", "one_sided", "exact"] = "central"
    schedule: Literal["epoch", "constant"] = "epoch"
    target: Literal["inner", "outer"] = "inner"
    first: Literal["architecture", "weights"] = "architecture"

    @property
    def weights_first(self) -> bool:
        return self.first == "weights"

    @property
    def cost(self) -> Cost:
        """The cost of a step in epochs with lambda_e > 0."""
        if self.difference == "exact":
            return Cost(3, 4, 1)
        return Cost(3, 3, 1) if self.difference == "one_sided" and self.target == "inner" else Cost(4, 4, 1)

    def response(self, h: Tensor, lr: float) -> Tensor | None:
        return torch.zeros_like(h) if self.target == "inner" else None

    def coefficient(self, search: Search) -> Number:
        """Return lambda_e for the current epoch."""
        if self.schedule == "constant":
            return self.strength
        return self.strength * search.epoch / max(search.epochs - 1, 1)

    def align(self, search: Search, g: Tree) -> tuple[Tensor, Tree]:
        """Compute the mean alignment over cell types, a scalar, and Delta, a tree like `g` (0 outside the groups)."""
        measure = cosine if self.alignment == "cosine" else signed
        delta = {k: torch.zeros_like(x) for k, x in g.items()}
        values = []
        for names in search.problem.groups:
            flat = [g[k].flatten(1) for k in names]
            value, direction = measure(torch.cat(flat, 1))
            values.append(value)
            for k, piece in zip(names, direction.split([f.shape[1] for f in flat], 1), strict=True):
                delta[k] = piece.reshape(g[k].shape)
        return torch.stack(values).mean(), delta

    def penalty(self, search: Search, batch: Batch, mix: Tree, delta: Tree, base: Tree) -> Tree:
        """Compute d Lambda / d w as selected by `difference`; `base` is d L1 / d w at `mix`."""
        second = SecondDerivative(lambda mix, w: search.problem.outcome(w, mix, batch).loss, mix, search.w)
        if self.difference == "exact":
            return second.exact(delta)
        found = None
        if self.difference == "one_sided":
            eps = step_length(delta, self.eps0) * (1 - 2 * (search.updates % 2))
            moved = second.slope(shift(mix, delta, eps))
            found = {k: (moved[k] - base[k]) / eps for k in moved}
        return search.probed("penalty", second, delta, found, radius=self.eps0)

    def move_w(self, search: Search, train: Sequence[Batch]) -> dict[str, Tensor]:
        (batch,) = train
        mix = detached(search.mixture(search.a, batch), requires_grad=True)
        outcome = search.problem.outcome(search.w, mix, batch, track=True)
        g_w, g_mix = gradients(outcome.loss, search.w, mix)
        value, delta = self.align(search, g_mix)
        coefficient = self.coefficient(search) if self.target == "inner" else 0.0
        if not vanishes(coefficient):
            g_w = combine(g_w, self.penalty(search, batch, mix, delta, g_w), -coefficient)
        search.descend_w(g_w, batch.rate)
        return logs(outcome, alignment=value)

    def hypergradient(self, search: Search, train: Batch, val: Batch) -> Hypergradient:
        if self.target == "inner" or vanishes(self.coefficient(search)):
            return first_order(search, val)
        live = search.mixture(search.a, val)
        mix, w = detached(live, requires_grad=True), detached(search.w)
        outcome = search.problem.outcome(w, mix, val)
        g = gradient(outcome.loss, mix)
        _, delta = self.align(search, g)
        second = SecondDerivative(lambda mix: search.problem.outcome(w, mix, val).loss, mix)
        if self.difference == "exact":
            slope = second.exact(delta)
        else:
            slope = search.probed("penalty", second, delta, radius=self.eps0)
        total = combine(g, slope, -self.coefficient(search))
        pulled = torch.stack([(live[k] * total[k]).sum() for k in live]).sum()  # d p / d a applied to `total`
        return Hypergradient(gradient(pulled, search.a), outcome)
