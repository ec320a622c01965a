"""Batches of images that are decoded from a disk as they are needed.

Which images a batch holds, and how each is cropped, mirrored and coloured, is drawn from (seed, batch, place in the
batch), by the same rules as for images in memory (stream.py). So batches are the same for any number of worker
processes, for any number of training processes, and after any resume. Workers decode some batches ahead, in pieces of
`PIECE` images; a batch goes to the device as bytes and is normalized there.

An upright JPEG in RGB or grey is decoded by torchcodec where it is installed (the extra imagenet), faster than
PIL and with the same bits; everything else, and everything that torchcodec refuses, by PIL (decode.py). A damaged image
ends the run with its name.

Deviations
1. Released codes transform PIL images; here torchvision's transforms work on tensors: resizing and hue differ from
   PIL's by rounding.
2. The orientation that a camera has noted in an image is followed; released codes ignore it.

Shapes: images uint8 (n, 3, size, size) before normalization.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from nasx.core.draws import placed
from nasx.data import bounds, decode
from nasx.data.augment import Augment
from nasx.data.splits import Split, splits
from nasx.data.stream import Batch, Order, Part, group_of, hashed
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.data.listing import Files

PIECE = 32
"""Images that a worker decodes at once: few enough that the batches ahead fit into memory, whatever their size."""
Key = tuple[int, int | None]
"""An image of a part, and the seed of its crop; None for the view of evaluation."""


# -------------------------------------------------------------------------------------------------------- images
def pixels(path: Path) -> Tensor:
    """The image in a file, uint8 (3, h, w), by the rules of decode.py. Raises UserError where it cannot be read."""
    try:
        raw = decode.raw(path)
        if decode.plain_jpeg(raw):
            with contextlib.suppress(ImportError, RuntimeError, ValueError):  # PIL has the last word
                from torchcodec.decoders import decode_jpeg

                decoded: Any = decode_jpeg(raw, mode="RGB")  # a list only for a list of sources
                return decoded
        return torch.from_numpy(np.array(decode.decoded(raw)[0])).permute(2, 0, 1).contiguous()
    except decode.UnreadableError as error:
        raise UserError(
            str(path),
            f"cannot be read ({error})",
            "repair, replace or remove it; the same command then "
            "resumes (dataset.verify=true finds all such images before a run)",
        ) from error


class Settings(Split, Protocol):
    """What a set of decoded images reads of its component."""

    @property
    def size(self) -> int: ...
    @property
    def resize(self) -> int: ...
    @property
    def scale(self) -> tuple[float, float]: ...
    @property
    def ratio(self) -> tuple[float, float]: ...
    @property
    def flip(self) -> bool: ...
    @property
    def jitter(self) -> tuple[float, float, float, float] | None: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def verify(self) -> bool: ...


class Views(Dataset[Any]):
    """Pieces of a part as a worker makes them: a list of keys -> uint8 (k, 3, size, size), or the fault as a value."""

    def __init__(self, component: Settings, files: Files) -> None:
        self.files = files
        colour = [] if component.jitter is None else [v2.ColorJitter(*component.jitter)]
        self.training = v2.Compose(
            [
                v2.RandomResizedCrop(component.size, component.scale, component.ratio, antialias=True),
                *([v2.RandomHorizontalFlip()] if component.flip else []),
                *colour,
            ]
        )
        self.plain = v2.Compose([v2.Resize(component.resize, antialias=True), v2.CenterCrop(component.size)])

    def __getitem__(self, keys: Sequence[Key]) -> Tensor | UserError:
        try:
            return torch.stack([self.view(*key) for key in keys])
        except UserError as fault:  # an exception would lose its type on the way from a worker
            return fault

    def view(self, item: int, seed: int | None) -> Tensor:
        """One image as training (with a seed) or evaluation sees it."""
        image = pixels(self.files.folder / os.fsdecode(self.files.names[item]))
        if seed is None:
            return self.plain(image)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs too
            return self.training(image)


def pieces(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    """The keys of a batch in pieces."""
    return (keys[i : i + PIECE] for i in range(0, len(keys), PIECE))


# ------------------------------------------------------------------------------------------------------- batches
class Decoded:
    """An opened set (see `Opened`) whose images lie on a disk."""

    carries = False

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
        self.component, self.classes, self.device, self.workers = component, classes, torch.device(device), workers
        self.train_y, self.shape = train.labels, (3, component.size, component.size)
        bounds.check(self.shape, cutout=cutout)
        self.parts = {"train": Views(component, train), "test": Views(component, test)}
        self.augment = Augment(
            pad=0, flip=False, mean=component.mean, std=component.std, cutout=cutout, channels_last=channels_last
        )

    def described(self) -> dict[str, list[Any]]:
        """What a record keeps of the set; see `Opened`."""
        return {
            "classes": list(self.classes),
            "mean": list(self.component.mean),
            "std": list(self.component.std),
            "shape": list(self.shape),
        }

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Images for the weights and for the architecture; see `Opened`."""
        return splits(self, self.component, seed)

    def stream(
        self, name: str, index: np.ndarray | None = None, *, batch: int, seed: int, rows: Tensor | None = None
    ) -> DecodedStream:
        """Batches of training images; see `Opened`."""
        bounds.check(self.shape, group_of(name), batch=batch)
        return DecodedStream(
            self,
            Order(torch.arange(len(self.train_y)) if index is None else index, batch=batch, seed=seed, name=name),
            rows,
        )

    def ordered(
        self, part: Part, index: np.ndarray | None = None, *, batch: int, first: int = 0, step: int = 1
    ) -> Iterator[Batch]:
        """Images of a part in order; see `Opened`."""
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
        """The pieces of these batches, in order, decoded ahead by the workers. Raises UserError where one dies."""
        keys = (piece for batch in batches for piece in pieces(batch))
        loader = DataLoader(
            self.parts[part],
            batch_size=None,
            sampler=keys,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=quiet if self.workers else None,
            generator=torch.Generator(),
        )  # else it would draw from torch's own
        found = iter(loader)
        LOADING.add(found)
        try:
            yield from found
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"workers={self.workers}",
                f"one of them has ended ({str(error).splitlines()[0]})",
                "lower workers, or give the machine more memory (of containers: more /dev/shm); the same "
                "command resumes",
            ) from error
        finally:
            shut(found)

    def joined(self, found: Iterator[Tensor | UserError], count: int) -> Tensor:
        """The next `count` images on the device. Raises the UserError of a damaged one."""
        parts: list[Tensor] = []
        while sum(map(len, parts)) < count:
            piece = next(found)
            if isinstance(piece, UserError):
                # another one: an error whose own frame names it is a circle, with the workers in it (see __next__)
                raise UserError(piece.where, piece.fault, piece.remedy)
            parts.append(piece.to(self.device, non_blocking=True))
        return torch.cat(parts)


class DecodedStream:
    """Endless batches of training images; `position` is the number of batches drawn (see `Batches`)."""

    def __init__(self, opened: Decoded, order: Order, rows: Tensor | None) -> None:
        self.opened, self.order, self.position = opened, order, 0
        self.per_pass = order.per_pass
        self.rows = torch.arange(order.batch) if rows is None else rows
        self._gen = torch.Generator()
        self._ahead: Iterator[Tensor | UserError] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._ahead is None:
            # A twin's keys: with its own the stream would be part of a circle, and workers that the garbage collector
            # ends are waited for, 5 s each, since it closes their queues first.
            twin = DecodedStream(self.opened, self.order, self.rows)
            self._ahead = self.opened.load("train", map(twin.keys, itertools.count(self.position)))
        batch = self._made(self.position, self._ahead)
        self.position += 1
        return batch

    def at(self, i: int) -> Batch:
        """Batch i, whatever has been drawn before; decoded here and now."""
        views = self.opened.parts["train"]
        return self._made(i, (views[piece] for piece in pieces(self.keys(i))))

    def items(self, i: int) -> Tensor:
        """Which images batch i holds, (batch,) on the CPU."""
        return self.order.items(i, self._gen.manual_seed(self.order.seed_of(i)))

    def keys(self, i: int) -> list[Key]:
        """The wanted images of batch i, each with the seed of its crop."""
        items, seed = self.items(i), self.order.seed_of(i)
        return [(int(items[row]), hashed(seed, "image", row)) for row in self.rows.tolist()]

    def _made(self, i: int, found: Iterator[Tensor | UserError]) -> Batch:
        items, (_, height, width) = self.items(i), self.opened.shape
        draws = self.opened.augment.draws(len(items), height, width, self._gen)[:, self.rows]
        x = self.opened.joined(found, len(self.rows))
        y = torch.from_numpy(self.opened.train_y)[items[self.rows]]
        return Batch(self.opened.augment.apply(x, placed(draws, x.device)), placed(y, x.device), self.order.seed_of(i))

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position, self._ahead = int(state["position"]), None


LOADING: WeakSet[Any] = WeakSet()
"""Iterators of loaders that may have workers: an error keeps the frames alive that hold them."""


def shut(found: Any) -> None:
    """End the workers of a loader's iterator and wait for them; does nothing without workers, or a second time."""
    getattr(found, "_shutdown_workers", lambda: None)()  # what torch does when the iterator is collected


@atexit.register  # later than that of multiprocessing, so it runs first: terminated workers are a fault to torch
def shut_all() -> None:
    """End all workers that still load when the interpreter ends."""
    for found in list(LOADING):
        shut(found)


def quiet(worker: int) -> None:
    """A worker leaves Ctrl-C to the process that it works for, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
