"""Texts that a language model learns: three files of plain words, which the user brings. Torch-free until opened.

A line is a sentence, words are apart by blanks, and each line ends in the word <eos>. The vocabulary is all words of
the three files, numbered in the order in which they first occur. Penn Treebank as prepared by Mikolov et al. 2010 has
929,589, 73,760 and 82,430 words of 10,000, <eos> and <unk> among them. nasx neither holds nor downloads it.

Source: DARTS' released code, rnn/data.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nasx.data.base import data_root
from nasx.data.layouts import missing
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.data.segments import Read
from nasx.data.base import Text

END = "<eos>"
FILES = ("train.txt", "valid.txt", "test.txt")


@dataclass(frozen=True, kw_only=True)
class Ptb:
    """Penn Treebank, or any text in three files; bring train.txt, valid.txt and test.txt."""

    path: str | None = None

    data: ClassVar[str] = "text"
    name: ClassVar[str] = "ptb"

    def places(self) -> list[Path]:
        """Folders looked at, in order; `path` may name the folder of files itself."""
        root = data_root(self.path)
        return [root / self.name, root] if self.path else [root / self.name]

    def folder(self) -> Path:
        """The folder with the three files. Raises UserError that names every place looked at."""
        best = min(self.places(), key=lambda folder: len(missing(folder, FILES)))
        lacks = missing(best, FILES)
        if not lacks:
            return best
        put = (
            "put train.txt, valid.txt and test.txt there, a sentence a line and words apart by blanks, or name "
            "their folder by NASX_DATA or dataset.path; nasx neither holds nor downloads them"
        )
        if len(lacks) < len(FILES):
            raise UserError(str(best), f"is incomplete: no {', '.join(lacks)}", put)
        raise UserError(f"dataset={self.name}", "no files found; looked at " + ", ".join(map(str, self.places())), put)

    def check(self) -> None:
        """Quick and torch-free: the files are there. Raises UserError."""
        self.folder()

    def load(self) -> Text:
        """The whole text in memory. Raises UserError."""
        folder, numbers = self.folder(), dict[str, int]()
        parts = [numbered(folder / name, numbers) for name in FILES]
        return Text(train=parts[0], valid=parts[1], test=parts[2], words=tuple(numbers))

    def open(
        self,
        device: Any,
        *,
        bptt: int = 35,
        short: float = 0.0,
        jitter: float = 0.0,
        channels_last: bool = False,
        workers: int | None = None,
    ) -> Read:
        """The text on a device, to be read in segments; the last two are for images and have nothing to do."""
        from nasx.data.segments import Read  # imports torch

        return Read(self.load(), device, bptt=bptt, short=short, jitter=jitter)


def numbered(file: Path, numbers: dict[str, int]) -> np.ndarray:
    """The word numbers of a file, (n,); new words are added to `numbers`. Raises UserError."""
    try:
        with file.open(encoding="utf-8") as lines:
            found = [numbers.setdefault(word, len(numbers)) for line in lines for word in (*line.split(), END)]
    except OSError as error:
        raise UserError(str(file), f"cannot be read ({error.strerror})", "check the file") from error
    except UnicodeDecodeError as error:
        raise UserError(str(file), f"is no text in UTF-8 (byte {error.start})", "convert it to UTF-8") from error
    if not found:
        raise UserError(str(file), "is empty", "put the text there, a sentence a line")
    return np.array(found, np.int64)
