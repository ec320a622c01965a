"""Commands that install missing packages from a clone, by extra, because nasx is not on a package index.

They install tested versions of the packages.
"""

from __future__ import annotations


def install(extra: str | None = None) -> str:
    """Return the remedy for a missing package of an extra in pyproject.toml (None: of a required package)."""
    if extra is None:
        return "in a clone of nasx, run `uv sync` or `pip install .`"
    return f"in a clone of nasx, run `uv sync --extra {extra}` or `pip install '.[{extra}]'`"
