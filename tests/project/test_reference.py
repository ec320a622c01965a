"""The reference implementations against closed forms, published counts and hand calculations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nasx.core.bilevel import Batch, Tree

import toy
from reference import diagnostics, methods, operations, supernets

TABLE = 1e-10


def loss_of(problem: toy.Toy, batch: Batch) -> methods.Loss:
    """L(w, a)."""
    return lambda w, a: problem.value(w, problem.relax(a), batch)


def mixed_loss(problem: toy.Toy, batch: Batch) -> methods.Loss:
    """L(w, mix)."""
    return lambda w, mix: problem.value(w, mix, batch)


def close(got: object, expected: object, tolerance: float = TABLE) -> None:
    got = toy.flat(got) if isinstance(got, dict) else got
    np.testing.assert_allclose(np.asarray(got).reshape(-1), np.asarray(expected).reshape(-1), rtol=0, atol=tolerance)


# ------------------------------------------------------------------------------------------ methods: T1 scalar
S = toy.Scalar()
S1, S2, SW, SA = loss_of(S, toy.TRAIN), loss_of(S, toy.VAL), S.w0(), S.a0()


def test_scalar_methods() -> None:
    close(methods.darts1(S2, SW, SA), toy.SCALAR["darts1"])
    close(methods.hypergradient_dense(S1, S2, SW, SA), toy.SCALAR["exact"])
    for xi, expected in toy.SCALAR["darts2"].items():
        close(methods.darts2(S1, S2, SW, SA, xi), expected)
    for eta, expected in (toy.SCALAR["amended"] | {-k: x for k, x in toy.SCALAR["amended_wrong_sign"].items()}).items():
        close(methods.amended(S1, S2, SW, SA, eta), expected)
        close(methods.amended_dense(S1, S2, SW, SA, eta), expected)
    for (gamma, terms), expected in toy.SCALAR["idarts"].items():
        close(methods.idarts(S1, S2, SW, SA, gamma, terms), expected)
        close(methods.idarts_dense(S1, S2, SW, SA, gamma, terms), expected)


# --------------------------------------------------------------------------------------- methods: T2 quadratic
P = toy.Quadratic()
Q = toy.QUADRATIC
L1, L2, W0, WS, A0 = loss_of(P, toy.TRAIN), loss_of(P, toy.VAL), P.w0(), P.w_star(), P.a0()


def test_quadratic_methods() -> None:
    close(methods.hypergradient_dense(L1, L2, WS, A0), Q["exact"])
    for point, w in (("w0", W0), ("w_star", WS)):
        close(methods.darts1(L2, w, A0), Q["darts1"][point])
        close(methods.amended(L1, L2, w, A0, 0.1), Q["amended"][point])
        close(methods.amended_dense(L1, L2, w, A0, 0.1), Q["amended"][point])
    close(methods.darts2(L1, L2, W0, A0, 0.1), Q["darts2"])
    buffers = toy.unflat(toy.real(Q["buffer"]), W0)
    close(methods.darts2(L1, L2, W0, A0, 0.1, Q["momentum"], buffers, Q["weight_decay"]), Q["darts2_momentum"])
    for terms, expected in Q["idarts"].items():
        close(methods.idarts(L1, L2, WS, A0, 0.1, terms), expected)
        close(methods.idarts_dense(L1, L2, WS, A0, 0.1, terms), expected)
    after = methods.tse([L1] * 5, W0, A0, lr=0.1).w
    close(after, Q["w_after_5"])
    close(methods.idarts(L1, L2, W0, A0, 0.1, 2), Q["idarts_w0"])
    close(methods.idarts(L1, L2, after, A0, 0.1, 2), Q["idarts_after_5"])


def test_quadratic_tse_and_single() -> None:
    close(methods.tse([L1] * 3, W0, A0, lr=0.1).gradient, Q["tse_first_order"])
    close(methods.tse_exact([L1] * 3, W0, A0, lr=0.1), Q["tse_exact"])
    w, a, _ = methods.tse_step([L1] * 3, W0, A0, lambda a, g: {k: a[k] - g[k] for k in a}, lr=0.1)
    close(a, toy.flat(A0).numpy() - Q["tse_first_order"])
    x = toy.flat(W0)
    for _ in range(3):
        x = x - 0.1 * (toy.A @ x - toy.B @ toy.flat(a))
    close(w, x, 1e-14)
    losses = {"train": L1, "other_train": lambda w, a: 2 * L1(w, a), "val": L2}
    for mode, expected in (
        ("same_batch", Q["single_a"]),
        ("same_split_other_batch", 2 * np.array(Q["single_a"])),
        ("other_split", Q["darts1"]["w0"]),
    ):
        dw, da = methods.single(losses, W0, A0, mode)
        close(dw, Q["single_w"])
        close(da, expected)


def test_counterexample() -> None:
    problem = toy.Counterexample()
    loss1, loss2, w, a = loss_of(problem, toy.TRAIN), loss_of(problem, toy.VAL), problem.w0(), problem.a0()
    close(methods.hypergradient_dense(loss1, loss2, w, a), toy.COUNTEREXAMPLE["exact_term"])
    close(methods.amended(loss1, loss2, w, a, 0.1), 0.1 * toy.COUNTEREXAMPLE["amended_term_over_eta"])


# ---------------------------------------------------------------------------------- methods: Smooth, any shapes
N = toy.Smooth(noise=0.1)
N1, N2, NW, NA = loss_of(N, N.batch(1)), loss_of(N, N.batch(2)), N.w0(), N.a0()


def test_smooth_variants_agree() -> None:
    """Double backward against the explicit matrices, where everything is curved."""
    close(methods.idarts(N1, N2, NW, NA, 0.05, 3), methods.idarts_dense(N1, N2, NW, NA, 0.05, 3), 1e-9)
    close(methods.amended(N1, N2, NW, NA, 0.1), methods.amended_dense(N1, N2, NW, NA, 0.1), 1e-12)
    buffers = {k: 0.1 * torch.ones_like(x) for k, x in NW.items()}
    moved = methods.plain(methods.unrolled(N1, methods.leaves(NW), NA, 0.1, 0.9, buffers, 0.01))
    direct, v = methods.both(N2, moved, NA)
    mixed = methods.matrices(N1, N2, NW, NA).mixed
    close(
        methods.darts2(N1, N2, NW, NA, 0.1, 0.9, buffers, 0.01),
        toy.flat(direct).numpy() - 0.1 * mixed @ toy.flat(v).numpy(),
        1e-13,
    )


@pytest.mark.parametrize(
    "setting",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.02, "nesterov": True}, {"momentum": 0.9, "clip": 0.1}],
    ids=str,
)
def test_sgd_is_torch_s(setting: dict[str, Any]) -> None:
    search = toy.search(N, lr=0.3, **setting)
    w, buffers = NW, None
    for seed in (1, 2, 3):
        w, buffers = methods.sgd(
            w, methods.single({"train": loss_of(N, N.batch(seed))}, w, NA, "same_batch")[0], buffers, lr=0.3, **setting
        )
        search.update_w(N.batch(seed))
    close(w, toy.flat(search.w), 1e-14)


# --------------------------------------------------------------------------------------- methods: layer alignment
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "signed"])
def test_alignment(kind: str, split: bool) -> None:
    problem, signed = toy.Alignment(split=split), kind == "signed"
    loss, w, mix, group = mixed_loss(problem, toy.TRAIN), problem.w0(), problem.relax(problem.a0()), problem.groups[0]
    value, slope = methods.alignment_gradient(loss, w, mix, group, signed)
    close(value, toy.ALIGNMENT[kind])
    close(slope, toy.ALIGNMENT[f"{kind}_gradient"])
    g = methods.layer_gradients(loss, w, mix, group).detach()
    delta = methods.perturbation(g, signed)
    close(delta.norm(), toy.ALIGNMENT[f"{kind}_norm"])
    close(diagnostics.layer_alignment(list(g), signed), toy.ALIGNMENT[kind])
    close(torch.einsum("lp,lpw->w", delta, toy.M) / 3, toy.ALIGNMENT[f"{kind}_gradient"])  # three pairs
    total = methods.aligned_weight_gradient(loss, w, mix, group, 0.25, signed)
    p = toy.flat(problem.a0())
    close(total, torch.einsum("p,lpw->w", p, toy.M) - 0.25 * toy.flat(slope), 1e-14)


def test_curved_alignment_is_the_derivative_of_its_value() -> None:
    problem = toy.Alignment(curvature=0.7)
    loss, mix = mixed_loss(problem, toy.TRAIN), problem.relax(problem.a0())

    def value(w: Tensor) -> float:
        return float(methods.alignment_gradient(loss, {"w": w}, mix, ("a",))[0])

    w = problem.w0()["w"]
    slope = [(value(w + h) - value(w - h)) / 2e-5 for h in 1e-5 * torch.eye(3, dtype=torch.float64)]
    close(methods.alignment_gradient(loss, problem.w0(), mix, ("a",))[1], slope, 1e-9)


# --------------------------------------------------------------------------------------------- methods: mixtures
def test_sdarts() -> None:
    assert methods.sdarts_radius(0, 50) == 0.03
    assert methods.sdarts_radius(25, 50) == pytest.approx(0.165)
    p = {"a": toy.real([[[0.5, 0.3, 0.2]]])}
    noisy = methods.sdarts_random(p, {"a": toy.real([[[-0.1, 0.1, -0.3]]])})
    close(noisy, [0.5, 0.5, 0.0], 1e-15)
    mix = N.relax(N.a0())
    attack = methods.sdarts_adversarial(mixed_loss(N, N.batch(1)), NW, mix, 0.1)
    before, after = (float(N.value(NW, m, N.batch(1))) for m in (mix, attack))
    assert after > before
    close(attack["a"].sum(-1), np.ones(4), 1e-15)
    # a loss that no step can raise returns the clean mixture
    peak = methods.sdarts_adversarial(
        lambda w, m: -(m["a"] - mix["a"]).square().sum(),
        NW,
        mix,
        0.1,
        start={"a": 0.05 * torch.ones_like(mix["a"]).cumsum(-1)},
    )
    close(peak, toy.flat(mix), 0)


def test_gdas() -> None:
    gumbel = {"a": toy.real([[0.1, 2.0, -1.0], [0.0, 0.0, 0.5]])}
    hard, soft = methods.gdas(NA["a"], gumbel["a"], 0.5)
    close(hard, [0, 1, 0, 0, 0, 1])  # largest sums of logit and noise
    logits = methods.leaves(NA)
    soft = torch.softmax((logits["a"] + gumbel["a"]) / 0.5, dim=-1)
    through = (hard - soft.detach() + soft).expand(2, 2, 3)
    expected = methods.grad(N.value(NW, {"a": through}, N.batch(1)), logits)
    got = methods.gdas_gradient(mixed_loss(N, N.batch(1)), NW, NA, gumbel, 0.5, {"a": 2})
    close(got, toy.flat(expected), 1e-14)


def test_pc_darts() -> None:
    beta = torch.arange(14, dtype=torch.float64)
    weights = methods.edge_weights(beta)
    close([weights[:2].sum(), weights[2:5].sum(), weights[5:9].sum(), weights[9:].sum()], np.ones(4), 1e-15)
    close(weights[1] / weights[0], math.e, 1e-14)
    scores = methods.pc_scores(torch.zeros(14, 8, dtype=torch.float64), beta)
    close(scores.sum(-1), weights, 1e-15)


# --------------------------------------------------------------------------------------------------- diagnostics
def test_hessian_eigenvalue() -> None:
    # L2 of the quadratic has Hessian rho I; with a decay that is added
    assert diagnostics.top_eigenvalue(lambda a: L2(W0, a), A0, 0.5) == pytest.approx(toy.RHO + 0.5, abs=1e-14)
    h = toy.real([[2.0, 1.0, 0], [1.0, 2.0, 0], [0, 0, -7.0]])  # eigenvalues 3, 1, -7: the top is not the largest |.|

    def loss(a: Tree) -> Tensor:
        x = torch.cat([a["x"], a["y"]])
        return x @ h @ x / 2

    a: Tree = {"x": toy.real([1.0]), "y": toy.real([2.0, 3.0])}
    close(diagnostics.alpha_hessian(loss, a), h, 1e-14)
    assert diagnostics.top_eigenvalue(loss, a) == pytest.approx(3.0, abs=1e-13)


def test_gradient_correlation() -> None:
    problem = toy.Correlation()
    train, val, mix = problem.train(), problem.val(), problem.relax(problem.a0())
    g_train, g_val = (problem.residual(problem.w0(), mix, b) for b in (train, val))
    got = diagnostics.gradient_correlation(g_val, val.x, g_train, train.x)
    close(got, (g_val.T @ val.x * (g_train.T @ train.x)).sum() / 6, 1e-13)


NORMAL_V2 = [(2, 0), (2, 1), (3, 0), (3, 1), (4, 1), (4, 0), (5, 0), (5, 2)]  # the published DARTS_V2 normal cell
CHAIN = [(2, 0), (2, 1), (3, 2), (3, 0), (4, 3), (4, 0), (5, 4), (5, 0)]
FLAT = [(node, source) for node in range(2, 6) for source in (0, 1)]


@pytest.mark.parametrize(("edges", "depth", "width"), [(FLAT, 2, 4.0), (CHAIN, 5, 2.5), (NORMAL_V2, 3, 3.5)])
def test_depth_and_width(edges: list[tuple[int, int]], depth: int, width: float) -> None:
    assert diagnostics.depth(edges) == depth
    assert diagnostics.width(edges) == width


def test_entropy_and_change() -> None:
    p = toy.real([0.5, 0.5, 0], [1, 0, 0])
    assert diagnostics.entropy(p) == pytest.approx(math.log(2) / 2)
    assert diagnostics.change(p, toy.real([0.5, 0.25, 0.25], [1, 0, 0])) == 0.5


# ------------------------------------------------------------------------------------------ supernets: counts
COUNTS: dict[str, tuple[Callable[[], torch.nn.Module], int]] = {
    "darts, 8 cells": (partial(supernets.DartsSupernet), 1_930_618),
    "darts, 20 cells": (partial(supernets.DartsSupernet, layers=20), 4_548_730),
    "pc-darts": (partial(supernets.DartsSupernet, k=4), 299_578),
    "pc-darts, imagenet": (partial(supernets.DartsSupernet, classes=1000, k=2, stem="imagenet"), 956_512),
    "nb201, v1": (partial(supernets.Nb201Supernet), 1_686_106),
    "nb201, newer": (partial(supernets.Nb201Supernet, bias=True, last_affine=False), 1_692_698),
    "nb201, affine": (partial(supernets.Nb201Supernet, affine=True), 1_699_546),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    build, expected = COUNTS[name]
    with torch.device("meta"):
        assert supernets.parameters(build()) == expected


# ------------------------------------------------------------------------------------------ supernets: forward
def softmaxed(*shape: int, seed: int = 0) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(shape, generator=gen, dtype=torch.float64), dim=-1)


def images(n: int = 2, size: int = 8) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def nb1shot1_mix(space: int, cells: int) -> Tree:
    parents = supernets.NB1SHOT1_PARENTS[space]
    blocks = len(parents) - 1
    mix = {"ops": softmaxed(cells, blocks, 3), "output": softmaxed(cells, 1, blocks + 1)}
    choices = [b for b, k in enumerate(parents[:-1], start=1) if b > k]
    return mix | {f"inputs{b}": softmaxed(cells, 1, b, seed=b) for b in choices}


def darts_mix(ops: int = 8, edges: bool = False) -> Tree:
    mix = {"normal": softmaxed(2, 14, ops), "reduce": softmaxed(2, 14, ops, seed=1)}
    return mix | {f"{k}_edges": softmaxed(2, 14, seed=2) for k in mix} if edges else mix


NOISY = ("noise", "sep_conv_3x3")
SMALL: dict[str, tuple[Callable[[], torch.nn.Module], Tree]] = {
    "darts": (partial(supernets.DartsSupernet, channels=4, layers=4), darts_mix()),
    "pc-darts": (partial(supernets.DartsSupernet, channels=8, layers=4, k=4), darts_mix(edges=True)),
    "s4": (partial(supernets.DartsSupernet, channels=4, layers=4, normal=NOISY, reduce=NOISY), darts_mix(2)),
    "nb201": (partial(supernets.Nb201Supernet, channels=4, n=1), {"cell": softmaxed(3, 6, 5)}),
    **{
        f"nb1shot1_{s}": (partial(supernets.Nb1Shot1Supernet, s, channels=4, layers=3), nb1shot1_mix(s, 3))
        for s in (1, 2, 3)
    },
}


@pytest.mark.parametrize("name", SMALL)
def test_every_cell_s_mixture_and_every_weight_counts(name: str) -> None:
    build, mix = SMALL[name]
    torch.manual_seed(0)
    net = build().double()
    mix = methods.leaves(mix)
    gen = torch.Generator().manual_seed(0)
    logits = net(images(), mix, gen)
    assert logits.shape == (2, 10)
    grads = methods.plain(methods.grad(torch.nn.functional.cross_entropy(logits, torch.tensor([1, 2])), mix))
    assert all(bool(g.flatten(1).abs().sum(1).gt(0).all()) for g in grads.values())
    logits.sum().backward()
    assert all(x.grad is not None for x in net.parameters())
    assert torch.equal(net(images(), mix, torch.Generator().manual_seed(0)), logits)


def test_noise_draws_from_the_generator() -> None:
    build, mix = SMALL["s4"]
    net = build().double()
    first, second = (net(images(), mix, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert not torch.equal(first, second)


def test_all_none_is_the_classifier_bias() -> None:
    none = torch.zeros(2, 14, 8, dtype=torch.float64)
    none[..., 0] = 1
    net = supernets.DartsSupernet(channels=4, layers=4).double()
    close(net(images(), {"normal": none, "reduce": none}).detach()[0], net.classifier.bias.detach(), 1e-14)


def test_nb201_paths() -> None:
    """Skip on 1<-0, 2<-1, 3<-2 alone carries the stem through; none on 3<-2 cuts it."""
    net = supernets.Nb201Supernet(channels=4, n=1).double()
    x = images()
    mix = torch.zeros(6, 5, dtype=torch.float64)
    mix[:, 0] = 1
    mix[[0, 2, 5]] = toy.real([0.0, 1, 0, 0, 0])
    assert torch.equal(net.cells[0](net.stem(x), mix), net.stem(x))
    mix[5] = toy.real([1.0, 0, 0, 0, 0])
    assert not net.cells[0](net.stem(x), mix).any()


def test_partial_channels() -> None:
    """K = 4 of 8 channels: the first two are mixed, all are interleaved; strided bypass is a max pool."""
    x = torch.arange(8.0).reshape(1, 8, 1, 1).expand(1, 8, 2, 2)
    edge = operations.PartialEdge([operations.Identity()], 1, 4)
    close(edge(x, torch.tensor([10.0]))[0, :, 0, 0], [0, 2, 4, 6, 10, 3, 5, 7])
    strided = operations.PartialEdge([operations.Zero(2, 2)], 2, 4)
    close(strided(x, torch.tensor([1.0]))[0, :, 0, 0], [0, 2, 4, 6, 0, 3, 5, 7])


def test_nb1shot1_has_the_listed_input_choices() -> None:
    assert {k: x.shape[1:] for k, x in nb1shot1_mix(1, 1).items()} == {
        "ops": (4, 3),
        "output": (1, 5),
        "inputs3": (1, 3),
        "inputs4": (1, 4),
    }
    assert list(nb1shot1_mix(3, 1)) == ["ops", "output", "inputs2", "inputs3", "inputs4", "inputs5"]
