"""Single-DARTS: single-level optimization, in which one batch updates both weights and architecture.

    w <- w - lr d/dw L1(w, a),   a <- a - lr_a d/da L1(w, a)        both gradients at the same (w, a)

No validation data is used. Operations are weighted with a sigmoid (no competition between them) or a softmax.

Source: Hou, Jin, Chen (2021), eq. 16 and section 5; ablation modes: Table 4.
Cost: one pass per step, shared by both updates (the two ablation modes: two passes).

Deviations
1. The paper does not state which half of CIFAR-10 it uses for the search: here, it is the part of the split that trains
   weights in other methods (`dataset.split=full` for the whole training set).
2. The paper states neither the final value of the cosine schedule nor, for NAS-Bench-201, the weight decay of Adam for
   the architecture: both are 0 here. It does not state the mode of batch norm either: here, that of protocol nb201-v1
   (nasx/spaces/nb201/space.py). For the SGD of Tables 4 and 5, section 5.3 states all settings: learning rate 0.005,
   momentum 0.9, weight decay 3e-4.
3. `initial` is -ln 7 for every space, as in the paper (1/8 on each operation); -ln 4 gives 1/5 for five operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Cost, Method, Search, Tree, detached, gradients, logs


@dataclass(frozen=True, kw_only=True)
class Single(Method):
    """Simultaneous single-level steps; `mode` selects the ablations of Table 4."""

    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    initial: float | None = -1.9459101490553132  # -ln 7
    mode: Literal["same_batch", "same_split_other_batch", "other_split"] = "same_batch"

    @property
    def train_batches(self) -> int:
        return 2 if self.mode == "same_split_other_batch" else 1

    @property
    def cost(self) -> Cost:
        return Cost(1, 1) if self.mode == "same_batch" else Cost(2, 2)

    def start(self, a: Tree) -> Tree:
        return a if self.initial is None else {k: torch.full_like(x, self.initial) for k, x in a.items()}

    def activate(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) if self.activation == "sigmoid" else torch.softmax(logits, -1)

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        batch, other = train[0], val if self.mode == "other_split" else train[-1]
        if search.warming:
            return logs(search.update_w(batch))
        if self.mode == "same_batch":
            mix = search.mixture(search.a, batch)
            outcome = search.problem.outcome(search.w, mix, batch, track=True)
            g_w, g_a = gradients(outcome.loss, search.w, search.a)
            search.descend_w(g_w, batch.rate)
            search.descend_a(g_a)
            return logs(outcome)
        g_a = search.grad_a(detached(search.w), other)
        outcome = search.update_w(batch)
        search.descend_a(g_a)
        return logs(outcome)
