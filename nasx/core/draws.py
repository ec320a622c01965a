"""Random numbers of a step: all of them come from the seeds of its batches.

A generator lies on the device that uses its numbers, so that no step waits for a copy. On a CPU the numbers of a seed
are those of every earlier version. `Draws` is what methods and networks ask. `Noted` notes what they ask, and `Kept`
answers a step that a CUDA graph records, so that the graph is replayed with the seeds of other batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nasx.core.trees import Tree

Make = Callable[[torch.Generator], Tree]


class Seeded(Protocol):
    """A batch, as far as random numbers are concerned."""

    @property
    def seed(self) -> int: ...


class Draws:
    """Generators, and tensors made on the host, from the seed of a batch: the same for the same arguments."""

    def generator(self, batch: Seeded, device: torch.device, salt: int = 0) -> torch.Generator:
        """A generator on `device` at the start of the batch's numbers; each `salt` gives independent ones."""
        return torch.Generator(device).manual_seed(batch.seed ^ salt)

    def made(self, batch: Seeded, make: Make) -> Tree:
        """What `make` computes on the host from a CPU generator, and puts on the device."""
        return make(torch.Generator().manual_seed(batch.seed))


class Noted(Draws):
    """The same, with a note of what was asked for: (number of the batch, salt or maker)."""

    def __init__(self, batches: Sequence[Seeded]) -> None:
        self.batches = batches
        self.asked: list[tuple[int, int | Make]] = []

    def note(self, batch: Seeded, what: int | Make) -> int:
        """Add an entry, and return its position."""
        number = next((i for i, own in enumerate(self.batches) if own is batch), None)
        if number is None:
            raise RuntimeError("random numbers are drawn for a batch that the step was not given")
        self.asked.append((number, what))
        return len(self.asked) - 1

    def generator(self, batch: Seeded, device: torch.device, salt: int = 0) -> torch.Generator:
        self.note(batch, salt)
        return super().generator(batch, device, salt)

    def made(self, batch: Seeded, make: Make) -> Tree:
        self.note(batch, make)
        return super().made(batch, make)


class Kept(Noted):
    """Answers in the order of an earlier step, by generators and tensors of fixed addresses; `seed` updates them."""

    def __init__(self, batches: Sequence[Seeded], before: Noted, device: torch.device) -> None:
        super().__init__(batches)
        self.order, plain = before.asked, Draws()
        self.answers: list[torch.Generator | Tree] = [
            plain.generator(batches[i], device, what)
            if isinstance(what, int)
            else {k: x.clone() for k, x in plain.made(batches[i], what).items()}
            for i, what in self.order
        ]

    @property
    def generators(self) -> list[torch.Generator]:
        return [answer for answer in self.answers if isinstance(answer, torch.Generator)]

    def _answer(self, batch: Seeded, what: int | Make) -> torch.Generator | Tree:
        at = self.note(batch, what)
        if at >= len(self.order) or self.asked[at] != self.order[at]:
            raise RuntimeError("the step draws other random numbers than the one before it")
        return self.answers[at]

    def generator(self, batch: Seeded, device: torch.device, salt: int = 0) -> torch.Generator:
        answer = self._answer(batch, salt)
        assert isinstance(answer, torch.Generator)
        return answer

    def made(self, batch: Seeded, make: Make) -> Tree:
        answer = self._answer(batch, make)
        assert isinstance(answer, dict)
        return answer

    def seed(self, batches: Sequence[Seeded]) -> None:
        """Make the next replay draw from the seeds of these batches."""
        self.asked.clear()
        for (i, what), answer in zip(self.order, self.answers, strict=True):
            if isinstance(answer, torch.Generator):
                assert isinstance(what, int)
                answer.manual_seed(batches[i].seed ^ what)
            else:
                assert callable(what)
                for k, x in Draws().made(batches[i], what).items():
                    answer[k].copy_(x)


def placed(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; a copy from the host to a GPU leaves from pinned memory, so that nothing waits for it."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
