"""Zero-cost methods: score architectures at initialization, on one batch, and keep the best. Nothing is trained.

    draw n architectures uniformly; initialize the discrete network of each; s_i = score(network i, batch)
    keep the architecture with the largest s_i                                         (the first one in a tie)

A network has the layers, channels and stem of the search (`Space.standalone`): on NAS-Bench-201 with the settings of
conf/space/nb201.yaml, it is the network that the benchmark trains. It is in training mode, so that batch norm uses the
statistics of the batch. The batch is the first training batch of the search: `search.batch` augmented images. For a
given seed, all scores use the same architectures, initial weights and batch, and method=random with `samples` = n
draws the same architectures.

Source of the search: Mellor, Turner, Storkey, Crowley (2021), NASWOT (the best of n random architectures).

The entry `choice` in the record contains each drawn architecture with its score and its validation accuracy (if it is
in a benchmark), quantiles of the scores, Kendall's tau-b between scores and accuracies, and the scoring time.

Deviations
1. Networks of the NAS-Bench-1Shot1 spaces have the 16 channels of the search; NAS-Bench-101 trains them with 128.
2. Scores are computed on augmented images; Mellor et al. do not augment.
3. A score that is NaN counts as the lowest.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core.bilevel import Batch, Method, Search, Selection, Tree
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.core.constraints import Draws


@dataclass(frozen=True, kw_only=True)
class ZeroCost(Method):
    """Selection of the best of `candidates` random architectures by a score, which a subclass defines."""

    trains: ClassVar[bool] = False
    reads: ClassVar[str | None] = "images"
    sees: ClassVar[bool] = True
    """Whether the score depends on the content of the batch, and not only on its shape."""
    candidates: Draws = 100

    @abstractmethod
    def score(self, network: nn.Module, batch: Batch, gen: torch.Generator) -> float:
        """Return the score of a newly initialized network (larger is better). May modify the network.

        `gen` is a generator on the batch's device for all random numbers in the score and in the network's operations.
        """

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        raise NotImplementedError("a zero-cost method trains nothing")

    def select(self, search: Search, selection: Selection) -> Tree:
        n, done, batch = self.candidates, selection.decided, selection.next_batch()
        drawn = []
        for _ in range(n):
            drawn.append(search.problem.sample(selection.gen))
            selection.tick()
        seeds = torch.randint(2**62, (n,), generator=selection.gen).tolist()
        selection.on_progress(len(done), n)
        for i in range(len(done), n):
            began = time.monotonic()
            gen = torch.Generator(batch.x.device).manual_seed(seeds[i])
            value = self.score(selection.network(drawn[i], seeds[i]), batch, gen)
            done.append({"score": -math.inf if math.isnan(value) else value, "seconds": time.monotonic() - began})
            selection.pause()
            if (i + 1) % max(n // 10, 1) == 0:
                selection.on_progress(i + 1, n)
        selection.save()
        scores = [each["score"] for each in done]
        selection.notes |= described(
            [
                Scored(selection.text(mix), score, selection.score(mix))
                for mix, score in zip(drawn, scores, strict=True)
            ],
            f"on one batch of {len(batch.x)} images" if self.sees else "without data",
        )
        selection.notes["seconds"] = round(sum(each["seconds"] for each in done), 3)
        return drawn[scores.index(max(scores))]


class Scored(NamedTuple):
    """An architecture as text, its score, and its validation accuracy in the benchmark in percent (None if unknown)."""

    genotype: str
    score: float
    accuracy: float | None


QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def described(drawn: Sequence[Scored], on: str) -> dict[str, object]:
    """Return the record of the selection as plain values. Non-finite scores are stored as None and not averaged."""
    scores, tau = torch.tensor([each.score for each in drawn], dtype=torch.float64), agreement(drawn)
    finite = scores[scores.isfinite()]
    points = finite.quantile(finite.new_tensor(QUANTILES)).tolist() if len(finite) else [None] * len(QUANTILES)
    text = f"scored {len(drawn)} random architectures at initialization {on}"
    text += f": best {points[-1]:.4g}, median {points[2]:.4g}" if len(finite) else ""
    text += "" if tau is None else f"; Kendall's tau to the benchmark's validation accuracies {tau:.2f}"
    return {
        "text": text,
        "candidates": len(drawn),
        "mean": finite.mean().item() if len(finite) else None,
        "quantiles": dict(zip(map(str, QUANTILES), points, strict=True)),
        "kendall_tau": tau,
        "drawn": [[each.genotype, plain(each.score), each.accuracy] for each in drawn],
    }


def plain(x: float) -> float | None:
    """Return a number in a form that JSON can represent: None if it is not finite."""
    return x if math.isfinite(x) else None


def agreement(drawn: Sequence[Scored]) -> float | None:
    """Return Kendall's tau-b between the scores and the known accuracies.

    Returns None if fewer than two accuracies are known, or if all scores or all accuracies are equal.
    """
    known = [(each.score, each.accuracy) for each in drawn if each.accuracy is not None]
    if len(known) < 2:
        return None
    from scipy.stats import kendalltau  # slow to import, so imported only when needed

    return plain(float(kendalltau(*zip(*known, strict=True)).statistic))


# ------------------------------------------------------------------------------------- shared by several scores
def weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights of convolutions and linear layers: all parameters with two or more dimensions."""
    return [x for x in network.parameters() if x.ndim > 1]


def loss(network: nn.Module, batch: Batch, gen: torch.Generator) -> Tensor:
    """Return the mean cross entropy on a batch, a scalar tensor."""
    return F.cross_entropy(network(batch.x, gen=gen).main, batch.y)


def features(network: nn.Module, x: Tensor, gen: torch.Generator) -> Tensor:
    """Return the feature map (n, channels, h, w) before the global pooling of a network.

    Raises UserError if the network has no method `features`.
    """
    found = getattr(network, "features", None)
    if found is None:
        raise UserError(
            "space",
            f"{type(network).__name__} has no method features(x, gen), which this search method calls",
            "define it to return the feature map before global pooling (nasx/spaces/base.py, Network)",
        )
    out: Tensor = found(x, gen)
    return out
