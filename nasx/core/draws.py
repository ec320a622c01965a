"""Random numbers for a step, which depend only on the seeds of its batches.

Each generator is on the device that uses its numbers, so that no step waits for a copy. On a CPU, a seed gives the
same numbers as in all earlier versions. Methods and networks draw from `Draws`; `RecordedDraws` also records their
requests. `ReplayedDraws` answers the requests of a step captured in a CUDA graph, so that the graph can be replayed
with the seeds of other batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nasx.core.batch import Batch
from nasx.core.trees import Tree

Make = Callable[[torch.Generator], Tree]


class Draws:
    """Source of generators and of randomly drawn tensors, which depend only on a batch's seed."""

    def generator(self, batch: Batch, device: torch.device, salt: int = 0) -> torch.Generator:
        """Return a generator on `device`, seeded by the batch; different values of `salt` give independent numbers."""
        return torch.Generator(device).manual_seed(batch.seed ^ salt)

    def made(self, batch: Batch, make: Make) -> Tree:
        """Return the result of `make`, called with a CPU generator that has the batch's seed."""
        return make(torch.Generator().manual_seed(batch.seed))


class RecordedDraws(Draws):
    """Draws that record each request as (index of the batch, salt or function)."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches
        self.asked: list[tuple[int, int | Make]] = []

    def note(self, batch: Batch, what: int | Make) -> int:
        """Record a request and return its index. Raises RuntimeError if `batch` is not an argument of the step."""
        number = next((i for i, own in enumerate(self.batches) if own is batch), None)
        if number is None:
            raise RuntimeError("random numbers are drawn for a batch that is not an argument of the step")
        self.asked.append((number, what))
        return len(self.asked) - 1

    def generator(self, batch: Batch, device: torch.device, salt: int = 0) -> torch.Generator:
        self.note(batch, salt)
        return super().generator(batch, device, salt)

    def made(self, batch: Batch, make: Make) -> Tree:
        self.note(batch, make)
        return super().made(batch, make)


class ReplayedDraws(RecordedDraws):
    """Draws that answer the requests of an earlier step from generators and tensors at fixed addresses."""

    def __init__(self, batches: Sequence[Batch], before: RecordedDraws, device: torch.device) -> None:
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

    def _answer(self, batch: Batch, what: int | Make) -> torch.Generator | Tree:
        at = self.note(batch, what)
        if at >= len(self.order) or self.asked[at] != self.order[at]:
            raise RuntimeError("the random draws of this step differ from those of the previous step")
        return self.answers[at]

    def generator(self, batch: Batch, device: torch.device, salt: int = 0) -> torch.Generator:
        answer = self._answer(batch, salt)
        assert isinstance(answer, torch.Generator)
        return answer

    def made(self, batch: Batch, make: Make) -> Tree:
        answer = self._answer(batch, make)
        assert isinstance(answer, dict)
        return answer

    def seed(self, batches: Sequence[Batch]) -> None:
        """Reset the generators and tensors to the seeds of `batches`, for the next replay."""
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
    """Move `x` to `device`; copies to a GPU use pinned memory and do not synchronize."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
