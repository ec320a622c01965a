"""A text that can be learned: an alphabet of eight letters, a few of them per line, in order from a random one on."""

from __future__ import annotations

import random
from pathlib import Path

LETTERS = "abcdefgh"
WORDS = len(LETTERS) + 1
"""Including the end of a line; guessing gives a perplexity of nine."""


def write(folder: Path, train: int = 300, rest: int = 40) -> Path:
    """Write train.txt, valid.txt and test.txt with this many lines, the same for every call."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("train", train), ("valid", rest), ("test", rest)):
        starts = [(draw.randrange(8), draw.randrange(3, 7)) for _ in range(lines)]
        text = [" ".join(LETTERS[(start + k) % 8] for k in range(length)) for start, length in starts]
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder
