"""Safe loading of third-party pickles and torch files, without executing code in them.

Unpickling can call any function. `load_plain` creates only plain values and rejects all globals except those in a fixed
list; `load_torch` is `torch.load(weights_only=True)` with the globals that the caller allows.
"""

from __future__ import annotations

import bz2
import io
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nasx.core.system import memory_limit

MAX_CELL_BYTES = 1 << 28
"""Maximum size of a decompressed NATS-Bench cell; a larger file is treated as a decompression bomb."""


def load_torch(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Load a torch file of plain values, tensors and the `allowed` globals. Raises ValueError for any other content."""
    import torch  # slow to import

    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 (torch.load raises any exception for a damaged file)
        # torch's message recommends the unsafe load, so only the name of the rejected global is reported.
        asked = re.search(r"Unsupported (?:global|class): (?:GLOBAL )?([\w.]+)|GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"it refers to {asked[1] or asked[2]}, which is not allowed in a table"
            if asked
            else "it contains objects other than plain values and tensors"
        ) from None


class _Dtype:
    """Replacement for the dtype of a pickled numpy scalar, which stores only the type code."""

    def __init__(self, code: str, *flags: object) -> None:
        if code not in ("f8", "f4", "f2", "i8", "i4", "u8", "u4", "b1"):
            raise pickle.UnpicklingError(f"it contains a number of the unsupported type {code!r}")
        self.code = code

    def __setstate__(self, state: Sequence[object]) -> None:
        self.code = (">" if state[1] == ">" else "<") + self.code


def _scalar(kind: _Dtype, raw: bytes) -> object:
    return np.frombuffer(raw, np.dtype(kind.code), count=1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it contains bytes in the unsupported encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class PlainUnpickler(pickle.Unpickler):
    """Unpickler for plain values: dicts (OrderedDict becomes dict), lists, strings, numbers, and numpy scalars."""

    def find_class(self, module: str, name: str) -> object:
        """Return the replacement for an allowed global. Raises UnpicklingError for all other globals."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed in a table") from None


def load_plain(file: Path) -> dict[Any, Any]:
    """Load a bzip2-compressed pickle of a dict of plain values. Raises ValueError, UnpicklingError or MemoryError."""
    with bz2.open(file) as stream:
        raw = stream.read(MAX_CELL_BYTES + 1)
    if len(raw) > MAX_CELL_BYTES:
        raise ValueError(f"it unpacks to more than {MAX_CELL_BYTES} bytes")
    with memory_limit(8 * MAX_CELL_BYTES):
        content = PlainUnpickler(io.BytesIO(raw)).load()
    if not isinstance(content, dict):
        raise ValueError(f"it contains a {type(content).__name__}, not a dict")
    return content
