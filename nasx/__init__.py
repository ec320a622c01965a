"""nasx: differentiable architecture search that composes spaces, methods and data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from nasx.export.model import Classifier

__version__ = "0.1.0"


def load(path: str | Path, device: str = "cpu", allow: Sequence[str] = ()) -> Classifier:
    """The trained network that `nasx export` has written to `path`: see nasx/export/model.py."""
    from nasx.export import model  # torch is imported here and not with the package

    return model.load(path, device, allow)
