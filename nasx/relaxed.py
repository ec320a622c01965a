"""A space and its supernet as a bilevel problem.

`RelaxedProblem` is the one place where space, network and criterion meet: it hands methods two pure functions. The
weights come in as a tree and are substituted into the supernet, never copied into it, so a probe at other weights
leaves the live ones bit-identical.

Loss: cross entropy, plus `auxiliary` times that of the auxiliary head where the supernet has one. Random operations
(noise, drop-path) draw from a generator seeded by the batch, so two evaluations of one batch see the same draws and
finite differences through them are exact to their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from nasx.bilevel import Activate, Batch, Outcome, Tree, detached
from nasx.spaces.supernet import tracking

if TYPE_CHECKING:
    from nasx.spaces.base import Space, Supernet


class RelaxedProblem:
    """`bilevel.Problem` over a space; `drop_path` is set by the loop as the search proceeds."""

    def __init__(self, space: Space, supernet: Supernet, activate: Activate, *, auxiliary: float = 0.0,
                 label_smoothing: float = 0.0) -> None:
        self.space, self.supernet, self.activate = space, supernet, activate
        self.auxiliary, self.label_smoothing, self.drop_path = auxiliary, label_smoothing, 0.0
        self.groups = space.groups
        first = next(supernet.parameters())
        self.device, self.dtype = first.device, first.dtype
        self.random = torch.Generator(self.device)
        self.passes = 0

    def relax(self, a: Tree, activate: Activate | None = None) -> Tree:
        return self.space.relax(a, activate or self.activate)

    def sample(self, gen: torch.Generator) -> Tree:
        mix = self.space.encode(self.space.sample(gen))
        return {k: x.to(self.device, self.dtype) for k, x in mix.items()}

    def outcome(self, w: Tree, mix: Tree, batch: Batch, *, track: bool = False) -> Outcome:
        self.passes += 1
        self.random.manual_seed(batch.seed)
        with tracking(self.supernet, track):
            logits = functional_call(self.supernet, w, (batch.x, mix),
                                     {"drop_path": self.drop_path, "gen": self.random}, strict=False)
        loss = F.cross_entropy(logits.main, batch.y, label_smoothing=self.label_smoothing)
        if self.auxiliary and logits.auxiliary is not None:
            loss = loss + self.auxiliary * F.cross_entropy(logits.auxiliary, batch.y, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            accuracy = (logits.main.argmax(1) == batch.y).to(loss.dtype).mean()
        return Outcome(loss, accuracy)

    @torch.no_grad()
    def evaluate(self, w: Tree, mix: Tree, batches: object) -> dict[str, float]:
        """Mean loss and accuracy over `batches` in eval mode (running statistics where they are kept)."""
        held, self.drop_path = self.drop_path, 0.0
        self.supernet.eval()
        total, loss, correct = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        try:
            for batch in batches:  # type: ignore[attr-defined]
                outcome = self.outcome(detached(w), detached(mix), batch)
                count = len(batch.y)
                loss = loss + outcome.loss.double() * count
                correct = correct + outcome.accuracy.double() * count
                total += count
        finally:
            self.supernet.train()
            self.drop_path = held
        return {"loss": float(loss) / max(total, 1), "accuracy": float(correct) / max(total, 1)}


def weights(supernet: torch.nn.Module) -> dict[str, Tensor]:
    """The supernet's live weights as a tree (architecture parameters are not among them)."""
    return dict(supernet.named_parameters())
