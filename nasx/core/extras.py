"""Optional packages: how an extra of nasx is installed. nasx is not on a package index, so it is from a clone."""

from __future__ import annotations


def install(extra: str) -> str:
    """The remedy where a package of this extra (pyproject.toml) is missing."""
    return f"in a clone of nasx run `uv sync --extra {extra}` or `pip install '.[{extra}]'`"
