"""SmoothDARTS: radius, random and adversarial perturbation against the reference, with the same draws."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import torch
from torch import Tensor

from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Search, Tree, detached, frozen
from nasx.errors import UserError
from nasx.methods.amended import Amended
from nasx.methods.darts import Darts as First
from nasx.methods.lambda_ import Lambda
from nasx.methods.sdarts import Sdarts, given, normalized
from nasx.searcher.problem import RelaxedProblem
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb201.space import Nb201

import small
import toy
from reference import methods

SDARTS = Sdarts(inner=First())


def operation_weights(search: Search) -> Tree:
    """Softmax of each name that holds operations, in the order of the tree."""
    return {k: torch.softmax(x.detach(), -1) for k, x in search.a.items() if not k.endswith(".edge")}


def drawn(seed: int, p: Tree, eps: float) -> Tree:
    """Uniform noise in (-eps, eps), drawn name by name from the batch's seed."""
    gen = torch.Generator().manual_seed(seed)
    return {k: eps * (2 * torch.rand(x.shape, generator=gen, dtype=torch.float64) - 1) for k, x in p.items()}


def p_loss(search: Search, batch: Any, *, evaluation: bool = False) -> methods.Loss:
    """L(w, p) with p shared by the cells."""
    problem = search.problem
    return lambda w, p: (
        problem.outcome(w, problem.relax(search.a, given(list(p.values()))), batch, evaluation=evaluation).loss
    )


def test_radius_grows_by_epoch() -> None:
    search = toy.search(toy.Smooth())
    search.epochs = 50
    for search.epoch in (0, 25, 49):
        assert SDARTS.eps(search) == methods.sdarts_radius(search.epoch, 50)


def test_weights_are_projected_onto_the_simplex() -> None:
    p = toy.real([[[-0.1, 0.5, 1.5]], [[0.2, 0.3, 0.1]]])
    agree.near(normalized(p), methods.project(p).flatten(), 1e-15)
    agree.near(normalized(p)[0, 0], [0.0, 1 / 3, 2 / 3], 1e-15)


def test_an_edge_that_noise_pushes_below_zero_keeps_its_largest_operation() -> None:
    """Radius 0.3 is larger than 1/5 and 1/8: with eight operations this happens about every other epoch."""
    agree.near(
        normalized(toy.real([-0.2, -0.01, -0.3], [0.0, 0.0, 0.0], [-1.0, 2.0, 1.0])), [0, 1, 0, 1, 0, 0, 0, 0.5, 0.5], 0
    )
    noisy = SDARTS.random(0.3, torch.Generator().manual_seed(0))
    below = [noisy(torch.zeros(2000, 8, dtype=torch.float64)) for _ in range(10)]
    assert any(bool((x.max(-1).values == 1).any()) for x in below)
    assert all(torch.allclose(x.sum(-1), torch.ones(2000, dtype=torch.float64)) for x in below)


def test_random_step_equals_the_reference() -> None:
    """One first-order architecture step, then one weight step at the perturbed mixture of the moved architecture."""
    problem = toy.Smooth()
    search, train, val = toy.search(problem, lr=0.1), problem.batch(1), problem.batch(2)
    search.epoch, search.epochs = 3, 10
    w, a = problem.w0(), problem.a0()
    da = methods.darts1(agree.loss(problem, val), w, a)
    a = {k: a[k] - da[k] for k in a}
    p = {k: torch.softmax(x, -1) for k, x in a.items()}
    noisy = methods.sdarts_random(p, drawn(train.seed, p, methods.sdarts_radius(3, 10)))
    mix = {k: x.expand(2, *x.shape) for k, x in noisy.items()}
    dw, _ = methods.single({"train": agree.mixed_loss(problem, train)}, w, mix, "same_batch")
    SDARTS.step(search, [train], val)
    assert agree.relative(search.a, a) < 1e-12
    assert agree.relative(toy.unflat(search.grads_w[0], w), dw) < 1e-12


@pytest.mark.parametrize("eps", [0.03, 0.3])
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("space", [None, "nb201", "darts"])
@pytest.mark.sample(4)
def test_adversarial_equals_the_reference_and_raises_the_loss(
    space: str | None, random_start: bool, eps: float
) -> None:
    problem = toy.Smooth()
    search: Search = toy.search(problem) if space is None else agree.real_search(space)
    batch = problem.batch(1) if space is None else agree.TRAIN
    p = operation_weights(search)
    expected = methods.sdarts_adversarial(
        p_loss(search, batch), agree.copied(search.w), p, eps, start=drawn(batch.seed, p, eps) if random_start else None
    )
    with frozen(search.w), frozen(search.a):
        got = Sdarts(inner=First(), random_start=random_start).adversarial(search, list(p.values()), eps, batch)
    for x, k in zip(got, p, strict=True):
        torch.testing.assert_close(x, expected[k], rtol=0, atol=1e-12)
    loss, w = p_loss(search, batch), agree.copied(search.w)
    before, after = float(loss(w, p)), float(loss(w, dict(zip(p, got, strict=True))))
    # on the toy problem all slopes of an edge have one sign, so that the projection undoes each step
    assert after > before if space else after >= before


@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_ascent_runs_in_eval_mode_where_it_is_said_to(checkpoint: bool) -> None:
    """By running statistics, which are not the batch's; with cells that are computed again in the backward pass too."""
    space, p = Nb201(layers=1, channels=4, batch_norm="tracked"), None
    found = {}
    for ascent in ("eval", "train"):
        search = small.search(space)
        search.problem = RelaxedProblem(
            space,
            search.problem.supernet,
            small.softmax,  # type: ignore[attr-defined]
            engine=EngineSettings(checkpoint=checkpoint),
        )
        for seed in range(3, 6):
            search.problem.outcome(search.w, search.problem.relax(search.a), small.batch(seed, size=8), track=True)
        buffers = {k: x.clone() for k, x in search.problem.supernet.named_buffers()}
        p = operation_weights(search)
        expected = methods.sdarts_adversarial(
            p_loss(search, agree.TRAIN, evaluation=ascent == "eval"),
            agree.copied(search.w),
            p,
            0.1,
            start=drawn(agree.TRAIN.seed, p, 0.1),
        )
        got = Sdarts(inner=First(), ascent=ascent).adversarial(  # type: ignore[arg-type]
            search, list(p.values()), 0.1, agree.TRAIN
        )
        torch.testing.assert_close(got[0], expected["cell"], rtol=0, atol=1e-12)
        assert agree.same(dict(search.problem.supernet.named_buffers()), buffers), "no statistic has moved"
        assert all(m.training for m in search.problem.supernet.modules())
        found[ascent] = got[0]
    assert float((found["eval"] - found["train"]).abs().max()) > 0.01


def test_adversarial_keeps_the_clean_mixture_where_the_loss_did_not_rise() -> None:
    """At eps = 0 nothing moves; the step is then DARTS' to the last bit."""
    problem = toy.Smooth()
    search, twin = toy.search(problem), toy.search(problem)
    train, val = problem.batch(1), problem.batch(2)
    Sdarts(inner=First(), perturbation="adversarial", eps_start=0.0, eps_end=0.0).step(search, [train], val)
    twin.update_a(val)
    twin.update_w(train)
    assert agree.same(search.a, twin.a)
    assert agree.relative(search.w, twin.w) < 1e-14


@pytest.mark.parametrize("perturbation", ["random", "adversarial"])
def test_edge_weights_are_not_perturbed(perturbation: str) -> None:
    """On a space with edge normalization the weight step sees the edge weights of the logits, unperturbed."""
    search = small.search(Darts(layers=3, channels=8, partial=4, edge_norm=True))
    seen: list[Tree] = []
    outcome = search.problem.outcome

    def spy(w: Tree, mix: Tree, *rest: Any, **more: Any) -> Any:
        if more.get("track"):
            seen.append(mix)
        return outcome(w, mix, *rest, **more)

    search.problem.outcome = spy  # type: ignore[method-assign]
    search.warming = True
    Sdarts(inner=First(), perturbation=perturbation, ascents=1).step(search, [agree.TRAIN], agree.VAL)  # type: ignore[arg-type]
    plain = search.problem.relax(search.a)
    (mix,) = seen
    assert all(torch.equal(mix[k], plain[k].detach()) for k in ("normal.edge", "reduce.edge"))
    totals: Tensor = mix["normal"].sum(-1)
    torch.testing.assert_close(totals, mix["normal.edge"][:, 0], rtol=0, atol=1e-14)
    assert not torch.allclose(mix["normal"], plain["normal"])


# ------------------------------------------------------------------------------------------------- around others
def test_lambda_inside_takes_layer_gradients_and_probes_around_the_noisy_mixture() -> None:
    """Lambda-SDARTS-RS: g_l, Delta and P +- eps Delta at the perturbed P; the penalty by hand from the equation."""
    problem = toy.Smooth()
    search, train, val = toy.search(problem, lr=0.1), problem.batch(1), problem.batch(2)
    search.epoch, search.epochs = 2, 3
    inner = Lambda(strength=0.25, first="weights")
    p = {k: torch.softmax(x.detach(), -1) for k, x in search.a.items()}
    noisy = methods.sdarts_random(p, drawn(train.seed, p, methods.sdarts_radius(2, 3)))
    mix = {k: x.expand(2, *x.shape) for k, x in noisy.items()}
    loss, w = agree.mixed_loss(problem, train), agree.copied(search.w)
    expected = methods.aligned_weight_gradient(loss, w, mix, ["a"], 0.25)
    Sdarts(inner=inner).step(search, [train], val)
    assert agree.relative(toy.unflat(search.grads_w[0], w), expected) < 1e-6
    twin = toy.search(problem, lr=0.1)
    twin.epoch, twin.epochs = 2, 3
    inner.step(twin, [train], val)
    assert agree.relative(toy.unflat(twin.grads_w[0], w), expected) > 1e-2, "the noise matters"


def test_validation_losses_stay_clean() -> None:
    """The amended hypergradient inside: v and d L2 / da at the clean mixture, H and M at the noisy one."""
    problem = toy.Smooth()
    search, train, val = toy.search(problem), problem.batch(1), problem.batch(2)
    seen: list[tuple[int, Tree]] = []
    outcome = problem.outcome

    def spy(w: Tree, mix: Tree, batch: Any, **more: Any) -> Any:
        seen.append((batch.seed, detached(mix)))
        return outcome(w, mix, batch, **more)

    problem.outcome = spy  # type: ignore[method-assign]
    clean = problem.relax(agree.copied(search.a))
    Sdarts(inner=Amended()).step(search, [train], val)
    at = {seed: [mix for own, mix in seen if own == seed] for seed in (train.seed, val.seed)}
    assert all(agree.same(mix, clean) for mix in at[val.seed])
    assert not any(agree.same(mix, clean) for mix in at[train.seed])
    assert len(at[train.seed]) == 5


def test_two_that_draw_exclude_each_other() -> None:
    with pytest.raises(UserError, match="samples the mixture twice"):
        Sdarts(inner=Sdarts(inner=First()))
