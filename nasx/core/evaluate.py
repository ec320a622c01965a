"""Loss and accuracy of a trained network on a test set: images, or the words of a text.

Sums over all batches are divided only once, so the accuracy is the exact quotient of two integers: the same weights and
images give the same number with any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core.bilevel import state_kwargs, store_state

if TYPE_CHECKING:
    from nasx.core.bilevel import Batch


class Tested(NamedTuple):
    """Mean cross entropy in nats, accuracy in [0, 1], and the accuracy's numerator and denominator."""

    loss: float
    accuracy: float
    correct: int
    images: int

    def row(self, part: str = "test") -> dict[str, float]:
        """Return the loss and the accuracy under the names that records use."""
        return {f"{part}_loss": self.loss, f"{part}_accuracy": self.accuracy}


def sums(network: nn.Module, batches: Iterable[Batch], device: torch.device, *, amp: bool = False) -> Tensor:
    """Return the summed cross entropy and the numbers of correct predictions and of targets, (3,) float64.

    Random operations use each batch's seed.
    """
    network.eval()
    total, random = torch.zeros(3, dtype=torch.float64, device=device), torch.Generator(device)
    with torch.no_grad():
        for batch in batches:
            random.manual_seed(batch.seed)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
                logits = network(batch.x, gen=random, **state_kwargs(batch))
            store_state(batch, logits.state)
            scores, y = logits.main.to(torch.promote_types(logits.main.dtype, torch.float32)), batch.y.flatten()
            loss = F.cross_entropy(scores, y, reduction="sum").double()
            correct = (scores.argmax(1) == y).sum()
            total += torch.stack([loss, correct.double(), torch.full_like(loss, len(y))])
    return total


def means(total: Tensor) -> Tested:
    """Convert the sums over all batches to means."""
    loss, correct, count = total.tolist()
    return Tested(loss / count, correct / count, int(correct), int(count))
