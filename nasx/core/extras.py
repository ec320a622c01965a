"""Installation of required packages from a clone, by extra, because nasx is not on a package index.

This installs a tested version of the package.
"""

from __future__ import annotations


def install(extra: str | None = None) -> str:
    """Return the remedy for a missing package of this extra of pyproject.toml (None: a required package)."""
    if extra is None:
        return "in a clone of nasx, run `uv sync` or `pip install .`"
    return f"in a clone of nasx, run `uv sync --extra {extra}` or `pip install '.[{extra}]'`"
