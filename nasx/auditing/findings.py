"""What an audit found, as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Finding(NamedTuple):
    """The outcome of one check: `note` where there is a measurement but no threshold to pass."""

    check: str
    outcome: Literal["pass", "fail", "note"]
    text: str
    """One sentence, without the full stop."""
    values: Mapping[str, Any] = {}
    """What was measured, as plain values."""
    source: str = ""
    """Where the threshold comes from."""


def passed(ok: bool) -> Literal["pass", "fail"]:
    """The outcome of a check with a threshold."""
    return "pass" if ok else "fail"
