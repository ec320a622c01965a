"""The public tables that `nasx bench get` downloads: addresses, sizes, licences, contents.

A file is pinned by size and sha256, so that the authors and every mirror serve the same bytes. NAS-Bench-101 publishes
no checksum of its files: these have a CRC for each record, and the import counts the graphs.

The latencies of raspi4, eyeriss, fpga and pixel3 are those of HW-NAS-Bench on CIFAR-10 (Li et al., ICLR 2021), all
others were measured for HELP (Lee et al., NeurIPS 2021), which published both as one folder.
"""

from __future__ import annotations

from dataclasses import dataclass
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


DEVICES = {
    "1080ti_1": Device(
        "batch 1 on a GeForce GTX 1080 Ti", "4028f52b2c2441da126932e3827ae11a7f76d39818c4374c1b9ab9df236e23f4"
    ),
    "1080ti_32": Device(
        "batch 32 on a GeForce GTX 1080 Ti", "affce4fcdcf6f28622365995ef2ec018bb07d448add59f80633c0978c393cdea"
    ),
    "1080ti_256": Device(
        "batch 256 on a GeForce GTX 1080 Ti", "435af0ccfab01f5dc55dc9f2e8b90ca37b396b2656e327bba5ee0b6eb9c24464"
    ),
    "2080ti_1": Device(
        "batch 1 on a GeForce RTX 2080 Ti", "38cf0e8f698abf8696c69b41a358fe9ddedf5d54cb1ae6f85b04dd8a8f89a1b3"
    ),
    "2080ti_32": Device(
        "batch 32 on a GeForce RTX 2080 Ti", "ebc603ad325850663fc56c8e0fde52fadea28e585a8405864baa20f986eaf29d"
    ),
    "2080ti_256": Device(
        "batch 256 on a GeForce RTX 2080 Ti", "daee655c44c46955d8318ddf0fa39254e70bab1ae723a6abc53d7b7e4e1561ae"
    ),
    "titan_rtx_1": Device("batch 1 on a Titan RTX", "a854dac331e2a37d7dcd6ee1f63d1bc6d73ead3aeb0a86f803f45ea1b294859e"),
    "titan_rtx_32": Device(
        "batch 32 on a Titan RTX", "1258bee5501fe191530b9898a4f55a122ab30beec9c6ea74598c47a0173babed"
    ),
    "titan_rtx_256": Device(
        "batch 256 on a Titan RTX", "cff1fba40b1743d3716cfb74c86ac2463d0682c146f356fa9095ac0d02dfb2a5"
    ),
    "titanx_1": Device("batch 1 on a Titan X", "3461cc686263bd0ce4d4cd915bfc2fe067deb139cc68da387741bd6443434cb0"),
    "titanx_32": Device("batch 32 on a Titan X", "9c4ca69131e34451fb1e104caa47efbe12ffec3cc47bf051613674d7af044ff2"),
    "titanx_256": Device("batch 256 on a Titan X", "04ddb80719515687bd3d722235cd5da821b50bd453a9e580b1e9d321dfb92941"),
    "titanxp_1": Device("batch 1 on a Titan Xp", "935aa0041c6592bed90f2f94ff3b4d40e892c066467864b704e6583682a57b20"),
    "titanxp_32": Device("batch 32 on a Titan Xp", "4b6db63c7a9fb55177aa2649d70031dd86d2ed1609467ef5803dc1089a73cb1b"),
    "titanxp_256": Device(
        "batch 256 on a Titan Xp", "9f03206bc62b0dcfc882820de07f55dc1fb7f43f57dfc977e4f0f4b019cb5041"
    ),
    "gold_6226": Device(
        "on an Intel Xeon Gold 6226", "6a00f63d14f67f8007ec04519f638a90aa6ed5357cf5c0e60c391df37f186c99"
    ),
    "gold_6240": Device(
        "on an Intel Xeon Gold 6240", "ac6dd41f183de69bba21dec3954ac73333b7dec871e0defbcce0572d82536890"
    ),
    "silver_4114": Device(
        "on an Intel Xeon Silver 4114", "0cce9dc9ba62ad81c21275298a88cb0e4534db6474a878f089df0abb13293421"
    ),
    "silver_4210r": Device(
        "on an Intel Xeon Silver 4210R", "f976049bda39abde94b8f8cac90140cb78a5069fc145c462d6d6bc2f8450727a"
    ),
    "pixel3": Device("on a Google Pixel 3", "cf1387da12e06b1d4541ce85f3ca4869d551084e09daf4acf024b6e21a80d465"),
    "raspi4": Device("on a Raspberry Pi 4", "2fae425c50bcaef7aacc5391244cd0af98bfc7fba689a8741e461cb18192f57c"),
    "eyeriss": Device("on an Eyeriss accelerator", "6f1dd2f8c0442289a09ab78e63e49bde96489f6d455cc33d5fa5aed37edb5d03"),
    "fpga": Device("on an FPGA", "6a0333c1476a3ab039d8c39e5d42ac99efe9e7f3ff521289569013fa84233b28"),
}
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
