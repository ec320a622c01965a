"""Replayed steps on a CPU: a replacement of CUDA graphs repeats the recorded work; the bookkeeping is the real one.

A replay reads from fixed addresses, and the state changed by a recording must be restored: all comparisons are exact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from engine_steps import SPACES, apart, batches, position, prepared
from torch import Tensor
from variants import BUILT, TRAINING

from nasx.core.bilevel import Batch, Search
from nasx.core.draws import Draws
from nasx.errors import UserError
from nasx.methods.darts import Darts as First
from nasx.searcher.cuda_graphs import Moment, Replayed, reason
from nasx.spaces.darts.space import Darts

import small

REPLAYED = ["captured"] + ["replayed"] * 4
S4 = Darts(layers=3, channels=4, operations=("noise", "sep_conv_3x3"))


class Recorder:
    """Stands for `graphs.cuda`: `work` runs at the recording, where `Replayed` undoes it, and at each replay."""

    def __init__(self, wrong: Callable[..., None] | None = None) -> None:
        self.log: list[str] = []
        self.wrong = wrong

    def __call__(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        self.log.append("captured")
        assert len({id(g) for g in generators}) == len(generators)
        work()

        def repeat() -> None:
            self.log.append("replayed")
            self.wrong(work, generators) if self.wrong else work()

        return repeat


class Pair(NamedTuple):
    """The same search twice: with steps of the method, and with replayed ones."""

    plain: Search
    search: Search
    step: Replayed
    log: list[str]


def pair(space: Any, method: Any, wrong: Any = None, **options: Any) -> Pair:
    plain, search = prepared(space, method), prepared(space, method)
    for each in (plain, search):
        each.problem.options = dict(options)  # type: ignore[attr-defined]
    recorder = Recorder(wrong)
    problem: Any = search.problem
    return Pair(plain, search, Replayed(method, problem, recorder), recorder.log)


def walk(search: Search, step: Callable[..., Any], method: Any, steps: int, first: int = 0) -> dict[str, Tensor]:
    """The last step's values and where weights and architecture are, after steps that change what Python decides."""
    for i in range(first, first + steps):
        search.epoch, search.progress = 1 + i // 2, i / 20
        search.w_opt.param_groups[0]["lr"] = 0.05 / (1 + i // 2)
        train, val = batches(method, 1 + 10 * i)
        values = step(search, train, val)
        search.updates += method.steps_w
    return {**position(search), **{f"value {k}": x for k, x in values.items()}}


def same(pair: Pair, method: Any, steps: int = 5, first: int = 0) -> None:
    expected = walk(pair.plain, method.step, method, steps, first)
    got = walk(pair.search, pair.step, method, steps, first)
    assert apart(got, expected) == 0
    assert all(torch.equal(got[k], expected[k]) for k in expected if k.startswith("value"))
    assert pair.search.problem.passes == pair.plain.problem.passes  # type: ignore[attr-defined]
    for kind in ("w_opt", "a_opt"):
        states = [list(getattr(s, kind).state.values()) for s in (pair.search, pair.plain)]
        for got_state, state in zip(*states, strict=True):
            assert all(
                torch.equal(torch.as_tensor(got_state[k]), torch.as_tensor(x))
                for k, x in state.items()
                if x is not None
            )


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.sample(4)
def test_one_graph_serves_steps_of_all_epochs_rates_and_seeds(name: str) -> None:
    """Random mixtures too (gdas, snas, sdarts, drnas, random_ws), and Lambda's one-sided steps, which take turns."""
    both = pair(SPACES["nb201"], BUILT[name])
    same(both, BUILT[name])
    assert both.log == REPLAYED, both.step.why


@pytest.mark.parametrize(
    ("space", "options"),
    [(Darts(layers=3, channels=4), {"drop_path": 0.3}), (S4, {}), (S4, {"drop_path": 0.2, "skip_dropout": 0.5})],
)
@pytest.mark.parametrize("name", ["darts", "gdas"])
@pytest.mark.sample(3)
def test_what_a_network_draws_is_replayed_from_each_batch(space: Darts, options: dict[str, float], name: str) -> None:
    both = pair(space, BUILT[name], **options)
    same(both, BUILT[name])
    assert both.log == REPLAYED, both.step.why
    both.search.problem.options = both.plain.problem.options = {k: x / 2 for k, x in options.items()}  # type: ignore[attr-defined]
    same(both, BUILT[name], 2, 5)
    assert "captured" not in both.log[5:], "another rate needs no other graph"


def test_a_kind_of_step_is_recorded_once() -> None:
    """Another shape, the warm-up, and the first epoch are kinds of their own; going back records nothing."""
    method = BUILT["tse"]
    both = pair(SPACES["nb201"], method)
    for _ in range(3):
        for size in (3, 1):  # an epoch's last chunk is shorter
            train, val = batches(method)
            both.step(both.search, train[:size], val)
    assert both.log == ["captured", "replayed"] * 2 + ["replayed"] * 2
    for change in ({"warming": True}, {"warming": False, "epoch": 0}):
        both.log.clear()
        for name, value in change.items():
            setattr(both.search, name, value)
        for _ in range(3):
            train, val = batches(method)
            both.step(both.search, train, val)
        assert both.log == ["captured", "replayed", "replayed"]


def test_values_of_a_replay_stay_when_the_next_one_runs() -> None:
    both = pair(SPACES["nb201"], BUILT["darts"])
    seen = [walk(both.search, both.step, BUILT["darts"], 1, i)["value train_loss"] for i in range(4)]
    numbers = [float(x) for x in seen]
    walk(both.search, both.step, BUILT["darts"], 2, 4)
    assert [float(x) for x in seen] == numbers


# --------------------------------------------------------------------------------------------------- fall-backs
class Stale(First):
    """A step that bakes something of Python's into a graph."""

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        gen = torch.Generator().manual_seed(train[0].seed)  # a recorded step keeps this seed
        noise = torch.rand((), generator=gen, dtype=torch.float64)
        return super().step(search, [train[0]._replace(x=train[0].x * (1 + noise))], val)


class Asking(First):
    """A step that cannot run on numbers from the device."""

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        values = super().step(search, train, val)
        list(range(search.epoch))
        return values


def reseeded(work: Callable[[], None], generators: Sequence[torch.Generator]) -> None:
    """A replay that does not draw from its batches' seeds."""
    for generator in generators:
        generator.manual_seed(1)
    work()


def stopped(work: Callable[[], None], generators: Sequence[torch.Generator]) -> None:
    """A replay that does nothing."""


def failing(work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    """A recording that breaks at its end, when all of Python's work is done."""
    work()
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("method", "wrong", "why"),
    [
        (BUILT["darts"], stopped, "replayed and eager steps have a relative difference"),
        (BUILT["idarts"], stopped, "replayed and eager steps have a relative difference"),
        (BUILT["gdas"], reseeded, "replayed and eager steps have a relative difference"),
        (Stale(), None, "replayed and eager steps have a relative difference"),
        (Asking(), None, "TypeError in test_graphs.py:"),
    ],
    ids=["nothing replayed", "nothing replayed, idarts", "other seeds", "a seed kept", "a number asked"],
)
@pytest.mark.sample(4)
def test_a_replay_that_differs_is_refused_and_leaves_no_trace(
    method: Any, wrong: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    both = pair(SPACES["nb201"], method, wrong)
    with caplog.at_level(logging.INFO, "nasx"):
        same(both, method)
    assert both.log.count("captured") == 1 - why.startswith("TypeError")
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("engine.graphs=auto: steps run eagerly: ")
    assert why in line


@pytest.mark.parametrize("name", ["darts", "tse", "random_ws"])
def test_a_recording_that_breaks_leaves_no_trace(name: str, caplog: pytest.LogCaptureFixture) -> None:
    both = pair(SPACES["nb201"], BUILT[name])
    both.step.capture = failing
    with caplog.at_level(logging.INFO, "nasx"):
        same(both, BUILT[name])
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("engine.graphs=auto: steps run eagerly: RuntimeError")
    assert line.endswith("operation not permitted when stream is capturing")
    assert not both.step.cases, "batches of graphs that will not be made"


def test_where_graphs_are_required_a_failure_is_a_clear_error_after_everything_was_put_back() -> None:
    both = pair(SPACES["nb201"], BUILT["darts"])
    both.step.required, both.step.capture = True, failing
    walk(both.search, both.step, BUILT["darts"], 1)
    before = position(both.search)
    with pytest.raises(UserError, match=r"engine\.graphs=on: steps cannot be replayed: RuntimeError.*graphs=auto"):
        walk(both.search, both.step, BUILT["darts"], 1, 1)
    assert all(torch.equal(x, before[k]) for k, x in position(both.search).items())


def test_random_numbers_of_a_batch_that_a_step_has_made_are_refused() -> None:
    class Making(First):
        def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
            search.generator(train[0]._replace(seed=3))
            return super().step(search, train, val)

    both = pair(SPACES["nb201"], Making())
    same(both, Making())
    assert "a batch that is not an argument of the step" in str(both.step.why)


def test_numbers_are_filled_where_they_have_changed() -> None:
    moment = Moment(torch.device("cpu"))
    first = moment.put("epoch", 1)
    version = first._version
    assert moment.put("epoch", 1) is first
    assert first._version == version
    assert float(moment.put("epoch", 2)) == float(first) == 2


def test_what_cannot_be_replayed_says_why() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert "CUDA device" in str(reason(cpu))
    assert "vary in length" in str(reason(cuda, carries=True))
    assert reason(cuda) is None


def test_a_batch_has_the_same_numbers_however_often_it_is_asked() -> None:
    search, batch = prepared(SPACES["nb201"], BUILT["darts"]), small.batch(3)
    first, second = (torch.rand(4, generator=search.generator(batch)) for _ in range(2))
    assert torch.equal(first, second)
    other = torch.rand(4, generator=Draws().generator(batch, torch.device("cpu"), salt=1))
    assert not torch.equal(first, other)
