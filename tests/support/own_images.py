"""A realistic folder of user images: three classes, every kind of file, names with spaces and Unicode characters.

`KINDS` maps a kind to the bytes of a file and its RGB pixels (h, w, 3), known by construction; `BAD` has the bytes of
files that only look like images.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

CLASSES = ("cat", "großer hund", "zebra")
LAYOUTS = {
    "train/val": ("train", "val"),
    "Train/Test": ("Train", "Test"),
    "training_set/test_set": ("training_set", "test_set"),
    "flat": ("", None),
}
"""Layout -> its folders of training and test images (None: there is no folder)."""
WIDTH, HEIGHT = 14, 11


class Kind(NamedTuple):
    """A file: its content, and the pixels (h, w, 3) that a person sees in it."""

    content: bytes
    shown: np.ndarray


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    blob = io.BytesIO()
    image.save(blob, kind, **how)
    return blob.getvalue()


def colours(seed: int = 0) -> np.ndarray:
    """Return random colours."""
    return np.random.RandomState(seed).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def in_grey(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF: from the stored to the shown image
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x[::-1].transpose(1, 0, 2),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x.transpose(1, 0, 2)[::-1],
}


def _kinds() -> Iterator[tuple[str, Kind]]:
    x = colours()
    plain, grey = Image.fromarray(x), x[..., 0]
    yield "plain.png", Kind(saved(plain, "PNG"), x)
    yield "UPPER CASE.PNG", Kind(saved(plain, "PNG"), x)
    yield "bild ä 图.bmp", Kind(saved(plain, "BMP"), x)
    yield "grey.png", Kind(saved(Image.fromarray(grey), "PNG"), in_grey(grey))
    deep = np.random.RandomState(1).randint(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    deep[0, :5] = 0, 8000, 50000, 65535, 128  # 128 / 257 = 0.498
    shown = in_grey(np.floor(deep / 257 + 0.5))
    shown[0, :5] = np.array([0, 31, 195, 255, 0])[:, None]
    yield "deep.png", Kind(saved(Image.fromarray(deep), "PNG"), shown)
    yield "deep.tif", Kind(saved(Image.fromarray(deep), "TIFF"), shown)
    yield "deep.pgm", Kind(b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + deep.astype(">u2").tobytes(), shown)
    ink = np.concatenate([255 - x, np.zeros((HEIGHT, WIDTH, 1), np.uint8)], 2)
    yield "print.tiff", Kind(saved(Image.fromarray(ink, "CMYK"), "TIFF"), x)
    few = np.array([[0, 0, 0], [255, 0, 0], [10, 200, 30], [250, 250, 250]], np.uint8)
    at = np.random.RandomState(2).randint(0, 4, (HEIGHT, WIDTH)).astype(np.uint8)
    indexed = Image.fromarray(at, "P")
    indexed.putpalette(few.tobytes())
    yield "palette.png", Kind(saved(indexed, "PNG"), few[at])
    yield "palette.gif", Kind(saved(indexed, "GIF"), few[at])
    on_white = np.where(at[..., None] == 0, 255, few[at])  # a black shape on transparent black must stay a shape
    yield "clear palette.png", Kind(saved(indexed, "PNG", transparency=0), on_white)
    yield "clear.gif", Kind(saved(indexed, "GIF", transparency=0), on_white)
    alpha = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    alpha[2:5, 3:9, 3] = 255
    shape = np.full((HEIGHT, WIDTH, 3), 255)
    shape[2:5, 3:9] = 0
    yield "logo.png", Kind(saved(Image.fromarray(alpha), "PNG"), shape)
    yield "logo.webp", Kind(saved(Image.fromarray(alpha), "WEBP", lossless=True), shape)
    yield "grey logo.png", Kind(saved(Image.fromarray(alpha[..., 2:]), "PNG"), shape)
    half = np.concatenate([x, np.full((HEIGHT, WIDTH, 1), 51, np.uint8)], 2)  # a fifth of the colour on white
    yield "veil.png", Kind(saved(Image.fromarray(half), "PNG"), np.round(0.2 * x + 0.8 * 255))
    yield "lossless.webp", Kind(saved(plain, "WEBP", lossless=True), x)
    unit = np.random.RandomState(3).rand(HEIGHT, WIDTH).astype(np.float32)
    unit[0, :3] = 0, 0.5, 1
    shown = in_grey(np.round(unit.astype(np.float64) * 255))
    yield "float.tif", Kind(saved(Image.fromarray(unit), "TIFF"), shown)
    yield "line art.png", Kind(saved(Image.fromarray(grey > 127), "PNG"), in_grey(np.where(grey > 127, 255, 0)))
    for number, turn in TURNS.items():
        noted = Image.Exif()
        noted[0x0112] = number
        yield f"turned {number}.png", Kind(saved(plain, "PNG", exif=noted), turn(x))
    for suffix, kind in ((".jpg", "JPEG"), (".JPEG", "JPEG")):
        content = saved(Image.fromarray(np.full((HEIGHT, WIDTH, 3), 77, np.uint8)), kind, quality=95)
        yield f"photo{suffix}", Kind(content, np.full((HEIGHT, WIDTH, 3), 77))


KINDS = dict(_kinds())
BAD = {
    "truncated.jpg": saved(Image.fromarray(colours()), "JPEG", quality=95)[:300],
    "truncated.png": saved(Image.fromarray(colours()), "PNG")[:200],
    "a page.jpg": b"<html>not found</html>",
    "empty.png": b"",
}
SKIPPED = (
    ".ipynb_checkpoints/plain-checkpoint.png",
    "._plain.png",
    "__MACOSX/._plain.png",
    "Thumbs.db",
    ".DS_Store",
    "@eaDir/plain.png",
)
"""Files that operating systems leave in folders of images."""


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def own_images(root: Path, layout: str = "train/val", *, held: int = 2) -> dict[str, np.ndarray]:
    """Write images of each kind, all valid, in a layout of `LAYOUTS`: each kind in every class, and `held` plain ones
    of each class for the test. Return the pixels (h, w, 3) that each file shows, by its path below the root."""
    train, test = LAYOUTS[layout]
    shown = {}
    for name in CLASSES:
        for file, kind in KINDS.items():
            place = "/".join(filter(None, (train, name, file)))
            write(root / place, kind.content)
            shown[place] = kind.shown.astype(np.uint8)
        for i in range(held if test is not None else 0):
            x = colours(100 + i)
            place = f"{test}/{name}/held out {i}.png"
            write(root / place, saved(Image.fromarray(x), "PNG"))
            shown[place] = x
        for file in SKIPPED:
            write(root / "/".join(filter(None, (train, name, file))), KINDS["plain.png"].content)
    for file in ("__MACOSX/cat/._plain.png", ".ipynb_checkpoints/x.png", "Thumbs.db", "notes.txt"):
        write(root / file, b"whatever")
    return shown
