"""The expected cost and its gradient against enumeration, counts against torch's counter, budgets in whole searches."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from composing import faults
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from variants import BUILT, MOVES_NO_ARCHITECTURE, TRAINING

from nasx.benchmarks.nb201 import Nb201 as Table
from nasx.benchmarks.nb201 import flops, params
from nasx.core import budgets
from nasx.core.bilevel import Tree, gradient
from nasx.searcher.budget import WEIGHTS, Budget
from nasx.searcher.problem import RelaxedProblem
from nasx.spaces.base import Space
from nasx.spaces.cost import Counts
from nasx.spaces.darts.space import Darts
from nasx.spaces.expected_cost import nearest
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

import small
import toy

SMALL = {"layers": 3, "channels": 4}
COUNTED: dict[str, tuple[Space, dict[str, Any], tuple[int, ...]]] = {
    "nb201": (Nb201(), {"layers": 1, "channels": 4}, (3, 17, 9)),
    "darts": (Darts(), SMALL, (3, 17, 9)),
    "darts_imagenet": (Darts(), SMALL | {"stem": "imagenet"}, (3, 70, 41)),
    "darts_untied": (Darts(layers=4, untied=True), {"channels": 4}, (3, 16, 16)),
    "darts_searched": (Darts(edges="searched"), SMALL, (3, 16, 16)),
    "darts_three": (Darts(operations=("none", "skip_connect", "sep_conv_5x5")), SMALL, (3, 17, 9)),
    "darts_fixed": (Darts(edges="fixed"), SMALL | {"stem": "single"}, (3, 33, 32)),
    "nb1shot1_1": (Nb1Shot1(variant=1), {"layers": 3, "channels": 5}, (3, 17, 9)),
    "nb1shot1_2": (Nb1Shot1(variant=2), {"layers": 3, "channels": 7}, (3, 8, 8)),
    "nb1shot1_3": (Nb1Shot1(variant=3), {"layers": 6, "channels": 4}, (3, 8, 8)),
}


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.sample(4)
def test_one_hot_mixtures_cost_what_torch_counts_of_their_networks(name: str) -> None:
    space, size, shape = COUNTED[name]
    gen = torch.Generator().manual_seed(1)
    macs, weights = (space.cost_model(Counts(q), 7, shape, **size) for q in ("macs", "params"))
    for _ in range(12):
        genotype = space.sample(gen)
        network = space.network(genotype, 7, **size).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.randn(1, *shape, generator=gen))
        hot = space.encode(genotype)
        assert (2 * float(macs(hot)), float(weights(hot))) == (
            counter.get_total_flops(),
            sum(x.numel() for x in network.parameters()),
        )
        assert macs.least() <= float(macs(hot))


def cells() -> list[tuple[int, ...]]:
    return list(itertools.product(range(5), repeat=6))


def enumerated(p: Tensor, costs: Tensor) -> Tensor:
    """Sum over all 15,625 cells of probability times cost; p (6, 5)."""
    index = torch.tensor(cells())
    return (p[torch.arange(6), index].prod(1) * costs).sum()


@pytest.mark.parametrize("derive_none", [True, False])
@pytest.mark.parametrize("quantity", ["macs", "params", "latency"])
def test_expected_cost_on_nb201_is_the_sum_over_all_cells(quantity: str, derive_none: bool) -> None:
    space, codes = Nb201(derive_none=derive_none), range(15_625)
    derivable = [derive_none or 0 not in cell for cell in cells()]
    gen = torch.Generator().manual_seed(0)
    table = {
        "macs": [flops(code) - 10 for code in codes],  # the benchmark counts the classifier's bias
        "params": [params(code) for code in codes],
        "latency": torch.rand(15_625, generator=gen, dtype=torch.float64).tolist(),
    }[quantity]
    model = (
        space.tabulated(table) if quantity == "latency" else space.cost_model(Counts(quantity), 10, (3, 32, 32))  # type: ignore[arg-type]
    )
    costs = torch.tensor(table, dtype=torch.float64)
    for seed in range(3):
        a = {"cell": torch.randn(6, 5, generator=gen, dtype=torch.float64).requires_grad_()}
        found = model(space.relax(a, small.softmax))
        p = small.softmax(a["cell"] if derive_none else a["cell"] + torch.tensor([-torch.inf, 0, 0, 0, 0]))
        expected = enumerated(p, costs)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            gradient(found, a), gradient(expected, a), rtol=1e-9, atol=1e-9 * float(costs.max()), msg=str(seed)
        )
    assert model.least() == pytest.approx(min(itertools.compress(table, derivable)))


def test_a_table_of_all_cells_follows_the_operations_of_each_edge() -> None:
    lists = (("nor_conv_3x3", "none"), ("skip_connect", "nor_conv_1x1")) * 3
    space = Nb201(cell=lists)
    model = space.tabulated([params(code) for code in range(15_625)])
    count = space.cost_model(Counts("params"), 10, (3, 32, 32))
    for seed in range(10):
        hot = space.encode(space.sample(torch.Generator().manual_seed(seed)))
        assert float(model(hot)) == float(count(hot))


@pytest.mark.parametrize(
    ("name", "activation"),
    [("darts_three", torch.sigmoid), ("nb1shot1_1", torch.sigmoid), ("nb1shot1_3", small.softmax)],
)
@pytest.mark.slow
def test_expected_cost_is_the_mean_over_each_kept_edge_s_operations(
    name: str, activation: Callable[[Tensor], Tensor]
) -> None:
    """A cost is a sum over edges within one choice of edges, so the mean over the operations of one edge, all others
    as they are, moves the expectation and its gradient as enumeration does."""
    space, size, shape = COUNTED[name]
    counts = Counts("params" if name == "darts_three" else "macs")
    model = space.cost_model(counts, 7, shape, **size)
    gen = torch.Generator().manual_seed(4)
    a = {k: torch.randn(s, generator=gen, dtype=torch.float64).requires_grad_() for k, s in space.shapes().items()}
    mix = space.relax(a, activation)
    genotype = space.discretize(mix)
    hot = space.encode(genotype)
    found = gradient(model(mix), a)
    total = float(model(hot))
    expected = torch.full((), total, dtype=torch.float64)
    reached: list[tuple[str, Any]] = []
    for key, place, edge in kept(space, hot):
        names = space.edge_operations(key)[edge]
        own = [k for k in range(len(names)) if names[k] != "none"]
        costs = []
        for k in own:
            other = {n: x.clone() for n, x in hot.items()}
            other[key][place if space.places(key) > 1 else slice(None), edge] = torch.eye(len(names))[k]
            network = space.network(space.discretize(other), 7, **size)
            costs.append(counts.network(network, space.example(1, shape)) - total)
        logits = a[key][place] if space.places(key) > 1 else a[key]
        weights = activation(logits[edge])[own]
        expected = expected + (weights / weights.sum() * torch.tensor(costs, dtype=torch.float64)).sum()
        reached.append((key, edge))
    assert reached
    torch.testing.assert_close(model(mix), expected, rtol=1e-12, atol=0)
    naive = gradient(expected, a)
    torch.testing.assert_close(found, naive, rtol=1e-9, atol=1e-9 * total)


def kept(space: Space, hot: Tree) -> list[tuple[str, int, int]]:
    """(name, place, edge) of every operation of a genotype."""
    return [
        (key, place, edge)
        for key in space.cells()
        if space.edge_operations(key)
        for place in range(space.places(key))
        for edge in (hot[key][place].sum(-1) > 0).nonzero().flatten().tolist()
    ]


def test_searched_edges_count_with_the_weights_of_their_pairs() -> None:
    space, size, shape = COUNTED["darts_searched"]
    model = space.cost_model(Counts("params"), 7, shape, **size)
    gen = torch.Generator().manual_seed(2)
    a = {k: torch.randn(s, generator=gen, dtype=torch.float64) for k, s in space.shapes().items()}
    drawn = []
    for _ in range(400):  # pairs by their weights, operations by theirs
        hot = dict(a)
        for kind in ("normal", "reduce"):
            parts = zip(a[f"{kind}.pair"][0].split([1, 3, 6, 10]), (0, 1, 4, 10), strict=True)
            pairs = [small.softmax(part).multinomial(1, generator=gen) + start for part, start in parts]
            hot[f"{kind}.pair"] = torch.zeros(1, 20, dtype=torch.float64).index_fill(1, torch.cat(pairs), 50.0)
            rows = a[kind].clone()
            rows[:, 0] = -torch.inf  # none is never chosen
            choice = small.softmax(rows).multinomial(1, generator=gen)
            hot[kind] = torch.zeros_like(rows).scatter(1, choice, 50.0)
        drawn.append(float(model(space.encode(space.discretize(space.relax(hot, small.softmax))))))
    costs = torch.tensor(drawn, dtype=torch.float64)
    error = float(costs.std() / len(drawn) ** 0.5)
    assert abs(float(model(space.relax(a, small.softmax))) - float(costs.mean())) < 4 * error


@pytest.mark.slow
def test_the_greedy_swap_reaches_every_target_that_can_be_reached_and_keeps_the_edges() -> None:
    for name in ("nb201", "darts"):
        space, size, shape = COUNTED[name]
        model = space.cost_model(Counts("macs"), 7, shape, **size)
        mix = {k: x.detach() for k, x in small.mixture(space, 3).items()}
        mix = {k: x[:1].expand_as(x) if space.places(k) == 1 else x for k, x in mix.items()}
        start = space.encode(space.discretize(mix))
        most = float(model(start))
        same = nearest(space, mix, model, most)
        assert same is not None
        assert space.discretize(same) == space.discretize(mix)
        for share in (0.9, 0.4):
            target = model.fixed + share * (most - model.fixed)  # type: ignore[attr-defined]
            found = nearest(space, mix, model, target)
            if name == "nb201":
                assert found is not None
            if found is not None:
                hot = space.encode(space.discretize(found))
                assert float(model(hot)) <= target
                assert kept(space, hot) == kept(space, start)
        assert nearest(space, mix, model, model.fixed - 1) is None  # type: ignore[attr-defined]


def test_the_nearest_cell_of_one_swap_is_the_one_that_loses_least() -> None:
    space = Nb201()
    model = space.cost_model(Counts("params"), 10, (3, 32, 32))
    row = torch.tensor([0.1, 0.2, 0.15, 0.5, 0.05])
    mix = {"cell": row.repeat(15, 6, 1)}
    mix["cell"][:, 4] = torch.tensor([0.1, 0.38, 0.1, 0.4, 0.02])
    found = nearest(space, mix, model, params(int("333333", 5)) - 1)
    assert found is not None
    assert space.discretize(found).operations() == {"nor_conv_3x3": 5, "skip_connect": 1}
    assert int((found["cell"][0].argmax(-1) == 1).nonzero()) == 4


# ------------------------------------------------------------------------------------------------------ penalties
@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.sample(7)
def test_a_penalty_joins_every_method_s_architecture_gradient(name: str) -> None:
    ends = []
    for size in (0.0, 1.0):
        method = BUILT[name]
        problem = toy.Watched(toy.Smooth(noise=0.1, activation=method.activate))
        search = toy.search(problem, a=method.start(problem.a0()), lr=0.1, a_lr=0.01)
        search.epoch, search.epochs = 1, 3
        pull = {k: size * torch.arange(x.numel(), dtype=x.dtype).reshape(x.shape) for k, x in search.a.items()}
        search.arch_penalty = lambda a, pull=pull: pull
        method.step(search, [toy.Smooth().batch(s) for s in range(1, 1 + method.train_batches)], toy.Smooth().batch(9))
        ends.append(({k: x.detach().clone() for k, x in search.a.items()}, pull))
    (plain, _), (pulled, pull) = ends
    for k, x in plain.items():
        moved = torch.zeros_like(x) if name in MOVES_NO_ARCHITECTURE else -0.01 * pull[k]
        torch.testing.assert_close(pulled[k] - x, moved)


@pytest.mark.parametrize("form", WEIGHTS)
@pytest.mark.parametrize("target", [0.6, 1.0])
@pytest.mark.sample(4)
def test_the_gradient_is_that_of_the_published_objective(form: Any, target: float) -> None:
    search = small.search(Nb201(layers=1, channels=2), seed=1)
    problem = search.problem
    assert isinstance(problem, RelaxedProblem)
    limit = Budget(quantity="params", target=target, form=form, weight=0.3).open(problem, Table(), (3, 16, 16))
    loss = problem.outcome(search.w, problem.relax(search.a), small.batch(0, size=16)).loss
    expected = limit.device_model(problem.relax(search.a))
    t = torch.tensor(limit.target, dtype=torch.float64)
    factor, added = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    if form == "hinge":
        added = 0.3 * (expected / t - 1).clamp(min=0)
    elif form == "linear":
        added = 0.3 * (expected - t) / t
    elif form == "logarithmic":
        factor = (expected.log() / t.log()) ** 0.3
    else:
        factor = (expected / t) ** 0.3
    whole = gradient(loss * factor + added, search.a, retain=True)
    own = {k: g + limit.penalty(search.a)[k] for k, g in gradient(loss, search.a).items()}
    torch.testing.assert_close(own, {k: g / factor.detach() for k, g in whole.items()}, rtol=1e-10, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- targets
@pytest.mark.parametrize(
    ("value", "quantity", "amount", "relative"),
    [
        ("5M", "macs", 5e6, False),
        ("2.5k", "params", 2500, False),
        ("1e-1G", "macs", 1e8, False),
        (300, "params", 300, False),
        (0.4, "macs", 0.4, True),
        (1, "latency", 1, True),
        ("3ms", "latency", 3, False),
        ("800us", "latency", 0.8, False),
        ("0.5 s", "latency", 500, False),
        (1.5, "latency", 1.5, False),
    ],
)
def test_targets(value: Any, quantity: str, amount: float, relative: bool) -> None:
    found = budgets.target(value, quantity)
    assert (pytest.approx(amount), relative) == found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["budget=macs", "budget.target=5X"], "budget.target=5X: has the unknown unit 'X' for multiply-adds"),
        (["budget=macs", "budget.target=3ms"], "unknown unit 'ms'"),
        (["budget=macs", "budget.target=-1"], "budget.target=-1: is not a positive number"),
        (["budget=params", "budget.target=0"], "budget.target=0: is not a positive number"),
        (["budget=params", "budget.target=much"], "is not a positive number"),
        (["budget=params", "budget.target=true"], "budget.target=true: must be a number, or text"),
        (["budget=params", "budget.weight=0"], "budget.weight=0: must be above 0"),
        (["budget=params", "budget.form=cubic"], "budget.form=cubic: must be one of hinge"),
        (["budget=macs", "space=darts_rnn"], "budget=macs: applies only to image networks"),
        (["budget=macs", "stages=drnas_nb201", "method=drnas"], "is a fraction of the mean, but the mean differs"),
        (["budget=macs", "budget.stem=imagenet"], "networks of nb201 support only stem"),
        (["budget=macs", "space=nb1shot1_1", "budget.layers=4"], "cells cannot be divided evenly among 3 stacks"),
        (["budget=latency"], "has no latencies for raspi4"),
        (["budget=latency", "space=darts"], "latencies of this device are available only for NAS-Bench-201"),
    ],
)
@pytest.mark.sample(4)
def test_faults_of_the_command_line(words: list[str], told: str) -> None:
    assert told in "\n".join(faults("dataset=digits", *words))


def test_torch_is_not_imported_for_them() -> None:
    words = ["search", "dataset=digits", "budget=macs", "budget.target=5X", "space=darts"]
    code = (
        f"import sys; from nasx.cli import main as cli\ntry: cli.main({words})\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 False"
    assert "budget.target=5X: has the unknown unit 'X'" in done.stderr
