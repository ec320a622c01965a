"""A text that can be learned: the alphabet of eight letters, a few letters per line from a random one on."""

from __future__ import annotations

import random
from pathlib import Path

LETTERS = "abcdefgh"
WORDS = len(LETTERS) + 1
"""With the end of a line; whoever guesses has a perplexity of nine."""


def write(folder: Path, train: int = 300, rest: int = 40) -> Path:
    """train.txt, valid.txt and test.txt of so many lines, the same at every call."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("train", train), ("valid", rest), ("test", rest)):
        starts = [(draw.randrange(8), draw.randrange(3, 7)) for _ in range(lines)]
        text = [" ".join(LETTERS[(start + k) % 8] for k in range(length)) for start, length in starts]
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder
