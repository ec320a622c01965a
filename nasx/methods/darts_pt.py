"""DARTS-PT: operations are chosen by the accuracy that the supernet loses without them, not by the largest weight.

    for each edge in random order: measure the validation accuracy A_o without operation o, for each o; keep only the
    operation with the lowest A_o on the edge; tune the supernet
    then for each node in random order: keep its two edges with the lowest A; tune

The search itself is that of `inner` (first-order DARTS). A tuning step is a step of `inner` on the supernet with the
decisions made so far; the weights' learning rate follows a separate cosine schedule. The space defines the decisions
(`Problem.decisions`). Each round makes one decision per cell type and, except for the last one, is followed by tuning.

Source: Wang, Cheng, Chen, Tang, Hsieh (2021), section 4 and algorithm 1; released code, sota/cnn/projection.py.
Cost after the search: `batches` forward passes for each operation on each edge and for each candidate edge, and `tune`
epochs of `inner` after each round but the last (DARTS space: 14 + 3 rounds; NAS-Bench-201: 6). A checkpoint is written
after each round, so a killed run loses at most one round of tuning and evaluations.

Deviations
1. Each edge of a node is evaluated once, with all other edges of the node present. The released code evaluates the
   remaining edges again after each drop, on other batches, with the same result up to noise.
2. All candidates of a decision are evaluated on the same `batches` batches of the validation stream (null: the number
   of updates in an epoch), with batch statistics as in the released code. That code uses the whole validation split.
3. In a tie, the first operation is kept and the last edge is dropped, as in the released code.
4. The input choices of NAS-Bench-1Shot1 are treated as edges. If a space has weights for edge pairs, only operations
   are chosen in this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch

from nasx.core.bilevel import Decision, Search, Selection, Tree, detached
from nasx.core.schedules import cosine
from nasx.methods.wrapper import Wrapper

if TYPE_CHECKING:
    from nasx.core.constraints import NonNegative, NonNegativeFloat, Positive, PositiveFloat


class Projection:
    """Function that applies the decisions made so far to a mixture: mix * kept + fixed."""

    def __init__(self, like: Tree) -> None:
        self.kept = {k: torch.ones_like(x) for k, x in like.items()}
        self.fixed = {k: torch.zeros_like(x) for k, x in like.items()}

    def __call__(self, mix: Tree) -> Tree:
        return mix | {k: mix[k] * kept + self.fixed[k] for k, kept in self.kept.items()}

    def without(self, decision: Decision, option: int) -> Callable[[Tree], Tree]:
        """Return a function that computes the mixture without one option."""

        def shape(mix: Tree) -> Tree:
            found = self(mix)
            keep = torch.ones_like(found[decision.name])
            keep[place(decision, option)] = 0.0
            return {**found, decision.name: found[decision.name] * keep}

        return shape

    def decide(self, decision: Decision, chosen: Sequence[int]) -> None:
        """Drop all options except the chosen ones; a chosen operation gets weight 1."""
        for option in range(len(decision.options)):
            if option not in chosen:
                for tree in (self.kept, self.fixed):
                    tree[decision.name][place(decision, option)] = 0.0
            elif decision.operations:
                cell, edge, _ = place(decision, option)
                self.kept[decision.name][cell, edge] = 0.0
                self.fixed[decision.name][place(decision, option)] = 1.0


def place(decision: Decision, option: int) -> tuple[int | slice, int, int | slice]:
    """Return the index of an option in a mixture (cells, edges, operations)."""
    edge, operation = decision.options[option]
    return (
        slice(None) if decision.cell is None else decision.cell,
        edge,
        slice(None) if operation is None else operation,
    )


@dataclass(frozen=True, kw_only=True)
class DartsPt(Wrapper):
    """A search with the inner method, followed by perturbation-based selection of operations."""

    tune: NonNegative = 10
    lr: PositiveFloat = 0.0025
    lr_min: NonNegativeFloat = 0.001
    batches: Positive | None = None

    def select(self, search: Search, selection: Selection) -> Tree:
        if not self.trains:
            return self.inner.select(search, selection)
        rounds = [chosen for phase in search.problem.decisions() for chosen in in_turn(phase, selection.gen)]
        projected = Projection(search.problem.relax(search.a))
        if not selection.decided:
            search.w_opt.state.clear()
        selection.on_progress(len(selection.decided), len(rounds))
        for number, chosen in enumerate(rounds):
            if number < len(selection.decided):
                for decision, kept in zip(chosen, selection.decided[number], strict=True):
                    projected.decide(decision, kept)
                continue
            if number:
                self.tuned(search, selection, projected, number - 1, len(rounds) - 1)
            found = []
            for decision in chosen:
                found.append(self.judged(search, selection, projected, decision))
                projected.decide(decision, found[-1])
            selection.decided.append(found)
            selection.save()
            selection.on_progress(number + 1, len(rounds))
        return detached(projected(search.problem.relax(search.a)))

    def judged(self, search: Search, selection: Selection, projected: Projection, decision: Decision) -> list[int]:
        """Return the options to keep: those whose removal lowers the accuracy most (the earlier ones in a tie)."""
        options = list(range(len(decision.options)))
        if len(options) <= decision.keep:
            return options
        scores = self.accuracies(search, selection, projected, decision, options)
        return sorted(sorted(options, key=scores.__getitem__)[: decision.keep])

    @torch.no_grad()
    def accuracies(
        self, search: Search, selection: Selection, projected: Projection, decision: Decision, options: Sequence[int]
    ) -> dict[int, float]:
        """Return, for each option, the accuracy without it, summed over the same batches for all options."""
        clean, totals = search.problem.relax(search.a), {option: torch.zeros(()) for option in options}
        for _ in range(self.batches or selection.epoch_updates):
            batch = next(selection.val)
            for option in options:
                mix = projected.without(decision, option)(clean)
                totals[option] = totals[option] + search.problem.outcome(detached(search.w), mix, batch).accuracy.cpu()
                selection.tick()
        return {option: float(total) for option, total in totals.items()}

    def tuned(self, search: Search, selection: Selection, projected: Projection, number: int, rounds: int) -> None:
        """Run `tune` epochs of the inner method on the supernet with the decisions made so far."""
        for epoch in range(number * self.tune, (number + 1) * self.tune):
            lr = cosine(self.lr, self.lr_min, epoch, rounds * self.tune)
            for group in search.w_opt.param_groups:
                group["lr"] = lr
            done = 0
            while done < selection.epoch_updates:
                updates, count = self.inner.chunk(selection.epoch_updates - done)
                train = [next(selection.train) for _ in range(count)]
                self.inner.step(search.with_transform(projected), train, next(selection.val))
                done += updates
                search.updates += updates
                selection.tick()


def in_turn(decisions: Sequence[Decision], gen: torch.Generator) -> Iterator[list[Decision]]:
    """Yield rounds with one decision per cell type (per cell if cells are untied), in random order."""
    groups: dict[tuple[str, int | None], list[Decision]] = {}
    for decision in decisions:
        groups.setdefault((decision.name, decision.cell), []).append(decision)
    mixed = [[group[i] for i in torch.randperm(len(group), generator=gen).tolist()] for group in groups.values()]
    for each in zip_longest(*mixed):
        yield [decision for decision in each if decision is not None]
