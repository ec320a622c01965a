"""Budget targets: a number with a unit, or a fraction of the mean cost of a space's networks. Does not import torch."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from nasx.errors import UserError

UNITS = {
    "macs": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9},
    "params": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9},
    "latency": {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3},
}
"""Quantity -> suffix of a target -> factor that converts to multiply-adds, parameters or milliseconds."""
NAMES = {"macs": "multiply-adds", "params": "parameters", "latency": "latency"}


class Target(NamedTuple):
    """Upper limit on the cost of a network: multiply-adds, parameters, milliseconds, or a fraction of the mean cost."""

    amount: float
    relative: bool


def target(value: float | str, quantity: str, *, absolute: str = "") -> Target:
    """Parse a target: `5M`, `3ms`, a number above 1, or a fraction of the mean in (0, 1]. Raises UserError.

    `absolute` is the reason why fractions of the mean are not allowed; if empty, they are allowed.
    """
    units = UNITS[quantity]
    suffixes = [suffix for suffix in units if suffix]
    write = f"write a number with {', '.join(suffixes[:-1])} or {suffixes[-1]}"
    if not absolute:
        write += ", or a fraction of the mean up to 1"
    found = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)", str(value).strip())
    try:
        number = float(found[1]) if found else math.nan
    except ValueError:
        number = math.nan
    if found is None or not math.isfinite(number):
        raise UserError(f"budget.target={value}", "is not a positive number", write)
    if found[2] not in units:
        raise UserError(f"budget.target={value}", f"has the unknown unit {found[2]!r} for {NAMES[quantity]}", write)
    if number <= 0:
        raise UserError(f"budget.target={value}", "is not a positive number", write)
    relative = not found[2] and number <= 1
    if relative and absolute:
        raise UserError(f"budget.target={value}", f"is a fraction of the mean, {absolute}", write)
    return Target(number * units[found[2]], relative)


def text(amount: float, quantity: str) -> str:
    """Format a cost: `41.20 M multiply-adds`, `3.21 ms`."""
    return " ".join(_number_and_unit(amount, quantity))


def ratio_text(amount: float, target: float, quantity: str) -> str:
    """Format a cost and its target: `17.18 M of 20.00 M multiply-adds`, `2.10 of 3.00 ms`."""
    number, _ = _number_and_unit(amount, quantity)
    return f"{number} of {text(target, quantity)}"


def _number_and_unit(amount: float, quantity: str) -> tuple[str, str]:
    if quantity == "latency":
        return f"{amount:.{2 if amount >= 1 else 3}f}", "ms"
    size, suffix = (1e6, " M") if amount >= 1e5 else (1e3, " k") if amount >= 1e3 else (1, "")
    return f"{amount / size:.{2 if suffix else 0}f}{suffix}", NAMES[quantity]
