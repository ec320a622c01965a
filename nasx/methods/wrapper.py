"""Methods that wrap another method and delegate to it everything that they do not override.

Most combinations in the papers have this form: noise in the mixtures of another method (SmoothDARTS), sampled mixtures
(GDAS, DrNAS), or a different selection at the end (DARTS-PT). A wrapper does not depend on which method it wraps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from nasx.core.bilevel import Activate, Batch, Cost, Method, Number, Search, Selection, Tree
from nasx.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Wrapper(Method):
    """A method that wraps `inner` and delegates to it everything that it does not override.

    A wrapper that changes the mixtures in the steps of `inner` sets `samples_mixture` and overrides `step` with
    `inner.step(search.with_sampler(...), train, val)`, as `Sampling` does.
    """

    inner: Method

    def __post_init__(self) -> None:
        method: Method = self
        samplers = 0
        while isinstance(method, Wrapper):
            samplers, method = samplers + method.samples_mixture, method.inner
        if samplers > 1:
            raise UserError(
                "method",
                "samples the mixture twice: the inner method would replace the sample of the outer one",
                "use only one wrapper that samples the mixture",
            )

    @property
    def trains(self) -> bool:  # type: ignore[override]
        return self.inner.trains

    @property
    def needs_two_cells(self) -> bool:  # type: ignore[override]
        return self.inner.needs_two_cells

    @property
    def reads(self) -> str | None:  # type: ignore[override]
        return self.inner.reads

    @property
    def labels(self) -> list[str]:
        return self.inner.labels

    @property
    def cost(self) -> Cost | None:
        return self.inner.cost

    def response(self, h: Tensor, lr: float) -> Tensor | None:
        return self.inner.response(h, lr)

    @property
    def steps_w(self) -> int:
        return self.inner.steps_w

    @property
    def train_batches(self) -> int:
        return self.inner.train_batches

    @property
    def updates_per_batch(self) -> int:
        return self.inner.updates_per_batch

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        return self.inner.step(search, train, val)

    def start(self, a: Tree) -> Tree:
        return self.inner.start(a)

    def activate(self, logits: Tensor) -> Tensor:
        return self.inner.activate(logits)

    def select(self, search: Search, selection: Selection) -> Tree:
        return self.inner.select(search, selection)


@dataclass(frozen=True, kw_only=True)
class Sampling(Wrapper):
    """Steps of the inner method, with mixtures sampled for each batch by `sample`."""

    samples_mixture: ClassVar[bool] = True

    @abstractmethod
    def sample(self, search: Search, a: Tree, batch: Batch) -> Tree:
        """Return a mixture sampled from `a` for passes on `batch`. Random numbers are drawn from the batch's seed."""

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        return self.inner.step(search.with_sampler(partial(self.sample, search)), train, val)


def gumbel(like: Tensor, gen: torch.Generator) -> Tensor:
    """Return Gumbel noise, drawn in double precision, with the shape and dtype of `like` and on its device."""
    uniform = torch.rand(like.shape, generator=gen, dtype=torch.float64, device=gen.device)
    return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-16))).to(like)


def concrete(tau: Number, gen: torch.Generator) -> Activate:
    """Return a sampler of soft weights along the last axis, from a concrete distribution with temperature `tau`."""
    return lambda logits: torch.softmax((torch.log_softmax(logits, -1) + gumbel(logits, gen)) / tau, -1)
