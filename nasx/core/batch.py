"""Batches of a search or a retraining, and the hidden state carried between batches of a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Self

from torch import Tensor

from nasx.core.plain import State


class Slot:
    """Container for the hidden state between two batches."""

    def __init__(self, value: Tensor | None = None) -> None:
        self.value = value


class Carried(NamedTuple):
    """The hidden state of a recurrent network before and after a batch, which the batch passes to the next one.

    The stream owns the state, so that losses are pure functions: evaluating a batch again, even at other weights, reads
    the same state. The state written by the weight update is kept.
    """

    before: Slot
    after: Slot

    def read(self) -> Tensor | None:
        """Return the state after the previous batch; None at the start of a text."""
        return self.before.value

    def write(self, state: Tensor, *, track: bool) -> None:
        """Store the state after this batch if `track`, or if none has been stored yet."""
        if track or self.after.value is None:
            self.after.value = state

    def without_writes(self) -> Carried:
        """Return a copy that reads the same state and discards writes."""
        return Carried(self.before, Slot())


class Batch(NamedTuple):
    """Inputs and targets of a batch, and the seed of its random operations.

    They are augmented images (n, c, h, w) with labels (n,), or n segments of a text (n, steps) with the next words
    (n, steps).
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
    """Store the state of a network after a batch, as the initial state for the next batch."""
    if batch.carried is not None and state is not None:
        batch.carried.write(state.detach(), track=track)


class Batches(ABC):
    """An endless stream of training batches, in which each batch is a function of its index."""

    position = 0
    """Number of batches drawn."""
    per_pass: int
    """Number of batches in a pass over the data."""

    @abstractmethod
    def at(self, i: int) -> Batch:
        """Return batch i without moving the position."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        batch = self.at(self.position)
        self.position += 1
        return batch

    def state_dict(self) -> State:
        """Return the state from which `load_state_dict` resumes the stream."""
        return {"position": self.position}

    def load_state_dict(self, state: State) -> None:
        self.position = int(state["position"])
