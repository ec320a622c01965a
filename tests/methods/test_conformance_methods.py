"""Requirements of all methods: each file of conf/method, on a smooth toy problem and on a small real supernet.

A new method is covered automatically; `TRACES` and `COSTS` list known numbers.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import agree
import pytest
import torch
from torch import Tensor
from toy_steps import parts, state
from variants import BUILT, MOVES_NO_ARCHITECTURE, TRAINING, VARIANTS, class_of

from nasx.core.bilevel import Method, frozen
from nasx.data.segments import Segments
from nasx.searcher.problem import RelaxedProblem, weights

import small
import toy


# ------------------------------------------------------------------------------------------------------ general
@pytest.mark.parametrize("name", VARIANTS)
def test_is_a_frozen_value(name: str) -> None:
    method = BUILT[name]
    assert isinstance(method, Method)
    assert method.trains == (name in TRAINING)
    assert dataclasses.is_dataclass(method)
    first = dataclasses.fields(method)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, first, getattr(method, first))
    assert dataclasses.replace(method) == method
    assert set(method.labels) <= set(method.reproduces_faults)
    assert method.train_batches >= method.steps_w >= 1


@pytest.mark.parametrize("name", TRAINING)
def test_moves_what_it_should(name: str) -> None:
    _, search, batches, val = parts(BUILT[name])
    w, a = agree.copied(search.w), agree.copied(search.a)
    logged = BUILT[name].step(search, batches, val)
    assert all(not torch.equal(search.w[k].detach(), w[k]) for k in w)
    assert agree.same(search.a, a) == (name in MOVES_NO_ARCHITECTURE)
    assert len(search.grads_a) == (0 if name in MOVES_NO_ARCHITECTURE else 1), "one architecture step"
    assert logged
    assert all(value.shape == () and bool(value.isfinite()) and not value.requires_grad for value in logged.values())
    assert all(x.grad is None for x in (*search.w.values(), *search.a.values())), "no gradient is left behind"


@pytest.mark.parametrize("name", TRAINING)
def test_is_deterministic_to_the_last_bit_and_needs_no_global_generator(name: str) -> None:
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        _, search, batches, val = parts(BUILT[name])
        logged = [BUILT[name].step(search, batches, val) for _ in range(2)]
        ends.append((state(search), [dict(sorted(row.items())) for row in logged]))
    assert all(torch.equal(x, y) for x, y in zip(ends[0][0], ends[1][0], strict=True))
    assert all(agree.same(x, y) for x, y in zip(ends[0][1], ends[1][1], strict=True))


@pytest.mark.parametrize("name", TRAINING)
def test_all_state_is_the_search_s(name: str) -> None:
    """Weights, architecture and both optimizers copied into a new search continue it bit for bit."""
    _, search, batches, val = parts(BUILT[name])
    BUILT[name].step(search, batches, val)
    _, other, _, _ = parts(BUILT[name])
    with torch.no_grad():
        for live, twin in ((search.w, other.w), (search.a, other.a)):
            for k, x in twin.items():
                x.copy_(live[k])
    other.w_opt.load_state_dict(copy.deepcopy(search.w_opt.state_dict()))
    other.a_opt.load_state_dict(copy.deepcopy(search.a_opt.state_dict()))
    for each in (search, other):
        dataclasses.replace(BUILT[name]).step(each, batches, val)
    assert all(torch.equal(x, y) for x, y in zip(state(search), state(other), strict=True))


@pytest.mark.parametrize("name", TRAINING)
def test_warming_moves_the_weights_alone(name: str) -> None:
    _, search, batches, val = parts(BUILT[name])
    search.warming = True
    w, a = agree.copied(search.w), agree.copied(search.a)
    logged = BUILT[name].step(search, batches, val)
    assert agree.same(search.a, a)
    assert not search.a_opt.state, "its optimizer has not moved either"
    assert not agree.same(search.w, w)
    assert all(bool(value.isfinite()) for value in logged.values())


@pytest.mark.parametrize("name", TRAINING)
def test_a_batch_s_rate_scales_the_learning_rate_of_the_weights(name: str) -> None:
    """Everywhere where a method uses it: at half the rate a step is that of half the learning rate, bit for bit."""
    ends = []
    for rate in (1.0, 0.5):
        _, search, batches, val = parts(BUILT[name])
        search.w_opt.param_groups[0]["lr"] *= 0.5 / rate
        BUILT[name].step(search, [batch._replace(rate=rate) for batch in batches], val)
        ends.append(state(search))
    assert all(torch.equal(x, y) for x, y in zip(*ends, strict=True))


@pytest.mark.parametrize("name", [name for name in TRAINING if hasattr(class_of(name), "hypergradient")])
def test_hypergradient_leaves_everything_as_it_is(name: str) -> None:
    problem, search, batches, val = parts(BUILT[name])
    search.update_w(batches[0])  # fills the momentum buffers
    before = state(search)
    with frozen(search.w), frozen(search.a):
        BUILT[name].hypergradient(search, batches[-1], val)  # type: ignore[attr-defined]
    assert all(torch.equal(x, y) for x, y in zip(state(search), before, strict=True))
    assert sum(problem.tracked) == 1, "no probe moves running statistics"


# ------------------------------------------------------------------------------------------------------ batches
TRACES: dict[str, str] = {  # the batches of the loss evaluations in order: v, or the number of the training batch
    "darts": "v1",
    "darts order=2": "1v111",
    "darts clip": "1v111",
    "darts first=weights": "1v",
    "pc_darts": "v1",
    "idarts": "1234v4",
    "idarts difference": "1234v444444",
    "idarts released": "1234v444",
    "idarts leak": "v4",
    "amended": "v11111",
    "single": "1",
    "single other batch": "21",
    "single other split": "v1",
    "tse": "123123",
    "tse momentum": "123123",
    "tse exact": "123123",
    "lambda": "v111",
    "lambda one-sided": "v11",
    "lambda exact": "v11",
    "lambda signed": "v111",
    "lambda outer": "vvv1",
    "sdarts": "v1",
    "sdarts adversarial": "v" + "1" * 10,
    "lambda_sdarts": "v111",
    "beta_darts": "v1",
    "darts_minus": "v1",
    "darts_pt": "v1",
    "drnas": "v1",
    "tse_drnas": "123123",
    "snas": "1",
    "gdas": "1v",
    "gdas released": "1v",
    "gdas straight through": "1v",
    "random_ws": "1",
    "fair_darts": "v1",
    "gaea": "v1",
    "reinmax": "1v",
    "cg": "v11",
    "sama": "v111",
}


@pytest.mark.parametrize("name", TRAINING)
def test_uses_the_batches_it_is_given(name: str) -> None:
    problem, search, batches, val = parts(BUILT[name])
    BUILT[name].step(search, batches, val)
    trace = "".join("v" if seed == 1000 else str(seed) for seed in problem.seeds)
    assert set(problem.seeds) <= {val.seed, *(batch.seed for batch in batches)}
    assert set(problem.seeds) >= {batch.seed for batch in batches} or name == "idarts leak", "draws no batch in vain"
    assert trace == TRACES.get(name, trace)
    assert sum(problem.tracked) == (0 if name == "idarts leak" else BUILT[name].steps_w), "statistics: kept steps only"


@pytest.mark.parametrize("name", TRAINING)
def test_a_short_last_chunk_is_taken(name: str) -> None:
    """The loop ends an epoch with fewer training batches than a step draws."""
    method = BUILT[name]
    if method.steps_w == 1:
        return
    problem, search, batches, val = parts(method)
    method.step(search, batches[:1], val)
    assert set(problem.seeds) <= {1, 1000}
    assert sum(problem.tracked) == (0 if name == "idarts leak" else 1)


# --------------------------------------------------------------------------------------------------------- cost
def test_what_is_known_is_known_of_all_methods() -> None:
    """A new method is covered without an entry; ours all have one, and no entry outlives its method."""
    assert set(TRACES) == set(COSTS) == set(TRAINING)


@dataclass
class Cost:
    """Passes of one step on a supernet: forward passes, and backward passes through it (Hessian products included)."""

    forward: int
    backward: int


COSTS = {
    "darts": Cost(2, 2),  # architecture 1, weights 1
    "darts first=weights": Cost(2, 2),
    "pc_darts": Cost(2, 2),
    "darts order=2": Cost(5, 5),
    "darts clip": Cost(5, 5),  # 4 + 1
    "idarts": Cost(4 + 2, 4 + 2 + 3),  # T + (validation, kept graph) + K + 1 products
    "idarts difference": Cost(4 + 1 + 2 * 3, 4 + 1 + 2 * 3),  # two passes for each product
    "idarts released": Cost(4 + 2 + 2, 4 + 2 + 2 + 2),  # K products over the graph, two passes for the mixed one
    "idarts leak": Cost(2, 2 + 3),
    "amended": Cost(6, 6),  # 5 + 1
    "single": Cost(1, 1),
    "single other batch": Cost(2, 2),
    "single other split": Cost(2, 2),
    "tse": Cost(6, 6),
    "tse momentum": Cost(6, 6),  # 2 T
    "tse exact": Cost(6, 8),  # 2 T, and a backward pass through the T - 1 kept steps and the last loss
    "lambda": Cost(4, 4),
    "lambda signed": Cost(4, 4),  # 1 + 3
    "lambda one-sided": Cost(3, 3),  # 1 + 2
    "lambda exact": Cost(3, 4),  # 1 + 1 + a pass with the graph kept and a backward pass through it
    "lambda outer": Cost(4, 4),  # 3 + 1
    "sdarts": Cost(2, 2),
    "sdarts adversarial": Cost(11, 9),  # 1 + 7 ascents + 2 comparisons without gradient + 1
    "lambda_sdarts": Cost(4, 4),
    "beta_darts": Cost(2, 2),
    "darts_minus": Cost(2, 2),
    "darts_pt": Cost(2, 2),
    "drnas": Cost(2, 2),
    "tse_drnas": Cost(6, 6),
    "snas": Cost(1, 1),
    "gdas": Cost(2, 2),
    "gdas released": Cost(2, 2),
    "gdas straight through": Cost(2, 2),
    "random_ws": Cost(1, 1),
    "fair_darts": Cost(2, 2),
    "gaea": Cost(2, 2),
    "reinmax": Cost(2, 2),
    "cg": Cost(3, 9),  # weights 1, validation 1, kept graph 1 with five Hessian products and the mixed one
    "sama": Cost(4, 4),  # 3 + 1
}


def counted(method: Method, *, epoch: int = 1) -> tuple[Cost, int]:
    """Passes by hooks on the supernet's output, and as the problem counts them itself."""
    cost, space = Cost(0, 0), agree.SPACES["nb201"]
    search = small.search(space, momentum=0.9)
    problem = search.problem
    assert isinstance(problem, RelaxedProblem)
    problem.activate = method.activate
    search.epoch, search.epochs = epoch, 3

    def backward(g: Tensor) -> None:
        cost.backward += 1

    def forward(module: Any, inputs: Any, output: Any) -> None:
        cost.forward += 1
        if output.main.requires_grad:
            output.main.register_hook(backward)

    problem.supernet.register_forward_hook(forward)
    batches = [small.batch(seed, n=2, size=8) for seed in range(method.train_batches)]
    method.step(search, batches, agree.VAL)
    return cost, problem.passes


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.sample(15)
def test_passes_are_those_of_the_cost_table(name: str) -> None:
    cost, passes = counted(BUILT[name])
    assert passes == cost.forward
    assert cost == COSTS.get(name, cost)
    stated = BUILT[name].cost
    assert stated is None or (cost.forward, cost.backward) == stated[:2]


def test_lambda_of_strength_zero_is_as_cheap_as_darts() -> None:
    assert counted(BUILT["lambda"], epoch=0)[0] == Cost(2, 2)


@pytest.mark.parametrize("name", ["single", "tse", "random_ws"])
def test_one_pass_gives_both_gradients(name: str) -> None:
    """One-level methods take weight and architecture gradient from one backward pass."""
    cost, _ = counted(BUILT[name])
    assert cost.backward == cost.forward


# -------------------------------------------------------------------------------------------------- real spaces
@pytest.mark.parametrize("space", [*agree.SPACES, *agree.TEXT])
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.sample(30)
def test_searches_and_chooses_on_a_real_space(name: str, space: str) -> None:
    """Two steps (where it trains) leave finite values, and what it chooses is an architecture of the space."""
    method, built = BUILT[name], {**agree.SPACES, **agree.TEXT}[space]
    if method.reads not in (None, built.data):
        pytest.skip("a method for networks that read something else")
    search = agree.real_search(space)
    problem = search.problem
    assert isinstance(problem, RelaxedProblem)
    problem.activate = method.activate
    start = method.start(built.init(torch.Generator().manual_seed(0)))
    search.a = {k: x.double().requires_grad_() for k, x in start.items()}
    search.a_opt = torch.optim.Adam(search.a.values(), lr=3e-4, betas=(0.5, 0.999))
    search.epochs = 3
    batch: Callable[[int], Any] = lambda seed: small.given(built, seed, n=2, size=8)  # noqa: E731
    for search.epoch in range(2) if method.trains else ():
        method.step(search, [batch(seed) for seed in range(method.train_batches)], batch(99))
    assert all(bool(x.isfinite().all()) for x in (*search.a.values(), *search.w.values()))
    assert search.w.keys() == weights(problem.supernet).keys()
    train, val = (batch(seed) for seed in range(1000, 2000)), (batch(seed) for seed in range(1000))
    selection = dataclasses.replace(
        toy.selection(1, train=train, val=val),
        network=problem.network,
        next_batch=lambda: batch(500),
        text=lambda mix: str(built.discretize(mix)),
    )
    mix = method.select(search, selection)
    genotype = built.discretize(mix)
    assert built.parse(str(genotype)) == genotype


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.sample(11)
def test_states_of_a_text_are_those_of_the_real_updates(name: str) -> None:
    """What a batch goes on from is what the last real update left after the batch before, else its first evaluation."""
    method, search = BUILT[name], agree.real_search("darts_rnn")
    problem = search.problem
    assert isinstance(problem, RelaxedProblem)
    problem.activate = method.activate
    train, val = (Segments(torch.arange(400) % 10, batch=4, bptt=5, seed=1, name=part) for part in "wa")
    after: dict[int, tuple[bool, Tensor]] = {}  # seed of a batch -> (whether a real update wrote it, state)
    order = [train.at(i).seed for i in range(20)], [val.at(i).seed for i in range(20)]
    before = {seed: seeds[i - 1] for seeds in order for i, seed in enumerate(seeds) if i}
    outcome, real = problem.outcome, []

    def watched(w: Any, mix: Any, batch: Any, *, track: bool = False, evaluation: bool = False) -> Any:
        state = batch.carried.read()
        if before.get(batch.seed) in after:
            assert torch.equal(state, after[before[batch.seed]][1])
        else:
            assert state is None
        found = outcome(w, mix, batch, track=track, evaluation=evaluation)
        if track or batch.seed not in after:
            after[batch.seed] = track, seen[-1]
        real.append(track)
        return found

    seen: list[Tensor] = []
    problem.supernet.register_forward_hook(lambda module, given, out: seen.append(out.state.detach()))
    problem.outcome = watched  # type: ignore[method-assign]
    search.epochs = 3
    for search.epoch in range(2):
        method.step(search, [next(train) for _ in range(method.train_batches)], next(val))
    assert sum(real) == (0 if name == "idarts leak" else 2 * method.steps_w)
    assert all(written for seed, (written, _) in after.items() if seed in order[0][: 2 * method.steps_w]) or name in (
        "idarts leak",
        "single other batch",
    )
