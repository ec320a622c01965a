"""Table of operation latencies that `nasx latency` measures on a device, used as a cost model. No torch is needed.

    latency(network) = fixed + scale * sum over edges of the latency of the edge's operation at its input shape

Operations are timed outside of a network, each including the addition of its output to the sum at its target node. In
a network, caches and runtime optimizations act across operations, so `scale` and `fixed` are fitted to whole networks
that are timed in the same rounds (export/latency.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

from nasx.core.files import read_json
from nasx.core.plain import Config, Row
from nasx.core.timing import Latency
from nasx.errors import UserError

FORMAT = "nasx latency 1"
SUFFIX = ".json"
SIZES = ("layers", "channels", "stem")
AGAIN = "create a table with nasx latency"


class Size(TypedDict, total=False):
    """Size of a discrete network. If `layers` or `channels` is None, the space's retraining default is used."""

    layers: int | None
    channels: int | None
    stem: str
    """cifar (the default), imagenet or single."""
    auxiliary: bool
    """Whether the network has an auxiliary head (default: no)."""


class Key(NamedTuple):
    """An operation with its channels, stride, and input height and width."""

    operation: str
    channels: int
    stride: int
    height: int
    width: int


class Timed(NamedTuple):
    """A whole network: its genotype, its measured latency, and the latency that the table predicts."""

    genotype: str
    latency: Latency
    predicted_ms: float


@dataclass(frozen=True)
class Latencies:
    """A latency table.

    `about` contains the device, runtime, threads, batch size, versions, date, space, network size and image shape.
    """

    about: Config
    operations: Mapping[Key, Latency]
    networks: tuple[Timed, ...]
    fixed_ms: float
    scale: float

    @property
    def size(self) -> Size:
        """Layers, channels and stem of the measured networks, as arguments of `Space.network`."""
        return network_size(self.about)

    def operation(self, name: str, channels: int, stride: int, height: int, width: int) -> float:
        """Return an operation's latency within a network, in milliseconds. Raises UserError if it was not measured."""
        found = self.operations.get(key := Key(name, channels, stride, height, width))
        if found is None:
            raise UserError("budget.device", f"the table has no latency for {said(key)}", AGAIN)
        return self.scale * found.median_ms

    def text(self) -> str:
        """Return the content of the table's JSON file."""
        return json.dumps(
            {
                "format": FORMAT,
                **self.about,
                "fixed_ms": self.fixed_ms,
                "scale": self.scale,
                "operations": [{**key._asdict(), **found._asdict()} for key, found in self.operations.items()],
                "networks": [
                    {"genotype": one.genotype, "predicted_ms": one.predicted_ms, **one.latency._asdict()}
                    for one in self.networks
                ],
            },
            indent=1,
        )


def network_size(about: Config) -> Size:
    """Return the layers, channels and stem in a table's `about`."""
    return {"layers": about["layers"], "channels": about["channels"], "stem": about["stem"]}


def said(key: Key) -> str:
    """Return a description of an operation for error messages."""
    return f"{key.operation}, {key.channels} channels, {key.width} x {key.height}, stride {key.stride}"


def read(path: str | Path) -> Latencies:
    """Read a table. Raises UserError if the file is missing or damaged."""
    held = read_json(Path(path))
    if held is None or held.get("format") != FORMAT:
        there = "was not written by nasx latency" if Path(path).is_file() else "does not exist"
        raise UserError(f"budget.device={path}", there, AGAIN)
    try:
        about = {key: value for key, value in held.items() if key not in ("operations", "networks", "format")}
        found = Latencies(
            about,
            {Key(*(row[name] for name in Key._fields)): _latency(row) for row in held["operations"]},
            tuple(Timed(str(row["genotype"]), _latency(row), float(row["predicted_ms"])) for row in held["networks"]),
            float(about.pop("fixed_ms")),
            float(about.pop("scale")),
        )
        for name in (*SIZES, "space", "image", "classes", "runtime", "threads", "batch"):
            about[name]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"budget.device={path}", f"is damaged ({type(error).__name__}: {error})", AGAIN) from error
    return found


def _latency(row: Row) -> Latency:
    return Latency(float(row["median_ms"]), float(row["low_ms"]), float(row["high_ms"]), int(row["n"]))


def differing(table: Latencies, given: Mapping[str, object]) -> Iterable[tuple[str, object]]:
    """Yield (key, value in the table) for each setting in `given` that is not None and differs from the table."""
    own = {**table.size, "image": table.about["image"][-1]}
    for name, value in given.items():
        if value is not None and value != own[name]:
            yield name, own[name]
