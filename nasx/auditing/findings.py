"""Findings: the results of the checks of `nasx audit`, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """The result of one check; its outcome is `note` for a measurement without a threshold."""

    check: str
    outcome: Literal["pass", "fail", "note"]
    text: str
    """A sentence without its full stop."""
    values: Mapping[str, object] = {}
    """The measured quantities, as plain values."""
    source: str = ""
    """The source of the threshold."""


def passed(ok: bool) -> Literal["pass", "fail"]:
    """Return the outcome of a check with a threshold."""
    return "pass" if ok else "fail"


def added(found: Iterable[Finding], late: Iterable[Finding], progress: float) -> Iterator[Finding]:
    """Yield the new failures and notes in `late`, which contains findings of the same checks at a later `progress`."""
    known = {(each.check, each.outcome) for each in found}
    for each in late:
        if each.outcome != "pass" and (each.check, each.outcome) not in known:
            yield each._replace(text=f"at progress {progress:g}: {each.text}")
