"""A batch of a search or a retraining, and the state that batches of a text hand on to each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Carried(Protocol):
    """What an evaluation of a batch leaves for the batch after it: the hidden state of a recurrent network.

    It belongs to the stream, so that losses stay pure: evaluating a batch again, at other weights too, reads what it
    read before. The real weight update's state is the one that stays.
    """

    def read(self) -> Tensor | None:
        """The state after the batch before, None where there is none: at the start of a text."""

    def write(self, state: Tensor, *, track: bool) -> None:
        """Leave the state after this batch: always where `track`, else only where nothing has been left yet."""

    def without_writes(self) -> Carried:
        """The same to read from, of which nothing is handed on."""


class Batch(NamedTuple):
    """Inputs, targets, and the seed from which random operations draw.

    Images (n, c, h, w) already augmented with labels (n,), or n segments of a text (n, steps) with the word after each
    word (n, steps). `rate` scales the learning rate of a weight update on the batch. `carried` is None where batches
    do not go on from one another.
    """

    x: Tensor
    y: Tensor
    seed: int
    rate: float = 1.0
    carried: Carried | None = None


def state_kwargs(batch: Batch) -> dict[str, Tensor | None]:
    """The state that a batch goes on from, as networks take it; nothing where batches are independent."""
    return {} if batch.carried is None else {"state": batch.carried.read()}


def without_writes(batch: Batch) -> Batch:
    """The same batch, to look at: nothing of its evaluations is handed on."""
    return batch if batch.carried is None else batch._replace(carried=batch.carried.without_writes())


def store_state(batch: Batch, state: Tensor | None, *, track: bool = True) -> None:
    """Leave the state that a network ended a batch with to the batch after it."""
    if batch.carried is not None and state is not None:
        batch.carried.write(state.detach(), track=track)


class Batches(Protocol):
    """An endless stream of batches that resumes from its state."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def state_dict(self) -> dict[str, int]: ...
    def load_state_dict(self, state: dict[str, int]) -> None: ...
