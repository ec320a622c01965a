"""DrNAS: the Dirichlet sample, its pathwise gradient, the KL penalty, and the sample of each batch."""

from __future__ import annotations

import agree
import pytest
import torch
import torch.nn.functional as F

from nasx.methods.darts import Darts
from nasx.methods.drnas import DrNas, dirichlet
from nasx.methods.tse import Tse

import toy
from reference import methods

DRNAS = DrNas(inner=Darts())


def sample(seed: int, a: toy.Tree) -> toy.Tree:
    """One sample a name, drawn from the batch's seed as torch's own distribution draws it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {k: torch.distributions.Dirichlet(F.elu(x) + 1).rsample() for k, x in a.items()}


def test_samples_have_the_mean_and_the_gradient_of_the_mean() -> None:
    """E x_i = c_i / C and d E x_0 / d c_0 = (C - c_0) / C^2, c = elu(a) + 1: within four standard errors of 20,000."""
    logits, n = toy.real([0.5, -0.5, 0.0]).requires_grad_(), 20000
    torch.manual_seed(0)
    x = dirichlet(logits.expand(n, 3)).rsample()
    c = F.elu(logits.detach()) + 1
    assert bool(((x.mean(0) - c / c.sum()).abs() < 4 * x.detach().std(0) / n**0.5).all())
    leaf = logits.detach().expand(n, 3).clone().requires_grad_()
    torch.manual_seed(1)
    (g,) = torch.autograd.grad(dirichlet(leaf).rsample()[:, 0].sum(), leaf)
    expected = (c.sum() - c[0]) / c.sum().square() * 1.0  # d c_0 / d a_0 = 1 for a_0 > 0
    assert abs(float(g[:, 0].mean() - expected)) < 4 * float(g[:, 0].std()) / n**0.5


def test_step_equals_the_reference_at_samples_of_each_batch() -> None:
    problem = toy.Smooth()
    search, train, val = toy.search(problem, lr=0.1), problem.batch(1), problem.batch(2)
    w, a = problem.w0(), problem.a0()

    def loss(w: toy.Tree, a: toy.Tree) -> torch.Tensor:
        return problem.value(w, {"a": sample(val.seed, a)["a"].expand(2, 2, 3)}, val)

    da = methods.darts1(loss, w, a)
    a = {k: a[k] - da[k] for k in a}
    mix = {"a": sample(train.seed, a)["a"].expand(2, 2, 3)}
    dw, _ = methods.single({"train": agree.mixed_loss(problem, train)}, w, mix, "same_batch")
    state = torch.get_rng_state()
    DRNAS.step(search, [train], val)
    assert torch.equal(state, torch.get_rng_state()), "the global generator stays where it was"
    assert agree.relative(search.a, a) < 1e-10
    assert agree.relative(toy.unflat(search.grads_w[0], w), dw) < 1e-10


def test_tse_inside_sums_gradients_at_the_samples_of_its_batches() -> None:
    """TSE-DrNAS: pass 1 with old logits, pass 2 with new ones, each batch's draw the same in both."""
    problem = toy.Smooth()
    batches = [problem.batch(seed) for seed in (1, 2, 3)]
    search = toy.search(problem, lr=0.1)
    losses = [lambda w, a, b=b: problem.value(w, {"a": sample(b.seed, a)["a"].expand(2, 2, 3)}, b) for b in batches]
    expected = methods.tse_step(losses, problem.w0(), problem.a0(), lambda a, g: {k: a[k] - g[k] for k in a}, lr=0.1)
    DrNas(inner=Tse(T=3)).step(search, batches, problem.batch(9))
    assert agree.relative(search.a, expected[1]) < 1e-10
    assert agree.relative(search.w, expected[0]) < 1e-10


def test_penalty_is_the_gradient_of_the_divergence_from_the_uniform_distribution() -> None:
    """KL(Dir(c) || Dir(1)) = ln G(C) - sum ln G(c) - ln G(K) + sum (c - 1)(psi(c) - psi(C)), summed over edges."""
    a = toy.Smooth().a0()
    leaf = a["a"].clone().requires_grad_()
    c = F.elu(leaf) + 1
    total = c.sum(-1, keepdim=True)
    kl = (
        torch.lgamma(total[:, 0])
        - torch.lgamma(c).sum(-1)
        - torch.lgamma(toy.real([3.0]))
        + ((c - 1) * (torch.digamma(c) - torch.digamma(total))).sum(-1)
    ).sum()
    (expected,) = torch.autograd.grad(0.1 * kl, leaf)
    torch.testing.assert_close(DrNas(inner=Darts(), kl=0.1).penalty(a)["a"], expected, rtol=1e-10, atol=1e-14)
    search, twin = toy.search(toy.Smooth()), toy.search(toy.Smooth())
    for each, method in ((search, DrNas(inner=Darts(), kl=0.1)), (twin, DRNAS)):
        method.step(each, [toy.Smooth().batch(1)], toy.Smooth().batch(2))
    torch.testing.assert_close(twin.a["a"].detach() - search.a["a"].detach(), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("space", ["nb201", "darts"])
def test_real_mixtures_are_samples_shared_by_the_cells(space: str) -> None:
    search = agree.real_search(space)
    seen = []
    outcome = search.problem.outcome
    search.problem.outcome = lambda w, mix, batch, **more: (seen.append(mix), outcome(w, mix, batch, **more))[1]  # type: ignore
    DRNAS.step(search, [agree.TRAIN], agree.VAL)
    for mix in seen:
        for x in mix.values():
            torch.testing.assert_close(x.sum(-1), torch.ones(x.shape[:-1], dtype=x.dtype))
            assert torch.equal(x[0], x[-1])
