"""Segments of a text for truncated backpropagation through time, and the hidden state carried between them.

The words of a part are cut into `batch` rows of equal length; the remainder is dropped. A pass reads the rows from
left to right in segments of `bptt` words; a random fraction `short` of the segments is half as long. If `jitter` > 0,
each length is drawn from a normal distribution around this value with standard deviation `jitter`, clipped to at least
5 and at most bptt + 20 words. Lengths are drawn from (seed, pass), so batch i is a function of (seed, i) except for the
carried state. A batch with segments of s words scales the learning rate by s / bptt.

State: the hidden state is passed between two consecutive batches in a slot, which the first batch writes and the second
one reads (see `nasx.core.batch.Carried`). It is None until it is written, and for the first batch of a pass. A stream
keeps the slot that its next batch reads; checkpoints contain the state in this slot.

Source: DARTS' released code, rnn/train_search.py, rnn/train.py, rnn/utils.py, which follow AWD-LSTM (Merity et al.
2018).

Deviations
1. The validation batches of a search are consecutive segments of varying length, like the training batches; the
   released code takes bptt words at the position in the training text, modulo the length of the validation text.
2. Evaluation averages over the predicted words; the released code divides by one more word per row.
3. A final segment of a single word is kept; the released code drops it.
4. An epoch is a fixed number of updates, the mean number of segments per pass, so a pass may span two epochs.

Shapes: x, y (batch, s), words and the words that follow them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nasx.core.batch import Batch, Batches, Carried, Slot
from nasx.core.plain import State
from nasx.data.base import Text
from nasx.data.batch_stream import Part, hashed
from nasx.errors import UserError

SHORTEST, LONGER = 5, 20
"""Minimum segment length with jitter, and maximum excess of the length over bptt, in words."""


def rows(words: Tensor, batch: int) -> Tensor:
    """Cut words (n,) into rows (batch, n // batch). Raises UserError if rows have fewer than two words."""
    length = len(words) // batch
    if length < 2:
        raise UserError(
            f"batch={batch}",
            f"splits {len(words):,} words into rows of {length}",
            "each row needs at least two: use a smaller batch or a longer text",
        )
    return words[: length * batch].view(batch, length)


class Segments(Batches):
    """Endless stream of segments of a text."""

    def __init__(
        self,
        words: Tensor,
        *,
        batch: int,
        bptt: int,
        short: float = 0.0,
        jitter: float = 0.0,
        seed: int,
        name: str = "",
    ) -> None:
        self.rows = rows(words, batch)
        self.bptt, self.short, self.jitter, self.seed, self.name = bptt, short, jitter, seed, name
        mean = (1 - short) * bptt + short * max(bptt // 2, 1)
        self.per_pass = max(round(self.total / mean), 1)
        self.slot = Slot()
        self.lengths = lru_cache(2)(self._lengths)
        self._first = [0]
        """Index of the first batch of each pass computed so far."""

    @property
    def total(self) -> int:
        """Number of words predicted per row and pass."""
        return self.rows.shape[1] - 1

    def _lengths(self, k: int) -> np.ndarray:
        """Return the segment lengths of pass k, in words."""
        draw = np.random.RandomState(hashed(self.seed, self.name, "pass", k) % 2**32)  # numpy has frozen this generator
        shortest = SHORTEST if self.jitter else max(self.bptt // 2, 1)
        most = -(-self.total // shortest)
        wanted = np.where(draw.random_sample(most) < self.short, self.bptt / 2, self.bptt)
        if self.jitter:
            wanted = draw.normal(wanted, self.jitter).clip(SHORTEST, self.bptt + LONGER)
        ends = np.minimum(np.cumsum(np.maximum(wanted.astype(np.int64), 1)), self.total)
        return np.diff(ends[: np.searchsorted(ends, self.total) + 1], prepend=0)

    def place(self, i: int) -> tuple[int, int]:
        """Return (k, j) such that batch i is batch j of pass k."""
        while self._first[-1] <= i:
            self._first.append(self._first[-1] + len(self.lengths(len(self._first) - 1)))
        k = int(np.searchsorted(self._first, i, side="right")) - 1
        return k, i - self._first[k]

    def at(self, i: int) -> Batch:
        """Return batch i without changing the position of the stream.

        It reads the current slot of the stream (an empty one at the start of a pass) and writes to a new slot.
        """
        k, j = self.place(i)
        lengths = self.lengths(k)
        start, size = int(lengths[:j].sum()), int(lengths[j])
        before = self.slot if j else Slot()
        x, y = (self.rows[:, start + shift : start + shift + size] for shift in (0, 1))
        return Batch(x, y, hashed(self.seed, self.name, "batch", i), size / self.bptt, Carried(before, Slot()))

    def __next__(self) -> Batch:
        batch = super().__next__()
        assert batch.carried is not None
        self.slot = batch.carried.after
        return batch

    def state_dict(self) -> State:
        return super().state_dict() | {"carried": self.slot.value}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        carried = state["carried"]
        self.slot = Slot(None if carried is None else carried.to(self.rows.device))


class Read:
    """A text on a device (see `batch_stream.Opened`), indexed over the training and then the validation words."""

    carries = True

    def __init__(
        self, text: Text, device: torch.device | str, *, bptt: int, short: float = 0.0, jitter: float = 0.0
    ) -> None:
        self.classes, self.described, self.shape = text.words, text.described, (bptt,)
        self.parts = len(text.train), len(text.valid)
        self.train = torch.from_numpy(np.concatenate([text.train, text.valid])).to(device)
        self.test = torch.from_numpy(text.test).to(device)
        self.bptt, self.short, self.jitter = bptt, short, jitter

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the training words, for the weights, and the validation words, for the architecture."""
        return np.arange(self.parts[0]), np.arange(self.parts[0], sum(self.parts))

    def stream(
        self, name: str, index: np.ndarray | None = None, *, batch: int, seed: int, rows: Tensor | None = None
    ) -> Segments:
        """Return a stream of segments from the first to the last word in `index`. `rows` is ignored."""
        return Segments(
            part_of(self.train, index),
            batch=batch,
            bptt=self.bptt,
            short=self.short,
            jitter=self.jitter,
            seed=seed,
            name=name,
        )

    def ordered(
        self, part: Part, index: np.ndarray | None = None, *, batch: int, first: int = 0, step: int = 1
    ) -> Iterator[Batch]:
        """Yield the segments of one pass over a part; each has `bptt` words, except for a shorter last one.

        `first` and `step` are ignored.
        """
        words = part_of(self.train if part == "train" else self.test, index)
        stream = Segments(words, batch=batch, bptt=self.bptt, seed=0, name="evaluation")
        return (next(stream) for _ in range(len(stream.lengths(0))))


def part_of(words: Tensor, index: np.ndarray | None) -> Tensor:
    """Return the words from the first to the last one in `index`; all words if it is None."""
    return words if index is None else words[int(index[0]) : int(index[-1]) + 1]
