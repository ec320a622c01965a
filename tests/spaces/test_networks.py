"""Discrete networks: golden parameter counts, multiply-adds, stems, heads, drop-path."""

from __future__ import annotations

import pytest
import torch

from nasx.errors import UserError
from nasx.spaces.cost import cost
from nasx.spaces.darts.genotype import DartsGenotype
from nasx.spaces.darts.network import AuxiliaryHead, DartsNetwork, Stem, dropped, plan
from nasx.spaces.darts.space import Darts
from nasx.spaces.modules import FactorizedReduce
from nasx.spaces.nb201.genotype import OPERATIONS
from nasx.spaces.nb201.space import Nb201

SPACE = Darts()
V2 = SPACE.parse("DARTS_V2")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "classes", "layers", "params", "with_head"),
    [
        ("DARTS_V2", 10, None, 3_349_342, 3_825_768),
        ("DARTS_V2", 100, None, 3_401_272, 3_946_908),
        ("DARTS_V2", 10, 8, 1_154_926, None),
        ("DARTS_V1", 10, 8, 1_094_950, None),
    ],
)
def test_golden_parameter_counts(
    name: str, classes: int, layers: int | None, params: int, with_head: int | None
) -> None:
    with torch.device("meta"):
        network = SPACE.network(SPACE.parse(name), classes, layers=layers, auxiliary=with_head is not None)
    found = cost(network, SPACE.example(1, (3, 32, 32)))
    assert found.params == params
    assert found.params_with_auxiliary == (with_head or params)


@pytest.mark.slow
def test_imagenet_network_of_darts_v2() -> None:
    """4,718,752 parameters (also counted by imgclsmob). 529.9 M multiply-adds of convolutions and the linear layer."""
    with torch.device("meta"):
        network = SPACE.network(V2, 1000, stem="imagenet", auxiliary=True)
    assert cost(network, SPACE.example(1, (3, 224, 224))) == (4_718_752, 5_979_528, 529_911_552)


@pytest.mark.parametrize(("digits", "params"), [("333333", 1_531_546), ("333133", 1_288_506), ("111111", 73_306)])
def test_nb201_golden_counts(digits: str, params: int) -> None:
    space = Nb201()
    with torch.device("meta"):
        network = space.network(space.parse(digits), 10)
    assert cost(network, SPACE.example(1, (3, 32, 32))).params == params


def test_nb201_formulas() -> None:
    """Parameters as in Appendix A of the tables; the benchmark's FLOPs count the classifier's 10 biases as well."""
    space = Nb201(layers=1, channels=4)
    gen = generator(1)
    for _ in range(4):
        genotype = space.sample(gen)
        n1, n3 = genotype.ops.count("nor_conv_1x1"), genotype.ops.count("nor_conv_3x3")
        with torch.device("meta"):
            network = space.network(genotype, 10)
        found = cost(network, SPACE.example(1, (3, 32, 32)))
        assert found.params == 73_306 + 28_000 * n1 + 243_040 * n3
        assert found.macs + 10 == 7_783_050 + 3_932_160 * n1 + 35_389_440 * n3


@pytest.mark.parametrize("digits", ["012344", "000000", "444444"])
def test_nb201_networks_run(digits: str) -> None:
    space = Nb201()
    network = space.network(space.parse(digits), 7, layers=1, channels=4)
    x = torch.randn(2, 3, 8, 8, generator=generator())
    assert network(x).main.shape == (2, 7)
    with pytest.raises(UserError, match=r"retrain\.drop_path=0\.2"):
        network(x, drop_path=0.2)


def test_nb201_cell_is_the_sum_over_its_edges() -> None:
    space = Nb201(layers=1)
    network = space.network(space.parse("101110"), 5, layers=1, channels=4).eval()  # 0->1 skip, 1->2 skip, 0->3, 1->3
    x = torch.randn(1, 4, 6, 6, generator=generator())
    torch.testing.assert_close(network.blocks[0](x), 2 * x)  # type: ignore[index]
    assert OPERATIONS[1] == "skip_connect"


def test_plan() -> None:
    assert plan(20) == tuple("reduce" if i in (6, 13) else "normal" for i in range(20))
    assert plan(14) == tuple("reduce" if i in (4, 9) else "normal" for i in range(14))
    assert plan(1) == ("reduce",)
    assert plan(2) == ("reduce", "reduce")


def test_auxiliary_head_speaks_in_training_only() -> None:
    network = SPACE.network(V2, 10, layers=4, channels=4, auxiliary=True)
    x = torch.randn(2, 3, 32, 32, generator=generator())
    assert network(x).auxiliary.shape == (2, 10)
    assert network.eval()(x).auxiliary is None
    assert SPACE.network(V2, 10, layers=4, channels=4)(x).auxiliary is None
    with pytest.raises(UserError, match="needs feature maps of 8 to 10 pixels, but these images give 4x4"):
        network.train()(x[:, :, :16, :16])


def test_heads() -> None:
    assert [n for n in (8, 9, 10) if AuxiliaryHead(4, 3).eval()(torch.zeros(1, 4, n, n)).shape == (1, 3)] == [8, 9, 10]
    head = AuxiliaryHead(4, 3, "imagenet").eval()
    assert head(torch.zeros(1, 4, 7, 7)).shape == (1, 3)
    norms = [m for m in head.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 1


@pytest.mark.parametrize(
    ("kind", "width", "sizes"), [("cifar", 12, (64, 64)), ("imagenet", 4, (16, 8)), ("single", 12, (8, 8))]
)
def test_stems(kind: str, width: int, sizes: tuple[int, int]) -> None:
    stem = Stem(kind, 4)
    outputs = stem(torch.zeros(1, 3, 64, 64))
    assert stem.width == width
    assert [tuple(y.shape) for y in outputs] == [(1, width, n, n) for n in sizes]
    with pytest.raises(UserError, match="no such stem"):
        Stem("mnist", 4)


@pytest.mark.parametrize("stem", ["cifar", "imagenet", "single"])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_small_networks_run(stem: str, layers: int) -> None:
    network = SPACE.network(V2, 10, layers=layers, channels=4, stem=stem)
    assert network(torch.randn(2, 3, 32, 32, generator=generator())).main.shape == (2, 10)
    first = network.cells[0]  # type: ignore[index]
    assert isinstance(first.preprocess0, FactorizedReduce) == (stem == "imagenet")


def test_networks_of_odd_images_run() -> None:
    x = torch.randn(2, 3, 27, 27, generator=generator())
    assert SPACE.network(V2, 10, layers=3, channels=4)(x).main.shape == (2, 10)


def test_drop_path_zeroes_whole_images_and_rescales() -> None:
    x = torch.ones(4000, 2, 1, 1)
    y = dropped(x, 0.2, generator(1))
    kept = y[:, 0, 0, 0] > 0
    assert torch.equal(y, kept[:, None, None, None] * torch.full_like(x, 1 / 0.8))
    assert abs(kept.double().mean().item() - 0.8) < 4 * (0.16 / 4000) ** 0.5


def test_drop_path_spares_identities_and_evaluation() -> None:
    cell = (("skip_connect", 0), ("skip_connect", 1)) * 4
    skips = DartsGenotype(cell, cell)
    x = torch.randn(3, 3, 8, 8, generator=generator())
    only_skips = SPACE.network(skips, 4, layers=7, channels=4)
    normal = only_skips.cells[0]  # type: ignore[index]
    inputs = torch.randn(3, 12, 8, 8, generator=generator(2))
    assert torch.equal(normal(inputs, inputs, 0.9, generator(1)), normal(inputs, inputs, 0.0, None))
    network = SPACE.network(V2, 4, layers=3, channels=4)
    first, again = (network(x, drop_path=0.5, gen=generator(3)).main for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, network(x).main)
    network.eval()
    assert torch.equal(network(x, drop_path=0.5).main, network(x).main)


def test_untied_networks_have_one_cell_for_each_layer() -> None:
    space = Darts(untied=True, layers=5, operations=("skip_connect", "sep_conv_3x3"))
    genotype = space.sample(generator(4))
    network = space.network(genotype, 10, channels=4)
    assert isinstance(network, DartsNetwork)
    assert [cell.predecessors for cell in network.cells] == [tuple(p for _, p in cell) for cell in genotype.cells]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"retrain\.layers=20"):
        space.network(genotype, 10, layers=20)
