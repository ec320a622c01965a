"""Commands that install missing packages from a clone, because nasx is not on a package index.

They select versions within the ranges in pyproject.toml.
"""

from __future__ import annotations


def install(extra: str | None = None) -> str:
    """Return the command that installs the packages of an extra in pyproject.toml (None: the required packages)."""
    if extra is None:
        return "in a clone of nasx, run `uv sync` or `pip install .`"
    return f"in a clone of nasx, run `uv sync --extra {extra}` or `pip install '.[{extra}]'`"
