"""Steps of methods against the authors' released code, in float64, from the same weights, logits, batches and noise."""

from __future__ import annotations

import parity
import pytest
import torch
from parity import BOUND, Spy, error
from torch import Tensor

from nasx.core.bilevel import Batch, Outcome, Search, Tree, combine, detached, gradient, gradients, norm, step_length
from nasx.methods.beta_darts import BetaDarts
from nasx.methods.darts import Darts
from nasx.methods.drnas import DrNas
from nasx.methods.gdas import Gdas
from nasx.methods.idarts import IDarts
from nasx.methods.lambda_ import Lambda
from nasx.methods.sdarts import Sdarts
from nasx.methods.single import Single
from nasx.methods.snas import Snas
from nasx.methods.tse import Tse
from nasx.methods.wrapper import gumbel

EXECUTORS = pytest.mark.parametrize("naive", [False, True], ids=["merged", "naive"])


def moved(before: Tree, after: Tree) -> Tree:
    return {k: after[k].detach() - before[k].detach() for k in before}


def copied(tree: Tree) -> Tree:
    return {k: x.detach().clone() for k, x in tree.items()}


# ------------------------------------------------------------------------------------------------------- bilevel
@EXECUTORS
def test_darts_of_second_order(naive: bool) -> None:
    """Both gradients with momentum and weight decay, one step of Adam, one clipped step of the weights."""
    fixture = parity.load("darts2")
    search, train, val = parity.search(fixture, naive=naive), fixture.batch("train"), fixture.batch("val")
    mix = detached(search.mixture(search.a, train))
    g = Darts(order=2, radius=0.01).hypergradient(search, train, val)[0]
    assert error(g, fixture.tree("grad_alpha")) < BOUND
    assert error(Darts(order=1).hypergradient(search, train, val)[0], fixture.tree("grad_alpha_first")) < BOUND
    search.descend_a(g)
    assert error(search.a, fixture.tree("alpha_after")) < BOUND
    w, after = copied(search.w), fixture.tree("w_after")
    search.update_w(train, mix)
    assert error(moved(w, search.w), moved(w, after)) < BOUND


def test_beta_darts() -> None:
    """The architecture gradient with and without the penalty, and one step of Adam with it."""
    fixture = parity.load("beta_darts")
    batches = [fixture.batch("train")], fixture.batch("val")
    for epoch, name in ((20, "grad_alpha"), (0, "grad_alpha_plain")):
        search = parity.search(fixture, plain=True)
        before, search.epoch = copied(search.a), epoch
        BetaDarts(growth=0.5, inner=Darts()).step(search, *batches)
        assert error(moved(search.a, before), fixture.tree(name)) < BOUND
    search = parity.search(fixture)
    BetaDarts(growth=0.5, inner=Darts()).step(search, *batches)
    assert error(search.a, fixture.tree("alpha_after")) < BOUND


@EXECUTORS
def test_idarts_as_the_notebook(naive: bool) -> None:
    """v, the mixed product, the hypergradient, and the move of the weights R (v - s), R = radius / ||v||."""
    fixture = parity.load("idarts_released")
    search, train, val = parity.search(fixture, naive=naive, plain=True), fixture.batch("train"), fixture.batch("val")
    method = IDarts(**fixture.meta["method"]["settings"], products="released")
    assert search.lr == fixture.meta["gamma"], "the step of the series is the rate of the weights"
    w, a = copied(search.w), copied(search.a)
    g, _, v, s = method.hypergradient(search, train, val)
    assert error(v, fixture.tree("v")) < BOUND
    mixed = {k: (fixture.tree("direct")[k] - x) / fixture.meta["gamma"] for k, x in g.items()}
    assert error(mixed, fixture.tree("mixed")) < BOUND
    assert error(g, fixture.tree("grad_alpha")) < BOUND
    radius = step_length(v, method.radius)
    assert error(radius, fixture["R"]) < BOUND
    assert error({k: radius * (v[k] - s[k]) for k in v}, fixture.tree("move")) < BOUND
    method.step(search, [train] * 4, val)
    assert error(moved(search.a, a), fixture.tree("grad_alpha")) < BOUND
    assert error(moved(w, search.w), fixture.tree("move")) < BOUND


def test_the_products_of_idarts_differ() -> None:
    """On a network with relu: neither other kind stands for the released one."""
    fixture = parity.load("idarts_released")
    for products in ("exact", "difference"):
        method = IDarts(**fixture.meta["method"]["settings"], products=products)  # type: ignore[arg-type]
        g = method.hypergradient(parity.search(fixture), fixture.batch("train"), fixture.batch("val"))[0]
        assert error(g, fixture.tree("grad_alpha")) > 0.5


# ------------------------------------------------------------------------------------------------------- lambda
@EXECUTORS
@pytest.mark.parametrize("name", ["lambda_darts_cosine", "lambda_darts_signed", "lambda_nb201"])
def test_lambda(name: str, naive: bool) -> None:
    """Layer gradients, Lambda, Delta, step, the central difference, and the norm of the whole weight gradient."""
    fixture = parity.load(name)
    search, train = parity.search(fixture, naive=naive), fixture.batch("train")
    method = Lambda(**fixture.meta["method"]["settings"])
    mix = detached(search.mixture(search.a, train), requires_grad=True)
    loss = search.problem.outcome(search.w, mix, train).loss
    g_w, g_mix = gradients(loss, search.w, mix)
    assert error(loss, fixture["loss"]) < BOUND
    assert error(g_mix, fixture.tree("grad_mix")) < BOUND
    value, delta = method.align(search, g_mix)
    if method.alignment == "cosine":  # the release reports the cosine in both variants
        assert error(value, fixture["alignment"]) < BOUND
        assert error(g_w, fixture.tree("grad_w")) < BOUND
    expected = fixture.tree("delta")
    assert error({k: delta[k] for k in expected}, expected) < BOUND
    assert all(not x.any() for k, x in delta.items() if k not in expected), "reduction cells are left alone"
    assert error(step_length(delta, method.eps0), fixture["eps"]) < BOUND
    penalty = method.penalty(search, train, mix, delta, g_w)
    assert error(penalty, fixture.tree("penalty")) < BOUND
    assert method.coefficient(search) == method.strength
    assert error(norm(combine(g_w, penalty, -method.strength)), fixture["total_norm"]) < BOUND


def test_lambda_one_sided() -> None:
    """Steps take the two sides by turns, + first."""
    fixture = parity.load("lambda_darts_one_sided")
    search, train = parity.search(fixture), fixture.batch("train")
    method = Lambda(**fixture.meta["method"]["settings"])
    mix = detached(search.mixture(search.a, train), requires_grad=True)
    g_w, g_mix = gradients(search.problem.outcome(search.w, mix, train).loss, search.w, mix)
    _, delta = method.align(search, g_mix)
    for search.updates, side in enumerate(("plus", "minus")):
        assert error(method.penalty(search, train, mix, delta, g_w), fixture.tree(f"penalty_{side}")) < BOUND


# ------------------------------------------------------------------------------------------------- single level
def test_tse_as_the_listing_of_appendix_d() -> None:
    """Chunks of 3, 3 and 2 batches, momentum not restored: summed gradients, logits, weights, momentum."""
    fixture = parity.load("tse")
    search, batches, totals = parity.search(fixture), fixture.batches(), []
    method, descend = Tse(**fixture.meta["method"]["settings"]), search.descend_a
    search.descend_a = lambda g: (totals.append(g), descend(g))[1]  # type: ignore[method-assign,func-returns-value]
    for i, count in enumerate(fixture.meta["chunks"]):
        chunk, batches = batches[:count], batches[count:]
        method.step(search, chunk, chunk[0])
        assert error(totals[i]["cell"], fixture["grad_alpha_chunks"][i]) < BOUND
        assert error(search.a["cell"], fixture["alpha_chunks"][i]) < BOUND
    assert error(search.w, fixture.tree("w_after")) < BOUND
    buffers = {k: search.w_opt.state[x]["momentum_buffer"] for k, x in search.w.items()}
    assert error(buffers, fixture.tree("momentum_after")) < BOUND


def test_single() -> None:
    """Six steps with a sigmoid: losses, logits, weights."""
    fixture = parity.load("single")
    method = Single()
    search = parity.search(fixture, method.activate)
    assert error(method.start(search.a), fixture.tree("alpha")) < 1e-15
    for i, batch in enumerate(fixture.batches()):
        g = gradient(search.loss(detached(search.w), search.a, batch), search.a)
        assert error(g["cell"], fixture["grad_alpha_steps"][i]) < BOUND
        logged = method.step(search, [batch], batch)
        assert error(logged["train_loss"], fixture["losses"][i]) < BOUND
        assert error(search.a["cell"], fixture["alpha_steps"][i]) < BOUND
    assert error(search.w, fixture.tree("w_after")) < BOUND


# ---------------------------------------------------------------------------------------------- drawn mixtures
@EXECUTORS
@pytest.mark.parametrize("name", ["drnas", "drnas_partial"])
def test_drnas(name: str, naive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients at the stored Dirichlet sample (torch's own depends on its version), and the KL term."""
    fixture, spy = parity.load(name), Spy()
    search, train = parity.search(fixture, naive=naive), fixture.batch("train")
    method = DrNas(kl=fixture.meta["method"]["settings"]["kl"], inner=spy)
    monkeypatch.setattr(torch, "_sample_dirichlet", lambda *given, **more: fixture["sample"])
    method.step(search, [train], train)
    (seen,) = spy.seen
    assert error(seen.mix["cell"][0], fixture["sample"]) < BOUND
    assert error(seen.loss, fixture["loss"]) < BOUND
    assert error(seen.grad_w, fixture.tree("grad_w")) < BOUND
    assert error(seen.grad_a, fixture.tree("grad_alpha")) < BOUND
    assert error(method.penalty(search.a), fixture.tree("grad_alpha_kl")) < BOUND


@EXECUTORS
def test_snas(naive: bool) -> None:
    fixture, spy = parity.load("snas"), Spy()
    search, train = parity.search(fixture, naive=naive), fixture.batch("train")
    drawn = gumbel(search.a["cell"].detach(), torch.Generator().manual_seed(train.seed))
    assert error(drawn, fixture["gumbel"]) < 1e-15
    tau = fixture.meta["method"]["tau"]
    Snas(tau_max=tau, tau_min=tau, inner=spy).step(search, [train], train)
    assert error(spy.seen[0].loss, fixture["loss"]) < BOUND
    assert error(spy.seen[0].grad_w, fixture.tree("grad_w")) < BOUND
    assert error(spy.seen[0].grad_a, fixture.tree("grad_alpha")) < BOUND


@EXECUTORS
@pytest.mark.parametrize(("reading", "expected"), [("released", "grad_alpha"), ("sampled", "grad_alpha_sampled")])
@pytest.mark.parametrize("name", ["gdas_tau10", "gdas_tau1", "gdas_tau01"])
def test_gdas(name: str, reading: str, expected: str, naive: bool) -> None:
    """The bare weights of operations that were not sampled have a gradient in the release for NAS-Bench-201, and none
    in the release for the DARTS space."""
    fixture, spy = parity.load(name), Spy()
    search, train = parity.search(fixture, naive=naive), fixture.batch("train")
    tau = fixture.meta["method"]["tau"]
    Gdas(tau_max=tau, tau_min=tau, gradient=reading, inner=spy).step(search, [train], train)  # type: ignore[arg-type]
    (seen,) = spy.seen
    assert seen.mix["cell"][0].argmax(-1).equal(fixture["sampled"])
    assert error(search.problem.supernet(train.x, seen.mix).main, fixture["logits"]) < BOUND  # type: ignore[attr-defined]
    assert error(seen.loss, fixture["loss"]) < BOUND
    assert error(seen.grad_w, fixture.tree("grad_w")) < BOUND
    assert error(seen.grad_a, fixture.tree(expected)) < BOUND


def test_the_three_gradients_of_gdas_differ() -> None:
    """Each from the two others by more than a tenth, at every temperature: none stands for another."""
    for name in ("gdas_tau10", "gdas_tau1", "gdas_tau01"):
        fixture, spy = parity.load(name), Spy()
        tau = fixture.meta["method"]["tau"]
        for reading in ("released", "sampled", "straight_through"):
            Gdas(tau_max=tau, tau_min=tau, gradient=reading, inner=spy).step(  # type: ignore[arg-type]
                parity.search(fixture), [fixture.batch("train")], fixture.batch("train")
            )
        released, sampled, through = (seen.grad_a for seen in spy.seen)
        assert min(error(through, released), error(through, sampled), error(sampled, released)) > 0.1


# -------------------------------------------------------------------------------------------------- perturbation
def watched(search: Search) -> list[tuple[Tensor, Tree]]:
    """(loss, mixture) of each real weight update of a search, filled as it steps."""
    found: list[tuple[Tensor, Tree]] = []
    outcome = search.problem.outcome

    def spy(w: Tree, mix: Tree, batch: Batch, *, track: bool = False, evaluation: bool = False) -> Outcome:
        result = outcome(w, mix, batch, track=track, evaluation=evaluation)
        if track:
            found.append((result.loss.detach(), {k: x.detach() for k, x in mix.items()}))
        return result

    search.problem.outcome = spy  # type: ignore[method-assign]
    return found


@EXECUTORS
def test_sdarts_random(naive: bool) -> None:
    """One step: the clean architecture gradient, the step of Adam, the perturbed mixture, the weight step there."""
    fixture = parity.load("sdarts_random")
    train, val, eps = fixture.batch("train"), fixture.batch("val"), fixture.meta["eps"]
    uniform = torch.rand((6, 5), generator=torch.Generator().manual_seed(train.seed), dtype=torch.float64)
    assert error(uniform, fixture["uniform"]) < 1e-15
    search = parity.search(fixture, naive=naive)
    assert error(Darts().hypergradient(search, train, val)[0], fixture.tree("grad_alpha")) < BOUND
    w, seen = copied(search.w), watched(search)
    Sdarts(eps_start=eps, eps_end=eps, inner=Darts()).step(search, [train], val)
    assert error(search.a, fixture.tree("alpha_after")) < BOUND
    assert error(seen[0][1]["cell"][0], fixture["mixture"]) < BOUND
    assert error(seen[0][0], fixture["loss"]) < BOUND
    assert error(moved(w, search.w), moved(w, fixture.tree("w_after"))) < BOUND


READINGS = {
    "released": (True, "eval"),
    "batch_statistics_random_start": (True, "train"),
    "batch_statistics": (False, "train"),
}


@EXECUTORS
@pytest.mark.parametrize("reading", READINGS)
def test_sdarts_adversarial(reading: str, naive: bool) -> None:
    """The three readings of the ascent. In the release running statistics follow each pass in training mode: one on the
    training batch before the step, and in it the validation batch's, which nasx does not track (its deviation 2)."""
    fixture = parity.load("sdarts_adversarial")
    train, val, eps = fixture.batch("train"), fixture.batch("val"), fixture.meta["eps"]
    random_start, ascent = READINGS[reading]
    search = parity.search(fixture, naive=naive, batch_norm="tracked")
    for batch in (train, val):
        search.problem.outcome(search.w, search.problem.relax(search.a), batch, track=True)
    uniform = torch.rand((6, 5), generator=torch.Generator().manual_seed(train.seed), dtype=torch.float64)
    assert error(uniform, fixture["uniform"]) < 1e-15
    assert error(Darts().hypergradient(search, train, val)[0], fixture.tree("grad_alpha")) < BOUND
    w, seen = copied(search.w), watched(search)
    Sdarts(
        perturbation="adversarial",
        random_start=random_start,
        ascent=ascent,
        eps_start=eps,
        eps_end=eps,  # type: ignore[arg-type]
        inner=Darts(),
    ).step(search, [train], val)
    assert error(search.a, fixture.tree("alpha_after")) < BOUND
    assert error(seen[0][1]["cell"][0], fixture[f"mixture_{reading}"]) < BOUND
    assert error(seen[0][0], fixture[f"loss_{reading}"]) < BOUND
    if f"w_after_{reading}" in fixture.arrays:
        assert error(moved(w, search.w), moved(w, fixture.tree(f"w_after_{reading}"))) < BOUND
