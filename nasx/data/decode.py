"""Decode an image file to 8-bit RGB, with the same rules for images in memory (folder.py) and on disk (decoded.py).

    orientation     applied from EXIF
    16-bit grey     value / 257, rounded: 0 -> 0, 8000 -> 31, 50000 -> 195, 65535 -> 255
    floating point  255 * value, rounded; values outside 0..1 are rejected because their scale is unknown
    transparency    composited on white, both for alpha channels and for transparent colours
    CMYK, YCbCr, HSV, palettes, 1 bit      converted to RGB by PIL; colour profiles are not applied
    several frames (GIF, TIFF, WebP)       only the first frame is used
    32-bit integers, LAB                   rejected: their range or conversion is unknown

This module does not import torch; PIL is imported when the first image is decoded.

Deviation: PIL keeps only the high byte of each channel of a 16-bit RGB image (value // 256), which is at most one level
below the result of the rule for grey.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterable
from enum import IntFlag
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Version of these rules: images cached under another version are decoded again."""
ORIENTATION = 0x0112
"""The EXIF orientation tag; the value 1 means upright."""
DAMAGES = (
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""Exceptions that PIL may raise for a damaged file."""


class Odd(IntFlag):
    """Flags for the conversions applied to an image that is not plain 8-bit RGB or grey."""

    TURNED = 1
    DEEP = 2
    FLOATING = 4
    TRANSPARENT = 8
    CONVERTED = 16
    FRAMES = 32


DONE = {
    Odd.TURNED: "turned upright (EXIF)",
    Odd.DEEP: "scaled from 16 to 8 bits",
    Odd.FLOATING: "scaled from 0..1 to 8 bits",
    Odd.TRANSPARENT: "composited on white",
    Odd.CONVERTED: "converted from CMYK or another colour space",
    Odd.FRAMES: "cut to the first of several frames",
}


class UnreadableError(Exception):
    """Raised if an image cannot be decoded. The message is the reason, shown in parentheses after the file name."""


def rgb(path: Path) -> tuple[Image, Odd]:
    """Read an image file; return the image in mode RGB and the conversions applied. Raises UnreadableError."""
    return decoded(raw(path))


def raw(path: Path) -> bytes:
    """Return the bytes of an image file. Raises UnreadableError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        link = path.is_symlink() and not path.exists()
        raise UnreadableError("a broken link" if link else error.strerror or str(error)) from error
    if not content:
        raise UnreadableError("an empty file")
    return content


def plain_jpeg(content: bytes) -> bool:
    """Return whether the bytes are an upright JPEG in RGB or grey, which all JPEG decoders decode identically."""
    from PIL import Image

    if not content.startswith(b"\xff\xd8"):
        return False
    try:
        with Image.open(BytesIO(content)) as image:  # reads the header
            return image.format == "JPEG" and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION, 1) == 1
    except DAMAGES:
        return False


def decoded(content: bytes) -> tuple[Image, Odd]:
    """Decode the bytes of an image file; return the RGB image and the conversions applied. Raises UnreadableError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(content)) as image:
            return upright(image)
    except UnidentifiedImageError as error:
        raise UnreadableError("not an image, or an unknown format") from error
    except (*DAMAGES, Image.DecompressionBombError) as error:
        raise UnreadableError(str(error) or type(error).__name__) from error


def upright(image: Image) -> tuple[Image, Odd]:
    """Convert an image to upright RGB; return it and the conversions applied. Raises UnreadableError."""
    from PIL import ImageOps

    odd = Odd(0)
    if re.search(r";16[BLNS]", str(getattr(image, "tile", ""))):  # before getexif, which reads a whole PNG
        odd |= Odd.DEEP  # PIL truncates 16-bit colours to 8 bits
    if image.getexif().get(ORIENTATION, 1) in range(2, 9):
        odd |= Odd.TURNED
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photo followed by its preview
        odd |= Odd.FRAMES
    found, more = _converted(ImageOps.exif_transpose(image), image.format)
    return found, odd | more


def _converted(image: Image, kind: str | None) -> tuple[Image, Odd]:
    """Convert an upright image, read from a file of format `kind`, to RGB. Raises UnreadableError."""
    from PIL import Image as images

    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _scaled(image, kind)
    if mode == "LAB":
        raise UnreadableError("LAB colours; save it as RGB")
    if image.has_transparency_data:
        layer = image.convert("LA").convert("RGBA") if mode == "La" else image.convert("RGBA")
        if np.asarray(layer.getchannel("A")).min() < 255:
            white = images.new("RGBA", layer.size, (255, 255, 255, 255))
            return images.alpha_composite(white, layer).convert("RGB"), Odd.TRANSPARENT
        return layer.convert("RGB"), Odd(0)
    return image.convert("RGB"), Odd.CONVERTED if mode in ("CMYK", "YCbCr", "HSV") else Odd(0)


def _scaled(image: Image, kind: str | None) -> tuple[Image, Odd]:
    """Convert a grey image with more than 8 bits to RGB. Raises UnreadableError."""
    from PIL import Image as images

    values, odd = np.asarray(image).astype(np.float64), Odd.DEEP
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UnreadableError("floating-point values outside 0..1; save it as an 8-bit image, or scale it to 0..1")
        grey, odd = np.round(values * 255), Odd.FLOATING
    elif image.mode == "I" and kind != "PPM":  # PIL's PPM reader scales to 16 bits
        raise UnreadableError("32-bit integers, whose range is unknown; save it as an 8-bit or 16-bit image")
    else:
        grey = np.round(values / 257)
    clear = image.info.get("transparency") if image.mode.startswith("I") else None
    if isinstance(clear, int):
        grey, odd = np.where(values == clear, 255, grey), odd | Odd.TRANSPARENT
    return images.fromarray(grey.astype(np.uint8)).convert("RGB"), odd


def summary(odd: Iterable[int]) -> str:
    """Format the number of images per conversion, for example '1 turned upright (EXIF), 2 composited on white'."""
    counts = Counter(int(flags) for flags in odd)
    totals = {flag: sum(n for flags, n in counts.items() if flags & flag) for flag in DONE}
    return ", ".join(f"{n:,} {DONE[flag]}" for flag, n in totals.items() if n)
