"""The public tables that `nasx bench get` downloads (offers.yaml): addresses, sizes, licenses, contents.

Files are pinned by size and sha256, so the authors and all mirrors must serve the same bytes. No checksums are
published for the files of NAS-Bench-101. Instead, each of their records has a CRC, and the import counts the graphs.

The latencies on raspi4, eyeriss, fpga and pixel3 are from HW-NAS-Bench, measured on CIFAR-10 (Li et al., ICLR 2021).
All others were measured for HELP (Lee et al., NeurIPS 2021), whose authors published both sets in one folder.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nasx.core.files import load_yaml

HELP_COMMIT = "45f70eb92d0d735970a33b608d1544ad3c52f285"
_HELP = f"https://raw.githubusercontent.com/HayeonLee/HELP/{HELP_COMMIT}/data/nasbench201/latency"
MEGABYTE = 1_000_000


class File(NamedTuple):
    """A file that contains all or part of a table.

    `sha256` is None if no checksum is published; `size`, in bytes, is then approximate.
    """

    address: str
    size: int
    sha256: str | None

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.address.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name of the file without its suffix; for latencies, the name of the device."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A table that can be downloaded by name."""

    files: tuple[File, ...]
    answers: str
    """A description of the content."""
    source: str
    license: str
    """The license and the address of its text."""

    @property
    def size(self) -> int:
        """The total size of all files in bytes."""
        return sum(file.size for file in self.files)


class Device(NamedTuple):
    """A device with latencies in HELP: a description of the measurement, and the sha256 of the file."""

    what: str
    sha256: str


with Path(__file__).with_name("devices.csv").open(encoding="utf-8") as _rows:
    DEVICES = {name: Device(what, sha256) for name, what, sha256 in [*csv.reader(_rows)][1:]}
"""Devices on which all 15,625 cells were timed, by name."""
TESTS, LATENCY, NB101 = "nb201-test", "nb201-latency", "nb101"


def _offers() -> Iterator[tuple[str, Offer]]:
    for name, facts in load_yaml(Path(__file__).with_name("offers.yaml").read_text(encoding="utf-8")).items():
        answers = facts.pop("answers").format(devices=len(DEVICES))
        files = [File(**file) for file in facts.pop("files", ())]
        if name == LATENCY:
            files = [File(f"{_HELP}/{device}.pt", 141_039, known.sha256) for device, known in DEVICES.items()]
        yield name, Offer(files=tuple(files), answers=answers, **facts)


OFFERS = dict(_offers())
"""The tables that `nasx bench get` downloads, by name."""
