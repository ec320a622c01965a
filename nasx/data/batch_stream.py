"""Endless seeded streams of training batches, and ordered batches for evaluation.

Batch i is a pure function of (seed, i). Pass k visits the index set in an order drawn from (seed, k); batch i of size b
contains items i b to (i + 1) b - 1 of the concatenated passes. A batch may therefore span two passes, and it repeats
items (with a warning) if b is larger than the index set. The augmentation and the `seed` of a batch are also derived
from (seed, i), so a stream can be resumed exactly from its position alone.

With several processes, each process may request its own `rows` of a batch; random numbers are always drawn for the
whole batch.

This module streams images stored on the device as bytes; decoded.py streams images from disk.

Deviations: DARTS creates a new loader iterator for every architecture step, so batches are drawn with replacement
across steps, and the search loader of NAS-Bench-201 draws each image for the architecture with replacement. Here, each
pass is completed before the next one starts, which gives the same distribution within a step.

Shapes: images uint8 (n, c, h, w), labels int64 (n,), index sets int64 (m,).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from nasx.core.batch import Batch, Batches
from nasx.core.draws import placed
from nasx.data import bounds
from nasx.data.augment import Augment
from nasx.data.base import Images
from nasx.data.splits import Split, splits
from nasx.errors import UserError

Part = Literal["train", "test"]
log = logging.getLogger("nasx")


class Opened(Protocol):
    """A dataset opened on a device. `train_y`: int64 (n,) on the CPU; `shape`: (c, h, w)."""

    classes: tuple[str, ...]
    train_y: np.ndarray
    shape: tuple[int, ...]
    carries: bool
    """Whether each batch passes a hidden state to the next one, as batches of text do."""

    def described(self) -> dict[str, Sequence[object]]:
        """Return the entries for result.json: class names, channel statistics, image shape and preprocessing steps."""

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the training images for the weights and for the architecture, int64 (m,) each."""

    def stream(
        self, name: str, index: np.ndarray | None = None, *, batch: int, seed: int, rows: Tensor | None = None
    ) -> Batches:
        """Return a stream of augmented training batches.

        `index`: the images to draw from (None: all); `rows`: the positions within each batch to return (None: all).
        Streams with different names are independent for the same seed.
        """

    def ordered(
        self, part: Part, index: np.ndarray | None = None, *, batch: int, first: int = 0, step: int = 1
    ) -> Iterator[Batch]:
        """Yield the images of a part in order, without augmentation: every `step`-th batch from batch `first` on."""


class DeviceImages(NamedTuple):
    """An image dataset on a device: images as uint8 (n, c, h, w), labels as int64 (n,)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def device_images(images: Images, device: torch.device | str) -> DeviceImages:
    """Copy a dataset to a device. CIFAR-10 takes 184 MB."""
    return DeviceImages(
        *(torch.from_numpy(part).to(device) for part in (images.train_x, images.train_y, images.test_x, images.test_y))
    )


def hashed(*parts: int | str) -> int:
    """Hash numbers and strings to a seed in [0, 2^63) that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def group_of(name: str) -> str:
    """Return the settings group (search or retrain) to which the stream `name` belongs."""
    return "retrain" if name == "retrain" else "search"


class Order:
    """Assignment of the items in `index` to batches: batch i is a pure function of (seed, name, i).

    Raises UserError for an empty index set or batch.
    """

    def __init__(self, index: np.ndarray | Tensor, *, batch: int, seed: int, name: str = "") -> None:
        if batch < 1:
            raise UserError(f"batch={batch}", "is not positive", "use at least 1")
        if len(index) == 0:
            raise UserError("dataset.split", "leaves one part without images", "use another split or fraction")
        if batch > len(index):
            log.warning(
                "%s.batch=%d: larger than the set of %d images, so a batch contains some of them more than once",
                group_of(name),
                batch,
                len(index),
            )
        self.index = torch.as_tensor(index, dtype=torch.int64).cpu()
        self.batch, self.seed, self.name = batch, seed, name
        self._pass: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    @property
    def per_pass(self) -> int:
        """Number of batches in a pass, rounded up."""
        return -(-len(self.index) // self.batch)

    def seed_of(self, i: int) -> int:
        """Return the seed of batch i."""
        return hashed(self.seed, self.name, "batch", i)

    def items(self, i: int, gen: torch.Generator) -> Tensor:
        """Return the items of batch i, (batch,) on the CPU. `gen` is unused."""
        n = len(self.index)
        first, parts = i * self.batch, []
        last = first + self.batch
        while first < last:
            k, at = divmod(first, n)
            parts.append(self._permuted(k)[at : at + last - first])
            first += len(parts[-1])
        return self.index[torch.cat(parts)]

    def _permuted(self, k: int) -> Tensor:
        if self._pass[0] != k:
            gen = torch.Generator().manual_seed(hashed(self.seed, self.name, "pass", k))
            self._pass = k, torch.randperm(len(self.index), generator=gen)
        return self._pass[1]


class ImageStream(Batches):
    """Endless stream of full image batches in the order given by `order`; `position` counts the batches drawn."""

    def __init__(self, order: Order) -> None:
        self.order, self.per_pass = order, order.per_pass
        self._gen = torch.Generator()

    def items(self, i: int) -> Tensor:
        """Return the image indices of batch i, (batch,) on the CPU, and seed the generator for its augmentation."""
        return self.order.items(i, self._gen.manual_seed(self.order.seed_of(i)))


class Stream(ImageStream):
    """Endless stream of full batches of images stored on a device.

    `index`: the images to draw from (None: all); `rows`: the positions within each batch to return (None: all).
    Raises UserError for an empty index set or batch.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        index: np.ndarray | Tensor | None,
        *,
        batch: int,
        seed: int,
        augment: Augment,
        name: str = "",
        rows: Tensor | None = None,
    ) -> None:
        super().__init__(Order(torch.arange(len(x)) if index is None else index, batch=batch, seed=seed, name=name))
        self.x, self.y, self.augment, self.rows = x, y, augment, rows

    def at(self, i: int) -> Batch:
        """Return batch i without changing the position of the stream."""
        items = self.items(i)
        draws = self.augment.draws(len(items), self.x.shape[2], self.x.shape[3], self._gen)
        numbers = torch.cat([items[None], draws])
        if self.rows is not None:
            numbers = numbers[:, self.rows]
        numbers = placed(numbers, self.x.device)
        chosen = numbers[0]
        x = self.augment.apply(self.x.index_select(0, chosen), numbers[1:])
        return Batch(x, self.y.index_select(0, chosen), self.order.seed_of(i))


def evaluation(
    x: Tensor,
    y: Tensor,
    index: np.ndarray | Tensor | None,
    *,
    batch: int,
    augment: Augment,
    first: int = 0,
    step: int = 1,
) -> Iterator[Batch]:
    """Yield the images of `index` in order, without augmentation: every `step`-th batch from batch `first` on.

    The last batch may be smaller.
    """
    if index is not None:
        index = torch.as_tensor(index, dtype=torch.int64).to(x.device)
    n = len(x) if index is None else len(index)
    for i in range(first, -(-n // batch), step):
        part = slice(i * batch, (i + 1) * batch)
        images, labels = (x[part], y[part]) if index is None else (x[index[part]], y[index[part]])
        yield Batch(augment.plain(images), labels, hashed(0, "evaluation", i))


class Preprocessed(Split, Protocol):
    """Dataset settings that define the preprocessing of images."""

    def preprocessing(self, shape: Sequence[int]) -> list[list[object]]: ...


class Component(Preprocessed, Protocol):
    """Dataset settings used by `InMemory`."""

    @property
    def pad(self) -> int: ...
    @property
    def flip(self) -> bool: ...


class OpenedImages:
    """Base class of opened image datasets: the part of `Opened` common to images in memory and on disk."""

    carries = False

    def __init__(
        self,
        component: Preprocessed,
        classes: tuple[str, ...],
        train_y: np.ndarray,
        shape: tuple[int, ...],
        augment: Augment,
    ) -> None:
        bounds.check(shape, pad=augment.pad, cutout=augment.cutout)
        self.component, self.augment = component, augment
        self.classes, self.train_y, self.shape = classes, train_y, shape

    def described(self) -> dict[str, Sequence[object]]:
        """Return the entries for result.json; see `Opened`."""
        return {
            "classes": list(self.classes),
            "mean": list(self.augment.mean),
            "std": list(self.augment.std),
            "shape": list(self.shape),
            "preprocessing": self.component.preprocessing(self.shape),
        }

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the image indices for the weights and for the architecture; see `Opened`."""
        return splits(self, self.component, seed)


class InMemory(OpenedImages):
    """A dataset (see `Opened`) whose images are stored on the device as bytes."""

    def __init__(
        self,
        component: Component,
        images: Images,
        device: torch.device | str,
        *,
        cutout: int = 0,
        channels_last: bool = False,
    ) -> None:
        augment = Augment(
            pad=component.pad,
            flip=component.flip,
            mean=images.mean,
            std=images.std,
            cutout=cutout,
            channels_last=channels_last,
        )
        super().__init__(component, images.classes, images.train_y, images.train_x.shape[1:], augment)
        self.data = device_images(images, device)

    def stream(
        self, name: str, index: np.ndarray | None = None, *, batch: int, seed: int, rows: Tensor | None = None
    ) -> Stream:
        """Return a stream of training batches; see `Opened`."""
        bounds.check(self.shape, group_of(name), batch=batch)
        return Stream(
            self.data.train_x,
            self.data.train_y,
            index,
            batch=batch,
            seed=seed,
            augment=self.augment,
            name=name,
            rows=rows,
        )

    def ordered(
        self, part: Part, index: np.ndarray | None = None, *, batch: int, first: int = 0, step: int = 1
    ) -> Iterator[Batch]:
        """Yield the images of a part in order; see `Opened`."""
        x, y = (self.data.train_x, self.data.train_y) if part == "train" else (self.data.test_x, self.data.test_y)
        return evaluation(x, y, index, batch=batch, augment=self.augment, first=first, step=step)
