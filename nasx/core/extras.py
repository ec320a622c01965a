"""How a package that nasx needs is installed: from a clone, by its extra, since nasx is on no package index.

The version of the package is then one that nasx was tested with.
"""

from __future__ import annotations


def install(extra: str | None = None) -> str:
    """The remedy where a package of this extra of pyproject.toml is missing, or one that nasx always needs (None)."""
    if extra is None:
        return "in a clone of nasx run `uv sync` or `pip install .`"
    return f"in a clone of nasx run `uv sync --extra {extra}` or `pip install '.[{extra}]'`"
