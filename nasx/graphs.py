"""Steps replayed from CUDA graphs: the whole outer step (weights, architecture, optimizers) as one launch.

Within an epoch a method's step is the same sequence of device operations on other batches, as long as nothing that
Python decides changes: learning rates, warm-up, a schedule's coefficient, the number of batches. `Replayed` names all
that by a key. The first step of a key runs eagerly (it also warms kernels up), the second is captured and replayed,
all later ones are replayed on copies of their batches. What is substituted for weights (probes, virtual steps) lives in
the graph's own memory pool, at the same address in every replay, so no shadow tree has to be kept by hand.

Not replayed: methods that draw from a batch's seed, networks that do (noise, drop-path); `reason` says so. It does not
pay where few steps share a key: TSE with long chunks, one-sided Lambda (whose steps take turns, so all are eager).
Not yet measured: no CUDA machine was at hand. On a CPU only the bookkeeping is tested; tests/test_gpu.py has the rest.

Source: PyTorch, CUDA semantics, section CUDA graphs.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from nasx.bilevel import Batch, Method, Search


class Counted(Protocol):
    """What is replayed without Python's knowledge has to be counted by hand."""

    passes: int


class Replayed:
    """`method.step` from CUDA graphs, one a key; `capture` records a function's work and returns how to repeat it."""

    def __init__(self, method: Method, problem: Counted, capture: Callable[[Callable[[], Any]], Callable[[], None]]
                 ) -> None:
        self.method, self.problem, self.capture = method, problem, capture
        self.key: Hashable = None
        self.replay: Callable[[], None] | None = None
        self.kept: list[Batch] = []
        self.values: dict[str, Tensor] = {}
        self.passes = 0

    def __call__(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        batches = [*train, val]
        shapes = tuple((b.x.shape, b.y.shape) for b in batches)
        key = (search.epoch, search.warming, search.lr, self.method.variant(search), shapes)
        if key != self.key:
            self.key, self.replay = key, None
            return self.method.step(search, train, val)
        if self.replay is None:
            self._record(search, batches)
        for kept, new in zip(self.kept, batches, strict=True):
            kept.x.copy_(new.x)
            kept.y.copy_(new.y)
        assert self.replay is not None
        self.replay()
        self.problem.passes += self.passes
        return {name: value.clone() for name, value in self.values.items()}

    def _record(self, search: Search, batches: list[Batch]) -> None:
        self.kept = [Batch(torch.empty_like(b.x).copy_(b.x), b.y.clone(), b.seed) for b in batches]
        before = self.problem.passes

        def work() -> None:
            self.values = self.method.step(search, self.kept[:-1], self.kept[-1])

        self.replay = self.capture(work)
        self.passes = self.problem.passes - before
        self.problem.passes = before  # recorded, not run


def cuda(device: torch.device) -> Callable[[Callable[[], Any]], Callable[[], None]]:
    """How to capture work on `device`: nothing runs yet, its tensors are those of every replay.

    The stream is the search's own: libraries keep one workspace a stream, which the graphs of searches that replay
    side by side must not share.
    """
    stream = torch.cuda.Stream(device)

    def capture(work: Callable[[], Any]) -> Callable[[], None]:
        gc.collect()  # no graph of autograd from before may be alive
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream):
            work()
        return graph.replay

    return capture


def reason(device: torch.device, method: Method, *, draws: bool, carries: bool = False) -> str | None:
    """Why steps cannot be replayed here, None where they can."""
    if device.type != "cuda":
        return "CUDA graphs need a CUDA device"
    if not method.replayable:
        return "the method draws from each batch's seed"
    if carries:
        return "each batch goes on from the one before it, and batches vary in length"
    return "the network draws random numbers (noise or drop-path)" if draws else None
