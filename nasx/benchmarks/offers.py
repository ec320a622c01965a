"""The public tables that `nasx bench get` downloads: addresses, sizes, licences, contents.

A file is pinned by size and sha256, so that the authors and every mirror serve the same bytes. NAS-Bench-101 publishes
no checksum of its files: these have a CRC for each record, and the import counts the graphs.

The latencies of raspi4, eyeriss, fpga and pixel3 are those of HW-NAS-Bench on CIFAR-10 (Li et al., ICLR 2021), all
others were measured for HELP (Lee et al., NeurIPS 2021), which published both as one folder.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HELP_COMMIT = "45f70eb92d0d735970a33b608d1544ad3c52f285"
_HELP = f"https://raw.githubusercontent.com/HayeonLee/HELP/{HELP_COMMIT}/data/nasbench201/latency"
HELP = "HELP and HW-NAS-Bench (https://github.com/HayeonLee/HELP)"
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
        """The name of the file without its suffix; for latencies the device."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A table that can be downloaded by name."""

    files: tuple[File, ...]
    answers: str
    """Description of the content."""
    source: str
    license: str
    """The licence and the address of its text."""

    @property
    def size(self) -> int:
        """Size of all files in bytes."""
        return sum(file.size for file in self.files)


class Device(NamedTuple):
    """A device of HELP: what was timed, and the sha256 of its file."""

    what: str
    sha256: str


with Path(__file__).with_name("devices.csv").open(encoding="utf-8") as _rows:
    DEVICES = {name: Device(what, sha256) for name, what, sha256 in [*csv.reader(_rows)][1:]}
"""Devices on which all 15,625 cells were timed, by file name."""
TESTS, LATENCY, NB101 = "nb201-test", "nb201-latency", "nb101"
OFFERS = {
    TESTS: Offer(
        files=(
            File(
                "https://raw.githubusercontent.com/v-tao/nats-bench-landscape/"
                "b307ae5fe6e8d7043cd4fe7d1c3532288271adb7/nats_bench.csv",
                3_024_008,
                "cb5d777ec3368be83c8f9b3aa4d520696051cb0eb8d94b8f85b519f9ea4afa3e",
            ),
        ),
        answers="test accuracies of all 15,625 cells of NAS-Bench-201 on three datasets, 200 epochs, means over seeds",
        source="nats-bench-landscape (https://github.com/v-tao/nats-bench-landscape; numbers of NATS-Bench)",
        license="numbers of NATS-Bench: MIT (https://github.com/D-X-Y/NATS-Bench/blob/main/LICENSE.md); the collection "
        "has no licence file",
    ),
    LATENCY: Offer(
        files=tuple(File(f"{_HELP}/{name}.pt", 141_039, device.sha256) for name, device in DEVICES.items()),
        answers=f"milliseconds of one forward pass of all 15,625 cells on {len(DEVICES)} devices",
        source=HELP,
        license="MIT (https://github.com/HayeonLee/HELP; https://github.com/GATECH-EIC/HW-NAS-Bench/blob/main/LICENSE)",
    ),
    NB101: Offer(
        files=(File("https://storage.googleapis.com/nasbench/nasbench_only108.tfrecord", 499 * MEGABYTE, None),),
        answers="validation and test accuracies of the 423,624 cells of NAS-Bench-101, 108 epochs, three repeats",
        source="NAS-Bench-101 (https://github.com/google-research/nasbench)",
        license="Apache-2.0 (https://github.com/google-research/nasbench/blob/master/LICENSE)",
    ),
}
"""The tables of `nasx bench get`, by name."""
