"""FairDARTS, GAEA, ReinMax, conjugate gradients and SAMA: the defining equation of each, in float64."""

from __future__ import annotations

import agree
import pytest
import torch
from agree import gumbel

from nasx.methods.cg import ConjugateGradient
from nasx.methods.darts import Darts
from nasx.methods.fair_darts import FairDarts
from nasx.methods.gaea import Gaea
from nasx.methods.reinmax import ReinMax, estimated
from nasx.methods.sama import Sama

import toy


def test_fair_darts_adds_the_derivative_of_the_zero_one_loss() -> None:
    problem = toy.Smooth()
    ends = []
    for method in (FairDarts(inner=Darts(), weight=10.0), Darts()):
        search = toy.search(problem)
        method.step(search, [problem.batch(1)], problem.batch(2))
        ends.append(search.a["a"].detach())
    leaf = problem.a0()["a"].clone().requires_grad_()
    loss = -10.0 * (torch.sigmoid(leaf) - 0.5).square().mean()
    (expected,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(ends[1] - ends[0], expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(FairDarts(inner=Darts()).activate(leaf), torch.sigmoid(leaf))


def test_gaea_multiplies_the_weights_by_the_exponential_of_their_gradient() -> None:
    """Algorithm 1, with the gradient by the mixture summed over the cells that share it."""
    problem = toy.Smooth()
    search = toy.search(problem, a_lr=0.3)
    train, val = problem.batch(1), problem.batch(2)
    mix = {"a": torch.softmax(search.a["a"].detach(), -1).expand(2, 2, 3).clone().requires_grad_()}
    (g,) = torch.autograd.grad(problem.value(problem.w0(), mix, val), mix["a"])
    p = torch.softmax(search.a["a"].detach(), -1) * torch.exp(-0.3 * g.sum(0))
    Gaea(inner=Darts()).step(search, [train], val)
    torch.testing.assert_close(
        torch.softmax(search.a["a"].detach(), -1), p / p.sum(-1, keepdim=True), rtol=0, atol=1e-14
    )
    assert not Gaea(inner=Darts()).start(search.a)["a"].any()


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_reinmax_is_the_formula_and_unbiased_for_quadratic_losses(tau: float) -> None:
    """2 J(q) g - J(p) g / 2; its mean over samples is d/da sum of p_D L(D) if L is quadratic and tau = 1."""
    gen = torch.Generator().manual_seed(0)
    Q, b, a = (torch.randn(shape, generator=gen, dtype=torch.float64) for shape in ((4, 4), (4,), (4,)))

    def loss(x: torch.Tensor) -> torch.Tensor:
        return x @ Q @ x / 2 + b @ x

    def J(x: torch.Tensor) -> torch.Tensor:
        return torch.diag(x) - torch.outer(x, x)

    p, total, straight = torch.softmax(a, -1), torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for k in range(4):
        hot = torch.eye(4, dtype=torch.float64)[k]
        leaf = a.clone().requires_grad_()
        D = estimated(leaf, hot, tau)
        torch.testing.assert_close(D.detach(), hot, rtol=0, atol=1e-15)
        (found,) = torch.autograd.grad(loss(D), leaf)
        g, q = (Q + Q.T) @ hot / 2 + b, (torch.softmax(a / tau, -1) + hot) / 2
        torch.testing.assert_close(found, 2 * J(q) @ g - J(p) @ g / 2, rtol=1e-12, atol=1e-13)
        total, straight = total + p[k] * found, straight + p[k] * (J(p) @ g)
    leaf = a.clone().requires_grad_()
    (exact,) = torch.autograd.grad(
        (torch.softmax(leaf, -1) * torch.stack([loss(x) for x in torch.eye(4).double()])).sum(), leaf
    )
    assert (float((total - exact).norm() / exact.norm()) < 1e-12) == (tau == 1)
    assert float((straight - exact).norm() / exact.norm()) > 0.01, "the straight-through estimator is biased here"


def test_reinmax_steps_at_samples_of_the_batches() -> None:
    """The validation loss at the argmax of logits and Gumbel noise of its batch, and that batch's estimator."""
    problem = toy.Smooth()
    search, val = toy.search(problem), problem.batch(2)
    noise = gumbel(val.seed, problem.a0())["a"]
    leaf = problem.a0()["a"].clone().requires_grad_()
    hot = torch.zeros_like(leaf).scatter_(-1, (leaf.detach() + noise).argmax(-1, keepdim=True), 1.0)
    loss = problem.value(problem.w0(), {"a": estimated(leaf, hot, 1.0).expand(2, 2, 3)}, val)
    (expected,) = torch.autograd.grad(loss, leaf)
    ReinMax(inner=Darts()).step(search, [problem.batch(1)], val)
    torch.testing.assert_close(toy.unflat(search.grads_a[0], {"a": leaf})["a"], expected, rtol=1e-12, atol=1e-14)


def test_conjugate_gradients_reach_the_exact_hypergradient() -> None:
    """Two steps solve the two weights of T2; one does not. Damping solves (H + damping) x = v."""
    problem = toy.Quadratic()

    def found(steps: int, damping: float) -> torch.Tensor:
        search = toy.search(problem, w=problem.w_star())
        method = ConjugateGradient(steps=steps, damping=damping)
        return toy.flat(method.hypergradient(search, toy.TRAIN, toy.VAL).g)

    agree.near(found(2, 0.0), toy.QUADRATIC["exact"], 1e-9)
    agree.near(found(9, 0.0), toy.QUADRATIC["exact"], 1e-9)  # steps after convergence change nothing
    assert float((found(1, 0.0) - toy.real(toy.QUADRATIC["exact"])).norm()) > 0.01
    w, a = toy.flat(problem.w_star()), toy.flat(problem.a0())
    x = torch.linalg.solve(toy.A + 0.5 * torch.eye(2).double(), w - toy.C + toy.D @ a)
    agree.near(found(2, 0.5), toy.D.T @ w + toy.RHO * a + toy.B.T @ x, 1e-9)


def test_sama_is_the_mixed_product_with_v() -> None:
    """d/da L2 - M v = D'w + rho a + B'(w - c + D a) on T2, where central differences of any length are exact."""
    problem = toy.Quadratic()
    search = toy.search(problem)
    w, a = toy.flat(problem.w0()), toy.flat(problem.a0())
    expected = toy.D.T @ w + toy.RHO * a + toy.B.T @ (w - toy.C + toy.D @ a)
    agree.near(Sama().hypergradient(search, toy.TRAIN, toy.VAL).g, expected, 1e-10)
