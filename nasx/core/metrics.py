"""The metric reported with the loss: accuracy for images, perplexity for text.

Perplexity is exp(mean cross entropy per word, in nats). On training batches it includes the regularization terms of the
loss. This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """A metric of a model: `scale` and `unit` are for display; `sign` is +1 if higher is better, else -1."""

    name: str
    scale: float
    unit: str
    sign: int

    def convert(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the mean losses and accuracies with the accuracies replaced by this metric."""
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
        """Return whether `one` is better than `other`; every number is better than None."""
        return other is None or self.sign * one > self.sign * other

    def text(self, value: float) -> str:
        """Format a value for display: `94.21 %`, `58.10`."""
        return f"{self.scale * value:.2f} {self.unit}".rstrip()


ACCURACY = Metric("accuracy", 100.0, "%", 1)
PERPLEXITY = Metric("perplexity", 1.0, "", -1)
OF = {"images": ACCURACY, "text": PERPLEXITY}
"""Kind of input -> its metric."""
LARGEST = 700.0
"""Limit below which losses have a perplexity: their exponentials are finite floats."""
