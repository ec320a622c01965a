"""DARTS-PT: choices on problems with known accuracy, rounds, tuning, resume."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import agree
import pytest
import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Decision, Method, Outcome, Search, Selection, Tree
from nasx.methods.darts import Darts as First
from nasx.methods.darts_pt import DartsPt, Projection, in_turn
from nasx.methods.sdarts import Sdarts
from nasx.spaces.base import Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

import small
import toy

PT = DartsPt(inner=First(), tune=1, batches=2)


@dataclass
class Graded(toy.Smooth):
    """Accuracy is the sum of mixture weights times known grades: without an operation it falls by its share."""

    grades: Any = ((0.1, 0.5, 0.2), (0.3, 0.25, 0.9))

    def outcome(self, w: Tree, mix: Tree, batch: Batch, *, track: bool = False) -> Outcome:
        return Outcome(self.value(w, mix, batch), (mix["a"][0] * toy.real(*self.grades)).sum().detach())


def selection(**more: Any) -> Selection:
    def batches(start: int) -> Iterator[Batch]:
        return (toy.Smooth().batch(seed) for seed in itertools.count(start))

    return Selection(lambda mix: None, batches(10), batches(1000), torch.Generator().manual_seed(3), **more)


def test_keeps_what_the_supernet_would_miss_most_not_what_weighs_most() -> None:
    """Of each edge the largest grade times weight; then the edge whose operation has the larger grade."""
    a = {"a": toy.real([1.0, 0.9, 0.8], [0.5, 2.0, 0.4])}
    search = toy.search(Graded(), a=a)
    share = torch.softmax(a["a"], -1) * toy.real(*Graded().grades)
    expected = share.argmax(-1).tolist()
    assert expected != a["a"].argmax(-1).tolist()
    found = DartsPt(inner=First(), tune=0, batches=1).select(search, selection())["a"]
    best = max(range(2), key=lambda e: Graded().grades[e][expected[e]])
    for e in range(2):
        row = [float(o == expected[e] and e == best) for o in range(3)]
        assert found[:, e].tolist() == [row] * 2


def test_an_edge_is_judged_against_all_the_others() -> None:
    """Of two edges that stand in for each other neither is missed, though one of them would be without the other."""

    @dataclass
    class Spare(toy.Smooth):
        def outcome(self, w: Tree, mix: Tree, batch: Batch, *, track: bool = False) -> Outcome:
            there = mix["a"][0].sum(-1)
            return Outcome(
                self.value(w, mix, batch),
                ((there[0] + there[1]).clamp(max=1) + 0.1 * there[2] + 0.2 * there[3]).detach(),
            )

    problem = Spare()
    search = toy.search(problem, a={"a": torch.zeros(4, 3, dtype=torch.float64)})
    edges = Decision("a", tuple((e, None) for e in range(4)), keep=2, operations=False)
    projected = Projection(problem.relax(search.a))
    assert PT.judged(search, selection(), projected, edges) == [2, 3]


@pytest.mark.parametrize("inner", [First(), Sdarts(inner=First())], ids=["darts", "sdarts"])
def test_tuning_is_the_inner_step_on_what_is_decided(inner: Method) -> None:
    """One epoch between rounds: the inner method's own steps at the projected mixture, on the rates of the cosine."""
    seen: list[tuple[float, Tree]] = []
    buffer = {k: torch.ones_like(x) for k, x in Graded().w0().items()}
    search = toy.search(Graded(), lr=7.0, momentum=0.9, buffer=buffer)
    search.epoch, search.epochs = 2, 3
    problem, outcome = search.problem, search.problem.outcome

    def spy(w: Tree, mix: Tree, batch: Batch, *, track: bool = False) -> Outcome:
        if track:
            seen.append((search.lr, mix))
        return outcome(w, mix, batch, track=track)

    problem.outcome = spy  # type: ignore[method-assign]
    told: list[tuple[int, int]] = []
    end = selection(epoch_updates=3, on_progress=lambda done, total: told.append((done, total)))
    DartsPt(inner=inner, tune=1, batches=2).select(search, end)
    assert told == [(done, 3) for done in range(4)]
    assert len(end.decided) == 3, "two edges by turns, then one node"
    assert search.updates == 6, "an epoch after the first round, one after the second"
    half = 0.001 + 0.0015 * (1 + math.cos(math.pi / 2)) / 2
    assert [lr for lr, _ in seen] == pytest.approx([0.0025] * 3 + [half] * 3)
    hot = [mix["a"][0].tolist() for _, mix in seen]
    one_hot = [sum(sorted(row) == [0.0, 0.0, 1.0] for row in rows) for rows in hot]
    assert one_hot == [1] * 3 + [2] * 3, "decided edges are one-hot, the others are relaxed and still move"


def test_tuning_counts_its_updates_for_the_inner_method() -> None:
    """Lambda-DARTS, for one, takes its sides by turns: by the number of updates."""
    counts: list[int] = []

    class Counted(First):
        def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
            counts.append(search.updates)
            return super().step(search, train, val)

    DartsPt(inner=Counted(), tune=1, batches=2).select(toy.search(Graded()), selection(epoch_updates=3))
    assert counts == [0, 1, 2, 3, 4, 5]


def test_order_is_random_and_all_cell_types_take_turns() -> None:
    decisions = [Decision("normal", ((e, 0),)) for e in range(4)] + [Decision("reduce", ((e, 0),)) for e in range(2)]
    rounds = list(in_turn(decisions, torch.Generator().manual_seed(0)))
    assert [[d.name for d in each] for each in rounds] == [["normal", "reduce"]] * 2 + [["normal"]] * 2
    orders = {
        tuple(each[0].options[0][0] for each in in_turn(decisions, torch.Generator().manual_seed(seed)))
        for seed in range(20)
    }
    assert len(orders) > 5
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)


@pytest.mark.parametrize(
    ("space", "counts"),
    [
        (Nb201(), [6]),
        (Darts(), [28, 6]),
        (Darts(edges="fixed"), [16, 0]),
        (Darts(edges="searched"), [28, 0]),
        (Darts(untied=True, layers=3), [42, 9]),
        (Nb1Shot1(variant=1), [4, 3]),
    ],
    ids=str,
)
def test_decisions_of_the_spaces_make_a_genotype(space: Space, counts: list[int]) -> None:
    """Whatever is kept, in any order, the projected mixture discretizes to it."""
    phases, mix = space.decisions(), {k: x.detach() for k, x in small.mixture(space, 1).items()}
    assert [len(phase) for phase in phases] == counts
    gen, projected = torch.Generator().manual_seed(2), Projection(mix)
    for phase in phases:
        for decision in phase:
            kept = torch.randperm(len(decision.options), generator=gen)[: decision.keep].tolist()
            projected.decide(decision, kept)
    assert all(torch.equal(x, mix[k]) for k, x in Projection(mix)(mix).items()), "nothing is decided at first"
    found, hot = space.discretize(projected(mix)), projected(mix)
    assert space.parse(str(found)) == found
    if counts in ([6], [28, 6], [42, 9]):  # each edge is decided: the mixture is the genotype's
        assert all(torch.equal(hot[name], x.double()) for name, x in space.encode(found).items())


class Killed(Exception):
    """Raised in the middle of a choice."""


@pytest.mark.parametrize("at", [1, 2])
def test_a_choice_goes_on_from_what_was_kept(at: int) -> None:
    """State saved after a round continues to the same mixture and the same weights, bit for bit."""
    whole = toy.search(Graded(), lr=0.1, momentum=0.9)
    expected = PT.select(whole, selection(epoch_updates=2))

    search, end = toy.search(Graded(), lr=0.1, momentum=0.9), selection(epoch_updates=2)
    kept: dict[str, Any] = {}
    drawn = {"train": 0, "val": 0}

    def counted(name: str, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            drawn[name] += 1
            yield batch

    end.train, end.val = counted("train", end.train), counted("val", end.val)

    def keep() -> None:
        kept.update(
            w=agree.copied(search.w),
            a=agree.copied(search.a),
            w_opt=copy.deepcopy(search.w_opt.state_dict()),
            updates=search.updates,
            decided=copy.deepcopy(end.decided),
            drawn=dict(drawn),
        )

    def tick() -> None:
        if len(end.decided) == at:
            raise Killed

    end.save, end.tick = keep, tick
    with pytest.raises(Killed):
        PT.select(search, end)
    other, again = toy.search(Graded(), w=kept["w"], a=kept["a"], lr=0.1, momentum=0.9), selection(epoch_updates=2)
    other.w_opt.load_state_dict(kept["w_opt"])
    other.updates, again.decided = kept["updates"], kept["decided"]
    for name, batches in (("train", again.train), ("val", again.val)):
        for _ in range(kept["drawn"][name]):
            next(batches)
    found = PT.select(other, again)
    assert agree.same(found, expected)
    assert agree.same(other.w, whole.w)
    assert agree.same(other.a, whole.a)
    assert other.updates == whole.updates


def test_around_a_method_that_trains_nothing_the_choice_is_that_method_s() -> None:
    from nasx.methods.random import Random

    problem = toy.Smooth()
    one = Random().select(toy.search(problem), toy.selection(7))
    two = DartsPt(inner=Random()).select(toy.search(problem), toy.selection(7))
    assert agree.same(one, two)
