"""Batches for search and retraining, and the hidden state carried from one batch of a text to the next."""

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
    """The hidden state of a recurrent network before and after a batch; the next batch starts from the latter.

    The stream of batches holds the state, so losses are pure functions: evaluating a batch again, even with other
    weights, starts from the same state. The state stored by the weight update takes precedence.
    """

    before: Slot
    after: Slot

    def read(self) -> Tensor | None:
        """Return the state after the previous batch, or None at the start of a text."""
        return self.before.value

    def write(self, state: Tensor, *, track: bool) -> None:
        """Store the state after this batch if `track` is set or no state has been stored yet."""
        if track or self.after.value is None:
            self.after.value = state

    def without_writes(self) -> Carried:
        """Return a copy that reads the same state and discards writes."""
        return Carried(self.before, Slot())


class Batch(NamedTuple):
    """Inputs and targets of a batch, and the seed for its random operations.

    `x` and `y` are augmented images (n, c, h, w) and labels (n,), or n text segments (n, steps) and the next words
    (n, steps).
    `rate` scales the learning rate of a weight update on the batch. `carried` is None for independent batches.
    """

    x: Tensor
    y: Tensor
    seed: int
    rate: float = 1.0
    carried: Carried | None = None


def state_kwargs(batch: Batch) -> dict[str, Tensor | None]:
    """Return the carried state as keyword arguments for a network, or no arguments for independent batches."""
    return {} if batch.carried is None else {"state": batch.carried.read()}


def without_writes(batch: Batch) -> Batch:
    """Return the batch with a carried state that discards writes."""
    return batch if batch.carried is None else batch._replace(carried=batch.carried.without_writes())


def store_state(batch: Batch, state: Tensor | None, *, track: bool = True) -> None:
    """Store a network's hidden state after `batch`, from which the next batch starts; see `Carried.write`."""
    if batch.carried is not None and state is not None:
        batch.carried.write(state.detach(), track=track)


class Batches(ABC):
    """An endless stream of training batches; each batch is a function of its index."""

    position = 0
    """Number of batches drawn so far."""
    per_pass: int
    """Number of batches in a pass over the data."""

    @abstractmethod
    def at(self, i: int) -> Batch:
        """Return batch `i` without advancing the stream."""

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
