"""The peak memory of a search step, computed from shapes alone.

One step of the method runs on tensors without values (torch's FakeTensorMode, always on a CPU), and every storage
counts from its creation to its deletion, with the size that the CUDA allocator would use. The peak therefore includes
parameters, running statistics, optimizer states, gradients, copies of the weights and the tensors that autograd keeps,
for the passes that the method actually takes.

Not counted: the workspaces of cuDNN and cuBLAS, the CUDA context, the dataset, and memory that a kernel allocates and
frees internally. Compiled steps and steps replayed from a CUDA graph are predicted as if they were eager.
A space that caches tensors must not cache fake ones (`Pool` in spaces/edge_operations.py).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from nasx.config.settings import EngineSettings
from nasx.core.batch import Carried, Slot
from nasx.core.bilevel import Batch, Method, Search, Tree
from nasx.core.draws import Draws, Make
from nasx.searcher.optimizers import architecture_optimizer, weight_optimizer
from nasx.searcher.problem import RelaxedProblem, weights

if TYPE_CHECKING:
    from nasx.config.settings import SearchSettings
    from nasx.spaces.base import Space

BLOCK = 512
"""Block size in bytes: the CUDA allocator rounds the size of every tensor up to a multiple of it."""
PARTIAL = 4
"""Suggested value of `space.partial` (partial channels), from PC-DARTS."""
WORTH = 0.9
"""A setting is suggested only if it reduces the peak to less than this fraction."""


class Peak(NamedTuple):
    """Bytes of all tensors at the peak of a step, and of the tensors that exist before the step."""

    total: int
    weights: int
    """Weights, running statistics and architecture parameters."""
    states: int
    """States of both optimizers."""


class Storages(TorchDispatchMode):
    """Mode that counts the bytes of the storages that operations return while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.add(x)
        return out

    def add(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self.seen:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.seen.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self.remove, key, size)

    def remove(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.bytes -= size


class Shapes(Draws):
    """Draws of random architectures: sampling needs real tensors, which are converted to fake tensors afterwards."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode

    def made(self, batch: Batch, make: Make) -> Tree:
        with unset_fake_temporarily():
            found = super().made(batch, make)
        return {k: self.mode.from_tensor(x) for k, x in found.items()}


@dataclass(frozen=True)
class Memory:
    """Predictor of the memory of a search step, from the components of the search, the classes and the item shape."""

    space: Space
    method: Method
    settings: SearchSettings
    engine: EngineSettings
    classes: int
    shape: tuple[int, ...]

    def batch(self, seed: int) -> Batch:
        """Return a batch with the shapes of the search; within FakeTensorMode, its tensors are fake."""
        text = self.space.data == "text"
        like = self.space.example(self.settings.batch, self.shape)
        x, y = torch.empty(like.shape, dtype=like.dtype), torch.empty(like.shape[: 2 if text else 1], dtype=torch.long)
        return Batch(x, y, seed, carried=Carried(Slot(), Slot()) if text else None)

    def peak(self) -> Peak:
        """Return the peak memory of a step, in an epoch in which both weights and architecture are updated.

        It is computed once per process for all engines that need the same memory.
        """
        engine = EngineSettings(
            supernet=self.engine.supernet,
            precision="bf16" if self.engine.precision == "bf16" else "fp32",
            checkpoint=self.engine.checkpoint,
        )
        same = replace(self, engine=engine)
        try:
            hash(same)
        except TypeError:  # a method or space of the user
            return same.computed()
        return _kept(same)

    def computed(self) -> Peak:
        """Return the peak memory with this engine. `channels_last` fails here (`Module.to(memory_format)`)."""
        space, method, settings = self.space, self.method, self.settings
        epoch, epochs = settings.moving_epoch, settings.epochs
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, Storages() as storages:
            supernet = space.supernet(self.classes, naive=self.engine.supernet == "naive")
            problem = RelaxedProblem(space, supernet, method.activate, auxiliary=settings.auxiliary, engine=self.engine)
            a = {k: x.requires_grad_() for k, x in method.start(space.init(torch.Generator())).items()}
            w, own = weights(supernet), storages.bytes
            optimizers = weight_optimizer(w, settings), architecture_optimizer(a, settings)
            for tree, optimizer in zip((w, a), optimizers, strict=True):  # the states that the first step creates
                for x in tree.values():
                    x.grad = torch.zeros_like(x)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            held = storages.peak = storages.bytes
            problem.options, problem.draws = settings.options(epoch), Shapes(mode)
            search = Search(problem, w, a, *optimizers, settings.clip, epoch, epochs, draws=problem.draws)
            method.step(search, [self.batch(i) for i in range(method.train_batches)], self.batch(method.train_batches))
            return Peak(storages.peak, own, held - own)

    def lighter(self, peak: Peak) -> Iterator[tuple[str, Peak]]:
        """Yield settings that reduce the memory of the step clearly below `peak`, each with the resulting peak."""
        space, settings, engine = self.space, self.settings, self.engine
        ways = {
            "engine.checkpoint=true": replace(self, engine=replace(engine, checkpoint=True)),
            "engine.precision=bf16": replace(self, engine=replace(engine, precision="bf16")),
            f"search.batch={settings.batch // 2}": replace(self, settings=replace(settings, batch=settings.batch // 2)),
        }
        if getattr(space, "partial", 0) == 1 and space.channels % PARTIAL == 0:  # type: ignore[attr-defined]
            ways[f"space.partial={PARTIAL}"] = replace(self, space=replace(space, partial=PARTIAL))  # type: ignore[type-var]
        for words, other in ways.items():
            found = other.peak() if other != self and other.settings.batch > 1 else None
            if found is not None and found.total < WORTH * peak.total:
                yield words, found


@lru_cache(maxsize=32)
def _kept(memory: Memory) -> Peak:
    return memory.computed()
