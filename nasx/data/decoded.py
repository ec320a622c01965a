"""Batches of images decoded from disk on demand.

The images of a batch and their crops, flips and colour jitter are functions of (seed, batch, position in the batch), as
for images in memory (batch_stream.py). Batches are therefore identical for any number of workers and any number of
training processes, and after a run is resumed. Workers decode batches in advance, in chunks of `PIECE` images; a batch
is copied to the device as bytes and normalized there.

Upright JPEGs in RGB or grey are decoded by torchcodec if it is installed (extra `imagenet`), which is faster than PIL
and produces identical pixels. All other images, and images that torchcodec rejects, are decoded by PIL (decode.py). A
damaged image stops the run with an error that names the file.

Deviations
1. Released implementations transform PIL images; here, torchvision's transforms are applied to tensors, so resizing
   and hue differ from PIL's results by rounding.
2. The EXIF orientation is applied; released implementations ignore it.

Shapes: images uint8 (n, 3, size, size) before normalization.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nasx.core.batch import Batch
from nasx.core.draws import placed
from nasx.core.plain import State
from nasx.core.system import signals
from nasx.data import bounds, decode
from nasx.data.augment import Augment
from nasx.data.batch_stream import ImageStream, OpenedImages, Order, Part, Preprocessed, group_of, hashed
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.data.listing import Files

PIECE = 32
"""Number of images that a worker decodes per chunk, which limits the memory for prefetched batches of any size."""
Key = tuple[int, int | None]
"""Index of an image in its part, and seed of its random transform; the seed is None for evaluation."""
Transform = Callable[[Tensor], Tensor]


# -------------------------------------------------------------------------------------------------------- images
def pixels(path: Path) -> Tensor:
    """Decode an image file to uint8 (3, h, w) as described in decode.py. Raises UserError if it cannot be read."""
    try:
        raw = decode.raw(path)
        if decode.plain_jpeg(raw):
            with contextlib.suppress(ImportError, RuntimeError, ValueError):  # fall back to PIL
                from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]

                return cast(Tensor, decode_jpeg(raw, mode="RGB"))  # returns a list only for a list of sources
        return torch.from_numpy(np.array(decode.decoded(raw)[0])).permute(2, 0, 1).contiguous()
    except decode.UnreadableError as error:
        raise UserError(
            str(path),
            f"cannot be read ({error})",
            "repair, replace or remove it, then run the same command again to "
            "resume (dataset.verify=true finds all such images before a run)",
        ) from error


class Settings(Preprocessed, Protocol):
    """Dataset settings used to decode and transform images."""

    @property
    def size(self) -> int: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    def transforms(self) -> tuple[Transform, Transform]: ...


class Views(Dataset[Tensor | UserError]):
    """Dataset for the workers, which maps k keys to images uint8 (k, 3, size, size).

    If an image cannot be read, a UserError is returned instead of raised.
    """

    def __init__(self, component: Settings, files: Files) -> None:
        self.files = files
        self.training, self.plain = component.transforms()

    def __getitem__(self, keys: Sequence[Key]) -> Tensor | UserError:
        try:
            return torch.stack([self.view(*key) for key in keys])
        except UserError as fault:  # DataLoader would change the type of a raised error
            return fault

    def view(self, item: int, seed: int | None) -> Tensor:
        """Return one image, uint8 (3, size, size), transformed for training (if a seed is given) or for evaluation."""
        image = pixels(self.files.folder / os.fsdecode(self.files.names[item]))
        if seed is None:
            return self.plain(image)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs
            return self.training(image)


def pieces(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    """Split the keys of a batch into chunks of `PIECE`."""
    return (keys[i : i + PIECE] for i in range(0, len(keys), PIECE))


# ------------------------------------------------------------------------------------------------------- batches
class Decoded(OpenedImages):
    """A dataset (see `Opened`) whose images are on disk."""

    def __init__(
        self,
        component: Settings,
        train: Files,
        test: Files,
        classes: tuple[str, ...],
        device: torch.device | str,
        *,
        cutout: int,
        channels_last: bool,
        workers: int,
    ) -> None:
        augment = Augment(
            pad=0, flip=False, mean=component.mean, std=component.std, cutout=cutout, channels_last=channels_last
        )
        super().__init__(component, classes, train.labels, (3, component.size, component.size), augment)
        self.device, self.workers = torch.device(device), workers
        self.parts = {"train": Views(component, train), "test": Views(component, test)}

    def stream(
        self, name: str, index: np.ndarray | None = None, *, batch: int, seed: int, rows: Tensor | None = None
    ) -> DecodedStream:
        """Return a stream of training batches; see `Opened`."""
        bounds.check(self.shape, group_of(name), batch=batch)
        return DecodedStream(
            self,
            Order(torch.arange(len(self.train_y)) if index is None else index, batch=batch, seed=seed, name=name),
            rows,
        )

    def ordered(
        self, part: Part, index: np.ndarray | None = None, *, batch: int, first: int = 0, step: int = 1
    ) -> Iterator[Batch]:
        """Yield the images of a part in order; see `Opened`."""
        labels = self.parts[part].files.labels
        items = np.arange(len(labels)) if index is None else np.asarray(index)
        wanted = [(i, items[i * batch : (i + 1) * batch]) for i in range(first, -(-len(items) // batch), step)]
        found = self.load(part, ([(int(item), None) for item in own] for _, own in wanted))
        for i, own in wanted:
            x = self.joined(found, len(own))
            yield Batch(
                self.augment.plain(x), placed(torch.from_numpy(labels[own]), self.device), hashed(0, "evaluation", i)
            )

    def load(self, part: Part, batches: Iterator[list[Key]]) -> Iterator[Tensor | UserError]:
        """Yield the chunks of `batches` in order, prefetched by the workers. Raises UserError if a worker dies."""
        keys = (piece for batch in batches for piece in pieces(batch))
        loader = DataLoader(
            self.parts[part],
            batch_size=None,
            sampler=keys,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=quiet if self.workers else None,
            generator=torch.Generator(),
        )  # the default would draw from torch's global generator
        found = iter(loader)
        LOADING.add(found)
        try:
            yield from found
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"workers={self.workers}",
                f"a worker process died ({str(error).splitlines()[0]})",
                "lower workers, or give the machine more memory (in a container: a larger /dev/shm), then run the same "
                "command again to resume",
            ) from error
        finally:
            shut(found)

    def joined(self, found: Iterator[Tensor | UserError], count: int) -> Tensor:
        """Return the next `count` images on the device. Raises UserError if one of them is damaged."""
        parts: list[Tensor] = []
        while sum(map(len, parts)) < count:
            piece = next(found)
            if isinstance(piece, UserError):
                # a new error, because an error referenced by its own frame forms a cycle that keeps the workers alive
                raise UserError(piece.where, piece.fault, piece.remedy)
            parts.append(piece.to(self.device, non_blocking=True))
        return torch.cat(parts)


class DecodedStream(ImageStream):
    """Endless stream of training batches decoded from disk."""

    def __init__(self, opened: Decoded, order: Order, rows: Tensor | None) -> None:
        super().__init__(order)
        self.opened, self.rows = opened, torch.arange(order.batch) if rows is None else rows
        self._ahead: Iterator[Tensor | UserError] | None = None

    def __next__(self) -> Batch:
        if self._ahead is None:
            # A copy generates the keys: a reference to `self` would form a cycle, and the garbage collector, which
            # closes the queues first, would then wait 5 s for each worker.
            twin = DecodedStream(self.opened, self.order, self.rows)
            self._ahead = self.opened.load("train", map(twin.keys, itertools.count(self.position)))
        batch = self._made(self.position, self._ahead)
        self.position += 1
        return batch

    def at(self, i: int) -> Batch:
        """Return batch i, decoded in this process, without changing the position of the stream."""
        views = self.opened.parts["train"]
        return self._made(i, (views[piece] for piece in pieces(self.keys(i))))

    def keys(self, i: int) -> list[Key]:
        """Return the keys (image index, transform seed) of the images at the positions `rows` of batch i."""
        items, seed = self.items(i), self.order.seed_of(i)
        return [(int(items[row]), hashed(seed, "image", row)) for row in self.rows.tolist()]

    def _made(self, i: int, found: Iterator[Tensor | UserError]) -> Batch:
        items, (_, height, width) = self.items(i), self.opened.shape
        draws = self.opened.augment.draws(len(items), height, width, self._gen)[:, self.rows]
        x = self.opened.joined(found, len(self.rows))
        y = torch.from_numpy(self.opened.train_y)[items[self.rows]]
        return Batch(self.opened.augment.apply(x, placed(draws, x.device)), placed(y, x.device), self.order.seed_of(i))

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._ahead = None


LOADING: WeakSet[object] = WeakSet()
"""Data loader iterators that may still have workers, because the traceback of an error keeps them alive."""


def shut(found: object) -> None:
    """Shut down the workers of a data loader iterator and wait for them to exit; idempotent."""
    getattr(found, "_shutdown_workers", lambda: None)()  # torch calls this when the iterator is garbage-collected


@atexit.register  # run before multiprocessing's handler, which terminates workers: torch would report their deaths
def shut_all() -> None:
    """Shut down all workers at interpreter exit."""
    for found in list(LOADING):
        shut(found)


def quiet(worker: int) -> None:
    """Make a worker process ignore Ctrl-C and SIGUSR1, which its parent process handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in signals("SIGUSR1"):
        signal.signal(number, signal.SIG_IGN)
