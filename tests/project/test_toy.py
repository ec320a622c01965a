"""The expectations of toy.py, derived independently: matrices in numpy, without product or reference code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nasx.core.bilevel import Problem, Tree, dot, gradient

import toy

TABLE = 1e-10  # the table prints ten digits


def close(got: object, expected: object, tolerance: float = TABLE) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=0, atol=tolerance)


# -------------------------------------------------------------------------------------------------- T1 scalar
# L1 = (w - a)^2, L2 = (2w - a)^2 at w = a: H = 2, M = -2, v = 4 (2w - a) = 4a, dL2/da = -2 (2w - a) = -2a.
ALPHA = 0.7
DIRECT, HESSIAN, MIXED, SLOPE = -2 * ALPHA, 2.0, -2.0, 4 * ALPHA


def test_scalar_exact() -> None:
    close(DIRECT - MIXED / HESSIAN * SLOPE, toy.SCALAR["exact"])
    close(DIRECT, toy.SCALAR["darts1"])
    # w*(a) = a, so the outer objective is L2(a, a) = a^2, with derivative 2a
    close(2 * ALPHA, toy.SCALAR["exact"])


@pytest.mark.parametrize(("xi", "expected"), toy.SCALAR["darts2"].items())
def test_scalar_darts2(xi: float, expected: float) -> None:
    close(DIRECT - xi * MIXED * SLOPE, expected)  # the training gradient vanishes at w*, so w' = w


@pytest.mark.parametrize(("eta", "expected"), toy.SCALAR["amended"].items())
def test_scalar_amended(eta: float, expected: float) -> None:
    close(DIRECT - eta * MIXED * HESSIAN * SLOPE, expected)


@pytest.mark.parametrize(("eta", "expected"), toy.SCALAR["amended_wrong_sign"].items())
def test_scalar_amended_wrong_sign(eta: float, expected: float) -> None:
    close(DIRECT + eta * MIXED * HESSIAN * SLOPE, expected)


@pytest.mark.parametrize(("setting", "expected"), toy.SCALAR["idarts"].items())
def test_scalar_idarts(setting: tuple[float, int], expected: float) -> None:
    gamma, terms = setting
    series = sum((1 - gamma * HESSIAN) ** k for k in range(terms + 1))
    close(DIRECT - gamma * MIXED * series * SLOPE, expected)


# ----------------------------------------------------------------------------------------------- T2 quadratic
A, B, C, D = (x.numpy() for x in (toy.A, toy.B, toy.C, toy.D))
a0, w0 = np.array([0.3, -0.2]), np.array([0.5, 0.25])
w_star = np.linalg.solve(A, B @ a0)
POINTS = {"w0": w0, "w_star": w_star}


def direct(a: np.ndarray = a0, w: np.ndarray = w0) -> np.ndarray:
    """dL2/da."""
    return D.T @ w + toy.RHO * a


def slope(w: np.ndarray) -> np.ndarray:
    """v = dL2/dw."""
    return w - C + D @ a0


def idarts(w: np.ndarray, gamma: float, terms: int) -> np.ndarray:
    series = sum(np.linalg.matrix_power(np.eye(2) - gamma * A, k) for k in range(terms + 1))
    return direct(w=w) + gamma * B.T @ series @ slope(w)


def test_quadratic_exact() -> None:
    close(w_star, toy.QUADRATIC["w_star"])
    close(direct(w=w_star) + B.T @ np.linalg.solve(A, slope(w_star)), toy.QUADRATIC["exact"])


@pytest.mark.parametrize("point", POINTS)
def test_quadratic_first_order_and_amended(point: str) -> None:
    w = POINTS[point]
    close(direct(w=w), toy.QUADRATIC["darts1"][point])
    close(direct(w=w) + 0.1 * B.T @ A @ slope(w), toy.QUADRATIC["amended"][point])


def test_quadratic_darts2() -> None:
    xi = 0.1
    plain = w0 - xi * (A @ w0 - B @ a0)
    close(direct(w=plain) + xi * B.T @ slope(plain), toy.QUADRATIC["darts2"])
    buffer, mu, decay = (np.array(toy.QUADRATIC[k]) for k in ("buffer", "momentum", "weight_decay"))
    moved = w0 - xi * (mu * buffer + A @ w0 - B @ a0 + decay * w0)
    close(direct(w=moved) + xi * B.T @ slope(moved), toy.QUADRATIC["darts2_momentum"])


@pytest.mark.parametrize("terms", [0, 1, 2])
def test_quadratic_idarts(terms: int) -> None:
    close(idarts(w_star, 0.1, terms), toy.QUADRATIC["idarts"][terms])


def test_quadratic_idarts_elsewhere() -> None:
    close(idarts(w0, 0.1, 2), toy.QUADRATIC["idarts_w0"])
    w = w0
    for _ in range(5):
        w = w - 0.1 * (A @ w - B @ a0)
    close(w, toy.QUADRATIC["w_after_5"])
    close(idarts(w, 0.1, 2), toy.QUADRATIC["idarts_after_5"])


def test_quadratic_tse() -> None:
    # w_{t+1} = P w_t + lr B a with P = I - lr A; sensitivities J_{t+1} = P J_t + lr B, J_0 = 0
    lr, w, jacobian = 0.1, w0, np.zeros((2, 2))
    first, exact = np.zeros(2), np.zeros(2)
    for _ in range(3):
        first += -B.T @ w
        exact += -B.T @ w + jacobian.T @ (A @ w - B @ a0)
        w, jacobian = w - lr * (A @ w - B @ a0), (np.eye(2) - lr * A) @ jacobian + lr * B
    close(first, toy.QUADRATIC["tse_first_order"])
    close(exact, toy.QUADRATIC["tse_exact"])


def test_quadratic_single() -> None:
    close(-B.T @ w0, toy.QUADRATIC["single_a"])
    close(A @ w0 - B @ a0, toy.QUADRATIC["single_w"])


# ----------------------------------------------------------------------------------------------- T3 alignment
@pytest.mark.parametrize("kind", ["cosine", "signed"])
def test_alignment(kind: str) -> None:
    """g_l = M_l w, the value as a function of w by autograd, the perturbation as its derivative by the g_l."""
    signed = kind == "signed"

    def value(g: Tensor) -> Tensor:
        pairs = [(0, 1), (0, 2), (1, 2)]
        scale = [g[i].abs() @ g[j].abs() if signed else g[i].norm() * g[j].norm() for i, j in pairs]
        return sum(((g[i] @ g[j]) / s for (i, j), s in zip(pairs, scale, strict=True)), torch.zeros(())) / 3

    w = toy.Alignment().w0()["w"].requires_grad_()
    total = value(toy.M @ w)
    close(total.detach(), toy.ALIGNMENT[kind])
    close(torch.autograd.grad(total, w)[0], toy.ALIGNMENT[f"{kind}_gradient"])
    g = (toy.M @ w).detach().requires_grad_()
    (delta,) = torch.autograd.grad(3 * value(g), g)
    close(delta.norm(), toy.ALIGNMENT[f"{kind}_norm"])


@pytest.mark.parametrize("split", [False, True])
def test_alignment_layer_gradients(split: bool) -> None:
    problem = toy.Alignment(split=split)
    mix = {k: x.clone().requires_grad_() for k, x in problem.relax(problem.a0()).items()}
    g = gradient(problem.value(problem.w0(), mix, toy.TRAIN), mix)
    close(torch.cat([g[k].flatten(1) for k in problem.groups[0]], dim=1), toy.M @ problem.w0()["w"], 1e-15)


# ----------------------------------------------------------------------------------- T4 finite differences of it
@pytest.mark.parametrize("radius", [1e-1, 1e-2])
def test_curved_alignment_differences(radius: float) -> None:
    """Along a fixed direction: the central difference is exact, each side errs linearly, their mean is exact."""
    problem = toy.Alignment(curvature=1.0)
    w, p = problem.w0(), problem.relax(problem.a0())["a"]
    direction = toy.real([[[1.0, 0, -1, 2]], [[0.5, 1, 0, 0]], [[-2.0, 1, 1, 0.5]]])

    def slope(eps: float) -> Tensor:
        leaf = {"w": w["w"].clone().requires_grad_()}
        return gradient(problem.value(leaf, {"a": p + eps * direction}, toy.TRAIN), leaf)["w"]

    # d/dp of the weight gradient along the direction q: sum of M_l' q_l + 2 (s'p) (s'q) w
    q = direction.reshape(3, 4)
    exact = torch.einsum("lp,lpw->w", q, toy.M) + 2 * (p.reshape(3, 4) @ toy.S).sum() * (q @ toy.S).sum() * w["w"]
    forward, backward = (slope(radius) - slope(0.0)) / radius, (slope(0.0) - slope(-radius)) / radius
    close((slope(radius) - slope(-radius)) / (2 * radius), exact, 1e-12)
    close((forward + backward) / 2, exact, 1e-12)
    error = radius * (q @ toy.S).sum().square() * w["w"]  # half the second derivative, times eps
    close(forward - exact, error, 1e-12)
    assert error.abs().min() > 1e-3


# ---------------------------------------------------------------------------------------------- T6, T7, Smooth
def test_counterexample() -> None:
    mixed, hessian, v = np.ones(2), toy.H6.numpy(), toy.V6.numpy()
    close(-mixed @ np.linalg.solve(hessian, v), toy.COUNTEREXAMPLE["exact_term"])
    close(-mixed @ hessian @ v, toy.COUNTEREXAMPLE["amended_term_over_eta"])


def test_counterexample_problem_has_these_derivatives() -> None:
    problem = toy.Counterexample()
    w, mix = {k: x.requires_grad_() for k, x in problem.w0().items()}, problem.relax(problem.a0())
    close(gradient(problem.value(w, mix, toy.TRAIN), w)["w"], toy.H6 @ problem.w0()["w"] + 0.3, 1e-15)
    close(gradient(problem.value(w, mix, toy.VAL), w)["w"], toy.V6, 1e-15)


def test_correlation_factorizes() -> None:
    """The double sum over samples is the inner product of the two weight gradients."""
    problem = toy.Correlation()
    w, mix = {k: x.requires_grad_() for k, x in problem.w0().items()}, problem.relax(problem.a0())
    train, val = problem.train(), problem.val()
    g_train, g_val = (problem.residual(w, mix, b).detach() for b in (train, val))
    double_sum = sum(float(g_val[j] @ g_train[k]) * float(val.x[j] @ train.x[k]) for j in range(3) for k in range(2))
    product = dot(gradient(problem.value(w, mix, train), w), gradient(problem.value(w, mix, val), w))
    close(product, double_sum, 1e-12)
    close((g_val.T @ val.x * (g_train.T @ train.x)).sum(), double_sum, 1e-12)


def test_smooth_noise_is_the_batch_seed_s() -> None:
    problem = toy.Smooth(noise=0.5)
    w, mix, batch = problem.w0(), problem.relax(problem.a0()), problem.batch(1)
    first = problem.value(w, mix, batch)
    assert torch.equal(first, problem.value(w, mix, batch))
    assert not torch.equal(first, problem.value(w, mix, batch._replace(seed=2)))


PROBLEMS = [
    toy.Scalar(),
    toy.Quadratic(),
    toy.Alignment(),
    toy.Alignment(split=True),
    toy.Counterexample(),
    toy.Correlation(),
    toy.Smooth(),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: type(p).__name__)
def test_problems_have_the_interface(problem: toy.Toy) -> None:
    bound: Problem = problem
    mix = bound.relax(problem.a0())
    shapes = {k: (problem.cells, *x.shape) for k, x in problem.a0().items()}
    assert {k: tuple(x.shape) for k, x in mix.items()} == shapes
    sampled = bound.sample(torch.Generator().manual_seed(0))
    assert {k: tuple(x.shape) for k, x in sampled.items()} == shapes
    assert all(
        torch.equal(x.sum(-1), torch.ones_like(x[..., 0])) and bool((x.max(-1).values == 1).all())
        for x in sampled.values()
    )
    assert all(set(group) <= set(shapes) for group in problem.groups)


def test_relax_takes_an_activation() -> None:
    problem = toy.Quadratic()
    a = problem.a0()
    assert torch.equal(problem.relax(a)["a"][0], a["a"])
    assert torch.equal(problem.relax(a, torch.sigmoid)["a"][0], torch.sigmoid(a["a"]))


def test_flat_and_unflat_are_inverse() -> None:
    tree: Tree = {"x": toy.real([1.0, 2.0]), "y": toy.real([[3.0], [4.0]])}
    back = toy.unflat(toy.flat(tree), tree)
    assert all(torch.equal(back[k], tree[k]) for k in tree)


def test_recorder_keeps_gradients_before_clipping() -> None:
    recorder = toy.search(toy.Quadratic(), clip=0.1)
    recorder.update_w(toy.TRAIN)
    recorder.update_a(toy.VAL)
    close(recorder.grads_w[0], toy.QUADRATIC["single_w"])
    moved = toy.flat(recorder.a) - torch.from_numpy(a0)
    close(recorder.grads_a[0], -moved, 1e-15)  # plain SGD of rate one


def test_watched_notes_batches() -> None:
    watched = toy.Watched(toy.Quadratic())
    recorder = toy.search(watched)
    recorder.update_w(toy.train(7))
    recorder.update_a(toy.VAL)
    assert watched.seeds == [7, 1000]
    assert watched.tracked == [True, False]
