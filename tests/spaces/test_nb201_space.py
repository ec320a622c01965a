"""NAS-Bench-201: facts of the space, discretization by its definition."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasx.errors import UserError
from nasx.spaces.nb201.genotype import OPERATIONS, Nb201Genotype
from nasx.spaces.nb201.space import Nb201

cells = st.tuples(*[st.sampled_from(OPERATIONS)] * 6).map(Nb201Genotype)


def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(cells)
def test_text_and_mixture_come_back(genotype: Nb201Genotype) -> None:
    space = Nb201(layers=1)
    assert Nb201Genotype.parse(str(genotype)) == genotype == space.parse(str(genotype))
    assert space.discretize(space.encode(genotype)) == genotype
    assert hash(Nb201Genotype.parse(str(genotype))) == hash(genotype)
    assert sum(genotype.operations().values()) == 6


def test_discretize_is_the_argmax_over_all_five_operations() -> None:
    space = Nb201(layers=2)
    for seed in range(100):
        a = {"cell": torch.randn(6, 5, generator=generator(seed))}
        words = []
        for edge in range(6):
            row = a["cell"][edge].tolist()
            words.append(OPERATIONS[row.index(max(row))])
        text = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*words)
        assert str(space.discretize(space.relax(a, softmax))) == text


def test_ties_go_to_the_lowest_index() -> None:
    space = Nb201()
    equal = {"cell": torch.full((15, 6, 5), 0.2)}
    assert space.discretize(equal) == Nb201Genotype(("none",) * 6)


def test_facts() -> None:
    space = Nb201()
    assert space.size() == 15625
    assert space.shapes() == {"cell": (6, 5)}
    assert space.cells() == {"cell": 15}
    assert space.groups == (("cell",),)
    a = space.init(generator())
    mix = space.relax(a, softmax)["cell"]
    assert mix.shape == (15, 6, 5)
    torch.testing.assert_close(mix.sum(-1), torch.ones(15, 6))


def test_sample_is_uniform() -> None:
    """Chi-square of 4,000 draws over 2^6 cells: 63 degrees of freedom, 99.9 % quantile 103.4."""
    space = Nb201(operations=("none", "skip_connect"))
    gen = generator(1)
    counts = Counter(space.sample(gen) for _ in range(4000))
    expected = 4000 / space.size()
    statistic = sum((n - expected) ** 2 / expected for n in counts.values())
    assert len(counts) == 64
    assert statistic < 103.4


def test_sample_draws_the_numbers_of_one_vector() -> None:
    """The bits of 0.1.0, which drew the six operations at once."""
    for seed in range(50):
        drawn = torch.randint(5, (6,), generator=generator(seed)).tolist()
        assert Nb201().sample(generator(seed)).ops == tuple(OPERATIONS[i] for i in drawn)


def test_derive_none_false_never_selects_none() -> None:
    space = Nb201(layers=1, derive_none=False)
    for seed in range(50):
        a = torch.randn(6, 5, generator=generator(seed))
        found = space.discretize(space.relax({"cell": a}, softmax))
        assert found.ops == tuple(OPERATIONS[1 + int(row[1:].argmax())] for row in a)
        assert "none" not in space.sample(generator(seed)).ops
    assert space.size() == 4**6
    assert [d.options for d in space.decisions()[0]] == [tuple((e, o) for o in range(1, 5)) for e in range(6)]
    with pytest.raises(UserError, match="edge 0->1: this space has no operation none; it has skip_connect, nor_conv"):
        space.parse("033133")
    with pytest.raises(UserError, match=r"space\.operations=\[none\]: no operation can be selected"):
        Nb201(operations=("none",), derive_none=False)


def test_space_refuses_what_it_does_not_have() -> None:
    space = Nb201(operations=("none", "skip_connect"))
    with pytest.raises(UserError, match="edge 0->1: this space has no operation nor_conv_3x3"):
        space.parse("333133")
    with pytest.raises(UserError, match="listed twice"):
        Nb201(operations=("none", "none"))
    with pytest.raises(UserError, match="is not an operation"):
        Nb201(operations=("nor_conv_9x9",))
    with pytest.raises(UserError, match="no auxiliary head"):
        Nb201().network(Nb201Genotype(("none",) * 6), 10, auxiliary=True)
