"""The metric reported next to the loss (accuracy of images, perplexity of text), and the numbers that a run records.

Perplexity is exp(mean cross entropy of a word, in nats). That of training batches includes what training adds to the
loss. `QUANTITIES` is the one table of recorded numbers; what may be an `objective` is derived from it. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch
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


class Quantity(NamedTuple):
    """A number in result.json: its keys joined by dots, the kind of run, and what else a run must be to record it.

    In `name`, * stands for a data set and a part of it that the benchmark's table answers for (cifar10.valid), or for a
    device (`latency.*`).
    """

    name: str
    kinds: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """Facts of a configuration, see `checks.objectives`: images or text, trained, looked_up, tested or held_out."""
    better: int = 0
    """+1 where higher is better, -1 where lower is, 0 where that depends."""


RUNS = ("search", "retrain")
QUANTITIES = (
    Quantity("supernet.valid_accuracy", ("search",), ("images", "trained"), 1),
    Quantity("supernet.valid_perplexity", ("search",), ("text", "trained"), -1),
    Quantity("supernet.valid_loss", ("search",), ("trained",), -1),
    Quantity("lookup.latency.*", ("search",), ("looked_up",), -1),
    Quantity("lookup.*", ("search",), ("looked_up",), 1),
    Quantity("better_than.*", ("search",), ("looked_up",), 1),
    Quantity("rank.*", ("search",), ("looked_up",), -1),
    Quantity("below_optimum.*", ("search",), ("looked_up",), -1),
    Quantity("supernet.params", ("search",)),
    Quantity("params", ("search",), ("looked_up",)),
    Quantity("test_accuracy", ("retrain",), ("images", "tested"), 1),
    Quantity("valid_accuracy", ("retrain",), ("images", "held_out"), 1),
    Quantity("best_test_accuracy", ("retrain",), ("images", "tested"), 1),
    Quantity("best_valid_accuracy", ("retrain",), ("images", "held_out"), 1),
    Quantity("test_perplexity", ("retrain",), ("text",), -1),
    Quantity("valid_perplexity", ("retrain",), ("text",), -1),
    Quantity("test_loss", ("retrain",), ("tested",), -1),
    Quantity("valid_loss", ("retrain",), ("held_out",), -1),
    Quantity("valid_loss", ("retrain",), ("text",), -1),
    Quantity("params", ("retrain",)),
    Quantity("params_with_auxiliary", ("retrain",)),
    Quantity("macs", ("retrain",)),
    Quantity("items_per_s", ("retrain",), (), 1),
    Quantity("test_accuracy", ("study",), ("images",), 1),
    Quantity("test_perplexity", ("study",), ("text",), -1),
    Quantity("updates", RUNS),
    Quantity("passes", RUNS),
    Quantity("wall_s", (*RUNS, "study"), (), -1),
    Quantity("peak_mb", RUNS, (), -1),
)
"""Every number that a finished run has measured. Settings, and statistics of a benchmark's table, are none."""


def recorded(
    kinds: Collection[str], facts: Collection[str], answers: Collection[str] = (), devices: Collection[str] = ()
) -> Iterator[Quantity]:
    """The numbers that runs of these kinds record where these facts hold; `answers` are the places of a look-up."""
    for quantity in QUANTITIES:
        if set(kinds).intersection(quantity.kinds) and set(quantity.needs).issubset(facts):
            places = devices if ".latency." in quantity.name else answers if "*" in quantity.name else [""]
            yield from (quantity._replace(name=quantity.name.replace("*", place)) for place in places)


def better(name: str) -> int:
    """Whether higher (+1) or lower (-1) is better of a recorded number, 0 where that depends or it is not known."""
    return next((q.better for q in QUANTITIES if fnmatch(name, q.name)), 0)
