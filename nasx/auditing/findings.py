"""The result of a check of `nasx audit`, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """The outcome of one check: `note` where there is a measurement but no threshold to pass."""

    check: str
    outcome: Literal["pass", "fail", "note"]
    text: str
    """One sentence, without the full stop."""
    values: Mapping[str, object] = {}
    """What was measured, as plain values."""
    source: str = ""
    """Where the threshold comes from."""


def passed(ok: bool) -> Literal["pass", "fail"]:
    """The outcome of a check with a threshold."""
    return "pass" if ok else "fail"


def added(found: Iterable[Finding], late: Iterable[Finding], progress: float) -> Iterator[Finding]:
    """Yield what the same checks found only at a later `progress` of the search: failures and notes that are new."""
    known = {(each.check, each.outcome) for each in found}
    for each in late:
        if each.outcome != "pass" and (each.check, each.outcome) not in known:
            yield each._replace(text=f"at progress {progress:g}: {each.text}")
