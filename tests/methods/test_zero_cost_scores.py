"""Zero-cost scores equal slow references on real spaces in float64, and closed forms if known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import agree
import pytest
import torch
from torch import Tensor, nn

from nasx.core.bilevel import Batch
from nasx.errors import UserError
from nasx.methods.grasp import Grasp
from nasx.methods.naswot import Agreement, Naswot
from nasx.methods.snip import Snip
from nasx.methods.synflow import Synflow
from nasx.methods.zen import Zen
from nasx.methods.zero_cost import ZeroCost
from nasx.spaces.base import Logits, Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb201.space import Nb201

import small
from reference import zero_cost

SPACES: dict[str, Space] = {**agree.SPACES, "s4": Darts(layers=3, channels=4, operations=("noise", "sep_conv_3x3"))}
BATCH = small.batch(3, n=6, size=8)
SHAPE = tuple(BATCH.x.shape)
CASES: dict[str, tuple[ZeroCost, Callable[[Any, torch.Generator], float]]] = {
    "synflow": (Synflow(), lambda network, gen: zero_cost.synflow(network, SHAPE[1:], gen)),
    "naswot": (Naswot(), lambda network, gen: zero_cost.naswot(network, BATCH.x, gen)),
    "snip": (Snip(), lambda network, gen: zero_cost.snip(network, BATCH.x, BATCH.y, gen)),
    "grasp": (Grasp(), lambda network, gen: zero_cost.grasp(network, BATCH.x, BATCH.y, gen)),
    "zen": (Zen(), lambda network, gen: zero_cost.zen(network, SHAPE, gen, 0.01, 1)),
    "zen repeats": (Zen(gamma=0.5, repeats=3), lambda network, gen: zero_cost.zen(network, SHAPE, gen, 0.5, 3)),
}


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(space: Space, seed: int) -> nn.Module:
    """A network of an architecture drawn from the space, at the size of its search, in float64."""
    torch.manual_seed(seed)
    return space.standalone(space.sample(generator(seed)), 10).double()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(4)
def test_equals_the_reference(name: str, space: str) -> None:
    method, reference = CASES[name]
    found = []
    for seed in range(3):
        expected = reference(drawn(SPACES[space], seed), generator())
        found.append(method.score(drawn(SPACES[space], seed), BATCH, generator()))
        assert found[-1] == pytest.approx(expected, rel=1e-9)
    assert all(map(math.isfinite, found))
    assert len(set(found)) == 3


@pytest.mark.slow
def test_flow_of_a_weight_is_what_the_network_loses_without_it() -> None:
    space = Nb201(layers=1, channels=2)
    torch.manual_seed(0)
    network = space.network(space.parse("143213"), 2, layers=1, channels=2).double()
    expected = zero_cost.flow(network, (3, 4, 4))
    assert Synflow().score(network, Batch(torch.zeros(1, 3, 4, 4), torch.zeros(1), 0), generator()) == pytest.approx(
        expected, rel=1e-9
    )


# ------------------------------------------------------------------------------------------------- closed forms
class Plain(nn.Module):
    """Modules one after the other; what comes out are both logits and features."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*modules)

    def forward(self, x: Tensor, *, gen: torch.Generator | None = None) -> Logits:
        return Logits(self.body(x))

    def features(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        return self.body(x)


def linear(*rows: Any) -> nn.Linear:
    w = torch.tensor(rows, dtype=torch.float64)
    layer = nn.Linear(w.size(1), w.size(0), bias=False).double()
    layer.weight.data = w
    return layer


def flat_batch(*rows: Any, y: tuple[int, ...] = (0,)) -> Batch:
    return Batch(torch.tensor(rows, dtype=torch.float64), torch.tensor(y), 0)


def test_synflow_of_a_chain_is_its_length_times_the_product_of_its_weights() -> None:
    chain = Plain(linear([-2.0]), nn.ReLU(), linear([0.5]), nn.ReLU(), linear([-3.0]))
    assert Synflow().score(chain, flat_batch([1.0]), generator()) == 3 * 2.0 * 0.5 * 3.0


def test_synflow_of_matrices_is_their_product_of_absolute_values_and_ignores_batch_norm() -> None:
    one, two = [[1.0, -2.0], [-0.5, 3.0], [0.0, 1.0]], [[2.0, -1.0, 0.25]]
    total = float((torch.tensor(two).abs() @ torch.tensor(one).abs()).sum())
    assert Synflow().score(Plain(linear(*one), linear(*two)), flat_batch([0.0, 0.0]), generator()) == 2 * total

    def convolutions(*norms: nn.Module) -> Plain:
        torch.manual_seed(0)
        return Plain(nn.Conv2d(3, 4, 1), *norms, nn.Conv2d(4, 2, 1)).double()

    image = Batch(torch.randn(5, 3, 4, 4), torch.zeros(5), 0)
    bare = Synflow().score(convolutions(), image, generator())
    assert Synflow().score(convolutions(nn.BatchNorm2d(4)), image, generator()) == bare


def test_snip_of_a_linear_model() -> None:
    """dL/dW = mean of (softmax - one-hot) x'."""
    w, batch = [[0.5, -1.0], [2.0, 0.25], [-0.3, 0.7]], flat_batch([1.0, 2.0], [-1.0, 0.5], y=(2, 0))
    logits = batch.x @ torch.tensor(w, dtype=torch.float64).T
    residual = torch.softmax(logits, 1) - torch.eye(3, dtype=torch.float64)[batch.y]
    expected = (torch.tensor(w, dtype=torch.float64) * (residual.T @ batch.x / 2)).abs().sum()
    assert Snip().score(Plain(linear(*w)), batch, generator()) == pytest.approx(float(expected), rel=1e-12)


def test_grasp_of_a_linear_model_of_one_image() -> None:
    """g = (p - y) x', H g = (diag p - p p') (p - y) |x|^2 x'."""
    w, batch = [[0.5, -1.0], [2.0, 0.25], [-0.3, 0.7]], flat_batch([1.0, 2.0], y=(2,))
    x, p = batch.x[0], torch.softmax(torch.tensor(w, dtype=torch.float64) @ batch.x[0], 0)
    residual = p - torch.eye(3, dtype=torch.float64)[2]
    moved = torch.outer((torch.diag(p) - torch.outer(p, p)) @ residual, x) * (x @ x)
    expected = -(torch.tensor(w, dtype=torch.float64) * moved).sum()
    assert Grasp().score(Plain(linear(*w)), batch, generator()) == pytest.approx(float(expected), rel=1e-12)


def test_naswot_of_two_codes_that_agree_in_one_of_four_values() -> None:
    batch = flat_batch([1.0, -1.0, 2.0, 3.0], [1.0, 1.0, -2.0, -3.0], y=(0, 1))
    network = Plain(nn.ReLU())
    assert Naswot().score(network, batch, generator()) == pytest.approx(math.log(4 * 4 - 1 * 1), rel=1e-12)
    twice = Plain(nn.ReLU(), nn.ReLU())  # what the second gets has zeros for what was negative: the same code
    assert Naswot().score(twice, batch, generator()) == pytest.approx(math.log(8 * 8 - 2 * 2), rel=1e-12)


def test_naswot_of_equal_codes_is_minus_infinity_and_needs_a_relu() -> None:
    batch = flat_batch([1.0, -1.0], [5.0, -0.5], y=(0, 1))
    assert Naswot().score(Plain(nn.ReLU()), batch, generator()) == -math.inf
    with pytest.raises(UserError, match="have no ReLU"):
        Naswot().score(Plain(nn.Identity()), batch, generator())


@pytest.mark.parametrize(
    "relu",
    [
        torch.relu,
        nn.functional.relu,
        nn.ReLU(),
        nn.ReLU(inplace=True),
        Tensor.relu,
        lambda x: x.clone().relu_(),
        lambda x: torch.relu_(x.clone()),
    ],
)
def test_every_kind_of_relu_is_seen_once(relu: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([[1.0, -1.0, 2.0], [1.0, 1.0, -1.0]])
    with Agreement() as seen:
        relu(x)
    assert seen.kernel is not None
    assert seen.kernel.tolist() == [[3.0, 1.0], [1.0, 3.0]]


def test_zen_of_one_convolution_is_the_length_of_what_it_makes_of_the_change() -> None:
    network = Plain(nn.Conv2d(3, 5, 1, bias=False)).double()
    batch = Batch(torch.zeros(4, 3, 2, 2, dtype=torch.float64), torch.zeros(4), 0)
    gen = generator()
    w = torch.empty(5, 3, dtype=torch.float64).normal_(generator=gen)
    _, e = (torch.empty(4, 3, 2, 2, dtype=torch.float64).normal_(generator=gen) for _ in range(2))
    lengths = [torch.linalg.vector_norm(0.01 * w @ image.flatten(1)) for image in e]
    expected = math.log(float(sum(lengths)) / 4)
    assert Zen(gamma=0.01).score(network, batch, generator()) == pytest.approx(expected, rel=1e-9)


def test_zen_gives_back_the_scale_that_batch_norm_takes_away() -> None:
    class Times(nn.Module):
        def __init__(self, k: float) -> None:
            super().__init__()
            self.k = k

        def forward(self, x: Tensor) -> Tensor:
            return self.k * x

    batch = Batch(torch.zeros(4, 3, 4, 4, dtype=torch.float64), torch.zeros(4), 0)

    def score(k: float) -> float:
        norms = [nn.BatchNorm2d(5, eps=1e-30), nn.BatchNorm2d(5, eps=1e-30, track_running_stats=False)]
        network = Plain(
            nn.Conv2d(3, 5, 3, bias=False),
            Times(k),
            norms[0],
            nn.ReLU(),
            nn.Conv2d(5, 5, 1, bias=False),
            Times(k),
            norms[1],
        )
        return Zen().score(network.double(), batch, generator())

    assert score(5.0) - score(1.0) == pytest.approx(2 * math.log(5.0), rel=1e-9)


def test_zen_asks_for_features_where_a_network_has_none() -> None:
    with pytest.raises(UserError, match=r"Sequential has no method features"):
        Zen().score(nn.Sequential(nn.Conv2d(3, 4, 1)).double(), BATCH, generator())
