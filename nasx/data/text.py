"""Text datasets for language models: three plain-text files provided by the user.

Each line is a sentence of words separated by spaces; the word <eos> is appended to it. The vocabulary contains all
words in the three files, numbered in order of first occurrence. Penn Treebank, as prepared by Mikolov et al. 2010, has
929,589 training, 73,760 validation and 82,430 test words, and a vocabulary of 10,000 words, including <eos> and <unk>.
nasx neither contains nor downloads Penn Treebank. torch is imported only by `open`.

Source: DARTS' released code, rnn/data.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nasx.data.base import Text, places
from nasx.data.layouts import missing, most_complete
from nasx.errors import UserError

if TYPE_CHECKING:
    import torch

    from nasx.data.segments import Read

END = "<eos>"
FILES = ("train.txt", "valid.txt", "test.txt")


@dataclass(frozen=True, kw_only=True)
class Ptb:
    """Penn Treebank, or any text in three files train.txt, valid.txt and test.txt."""

    path: str | None = None

    data: ClassVar[str] = "text"
    name: ClassVar[str] = "ptb"

    def places(self) -> list[Path]:
        """Return the folders to search, in order. `path` may be the folder that contains the files, or its parent."""
        return places(self.path, self.name)

    def folder(self) -> Path:
        """Return the folder with the three files. Raises UserError if any of them is missing."""
        best = most_complete(self.places(), FILES)
        lacks = missing(best, FILES)
        if not lacks:
            return best
        put = (
            "put train.txt, valid.txt and test.txt there, one sentence per line and words separated by spaces, or set "
            "NASX_DATA or dataset.path to their folder; nasx neither contains nor downloads them"
        )
        if len(lacks) < len(FILES):
            raise UserError(str(best), f"is incomplete: no {', '.join(lacks)}", put)
        raise UserError(f"dataset={self.name}", "no files found; looked in " + ", ".join(map(str, self.places())), put)

    def check(self) -> None:
        """Check that the files exist, without importing torch. Raises UserError."""
        self.folder()

    def load(self) -> Text:
        """Load the whole text into memory. Raises UserError."""
        folder, numbers = self.folder(), dict[str, int]()
        parts = [numbered(folder / name, numbers) for name in FILES]
        return Text(train=parts[0], valid=parts[1], test=parts[2], words=tuple(numbers))

    def open(
        self,
        device: torch.device | str,
        *,
        bptt: int = 35,
        short: float = 0.0,
        jitter: float = 0.0,
        channels_last: bool = False,
        workers: int | None = None,
    ) -> Read:
        """Load the text onto a device, to be read in segments of about `bptt` words. Raises UserError.

        `channels_last` and `workers` are ignored because they apply only to images.
        """
        from nasx.data.segments import Read  # imports torch

        return Read(self.load(), device, bptt=bptt, short=short, jitter=jitter)


def numbered(file: Path, numbers: dict[str, int]) -> np.ndarray:
    """Return the word indices of a file, int64 (n,), and add new words to `numbers`. Raises UserError."""
    try:
        with file.open(encoding="utf-8") as lines:
            found = [numbers.setdefault(word, len(numbers)) for line in lines for word in (*line.split(), END)]
    except OSError as error:
        raise UserError(str(file), f"cannot be read ({error.strerror})", "check the file") from error
    except UnicodeDecodeError as error:
        raise UserError(str(file), f"is not UTF-8 text (byte {error.start})", "convert it to UTF-8") from error
    if not found:
        raise UserError(str(file), "is empty", "put the text there, one sentence per line")
    return np.array(found, np.int64)
