"""Latency measurements on this device, for the operations of a space and for whole networks.

The latency of an operation is derived from two modules: a sum of `COPIES` instances of the operation, each with its own
weights and input, and a single instance. The difference between their latencies, divided by COPIES - 1, excludes the
overhead of a call but includes the addition of an edge's output to its node. Each round runs all modules in a new
order, so that a change in the machine's load affects all of them. The first rounds, in which the modules warm up (and
are compiled), are not counted.

Shapes: inputs (batch, channels, height, width).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from nasx.benchmarks.ranking import kendall_tau
from nasx.core import timing
from nasx.core.plain import Config
from nasx.core.timing import Latency
from nasx.export import graph, runtime
from nasx.spaces import operations
from nasx.spaces.base import Genotype, Space
from nasx.spaces.expected_cost import EdgeCosts, edge_table
from nasx.spaces.latency import Key, Latencies, Size, Timed, network_size

Runtime = Literal["eager", "compiled", "onnxruntime"]
COPIES = 5
WARM = 10
"""Number of warm-up rounds, which are not included in the results."""


class Summed(nn.Module):
    """Sum of the outputs of several operations of a discrete network, each applied to its own input."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Return the sum of the outputs (n, c, h', w'); `inputs` contains one tensor (n, c, h, w) per operation."""
        outputs = [part(x) for part, x in zip(self.parts, inputs, strict=True)]
        total: Tensor = sum(outputs[1:], start=outputs[0])
        return total


class Scores(nn.Module):
    """Wrapper around a network that returns only the class scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Return the class scores (n, classes); `inputs` contains one tensor, images (n, channels, h, w)."""
        scores: Tensor = self.network(inputs[0]).main
        return scores


def call(
    module: nn.Module, inputs: list[Tensor], kind: Runtime, device: torch.device, threads: int
) -> Callable[[], object]:
    """Return a function that runs `module(inputs)` once and waits for the result.

    `threads` applies to onnxruntime only. Raises UserError if the extra `onnx` is required but not installed.
    """
    module = module.eval()
    if kind == "onnxruntime":
        names = [f"x{i}" for i in range(len(inputs))]
        proto = graph.graph(module, [torch.cat([x, x]) for x in inputs], names, "y")
        session = runtime.session(proto.SerializeToString(), threads)
        feed = dict(zip(names, (x.numpy() for x in inputs), strict=True))
        return lambda: session.run(None, feed)
    module = module.to(device)
    run = torch.compile(module, dynamic=False) if kind == "compiled" else module
    held = [x.to(device) for x in inputs]

    def forward() -> object:
        with torch.inference_mode():
            y = run(held)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return y

    return forward


def distinct(space: Space, count: int, seed: int) -> list[Genotype]:
    """Draw `count` distinct genotypes (all genotypes of the space if it has fewer)."""
    gen, found = torch.Generator().manual_seed(seed), dict[Genotype, None]()
    for _ in range(100 * count):
        if len(found) == min(count, space.size()):
            break
        found[space.sample(gen)] = None
    return list(found)


def keys(space: Space, shape: Sequence[int], size: Size) -> list[Key]:
    """Return the distinct keys of all operations that can occur in a space's networks of this `size` and input `shape`.

    Raises UserError if the space does not define `sites`.
    """
    return list(
        dict.fromkeys(
            Key(name, site.channels, site.stride, site.height, site.width)
            for site in space.sites(tuple(shape), **size)
            for name in space.edge_operations(site.name)[site.edge]
        )
    )


def networks(
    space: Space, genotypes: Sequence[Genotype], about: Config, device: torch.device
) -> list[Callable[[], object]]:
    """Return, for each genotype, a function that runs its network (of the size in `about`) on random images."""
    size = network_size(about)
    x = torch.randn(about["batch"], *about["image"])
    return [
        call(Scores(space.network(one, about["classes"], **size)), [x], about["runtime"], device, about["threads"])
        for one in genotypes
    ]


def timed(
    space: Space, genotypes: Sequence[Genotype], about: Config, device: torch.device, repeats: int
) -> list[Latency]:
    """Return the latency of each genotype's network (of the size in `about`)."""
    return list(map(timing.summary, timing.rounds(networks(space, genotypes, about, device), repeats, WARM).T))


def measure(space: Space, about: Config, device: torch.device, *, count: int, repeats: int, seed: int) -> Latencies:
    """Time all operations of `space` and `count` of its networks, and fit the additive model to these networks.

    `about` contains the runtime, threads, batch, classes, image (channels, height, width), layers, channels and stem.
    Raises UserError if the cost of the space's networks is not a sum over their edges.
    """
    kind, threads, batch = about["runtime"], about["threads"], about["batch"]
    size = network_size(about)
    places = keys(space, about["image"], size)
    genotypes = distinct(space, count, seed)
    calls = networks(space, genotypes, about, device)
    for key in places:
        for copies in (1, COPIES):
            parts = Summed([operations.build(key.operation, key.channels, key.stride) for _ in range(copies)])
            inputs = [torch.randn(batch, key.channels, key.height, key.width) for _ in range(copies)]
            calls.append(call(parts, inputs, kind, device, threads))
    spent = timing.rounds(calls, repeats, WARM)
    whole, pairs = spent[:, : len(genotypes)], spent[:, len(genotypes) :]
    each = (pairs[:, 1::2] - pairs[:, ::2]) / (COPIES - 1)
    return fitted(
        space,
        about,
        {key: timing.summary(each[:, i]) for i, key in enumerate(places)},
        dict(zip(genotypes, map(timing.summary, whole.T), strict=True)),
    )


def fitted(space: Space, about: Config, found: dict[Key, Latency], whole: dict[Genotype, Latency]) -> Latencies:
    """Return a latency table, with `scale` and `fixed` of the additive model fitted to the whole networks.

    Both are Theil-Sen estimates: `scale` is the median slope over all pairs of networks, and `fixed` is the median of
    the residuals. If the slope is not positive, `scale` is 1.
    """
    from scipy.stats import theilslopes

    plain = Latencies(about, found, (), 0.0, 1.0)
    edges = EdgeCosts(space, edge_table(space, space.sites(tuple(about["image"]), **plain.size), plain), 0.0)
    sums = np.array([float(edges(space.encode(one))) for one in whole])
    measured = np.array([latency.median_ms for latency in whole.values()])
    slope = float(theilslopes(measured, sums).slope) if np.ptp(sums) > 0 else 1.0
    scale = slope if slope > 0 else 1.0
    fixed = float(np.median(measured - scale * sums))
    rows = [
        Timed(str(one), latency, fixed + scale * total)
        for (one, latency), total in zip(whole.items(), sums.tolist(), strict=True)
    ]
    return Latencies(about, found, tuple(rows), fixed, scale)


def error(table: Latencies) -> tuple[float, float]:
    """Return the additive model's median relative error and Kendall's tau on the networks in a table."""
    measured = np.array([one.latency.median_ms for one in table.networks])
    predicted = np.array([one.predicted_ms for one in table.networks])
    return float(np.median(np.abs(predicted / measured - 1))), kendall_tau(predicted, measured)
