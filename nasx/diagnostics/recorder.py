"""Record the diagnostics of a search in its metrics rows, on schedule.

In every epoch, at no cost: entropy, change and cells (diagnostics.structure). Every `search.diagnose_every` epochs: the
dominant eigenvalue (diagnostics.curvature), alignment, correlation, operator and node gradients, and output cosine
(diagnostics.agreement). Every `search.diagnose_steps` steps: the alignments, averaged over an epoch, and the split
between first and last cells. Every `search.probe_every` steps: the error bars of the method's gradient
(diagnostics.probes).

Diagnostics do not change the state of the search or of its random number generators, so a search follows the same
trajectory with and without them. At the end of an epoch, they use the next batches without advancing the streams;
within an epoch, they use the batches of the step. They run the cells in eager mode, because compiled cells do not
support second derivatives or hooks.

Cost: `measure` takes three forward passes, three backward passes, one backward pass per Hessian row or Lanczos step,
and one additional run of each operation of the cells; the diagnostics of a step take two forward and two backward
passes (with second order, four and five); a finite difference takes three forward and four backward passes. Each row
records its cost.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from nasx.config.settings import SearchProtocol
from nasx.core.batch import Batches
from nasx.core.bilevel import Batch, Search, Step, Tree, detached, without_writes
from nasx.core.plain import Row, State
from nasx.diagnostics import agreement, structure
from nasx.diagnostics.agreement import look
from nasx.diagnostics.curvature import Cost, curvature
from nasx.diagnostics.probes import Probes
from nasx.diagnostics.stop import EigenvalueStop, NoStop
from nasx.errors import UserError
from nasx.spaces.base import Space


def short(values: Tensor) -> object:
    """Convert a tensor to nested lists of numbers with four significant digits, for metrics rows."""
    return (
        torch.tensor([float(f"{x:.4g}") for x in values.double().flatten().tolist()], dtype=torch.float64)
        .view(values.shape)
        .tolist()
    )


def measure(
    search: Search, train: Batch, val: Batch, *, cells: Sequence[nn.Module] = (), weight_decay: float = 0.0
) -> tuple[dict[str, object], Cost]:
    """Compute the diagnostics that need passes, at the current weights; return entries of a metrics row and the cost.

    `cells` are the cells of the supernet; without them, diagnostics of nodes and operations are omitted.
    """
    problem, w = search.problem, search.w
    top, began = curvature(problem, w, search.a, val, weight_decay=weight_decay), time.perf_counter()
    row: dict[str, object] = {**top}
    mix = detached(problem.relax(search.a))
    trained, validated = look(problem, w, mix, train, cells), look(problem, w, mix, val, cells)
    for part, seen in (("train", trained), ("val", validated)):
        found = agreement.alignments(seen.mix, problem.groups, part)
        row |= {name: None if value is None else float(value) for name, value in found.items()}
    row["operator_gradients"] = {name: short(g) for name, g in validated.mix.items()}
    row["operator_gradients_train"] = {name: short(g) for name, g in trained.mix.items()}
    if cells:
        row["correlation"] = agreement.correlations(validated, trained)
        row["correlation_single"] = agreement.correlations(trained, trained)
        row["node_cosine"] = agreement.node_cosine(validated)
        row["output_cosine"] = agreement.output_cosine(validated)
    row["diagnostics"] = cost = added(top["diagnostics"], 2, 2, time.perf_counter() - began)
    return row, cost


def added(cost: Cost | None, forward: int, backward: int, seconds: float) -> Cost:
    """Return `cost` plus passes and seconds."""
    cost = cost or {"forward": 0, "backward": 0, "seconds": 0.0}
    return {
        **cost,
        "forward": cost["forward"] + forward,
        "backward": cost["backward"] + backward,
        "seconds": round(cost["seconds"] + seconds, 4),
    }


def uncompiled() -> AbstractContextManager[object]:
    """Run compiled functions in eager mode within the block."""
    compiled = "torch._dynamo" in sys.modules  # importing it takes a second; if it is not imported, nothing is compiled
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


class Watch:
    """The diagnostics of a search, created before its first step; `entries` returns those of an epoch."""

    def __init__(
        self,
        search: Search,
        space: Space,
        supernet: nn.Module,
        train: Batches,
        val: Batches,
        settings: SearchProtocol,
        stop: NoStop | EigenvalueStop,
    ) -> None:
        self.search, self.train, self.val, self.stop = search, train, val, stop
        self.every, self.epochs = settings.diagnose_every, settings.epochs
        self.weight_decay = settings.arch_weight_decay
        self.cells = list(getattr(supernet, "cells", ()))
        names = [name for group in space.groups for name in group]
        self.names = structure.operation_names(space, names)
        self.start = means(detached(search.problem.relax(search.a)))
        self.rows: list[Row] = []
        self.steps, self.order, self.taken = settings.diagnose_steps, settings.diagnose_order, 0
        self.running = agreement.Running(space.groups, self.names) if self.steps else None
        self.probe_every, self.probes = settings.probe_every, Probes()
        self.looked: Cost | None = None

    def due(self, epoch: int) -> bool:
        """Return whether diagnostics that need passes are due after `epoch`: 1, 1 + every, ..., and the last epoch."""
        return bool(self.every) and ((epoch - 1) % self.every == 0 or epoch == self.epochs)

    # ---------------------------------------------------------------------------------------------- at each step
    def over(self, step: Step, eager: Step) -> Step:
        """Return `step` wrapped so that it records diagnostics when they are due, or unchanged if they never are.

        `eager` is the same step in eager mode; it is taken when finite differences are compared.
        """
        if self.running is None and not self.probe_every:
            return step

        def watched(search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
            taken, self.taken = self.taken, self.taken + 1
            if self.running is not None and taken % self.steps == 0:
                self._look(self.running, search, train[0], val)
            if self.probe_every and taken % self.probe_every == 0:
                return eager(replace(search, probe=self._compare), train, val)
            return step(search, train, val)

        return watched

    def _look(self, running: agreement.Running, search: Search, train: Batch, val: Batch) -> None:
        began, mix = time.perf_counter(), detached(search.problem.relax(search.a))
        train, val = without_writes(train), without_writes(val)
        with uncompiled():
            second = agreement.second_order(search, mix, train, val) if self.order == 2 else None
            first = [look(search.problem, search.w, mix, batch).mix for batch in (train, val)]
        running.add(first[0], first[1], second)
        more = self.order == 2
        self.looked = added(self.looked, 2 + 2 * more, 2 + 3 * more, time.perf_counter() - began)

    def _compare(self, name: str, found: Tree, better: Callable[[], Tree], passes: tuple[int, int]) -> None:
        began = time.perf_counter()
        with uncompiled():
            self.probes.add(name, found, better())
        self.looked = added(self.looked, *passes, time.perf_counter() - began)

    def state(self) -> State:
        """Return the tensors and plain values from which `load` resumes."""
        running = None if self.running is None else self.running.state()
        return {"taken": self.taken, "looked": self.looked, "running": running, "probes": self.probes.state()}

    def load(self, state: State) -> None:
        self.taken, self.looked = state["taken"], state["looked"]
        if self.running is not None and state["running"] is not None:  # None if the parent of a branch recorded none
            self.running.load(state["running"])
        if "probes" in state:  # older checkpoints have no probes
            self.probes.load(state["probes"])

    # ------------------------------------------------------------------------------------------ at an epoch's end
    def entries(self, epoch: int, mix: Tree, genotype: str) -> dict[str, object]:
        """Return the diagnostics of `epoch` as entries of its metrics row."""
        now = means(mix)
        before = self.rows[-1]["mix"] if self.rows else self.start
        row: dict[str, object] = {
            "mix": now,
            "entropy": structure.entropy(now),
            "saturation": structure.saturation(now),
            "change": structure.change(now, before),
            "moved": structure.change(now, self.start),
        }
        with suppress(UserError):  # a user-defined space without known edges
            row["cells"] = structure.cells(genotype)
        weight = structure.none_weight(now, self.names)
        row |= {} if weight is None else {"none_weight": weight}
        if self.running is not None:
            row |= self.running.entries()
        if self.probe_every:
            row["probes"] = self.probes.entries()
        measured, cost = self._costly(epoch)
        row |= measured
        if (own := self.looked) is not None:
            row["diagnostics"] = added(cost, own["forward"], own["backward"], own["seconds"])
            self.looked = None
        return row

    def _costly(self, epoch: int) -> tuple[dict[str, object], Cost | None]:
        """Return the diagnostics due after `epoch` that need passes of their own, and their cost."""
        search, decay = self.search, self.weight_decay
        if not self.due(epoch) and not self.stop.due(epoch):
            return {}, None
        val = self.val.at(self.val.position)
        with uncompiled():
            if self.due(epoch):
                train = self.train.at(self.train.position)
                return measure(search, train, val, cells=self.cells, weight_decay=decay)
            top = curvature(search.problem, search.w, search.a, val, weight_decay=decay)
            return {**top}, top["diagnostics"]

    def ended(self) -> dict[str, object] | None:
        """Return the stop that the stopping rule finds in the rows so far; None if it finds none."""
        return self.stop.found(self.rows, self.epochs)

    def cost(self) -> dict[str, object] | None:
        """Return the total passes and seconds of all diagnostics so far; None if no diagnostics needed passes."""
        costs = [row["diagnostics"] for row in self.rows if "diagnostics" in row]
        return (
            {key: round(sum(cost[key] for cost in costs), 4) for key in ("forward", "backward", "seconds")}
            if costs
            else None
        )

    @property
    def stopped(self) -> bool:
        """Whether the stopping rule ends the search."""
        return self.stop.acts and self.ended() is not None


def means(mix: Tree) -> dict[str, list[list[float]]]:
    """Return the mean of a mixture over cells, as nested lists (edges, operations) for metrics rows."""
    return {name: x.mean(0).tolist() for name, x in mix.items()}
