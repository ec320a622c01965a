"""Published cells: each parses, is in its space, and has its published size if known."""

from __future__ import annotations

import pytest
import space_variants
import torch

from nasx.spaces.darts.space import Darts
from nasx.spaces.nb201.space import Nb201
from nasx.spaces.published import cells, resolve

DARTS = [cell for cell in cells().values() if cell.space == "darts"]


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_names_are_unique_and_sourced() -> None:
    assert len({name.lower() for name in cells()}) == len(cells()) >= 20
    assert all(cell.source and cell.space in ("darts", "darts_rnn", "nb201") for cell in cells().values())


@pytest.mark.parametrize("cell", DARTS, ids=lambda cell: cell.name)
def test_darts_cells_fit_the_space(cell) -> None:  # type: ignore[no-untyped-def]
    genotype = Darts().parse(cell.name)
    assert Darts().parse(str(genotype)) == genotype


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_cells_of_s1_to_s4_fit_their_own_space(number: int) -> None:
    space_variants.full(f"s{number}").parse(f"Lambda_DARTS_c10_s{number}")


@pytest.mark.parametrize(
    ("name", "millions"), [("PDARTS", 3.4), ("PC_DARTS_cifar", 3.6), ("SDARTS_ADV", 3.3), ("DARTS_V2", 3.3)]
)
def test_cifar_sizes_as_published(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = Darts().network(Darts().parse(name), 10)
    assert round(parameters(network) / 1e6, 1) == millions


@pytest.mark.parametrize(("name", "millions"), [("PDARTS", 4.9), ("PC_DARTS_image", 5.3), ("DARTS_V2", 4.7)])
def test_imagenet_sizes_as_published(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = Darts().network(Darts().parse(name), 1000, stem="imagenet")
    assert round(parameters(network) / 1e6, 1) == millions


def test_nb201_cells() -> None:
    for cell in cells().values():
        if cell.space == "nb201":
            assert str(Nb201().parse(cell.name)) == cell.text


def test_resolve_leaves_genotypes_alone() -> None:
    assert resolve("|a~0|", "nb201") == "|a~0|"
    assert resolve("333133", "nb201") == "333133"
