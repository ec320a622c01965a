"""Audit of a method's steps on a small NAS-Bench-201 supernet in float64, trained on the packaged handwritten digits.

    finite differences  comparison with the same step, in which double backward replaces each difference
                        (`Search.probed`)
    unrolled            comparison with d/da L2(w_T(a), a) through T plain SGD steps on the step's training batch, by
                        autograd
    cost                passes, counted by hooks; peak memory beyond that of a first-order step
    determinism         two runs from one state with different global seeds give bit-identical results
    state               a new method and a new search, given the weights, the architecture and the optimizer states,
                        continue with bit-identical results

With relu, finite differences of the published lengths do not approach double backward (docs/methods/kinks.md). They are
therefore checked on the same supernet with every relu replaced by a softplus, with probes a tenth as long as the
method's or, if these are still too long, a thousandth as long (SAMA's probes are a hundred times as long as those of
DARTS). With relu and the method's own probe length, the difference is only reported.

Finite differences, passes, determinism and state are checked at the start of a search and halfway through it, because
some terms are scaled by `Search.progress`.
"""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nasx.auditing.closed_forms import against
from nasx.auditing.findings import Finding, added, passed
from nasx.auditing.problems import EARLY, LATE, Moment, Recorder, copied
from nasx.config import instantiate
from nasx.core.bilevel import Batch, Method, Search, SecondDerivative, Tree, detached, gradient
from nasx.core.plain import Config
from nasx.core.second_derivatives import Length
from nasx.diagnostics.probes import compared
from nasx.searcher.memory import Storages
from nasx.searcher.optimizers import architecture_optimizer, weight_optimizer
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.base import Logits

S = TypeVar("S", bound=Search)
WARM_STEPS = 20
"""Number of weight updates before the measurements."""
UNROLLED = 20
"""Number of SGD steps through which the hypergradient is unrolled."""
SMOOTH = 1e-2
"""Maximum relative difference between finite differences and double backward on a smooth loss
(docs/methods/kinks.md)."""
SLACK = 0.5
"""Number of copies of the weights by which the measured peak may exceed the stated one, because of activations."""


class Softplus(TorchFunctionMode):
    """Mode that replaces every relu by a softplus with beta 5."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func in (F.relu, torch.relu) and isinstance(args[0], Tensor):
            return F.softplus(args[0], beta=5.0)
        return func(*args, **(kwargs or {}))


class ExactRecorder(Recorder):
    """A recorder that uses double backward instead of finite differences."""

    def probed(
        self, name: str, second: SecondDerivative, v: Tree, found: Tree | None = None, **length: Unpack[Length]
    ) -> Tree:
        return second.exact(v)


class TenthRecorder(Recorder):
    """A recorder whose finite differences are a tenth as long."""

    by = 10.0

    def probed(
        self, name: str, second: SecondDerivative, v: Tree, found: Tree | None = None, **length: Unpack[Length]
    ) -> Tree:
        return second.central(v, shorter=self.by, **length) if found is None else found


class ThousandthRecorder(TenthRecorder):
    """A recorder whose finite differences are a thousandth as long."""

    by = 1000.0


# ------------------------------------------------------------------------------------------------------ the search
class Start:
    """A search in a fixed state and its batches; it can be copied any number of times."""

    def __init__(self, cfg: Config, method: Method, *, warm: int = WARM_STEPS) -> None:
        self.moment: Moment = EARLY
        space, settings = instantiate.build(cfg["space"]), instantiate.build(cfg["search"])
        self.settings = settings
        source = instantiate.build(cfg["dataset"])
        data = source.open(torch.device("cpu"), **settings.reading, channels_last=False, workers=0)
        self.streams = [
            data.stream(name, index, batch=settings.batch, seed=cfg["seed"])
            for name, index in zip(("w", "a"), data.split(cfg["seed"]), strict=True)
        ]
        torch.manual_seed(cfg["seed"])
        net = space.supernet(len(data.classes)).double()
        self.problem = RelaxedProblem(space, net, method.activate, classes=len(data.classes))
        gen = torch.Generator().manual_seed(cfg["seed"])
        a = {k: x.double() for k, x in method.start(space.init(gen)).items()}
        self.origin = self.searched(weights(net), a, Search)
        for i in range(warm):
            self.origin.update_w(self.batch(0, i))
        self.buffers = copied(dict(net.named_buffers()))

    def searched(self, w: Tree, a: Tree, kind: type[S]) -> S:
        """Return a new search with copies of w and a."""
        w, a = (detached(copied(tree), requires_grad=True) for tree in (w, a))
        optimizers = weight_optimizer(w, self.settings), architecture_optimizer(a, self.settings)
        found = kind(self.problem, w, a, *optimizers, self.settings.clip)
        self.moment.set(found)
        return found

    def late(self) -> Start:
        """Return the same state, but halfway through the search."""
        found = copy.copy(self)
        found.moment = LATE
        return found

    def copy(self, kind: type[S], of: Search | None = None) -> S:
        """Copy a search (default: the fixed one), with new tensors and optimizers, and reset the running statistics."""
        of = of or self.origin
        found = self.searched(of.w, of.a, kind)
        for new, old in ((found.w_opt, of.w_opt), (found.a_opt, of.a_opt)):
            new.load_state_dict(copy.deepcopy(old.state_dict()))  # load_state_dict alone would share the tensors
        with torch.no_grad():
            for name, x in self.problem.supernet.named_buffers():
                x.copy_(self.buffers[name])
        return found

    def batch(self, stream: int, i: int) -> Batch:
        """Return batch i of the training stream (0) or the validation stream (1), in float64."""
        found: Batch = self.streams[stream].at(i)
        return found._replace(x=found.x.double())

    def batches(self, method: Method, step: int) -> tuple[list[Batch], Batch]:
        """Return the training batches and the validation batch for step `step`, from 0, of a method."""
        first = WARM_STEPS + step * method.train_batches
        return [self.batch(0, first + k) for k in range(method.train_batches)], self.batch(1, step)


def finished(search: Search) -> list[Tensor]:
    """Return copies of the tensors that a step may change: weights, architecture parameters, optimizer states."""
    state = [x for optimizer in (search.w_opt, search.a_opt) for own in optimizer.state.values() for x in own.values()]
    return [x.detach().clone() for x in (*search.w.values(), *search.a.values(), *state) if isinstance(x, Tensor)]


def same(x: Sequence[Tensor], y: Sequence[Tensor]) -> bool:
    """Return whether two sequences of tensors are bit-identical."""
    return len(x) == len(y) and all(torch.equal(one, other) for one, other in zip(x, y, strict=True))


# --------------------------------------------------------------------------------------------------------- accuracy
def stepped(start: Start, build: Callable[[], Method], kind: type[S]) -> S:
    """Take one step of a new method on a copy of the start, a search of class `kind`, and return the search."""
    method, search = build(), start.copy(kind)
    method.step(search, *start.batches(method, 0))
    return search


def definition(start: Start, build: Callable[[], Method]) -> Iterator[Finding]:
    """Compare the gradients of a step on a smooth supernet with those of the same step with exact products."""
    with Softplus():
        exact = stepped(start, build, ExactRecorder)
        for kind in (TenthRecorder, ThousandthRecorder):
            pairs = list(differing(stepped(start, build, kind), exact))
            what = f"with exact products, probes / {kind.by:g}"
            said = [against("finite differences (softplus)", x, y, f"the {part} {what}") for part, x, y in pairs]
            right = all(bool(compared(x, y)[2] <= SMOOTH) for _, x, y in pairs)
            if right:
                break
        source = "docs/methods/kinks.md: a smooth supernet is within 1e-2 at the published radius of DARTS"
        yield from (x._replace(outcome=passed(right), source=source) for x in said)


def accuracy(start: Start, build: Callable[[], Method]) -> Iterator[Finding]:
    """Compare the gradients of a step with those of the same step with exact products, and with an unrolled one."""
    own, exact = stepped(start, build, Recorder), stepped(start, build, ExactRecorder)
    for part, found, better in differing(own, exact):
        yield against("finite differences (relu)", found, better, f"the {part} with exact products")
    if own.taken:
        taken = own.taken[0]
        train, val = start.batches(build(), 0)
        e = unrolled(taken.view, taken.w, taken.a, train[-1], val)
        yield against(f"unrolled ({UNROLLED} steps)", taken.g, e, f"d/da L2 through {UNROLLED} steps of SGD")


def differing(own: Recorder, exact: Recorder) -> Iterator[tuple[str, Tree, Tree]]:
    """Yield (name, gradient, exact gradient) for the first gradient of a step that differs, if any.

    Later gradients cannot be compared, because they are evaluated at different points.
    """
    at = own.taken[0].moved if own.taken else len(own.grads_w)
    pairs = [("weight gradient", x, y) for x, y in zip(own.grads_w, exact.grads_w, strict=True)]
    pairs[at:at] = [("architecture gradient", x, y) for x, y in zip(own.grads_a, exact.grads_a, strict=True)]
    for part, x, y in pairs:
        if not torch.equal(x, y):
            yield part, {"g": x}, {"g": y}
            return


def unrolled(view: Search, w: Tree, a: Tree, train: Batch, val: Batch, steps: int = UNROLLED) -> Tree:
    """Compute d/da L2(w_T(a), a) by autograd through T plain SGD steps from w on one training batch."""
    leaves = detached(a, requires_grad=True)
    moved = detached(w, requires_grad=True)
    for _ in range(steps):
        g = gradient(view.loss(moved, leaves, train), moved, create=True)
        moved = {k: x - view.lr * g[k] for k, x in moved.items()}
    return gradient(view.loss(moved, leaves, val), leaves)


# ------------------------------------------------------------------------------------------------------------- cost
def passes(start: Start, method: Method) -> tuple[int, int]:
    """Return the numbers of forward and backward passes of one step, counted by hooks on the supernet's output."""
    count = {"forward": 0, "backward": 0}

    def backward(g: Tensor) -> None:
        count["backward"] += 1

    def forward(module: object, inputs: object, output: Logits) -> None:
        count["forward"] += 1
        if output.main.requires_grad:
            output.main.register_hook(backward)

    hook = start.problem.supernet.register_forward_hook(forward)
    method.step(start.copy(Search), *start.batches(method, 0))
    hook.remove()
    return count["forward"], count["backward"]


def memory(work: Callable[[], object]) -> int:
    """Return the peak memory, in bytes, of the tensors that `work` creates."""
    gc.collect()  # frees reference cycles of earlier searches
    with Storages() as storages:
        work()
    count: int = storages.peak
    return count


def passes_taken(start: Start, build: Callable[[], Method]) -> Iterator[Finding]:
    """Compare the numbers of passes of a step with those that the method states."""
    method = build()
    counted, stated = passes(start, method), method.cost
    values: dict[str, object] = {"forward": counted[0], "backward": counted[1]}
    text = f"{counted[0]} forward and {counted[1]} backward passes per step"
    if stated is None:
        yield Finding("passes", "note", f"{text} (none stated)", values)
    else:
        ok = counted == stated[:2]
        note_text = "" if ok else f"; the method states {stated.forward} and {stated.backward}"
        yield Finding("passes", passed(ok), text + note_text, values, "the method's own statement (Method.cost)")


def memory_needed(wide: Start, build: Callable[[], Method]) -> Iterator[Finding]:
    """Compare the memory of a step with that stated by the method.

    In `wide`, the weights need more memory than the activations.
    """
    method, stated = build(), build().cost
    train, val = wide.batches(method, 0)

    def plain() -> None:
        search = wide.copy(Search)
        search.update_a(val)
        search.update_w(train[-1])

    used = memory(lambda: method.step(wide.copy(Search), train, val))
    size = sum(x.numel() * x.element_size() for x in wide.origin.w.values())
    copies = (used - memory(plain)) / size
    values = {"copies": round(copies, 3)}
    text = f"{max(copies, 0):.1f} copies of the weights beyond a first-order step at the peak"
    if stated is None:
        yield Finding("memory", "note", f"{text} (none stated)", values)
    else:
        ok, said = passed(copies <= stated.copies + SLACK), f"{text}; the method states {stated.copies}"
        yield Finding("memory", ok, said, values, "the method's own statement, plus 0.5")


# ------------------------------------------------------------------------------------------------- reproducibility
def reproducibility(start: Start, build: Callable[[], Method]) -> Iterator[Finding]:
    """Check determinism under different global seeds, and resuming from a saved state."""
    ends, middle = [], start.origin
    for seed in (0, 1):
        method, search = build(), start.copy(Search)
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        method.step(search, *start.batches(method, 0))
        if seed == 0:
            middle = start.copy(Search, search)
        method.step(search, *start.batches(method, 1))
        ends.append(finished(search))
    source = "nasx: bit for bit, as a run has to resume"
    if not same(*ends):
        text = "two runs from one state, on the same batches, differ: draw random numbers by search.generator(batch)"
        yield Finding("determinism", "fail", text, {}, source)
        return
    yield Finding("determinism", "pass", "two runs with different global seeds give bit-identical results", {}, source)
    method = build()
    method.step(middle, *start.batches(method, 1))
    ok = same(finished(middle), ends[0])
    said = "continues bit for bit" if ok else "continues differently: no checkpoint contains state in the method"
    yield Finding("state", passed(ok), f"a new method at the saved state {said}", {}, source)
    other, plain = build(), start.copy(Search)
    train, val = start.batches(other, 0)
    other.step(plain, [batch._replace(seed=batch.seed + 1) for batch in train], val._replace(seed=val.seed + 1))
    again = start.copy(Search)
    other = build()
    other.step(again, train, val)
    random_ = not same(finished(plain), finished(again))
    note_text = "draws random numbers, all from the seeds of its batches" if random_ else "draws no random numbers"
    yield Finding("seeds", "note", note_text, {"random": random_})


def audit(cfg: Config, wide: Config, build: Callable[[], Method]) -> list[Finding]:
    """Run all checks on supernets: memory is checked on that of `wide`, everything else on that of `cfg`.

    `build` returns a new method on each call.
    """

    def compared(start: Start) -> Iterator[Finding]:
        found = list(reproducibility(start, build))
        yield from found
        if found[0].outcome == "pass":  # otherwise two steps cannot be compared
            yield from definition(start, build)
        yield from passes_taken(start, build)

    start = Start(cfg, build())
    found = list(compared(start))
    late = list(added(found, compared(start.late()), LATE.progress))
    if found[0].outcome == "pass":
        found += accuracy(start, build)
    return [*found, *late, *memory_needed(Start(wide, build(), warm=0), build)]
