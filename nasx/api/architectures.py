"""Resolution of an architecture given as a published name, a genotype or a run, without importing torch."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from nasx.core import spelling
from nasx.errors import UserError
from nasx.spaces import published
from nasx.tracking import lineage, records

if TYPE_CHECKING:
    from nasx.api.runs import Run


def list_models(filter: str = "*") -> list[str]:  # noqa: A002 (timm's name)
    """Return the sorted names of published cells for images that match a pattern (`*`, `?`), ignoring case.

    Examples:
        >>> nasx.list_models("lambda*s4")
        ['Lambda_DARTS_c10_s4']
    """
    names = [name for name, cell in published.cells().items() if cell.space != "darts_rnn"]
    return sorted((name for name in names if fnmatchcase(name.lower(), filter.lower())), key=str.lower)


def identify(architecture: str | os.PathLike[str] | Run, out: str = "outputs") -> tuple[str, str]:
    """Return (`genotype`, published name or text) or (`from`, folder of a run or its name under `out`).

    Raises UserError if `architecture` is neither a published cell, a genotype nor a run.
    """
    from nasx.api.runs import Run

    if isinstance(architecture, Run):
        return "from", str(architecture.folder)
    text = os.fspath(architecture)
    if published.find(text) or (re.search(r"[|(\[{]", text) and not Path(text).exists()):
        return "genotype", text
    folder = records.locate(text, out) if text else None
    if folder is None or not records.is_run(folder):
        near, others = lineage.known_runs(text, out)
        near = spelling.nearest(text, published.cells()) or near
        some = f"name a published cell ({', '.join(list_models()[:3])}, ...: nasx.list_models()), {others}"
        fault = "is neither a published cell nor a run"
        raise UserError(text or "architecture=''", fault, f"did you mean {near}?" if near else some)
    return "from", text
