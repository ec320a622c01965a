"""Batches of a search or a retraining, and the hidden state carried between batches of a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch import Tensor

from nasx.core.plain import State


class Carried(Protocol):
    """The hidden state of a recurrent network that a batch passes to the next one.

    It belongs to the stream, so that losses are pure: a repeated evaluation of a batch, also at other weights, reads
    the same state. The state written by the weight update is the one that is kept.
    """

    def read(self) -> Tensor | None:
        """Return the state after the previous batch; None at the start of a text."""

    def write(self, state: Tensor, *, track: bool) -> None:
        """Store the state after this batch if `track`, or if none has been stored yet."""

    def without_writes(self) -> Carried:
        """Return a copy that reads the same state and discards writes."""


class Batch(NamedTuple):
    """Inputs, targets, and the seed of random operations.

    Augmented images (n, c, h, w) with labels (n,), or n segments of a text (n, steps) with the next words (n, steps).
    `rate` scales the learning rate of a weight update on the batch. `carried` is None for independent batches.
    """

    x: Tensor
    y: Tensor
    seed: int
    rate: float = 1.0
    carried: Carried | None = None


def state_kwargs(batch: Batch) -> dict[str, Tensor | None]:
    """Return the carried state as keyword arguments of a network; empty for independent batches."""
    return {} if batch.carried is None else {"state": batch.carried.read()}


def without_writes(batch: Batch) -> Batch:
    """Return the batch with a carried state that discards writes."""
    return batch if batch.carried is None else batch._replace(carried=batch.carried.without_writes())


def store_state(batch: Batch, state: Tensor | None, *, track: bool = True) -> None:
    """Store the final state of a network on a batch for the next batch."""
    if batch.carried is not None and state is not None:
        batch.carried.write(state.detach(), track=track)


class Batches(Protocol):
    """An endless stream of training batches that resumes from its state; `position` is the number of batches drawn."""

    position: int

    @property
    def per_pass(self) -> int:
        """Number of batches in a pass, rounded up."""

    def __iter__(self) -> Iterator[Batch]: ...
    def __next__(self) -> Batch: ...
    def at(self, i: int) -> Batch:
        """Return batch i without moving the position."""

    def state_dict(self) -> State: ...
    def load_state_dict(self, state: State) -> None: ...
