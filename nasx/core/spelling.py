"""Suggestions for misspelled names (the similar known name with the fewest edits), plurals, and shortened lists."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name most similar to `word`; None if none is similar."""
    names = list(known)
    parts = [name for name in names if name in re.split(r"[^a-z0-9]|_", word)]  # out_file contains out
    near = _similar(word, names, 0.8) or parts or _similar(word, names, 0.6) or _similar(word.lower(), names, 0.6)
    return near[0] if near else None


def suggest(word: str, known: Iterable[str], otherwise: str = "choose from") -> str:
    """Return `did you mean NAME?` if a known name is similar, otherwise the text `otherwise` and all known names."""
    names = list(dict.fromkeys(known))
    near = nearest(word, names)
    return f"did you mean {near}?" if near else f"{otherwise} {', '.join(names)}"


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun: `1 run`, `2 runs`, `1,024 runs`; `plural` is for nouns that do not take an s."""
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


def shortened(names: Sequence[str], most: int = 8) -> str:
    """Join the first `most` names with commas, followed by the number of names left out."""
    return ", ".join(names[:most]) + (f", … and {len(names) - most} more" if len(names) > most else "")


def _similar(word: str, names: list[str], cutoff: float) -> list[str]:
    """Return the names whose difflib ratio is at least `cutoff`, sorted by edit distance, then by ratio."""
    close = difflib.get_close_matches(word, names, max(len(names), 1), cutoff)
    return sorted(close, key=lambda name: edits(word, name))


def edits(one: str, other: str) -> int:
    """Return the optimal string alignment distance of two words.

    It counts insertions, deletions, substitutions, and transpositions of neighbors; no substring is edited twice.
    """
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            least = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and (a, one[i - 2]) == (other[j - 2], b):
                least = min(least, rows[-2][j - 2] + 1)
            row.append(least)
        rows.append(row)
    return rows[-1][-1]
