"""Loss and accuracy of a trained network on a test set: over images, or over the words of a text.

The sums are taken over whole batches and divided once, so that the accuracy is the exact quotient of two integers:
whoever evaluates the same weights on the same images gets the same number, on one process or on several.
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
    """Mean cross entropy, accuracy, and the integers that it is the quotient of."""

    loss: float
    accuracy: float
    correct: int
    images: int

    def row(self, part: str = "test") -> dict[str, float]:
        """The two numbers under the names that records have for them."""
        return {f"{part}_loss": self.loss, f"{part}_accuracy": self.accuracy}


def sums(network: nn.Module, batches: Iterable[Batch], device: torch.device, *, amp: bool = False) -> Tensor:
    """Summed cross entropy, correct answers and images, (3,) float64, with random operations drawn from each batch."""
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
    """What the sums of all batches say."""
    loss, correct, count = total.tolist()
    return Tested(loss / count, correct / count, int(correct), int(count))
