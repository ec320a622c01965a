"""The metric reported next to the loss: accuracy of images, perplexity of text.

Perplexity is exp(mean cross entropy of a word, in nats). That of training batches includes what training adds to the
loss. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """A number by which models are compared: `scale` and `unit` as people read it, `sign` +1 where higher is better."""

    name: str
    scale: float
    unit: str
    sign: int

    def convert(self, means: Mapping[str, Any]) -> dict[str, Any]:
        """Means of losses and accuracies with this metric in the place of accuracies."""
        if self is ACCURACY:
            return dict(means)
        kept = {name: value for name, value in means.items() if not name.endswith("_accuracy")}
        found = {
            name.removesuffix("_loss") + "_perplexity": math.exp(value)
            for name, value in means.items()
            if name.endswith("_loss") and value < LARGEST
        }
        return kept | found

    def better(self, one: float, other: float | None) -> bool:
        """Whether `one` beats `other`; None is beaten by all."""
        return other is None or self.sign * one > self.sign * other

    def text(self, value: float) -> str:
        """As people read it: `94.21 %`, `58.10`."""
        return f"{self.scale * value:.2f} {self.unit}".rstrip()


ACCURACY = Metric("accuracy", 100.0, "%", 1)
PERPLEXITY = Metric("perplexity", 1.0, "", -1)
OF = {"images": ACCURACY, "text": PERPLEXITY}
"""What networks read -> how they are measured."""
LARGEST = 700.0
"""Loss whose exponential a number still holds."""
