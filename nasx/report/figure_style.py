"""Colours and font of all pictures, and functions that write figures whose bytes depend only on the data.

The palette of Okabe and Ito (2008) is distinguishable with common kinds of colour blindness. An operation has the same
colour in cells and curves: blue for operations with weights, green for pooling, orange for skip connections, and grey
for none.
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
"""Okabe-Ito palette, in the order in which lines use it. A near-black replaces pure black, which matplotlib omits as a
fill colour in SVG."""
FAMILIES = {"skip": "#B35900", "pool": "#00795A", "none": "#8c959f", "noise": "#8c959f", "conv": "#0A5C94"}
"""Operation family -> colour of its edges, darkened for thin lines on white."""
FORMATS = ("svg", "png")
FONT = "DejaVu Sans"
"""Font of all pictures, included in matplotlib."""
MPLSTYLE = Path(__file__).with_name("nasx.mplstyle")
SCREEN, PAPER = ("svg", "png"), ("pdf", "svg", "png")
"""Formats in which a picture is written if its path has no suffix: in run folders, and for papers."""


@contextmanager
def style() -> Iterator[None]:
    """Apply the project's matplotlib style within the context, independent of the user's matplotlib settings."""
    import matplotlib

    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)  # it logs at its first use on a machine
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(MPLSTYLE, use_default_template=False))
        yield


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` by `height` inches, which needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: str | Path, kinds: Sequence[str] = SCREEN) -> list[Path]:
    """Write `made`, without a date, to `path` (.svg, .png or .pdf), or in all formats `kinds` if it has no suffix.

    Returns the written paths. Raises UserError for any other suffix.
    """
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

    Positions computed by matplotlib differ between processes in their last bits. They are therefore rounded to a
    thousandth of a point, and clip paths, whose ids are hashes of positions, are numbered.
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
    """Write a picture to `path` in the format given by its suffix, or in all formats of `made` if it has no suffix.

    `made` maps each format to a function that renders it. Returns the written paths. Raises UserError for a suffix that
    is not in `made`.
    """
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
    """Return whether a file is a complete picture: a PNG with valid checksums, or an SVG with its closing tag."""
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
