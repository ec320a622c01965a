"""Structure of cells and mixtures, against slow definitions and cells of known depth."""

from __future__ import annotations

import math

import pytest
import torch

from nasx.diagnostics import structure
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201
from nasx.spaces.published import resolve

from reference import diagnostics

FLAT = [(node, source) for node in range(2, 6) for source in (0, 1)]
CHAIN = [(2, 0), (2, 1), (3, 2), (3, 0), (4, 3), (4, 0), (5, 4), (5, 0)]
V2 = [(2, 0), (2, 1), (3, 0), (3, 1), (4, 1), (4, 0), (5, 0), (5, 2)]


def text(edges: list[tuple[int, int]], operation: str = "sep_conv_3x3") -> str:
    cell = [(operation, source) for _, source in edges]
    return f"Genotype(normal={cell}, normal_concat=range(2, 6), reduce={cell}, reduce_concat=range(2, 6))"


@pytest.mark.parametrize(("edges", "depth", "width"), [(FLAT, 2, 4.0), (CHAIN, 5, 2.5), (V2, 3, 3.5)])
def test_depth_and_width_of_the_cells_that_the_specification_names(edges, depth, width) -> None:
    found = structure.cells(text(edges))["normal"]
    assert (found["depth"], found["width"]) == (depth, width)
    assert (diagnostics.depth(edges), diagnostics.width(edges)) == (depth, width)


def test_darts_v2_is_described() -> None:
    cells = structure.cells(resolve("DARTS_V2", "darts"))
    assert cells["normal"] == {
        "depth": 3,
        "width": 3.5,
        "skip": 2,
        "pool": 0,
        "parametric": 6,
        "none": 0,
        "noise": 0,
        "parametric_used": 6,
        "skip_ratio": 0.25,
    }
    assert (cells["reduce"]["skip"], cells["reduce"]["pool"]) == (3, 5)


@pytest.mark.parametrize("seed", range(5))
def test_depth_equals_the_enumeration_of_paths(seed: int) -> None:
    genotype = Darts().sample(torch.Generator().manual_seed(seed))
    nodes = [node for node in range(2, 6) for _ in range(2)]
    for name, found in structure.cells(str(genotype)).items():
        edges = list(zip(nodes, (source for _, source in getattr(genotype, name)), strict=True))
        assert found["depth"] == diagnostics.depth(edges)
        assert found["width"] == diagnostics.width(edges)


def test_none_carries_nothing() -> None:
    cut = structure.cells("|none~0|+|none~0|skip_connect~1|+|none~0|nor_conv_3x3~1|nor_conv_3x3~2|")["cell"]
    assert (cut["depth"], cut["width"], cut["none"], cut["parametric"], cut["parametric_used"]) == (0, 0.0, 3, 2, 0)
    half = structure.cells("|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|skip_connect~2|")["cell"]
    assert (half["parametric"], half["parametric_used"]) == (2, 1)
    skips = structure.cells(
        "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
    )["cell"]
    assert (skips["depth"], skips["width"], skips["skip_ratio"]) == (3, 1.5, 1.0)


def test_operations_on_nodes_count_where_a_path_leads_through_them() -> None:
    graph = (
        '{"matrix": [[0,1,1,0],[0,0,0,1],[0,0,0,0],[0,0,0,0]], '
        '"ops": ["input", "conv3x3-bn-relu", "maxpool3x3", "output"]}'
    )
    found = structure.cells(graph)["cell"]
    assert (found["depth"], found["parametric"], found["pool"]) == (2, 1, 0)
    genotype = Nb1Shot1(variant=1).sample(torch.Generator().manual_seed(0))
    counted = structure.cells(str(genotype))["cell"]
    assert counted["parametric"] + counted["pool"] == sum(genotype.operations().values())


def test_untied_cells_are_described_one_by_one() -> None:
    space = Darts(layers=4, channels=4, untied=True, operations=("skip_connect", "sep_conv_3x3"))
    genotype = space.sample(torch.Generator().manual_seed(0))
    cells = structure.cells(str(genotype))
    assert list(cells) == ["cell0", "cell1", "cell2", "cell3"]
    assert sum(cell["skip"] for cell in cells.values()) == genotype.operations()["skip_connect"]


# -------------------------------------------------------------------------------------------------------- mixture
def test_entropy_change_and_saturation_equal_their_definitions() -> None:
    gen = torch.Generator().manual_seed(0)
    one, other = (torch.softmax(torch.randn(6, 5, generator=gen, dtype=torch.float64), -1) for _ in range(2))
    mix = {"cell": one.tolist()}
    assert structure.entropy(mix) == pytest.approx(diagnostics.entropy(one), rel=1e-14)
    assert structure.change(mix, {"cell": other.tolist()}) == pytest.approx(diagnostics.change(one, other), rel=1e-14)
    assert structure.saturation(mix) == pytest.approx(1 - diagnostics.entropy(one) / math.log(5), rel=1e-13)
    assert structure.saturation({"cell": [[0.25] * 4]}) == 0
    assert structure.saturation({"cell": [[0.0, 1.0], [1.0, 0.0]]}) == 1


def test_rows_that_are_no_distribution() -> None:
    assert structure.entropy({"cell": [[0.125, 0.125]]}) == pytest.approx(math.log(2))  # sigmoid: divided by the sum
    assert structure.entropy({"cell": [[0.0, 0.0], [1.0, 1.0], [1.0]]}) == pytest.approx(math.log(2))
    assert structure.entropy({"normal": [[1.0, 1.0]], "normal.edge": [[0.9, 0.1]]}) == pytest.approx(math.log(2))


def test_weight_of_none() -> None:
    space = Nb201(layers=1)
    mix = {"cell": [[0.5, 0.5, 0, 0, 0]] * 3 + [[0.1, 0.9, 0, 0, 0]] * 3}
    assert structure.none_weight(mix, structure.operation_names(space, ["cell"])) == pytest.approx(0.3)
    names = structure.operation_names(Darts(layers=3, operations=("skip_connect", "sep_conv_3x3")), ["normal"])
    assert structure.none_weight({"normal": [[0.5, 0.5]] * 14}, names) is None
    shot = Nb1Shot1(variant=1)
    assert (
        structure.none_weight(
            {"ops": [[1.0, 0, 0]] * 4}, structure.operation_names(shot, [n for g in shot.groups for n in g])
        )
        is None
    )
