"""Style of all pictures: colours, font, and writing of figures with bytes that depend only on the data.

Colours are those of Okabe and Ito (2008), distinguishable for the common kinds of colour blindness. An operation has
the same colour in cells and curves: operations with weights blue, pooling green, skip orange, none grey.
"""

from __future__ import annotations

import io
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nasx.core import files
from nasx.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, FAINT = "#24292f", "#6e7781", "#d0d7de"
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#101418")
"""Palette of Okabe and Ito, in the order of the lines; without pure black, which matplotlib omits as a fill in SVG."""
FAMILIES = {"skip": "#B35900", "pool": "#00795A", "none": "#8c959f", "noise": "#8c959f", "conv": "#0A5C94"}
"""Operation family -> colour of its edge (darkened for thin lines on white)."""
FORMATS = ("svg", "png")
FONT = "DejaVu Sans"
"""The font of all pictures, included in matplotlib."""
MPLSTYLE = Path(__file__).with_name("nasx.mplstyle")
SCREEN, PAPER = ("svg", "png"), ("pdf", "svg", "png")
"""Formats of a picture whose path has no suffix: in a run folder, and for a paper."""


@contextmanager
def style() -> Iterator[None]:
    """Use matplotlib with the project's style and without a display, independent of the user's settings."""
    import matplotlib

    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)  # matplotlib logs its first use on a machine
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(MPLSTYLE, use_default_template=False))
        yield


def figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, without a window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: str | Path, kinds: Sequence[str] = SCREEN) -> list[Path]:
    """Write `made`, without dates, in the format of the suffix of `path` (SVG, PNG, PDF), or in all `kinds` if none."""
    formats: dict[str, Callable[[], bytes]] = {
        "svg": lambda: svg(made).encode(),
        "png": lambda: _bytes(made, "png", {"Software": "nasx"}),
        "pdf": lambda: _bytes(made, "pdf", {"Creator": "nasx", "Producer": "nasx", "CreationDate": None}),
    }
    return write(path, formats if Path(path).suffix else {kind: formats[kind] for kind in kinds})


def _bytes(made: Figure, kind: str, metadata: Mapping[str, str | None]) -> bytes:
    stream = io.BytesIO()
    made.savefig(stream, format=kind, metadata=metadata)
    return stream.getvalue()


def svg(made: Figure, *, transparent: bool = False) -> str:
    """Return `made` as the text of an SVG file, without a date.

    The last bits of matplotlib's layout differ between processes. Therefore clip paths, whose ids are hashes of
    positions, are numbered, and positions are rounded to a thousandth of a point.
    """
    stream = io.StringIO()
    made.savefig(stream, format="svg", metadata={"Date": None, "Creator": "nasx"}, transparent=transparent)
    numbers: dict[str, str] = {}
    text = re.sub(
        r"\bp[0-9a-f]{10}\b", lambda found: numbers.setdefault(found[0], f"p{len(numbers) + 1}"), stream.getvalue()
    )
    rounded: Callable[[re.Match[str]], str] = lambda x: str(round(float(x[0]), 3) + 0.0)  # noqa: E731 (+ 0.0: no -0.0)
    return re.sub(r'"[^"<>]*"', lambda quoted: re.sub(r"-?\d+\.\d{4,}", rounded, quoted[0]), text)


def write(path: str | Path, made: Mapping[str, Callable[[], bytes]]) -> list[Path]:
    """Write a picture in the format given by the suffix of `path`, or in all formats of `made` if it has none."""
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind and kind not in made:
        known = " or ".join(f".{k}" for k in made)
        raise UserError(str(path), f"{kind} is not a supported image format", f"use {known}")
    targets = [path] if kind else [path.with_name(f"{path.name}.{k}") for k in made]
    for target in targets:
        files.write_atomic(target, made[target.suffix.lower().lstrip(".")](), "use another path")
    return targets


def whole(path: Path) -> bool:
    """Return whether a picture is complete: all chunks of a PNG with their checksums, or the closing tag of an SVG."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    if path.suffix.lower() != ".png":
        return data.rstrip().endswith(b"</svg>") and b"\0" not in data
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return False
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if zlib.crc32(data[place + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            return False
        if data[place + 4 : place + 8] == b"IEND":
            return True
        place = end + 4
    return False
