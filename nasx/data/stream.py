"""Endless seeded batches from images that lie on the device as bytes.

Batch i is a pure function of (seed, i): pass k over the index set is the permutation drawn from (seed, k), batch i
holds the items i b .. (i+1) b - 1 of the passes laid end to end (so it may straddle two), and its augmentation and its
`seed` are drawn from (seed, i). A stream therefore resumes exactly from its position alone. With `replacement` the
items of batch i are uniform draws from (seed, i) instead (the architecture sample of NAS-Bench-201's search loader).

Deviation: DARTS makes a new loader iterator for every architecture step, which draws batches with replacement across
steps; here a pass is finished first, which is equal in distribution within a step.

Shapes: images uint8 (n, c, h, w), labels int64 (n,), index sets int64 (m,).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nasx.data.augment import Augment
from nasx.data.images import Images
from nasx.data.splits import splits
from nasx.errors import UserError

__all__ = ["Batch", "DeviceImages", "Stream", "device_images", "evaluation", "hashed", "splits"]


class Batch(NamedTuple):
    """Images (n, c, h, w) already augmented, labels (n,), and the seed from which random operations draw.

    Images are independent and all batches as large: the learning rate is not scaled, and nothing is carried on.
    """

    x: Tensor
    y: Tensor
    seed: int
    rate: float = 1.0
    carried: None = None


class DeviceImages(NamedTuple):
    """A whole set on the device: images uint8 (n, c, h, w), labels int64 (n,)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def device_images(images: Images, device: torch.device | str) -> DeviceImages:
    """Puts the set on the device, once; CIFAR-10 takes 184 MB."""
    return DeviceImages(*(torch.from_numpy(part).to(device)
                          for part in (images.train_x, images.train_y, images.test_x, images.test_y)))


def hashed(*parts: int | str) -> int:
    """A seed in [0, 2^63) from numbers and names; unlike hash(), the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


class Stream:
    """Endless, always full batches; `position` is the number of batches drawn. `name` sets streams of one seed apart.

    `index` are the images to draw from (None: all). Raises UserError for an empty index set or batch.
    """

    def __init__(self, x: Tensor, y: Tensor, index: np.ndarray | Tensor | None, *, batch: int, seed: int,
                 augment: Augment, name: str = "", replacement: bool = False) -> None:
        index = torch.arange(len(x)) if index is None else torch.as_tensor(index, dtype=torch.int64)
        if batch < 1:
            raise UserError(f"batch={batch}", "is not positive", "use at least 1")
        if len(index) == 0:
            raise UserError("dataset.split", "leaves a stream without images", "use another split or fraction")
        self.x, self.y, self.index = x, y, index.cpu()
        self.batch, self.seed, self.name, self.replacement = batch, seed, name, replacement
        self.augment, self.position = augment, 0
        self._gen = torch.Generator()
        self._pass: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self.at(self.position)
        self.position += 1
        return batch

    def next(self) -> Batch:
        """The next batch; next(stream) is the same."""
        return self.__next__()

    def items(self, i: int) -> Tensor:
        """Which images batch i holds, (batch,) on the CPU."""
        return self._items(i, self._gen.manual_seed(hashed(self.seed, self.name, "batch", i)))

    def at(self, i: int) -> Batch:
        """Batch i, whatever has been drawn before."""
        seed = hashed(self.seed, self.name, "batch", i)
        items = self._items(i, self._gen.manual_seed(seed))
        draws = self.augment.draws(self.batch, self.x.shape[2], self.x.shape[3], self._gen)
        numbers = torch.cat([items[None], draws])
        if self.x.is_cuda:  # pinned, so that the copy waits for nothing
            numbers = numbers.pin_memory().to(self.x.device, non_blocking=True)
        chosen = numbers[0]
        return Batch(self.augment.apply(self.x.index_select(0, chosen), numbers[1:]), self.y.index_select(0, chosen),
                     seed)

    def _items(self, i: int, gen: torch.Generator) -> Tensor:
        n = len(self.index)
        if self.replacement:
            return self.index[torch.randint(n, (self.batch,), generator=gen)]
        first, parts = i * self.batch, []
        last = first + self.batch
        while first < last:
            k, at = divmod(first, n)
            parts.append(self._order(k)[at:at + last - first])
            first += len(parts[-1])
        return self.index[torch.cat(parts)]

    def _order(self, k: int) -> Tensor:
        if self._pass[0] != k:
            gen = torch.Generator().manual_seed(hashed(self.seed, self.name, "pass", k))
            self._pass = k, torch.randperm(len(self.index), generator=gen)
        return self._pass[1]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])


def evaluation(x: Tensor, y: Tensor, index: np.ndarray | Tensor | None, *, batch: int, augment: Augment,
               seed: int = 0) -> Iterator[Batch]:
    """Every image of the index set once, in order, normalized only; the last batch may be smaller."""
    if index is not None:
        index = torch.as_tensor(index, dtype=torch.int64).to(x.device)
    for i, first in enumerate(range(0, len(x) if index is None else len(index), batch)):
        part = slice(first, first + batch)
        images, labels = (x[part], y[part]) if index is None else (x[index[part]], y[index[part]])
        yield Batch(augment.plain(images), labels, hashed(seed, "evaluation", i))
