"""Families of operations, derived from their published names."""

from __future__ import annotations


def family(operation: str) -> str:
    """Return the family of the operation with this published name: conv, pool, skip, none or noise."""
    name = operation.lower()
    return next((kind for kind in ("skip", "pool", "none", "noise") if kind in name), "conv")
