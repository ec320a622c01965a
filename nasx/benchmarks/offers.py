"""The public tables that `nasx bench get` downloads (offers.yaml): addresses, sizes, licenses, contents.

A file is pinned by size and sha256, so that the authors and every mirror serve the same bytes. NAS-Bench-101 publishes
no checksums of its files. Instead, each of their records has a CRC, and the import counts the graphs.

The latencies of raspi4, eyeriss, fpga and pixel3 are those of HW-NAS-Bench on CIFAR-10 (Li et al., ICLR 2021). All
others were measured for HELP (Lee et al., NeurIPS 2021), which published both sets in one folder.
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
    """One file of a table. `sha256` is None if none is published; `size`, in bytes, is then approximate."""

    address: str
    size: int
    sha256: str | None

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.address.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name of the file without its suffix; for latencies, the device."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A table that can be downloaded by name."""

    files: tuple[File, ...]
    answers: str
    """Description of the content."""
    source: str
    license: str
    """The license and the address of its text."""

    @property
    def size(self) -> int:
        """The total size of all files in bytes."""
        return sum(file.size for file in self.files)


class Device(NamedTuple):
    """A device of HELP: a description of the measurement, and the sha256 of its file."""

    what: str
    sha256: str


with Path(__file__).with_name("devices.csv").open(encoding="utf-8") as _rows:
    DEVICES = {name: Device(what, sha256) for name, what, sha256 in [*csv.reader(_rows)][1:]}
"""Devices on which all 15,625 cells were timed, by file name."""
TESTS, LATENCY, NB101 = "nb201-test", "nb201-latency", "nb101"


def _offers() -> Iterator[tuple[str, Offer]]:
    for name, facts in load_yaml(Path(__file__).with_name("offers.yaml").read_text(encoding="utf-8")).items():
        answers = facts.pop("answers").format(devices=len(DEVICES))
        files = [File(**file) for file in facts.pop("files", ())]
        if name == LATENCY:
            files = [File(f"{_HELP}/{device}.pt", 141_039, known.sha256) for device, known in DEVICES.items()]
        yield name, Offer(files=tuple(files), answers=answers, **facts)


OFFERS = dict(_offers())
"""The tables of `nasx bench get`, by name."""
