"""Single-DARTS: simultaneous steps from one point, the three modes, the two activations."""

from __future__ import annotations

import math
from types import SimpleNamespace

import agree
import pytest
import torch

from nasx.core.bilevel import Search
from nasx.methods.single import Single
from nasx.searcher.optimizers import architecture_optimizer

import toy
from reference import methods

MODES = methods.SINGLE_MODES


def single(mode: str) -> Single:
    return Single(mode=mode, activation="softmax", initial=None)  # type: ignore[arg-type]


def test_quadratic() -> None:
    problem = toy.Quadratic()
    search = toy.search(problem, lr=0.1)
    Single().step(search, [toy.TRAIN], toy.VAL)
    agree.near(search.grads_a[0], toy.QUADRATIC["single_a"])
    agree.near(search.grads_w[0], toy.QUADRATIC["single_w"])
    agree.near(search.w, toy.flat(problem.w0()) - 0.1 * toy.real(toy.QUADRATIC["single_w"]))
    agree.near(search.a, toy.flat(problem.a0()) - toy.real(toy.QUADRATIC["single_a"]))


def test_quadratic_modes_differ_in_the_architecture_s_batch_alone() -> None:
    search = toy.search(toy.Quadratic())
    single("other_split").step(search, [toy.TRAIN], toy.VAL)
    agree.near(search.grads_a[0], toy.QUADRATIC["darts1"]["w0"])
    agree.near(search.grads_w[0], toy.QUADRATIC["single_w"])


@pytest.mark.parametrize("space", [None, "nb201", "darts"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.sample(4)
def test_both_gradients_are_those_of_one_point(mode: str, space: str | None) -> None:
    """Plain SGD on both: the moves over the rates are the reference's gradients at the same (w, a)."""
    if space is None:
        problem = toy.Smooth(noise=0.1)
        search: Search = toy.search(problem, lr=0.1)
        batches = [problem.batch(seed) for seed in (1, 2, 3)]
    else:
        search = agree.real_search(space)
        batches = [agree.small.batch(seed, size=8) for seed in (1, 2, 3)]
    train, other, val = batches
    losses = {
        "train": agree.loss(search.problem, train),
        "other_train": agree.loss(search.problem, other),
        "val": agree.loss(search.problem, val),
    }
    w, a = agree.copied(search.w), agree.copied(search.a)
    dw, da = methods.single(losses, w, a, mode)
    single(mode).step(search, batches[: single(mode).train_batches], val)
    assert agree.relative({k: (w[k] - x.detach()) / search.lr for k, x in search.w.items()}, dw) < 1e-10
    assert agree.relative({k: a[k] - x.detach() for k, x in search.a.items()}, da) < 1e-10


def test_modes_draw_what_they_use() -> None:
    assert [single(mode).train_batches for mode in MODES] == [1, 2, 1]
    assert [single(mode).steps_w for mode in MODES] == [1, 1, 1]
    for mode, expected in zip(MODES, [{1}, {1, 2}, {1, 3}], strict=True):
        watched = toy.Watched(toy.Smooth())
        batches = [watched.problem.batch(seed) for seed in (1, 2)]  # type: ignore[attr-defined]
        method = single(mode)
        method.step(toy.search(watched), batches[: method.train_batches], watched.problem.batch(3))  # type: ignore[attr-defined]
        assert set(watched.seeds) == expected


def test_initial_values() -> None:
    a = {"a": toy.real([1.0, 2.0, 3.0])}
    method = Single()
    start = method.start(a)
    agree.near(method.activate(start["a"]), [1 / 8] * 3, 1e-15)
    five = Single(initial=-math.log(4))
    agree.near(five.activate(five.start(a)["a"]), [1 / 5] * 3, 1e-15)
    assert agree.same(Single(initial=None).start(a), a)
    zero = Single(initial=0.0)
    agree.near(zero.activate(zero.start(a)["a"]), [0.5] * 3, 0)


def test_activations() -> None:
    logits = toy.real([0.3, -0.2, 1.5])
    assert torch.equal(Single().activate(logits), torch.sigmoid(logits))
    assert torch.equal(Single(activation="softmax").activate(logits), torch.softmax(logits, -1))


def test_the_architecture_s_sgd_has_momentum_and_weight_decay() -> None:
    """Tables 4 and 5 (section 5.3): a_1 = a_0 - r (g + d a_0), then a_2 = a_1 - r (m (g + d a_0) + g + d a_1)."""
    settings = SimpleNamespace(arch_optimizer="sgd", arch_lr=0.005, arch_momentum=0.9, arch_weight_decay=3e-4)
    problem = toy.Smooth()
    search = toy.search(problem)
    search.a_opt = architecture_optimizer(search.a, settings)
    a, buffer = agree.copied(search.a)["a"], torch.zeros(2, 3, dtype=torch.float64)
    for seed in (1, 2, 3):
        loss = agree.loss(problem, problem.batch(seed))
        g = methods.single({"train": loss}, search.w, search.a, "same_batch")[1]["a"]
        buffer = 0.9 * buffer + g + 3e-4 * a
        a = a - 0.005 * buffer
        Single(activation="softmax", initial=None).step(search, [problem.batch(seed)], problem.batch(9))
        torch.testing.assert_close(search.a["a"].detach(), a, rtol=0, atol=1e-15)
