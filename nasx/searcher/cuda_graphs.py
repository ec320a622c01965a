"""Steps replayed from CUDA graphs: a whole outer step (weights, architecture, optimizers) is launched as one graph.

Every step of a method runs the same device operations on different inputs: batches, numbers computed in Python (epoch,
updates, progress, learning rate, network options) and random numbers. `Replayed` stores all of them at fixed addresses:
batches are copied, and numbers are written to 0-d tensors. For random numbers, generators are reseeded with the seeds
of the batches, and tensors drawn on the host are copied (draws.py). The first epoch has a graph of its own, because
schedules that start at zero skip work in it; all other epochs share one graph. A new graph is captured if the batch
shapes or the set of active options change, and when the warm-up of the architecture ends.

The first step of each kind is eager, which also warms up kernels and optimizers. The second step is captured with the
batches of the first. Its replay on its own batches is then compared with eager steps from the same state, which reveals
values that Python has baked into the graph. Eager steps also read their numbers from the device, so eager and replayed
steps are bit-identical, and so are resumed and uninterrupted searches.

If a step cannot be captured (for example, because an `if` reads a tensor value) or its replay differs, the weights,
architecture, optimizer states, statistics and counters are restored, and all further steps are eager. Steps on text, in
which each batch passes a hidden state to the next batch, are not replayed.

Tested on a CPU (bookkeeping and comparison) and on a fake CUDA runtime (tests/fakecuda). tests/program/test_gpu.py
needs a GPU and has not been run yet.

Source: PyTorch documentation, CUDA semantics, section CUDA Graphs.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from nasx.core.bilevel import Batch, Method, Search
from nasx.core.draws import Draws, RecordedDraws, ReplayedDraws
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.searcher.problem import RelaxedProblem

log = logging.getLogger("nasx")
CASES = 8
"""Maximum number of kinds of steps that have a graph, such as full chunks and the shorter last chunk of an epoch."""
NOISE = 10.0
"""Maximum distance between a replayed and an eager step, in multiples of the distance between two eager steps, which is
not zero if kernels are nondeterministic."""
BROKEN: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture failed, kept alive because an allocator of torch still refers to them (`_end`)."""
Values = dict[str, Tensor]
Capture = Callable[[Callable[[], None], Sequence[torch.Generator]], Callable[[], None]]
"""Function that captures the work of its first argument, which may draw from the given generators, and returns a
function that replays it."""


# ------------------------------------------------------------------------------------------------------- inputs
class Moment:
    """Numbers computed in Python, stored in 0-d device tensors at fixed addresses."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[str, float] = {}

    def put(self, name: str, value: float, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the tensor with this name, filled with `value`."""
        if name not in self.tensors:
            self.tensors[name] = torch.full((), value, dtype=dtype, device=self.device)
        elif self.values[name] != value:
            self.tensors[name].fill_(value)
        self.values[name] = value
        return self.tensors[name]


# ----------------------------------------------------------------------------------------------------- position
class Position:
    """Copies of everything a step changes: weights, architecture, optimizer states, running statistics, pass count."""

    def __init__(self, search: Search, problem: RelaxedProblem) -> None:
        self.problem, self.passes = problem, problem.passes
        self.optimizers = (search.w_opt, search.a_opt)
        self.states = [{x: dict(state) for x, state in o.state.items()} for o in self.optimizers]
        moved = {"w": search.w, "a": search.a, "statistics": dict(problem.supernet.named_buffers())}
        self.live = {(kind, name): x.detach() for kind, tree in moved.items() for name, x in tree.items()}
        for i, states in enumerate(self.states):
            self.live |= {
                ("optimizers", f"{i} {n} {key}"): x
                for n, state in enumerate(states.values())
                for key, x in state.items()
                if isinstance(x, Tensor)
            }
        self.copies = {key: x.clone() for key, x in self.live.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Restore all copied values, tensors in place."""
        for optimizer, states in zip(self.optimizers, self.states, strict=True):
            optimizer.state.clear()
            optimizer.state.update({x: dict(state) for x, state in states.items()})
        for key, x in self.live.items():
            x.copy_(self.copies[key])
        self.problem.passes = self.passes

    def apart(self, other: Position, start: Position) -> float:
        """Return the distance to `other` divided by the distance to `start`: the maximum over the kinds of tensors."""
        worst = 0.0
        for kind in dict.fromkeys(kind for kind, _ in self.copies):
            keys = [k for k in self.copies if k[0] == kind and k in other.copies and k in start.copies]
            far, gone = (_norm([self.copies[k].double() - p.copies[k].double() for k in keys]) for p in (other, start))
            worst = max(worst, far / gone if gone else far) if far == far else far
        return worst


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))) if tensors else 0.0


# ------------------------------------------------------------------------------------------------------- replay
@dataclass
class Case:
    """A kind of step: the batches and random draws of its first step, and its graph once it is captured."""

    batches: list[Batch]
    noted: RecordedDraws
    passes: int = 0
    draws: ReplayedDraws | None = None
    repeat: Callable[[], None] | None = None
    values: Values = field(default_factory=dict)


class Replayed:
    """The `step` of a method, replayed from CUDA graphs that `capture` records.

    Raises UserError if replay is `required` and a step cannot be replayed.
    """

    def __init__(self, method: Method, problem: RelaxedProblem, capture: Capture, *, required: bool = False) -> None:
        self.method, self.problem, self.capture, self.required = method, problem, capture, required
        self.moment: Moment | None = None
        self.cases: dict[Hashable, Case] = {}
        self.why: str | None = None
        """The reason why all further steps are eager; None as long as steps may be replayed."""
        self.needs_host = False
        """Whether the method needs numbers on the host, so that its steps receive no device tensors."""
        self.checked = False
        """Whether any replay has agreed with an eager step so far."""

    def __call__(self, search: Search, train: Sequence[Batch], val: Batch) -> Values:
        batches = [*train, val]
        if self.needs_host:
            return self.method.step(search, train, val)
        key = (
            search.warming,
            search.epoch > 0,
            tuple(k for k, x in self.problem.options.items() if x),
            tuple((b.x.shape, b.x.stride(), b.y.shape, b.rate) for b in batches),
        )
        with self._device_numbers(search) as view:
            if self.why is not None:
                return self.method.step(view, train, val)
            case = self.cases.get(key)
            if case is not None and case.repeat is not None:
                return self._repeat(case, batches)
            if case is not None:
                return self._second(case, view, batches)
            values = self._first(key, view, batches)
        return self.method.step(search, train, val) if values is None else values

    @contextlib.contextmanager
    def _device_numbers(self, search: Search) -> Iterator[Search]:
        """Yield a view of the search whose numbers (epoch, updates, progress, options, rates) are device tensors."""
        if self.moment is None:
            self.moment = Moment(next(iter(search.w.values())).device)
        put, problem, options = self.moment.put, self.problem, self.problem.options
        groups = search.w_opt.param_groups
        rates = [group["lr"] for group in groups]
        fused = any(group.get("fused") for group in groups)  # fused kernels read the rate in single precision
        numbers: dict[str, Any] = {k: put(k, getattr(search, k)) for k in ("updates", "progress")}
        if search.epoch:
            numbers["epoch"] = put("epoch", search.epoch)
        problem.options = {k: put(f"options.{k}", x) if isinstance(x, float) and x else x for k, x in options.items()}
        for i, group in enumerate(groups):
            group["lr"] = put(f"lr.{i}", rates[i], torch.float32 if fused else torch.float64)
        try:
            yield replace(search, **numbers)
        finally:
            problem.options = options
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def _step(self, view: Search, batches: Sequence[Batch], draws: Draws) -> Values:
        """Take a step that draws its random numbers from `draws`."""
        before, self.problem.draws = self.problem.draws, draws
        try:
            return self.method.step(replace(view, draws=draws), batches[:-1], batches[-1])
        finally:
            self.problem.draws = before

    def _first(self, key: Hashable, view: Search, batches: list[Batch]) -> Values | None:
        """Take an eager step and record its draws; undo it and return None if the method needs numbers on the host."""
        start, noted = Position(view, self.problem), RecordedDraws(batches)
        try:
            values = self._step(view, batches, noted)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # noqa: BLE001  the plain step that follows raises the method's own errors
            start.restore()
            self._refuse(error_text(error))
            self.needs_host = True
            return None
        if len(self.cases) == CASES:
            del self.cases[next(iter(self.cases))]
        self.cases[key] = Case(
            [b._replace(x=b.x.clone(), y=b.y.clone()) for b in batches], noted, self.problem.passes - start.passes
        )
        return values

    def _second(self, case: Case, view: Search, batches: list[Batch]) -> Values:
        """Capture the step, compare its replay with eager steps on the same batches, and return the step's values."""
        start, why = Position(view, self.problem), ""
        try:
            self._record(case, view)
        except Exception as error:  # noqa: BLE001  an eager step is taken instead
            why = error_text(error)
        start.restore()
        if why:
            self._refuse(why)
            return self.method.step(view, batches[:-1], batches[-1])
        ends: list[Position] = []
        for _ in range(2):
            values = self._step(view, batches, RecordedDraws(batches))
            ends.append(Position(view, self.problem))
            start.restore()
        replayed = self._repeat(case, batches)
        far, noise = (ends[0].apart(end, start) for end in (Position(view, self.problem), ends[1]))
        allowed = max(NOISE * noise, 10 * torch.finfo(next(iter(view.w.values())).dtype).eps ** 0.5)
        if far <= allowed:
            if not self.checked:
                log.info("engine.graphs: steps are replayed from a CUDA graph, %.1e from an eager step", far)
            self.checked = True
            return replayed
        ends[0].restore()
        self._refuse(f"replayed and eager steps have a relative difference of {far:.1e} (allowed: {allowed:.1e})")
        return values

    def _record(self, case: Case, view: Search) -> None:
        draws = ReplayedDraws(case.batches, case.noted, next(iter(view.w.values())).device)

        def work() -> None:
            case.values = self._step(view, case.batches, draws)

        case.repeat, case.draws = self.capture(work, draws.generators), draws

    def _repeat(self, case: Case, batches: Sequence[Batch]) -> Values:
        assert case.repeat is not None
        assert case.draws is not None
        for own, new in zip(case.batches, batches, strict=True):
            own.x.copy_(new.x)
            own.y.copy_(new.y)
        case.draws.seed(batches)
        passes = self.problem.passes
        case.repeat()
        self.problem.passes = passes + case.passes
        return {name: value.clone() for name, value in case.values.items()}

    def _refuse(self, why: str) -> None:
        """Make all further steps eager. Raises UserError if replay is required."""
        self.cases.clear()
        gc.collect()  # frees the memory of the graphs
        if self.required:
            raise UserError(
                "engine.graphs=on",
                f"steps cannot be replayed: {why}",
                "use engine.graphs=auto, which falls back to eager execution",
            )
        self.why = why
        log.info("engine.graphs=auto: steps run eagerly: %s", why)


def error_text(error: BaseException) -> str:
    """Describe the first error in a chain of exceptions in one line, with the innermost frame outside torch."""
    while error.__context__ is not None:
        error = error.__context__
    own = Path(torch.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if own not in Path(f.filename).parents]
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__} in {Path(frames[-1].filename).name}:{frames[-1].lineno}: {text}"


# --------------------------------------------------------------------------------------------------------- CUDA
def cuda(device: torch.device) -> Capture:
    """Return a function that captures work on `device` as a CUDA graph; capturing does not run the work.

    Each search has its own stream: libraries keep one workspace per stream, which graphs that are replayed concurrently
    must not share. All graphs of a search share one memory pool, because the results of a replay are copied out of it
    before the next replay. Only calls in this thread can invalidate a capture; another thread may pin memory meanwhile.
    """
    stream, pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def capture(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        nonlocal pool
        gc.collect()  # no autograd graph of an earlier step may be alive during the capture
        graph = torch.cuda.CUDAGraph()
        if TorchVersion(torch.__version__) < "2.14":  # later versions do this at the first draw
            for generator in generators:
                graph.register_generator_state(generator)
        before = torch.cuda.current_stream(device)
        try:
            with (
                torch.cuda.device(device),
                torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
            ):
                work()
        except BaseException:
            torch.cuda.set_stream(before)
            _end(device, pool)
            BROKEN.append(graph)
            pool = torch.cuda.graph_pool_handle()
            raise
        return graph.replay

    return capture


def _end(device: torch.device, pool: tuple[int, int]) -> None:
    """Clean up after a failed capture: if ending a capture raises, torch 2.11 ends it only in part (2.15 completely).

    The CUDA allocator stays in capture mode (memory used by several streams is never reused), and so does the default
    generator of the device (drawing from it raises); both are reset here. The capture of the pinned memory allocator
    cannot be ended, so the pool is not used again, and the graph, to which that allocator refers, is kept alive.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    with contextlib.suppress(RuntimeError):  # torch has already ended it
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)
    generator = torch.cuda.default_generators[index]
    state = generator.get_state()
    generator.graphsafe_set_state(torch.Generator(torch.device("cuda", index)).graphsafe_get_state())
    generator.set_state(state)


def reason(device: torch.device, *, carries: bool = False) -> str | None:
    """Return the reason why steps cannot be replayed, None if they can; `carries`: batches carry a hidden state."""
    if device.type != "cuda":
        return "CUDA graphs need a CUDA device"
    return "each batch continues from the previous one, and batches vary in length" if carries else None
