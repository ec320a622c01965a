"""Convert images of any kind to inputs of a trained network, with the preprocessing of its training dataset.

Accepted inputs are image files, folders (all images below them, sorted), PIL images, uint8 arrays and iterables of
these. An array is a single image if it is (h, w), (h, w, 1) or (h, w, 3), and several images if it is (n, h, w, c) or
(n, c, h, w). Files and PIL images are converted to RGB as described in decode.py; `steps` (Source.preprocessing) then
crop and resize the images. torch is imported only for the steps of datasets that are decoded from disk.

Shapes: images uint8 (3, h, w).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nasx.data import decode, listing, shrink
from nasx.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Images = object
"""A path, a PIL image, an array, or an iterable of these."""


class Named(NamedTuple):
    """An image at the input size of the network, and its name: the path, or a number if it has no path."""

    name: str
    x: np.ndarray


def squared(image: Image, side: int) -> Image:
    """Crop an image to its centred square and resize it bilinearly to side x side, unless it already has this size."""
    from PIL import Image as images

    if image.size == (side, side):
        return image
    own = min(image.size)
    left, top = (image.width - own) // 2, (image.height - own) // 2
    return image.resize((side, side), images.Resampling.BILINEAR, (left, top, left + own, top + own))


def planes(image: Image) -> np.ndarray:
    """Convert an RGB image to uint8 (3, h, w)."""
    return np.asarray(image).transpose(2, 0, 1)


def fitted(image: Image, steps: Sequence[Sequence[object]], name: str) -> np.ndarray:
    """Apply the preprocessing `steps` to an RGB image and return it as uint8 (3, h, w). Raises UserError."""
    x = planes(image)
    match [list(step) for step in steps]:
        case []:
            return x
        case [["square"], ["resize", int(side), "bilinear"]]:
            return planes(squared(image, side))
        case [["square"], ["resize", int(side), "area"]]:
            if min(image.size) < side:
                raise UserError(
                    name,
                    f"is smaller than {side} x {side} pixels",
                    "enlarge it first: images are only reduced, never enlarged",
                )
            reduced: np.ndarray = shrink.shrunk(shrink.square(x[None]), side)[0]
            return reduced
        case [["square"], ["resize", int(side), "nearest"]]:
            x = shrink.square(x[None])[0]
            at = np.arange(side) * x.shape[1] // side
            repeated: np.ndarray = x[:, at][:, :, at]
            return repeated
        case [["resize", int(side), "bilinear"], ["center_crop", int(crop)]]:
            import torch
            from torchvision.transforms import v2

            view = v2.Compose([v2.Resize(side, antialias=True), v2.CenterCrop(crop)])
            cut: np.ndarray = view(torch.from_numpy(x.copy())).numpy()
            return cut
    raise UserError("preprocessing", f"unknown steps {list(steps)}", "export the run again with this version")


def read(images: Images, steps: Sequence[Sequence[object]], shape: Sequence[int]) -> Iterator[Named]:
    """Yield each image as uint8 of `shape` (channels, height, width). Raises UserError."""
    for name, one in _each(images, ""):
        if isinstance(one, np.ndarray) and one.shape == tuple(shape):
            yield Named(name, one)
            continue
        if shape[0] != 3:
            raise UserError(
                name,
                f"is not an array of shape {tuple(shape)}",
                "pass an array of this shape: the network does not read image files",
            )
        try:
            x = fitted(_rgb(one), steps, name)
        except decode.UnreadableError as error:
            raise UserError(name, f"cannot be read ({error})", "repair or remove it") from error
        if x.shape != tuple(shape):
            raise UserError(name, f"has {x.shape[2]} x {x.shape[1]} pixels", f"use {shape[2]} x {shape[1]}")
        yield Named(name, x)


def _each(images: Images, name: str) -> Iterator[tuple[str, Path | Image | np.ndarray]]:
    """Yield (name, image) pairs; an image is a file path, a PIL image or an array. Raises UserError."""
    from PIL import Image as pil

    if isinstance(images, str | Path):
        path = Path(images).expanduser()
        if not path.is_dir():
            yield str(path), path
            return
        found = [each for each in listing.files(path) if listing.image(each)]
        if not found:
            raise UserError(str(path), "contains no images", "name a folder of image files")
        yield from ((str(path / each), path / each) for each in found)
    elif isinstance(images, pil.Image):
        yield name or "image 0", images
    elif hasattr(images, "__array__"):
        yield from _arrays(np.asarray(images), name)
    elif isinstance(images, Iterable):
        for i, one in enumerate(images):
            yield from _each(one, f"image {i}")
    else:
        raise UserError("predict", f"{type(images).__name__} is not an image", "give a path, a PIL image or an array")


def _arrays(x: np.ndarray, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and pixels of each image in an array: (3, h, w), or (c, h, w) if it is neither RGB nor grey."""
    where = name or "predict"
    single = x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3))
    if x.dtype != np.uint8 or not (single or x.ndim == 4) or not x.size:
        raise UserError(
            where, f"is {x.dtype} {x.shape}", "expected uint8 (h, w), (h, w, 3), (n, h, w, 3) or (n, 3, h, w)"
        )
    for i, one in enumerate(channels_first(x.reshape(1, *x.shape[:2], -1) if single else x)):
        yield (where if name else f"image {i}"), one


def channels_first(x: np.ndarray) -> np.ndarray:
    """Convert (n, h, w, c) or (n, c, h, w) to (n, c, h, w), and grey images to three identical channels."""
    if x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    return np.repeat(x, 3, axis=1) if x.shape[1] == 1 else x


def _rgb(one: Path | Image | np.ndarray) -> Image:
    """Convert an image to mode RGB. Raises UnreadableError."""
    from PIL import Image as pil

    if isinstance(one, np.ndarray):
        return pil.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0)))
    return (decode.rgb(one) if isinstance(one, Path) else decode.upright(one))[0]
