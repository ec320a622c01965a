"""What CONTRIBUTING.md says of a new operation is all that one needs: its code, put where it says, works."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nasx.core.bilevel import gradient
from nasx.searcher.problem import weights
from nasx.spaces import banks, mixed_cell, ops, rules
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb201.genotype import Nb201Genotype
from nasx.spaces.nb201.space import Nb201

import small

NAME = "min_pool_3x3"


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation of the section, in the four places that it names."""
    text = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Add an operation\n")[2].partition("\n## ")[0]
    module, maker, bank, case = re.findall(r"```python\n(.*?)```", section, re.S)
    there: dict[str, Any] = dict(vars(ops))
    exec(f"{module}\nmade = {{{maker}}}", there)
    for name, make in there["made"].items():
        monkeypatch.setitem(ops.OPERATIONS, name, make)
    monkeypatch.setattr(rules, "IMAGES", (*rules.IMAGES, NAME))
    there = dict(vars(banks))
    exec(f"{bank}\ndef made(name, edges, channels, stride, style):\n    match name:\n{indent(case, ' ' * 8)}", there)
    monkeypatch.setattr(
        mixed_cell, "bank", lambda name, *given: there["made"](name, *given) or banks.bank(name, *given)
    )


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("space", [Nb201, Darts])
def test_the_operation_of_the_example_works(space: type[Nb201 | Darts]) -> None:
    made = space(layers=3 if space is Darts else 1, channels=4, operations=("skip_connect", NAME, "max_pool_3x3"))
    data, found = small.batch(1, size=16), []
    for naive in (False, True):
        net, mix = small.build(made, naive=naive), small.mixture(made, 2)
        loss = F.cross_entropy(net(data.x, mix).main, data.y)
        found.append({"loss": loss, **gradient(loss, {**weights(net), **mix})})
    assert found[0].keys() == found[1].keys()
    for name, x in found[0].items():
        torch.testing.assert_close(x, found[1][name], rtol=1e-9, atol=1e-12)
    assert any(float(x.abs().sum()) > 0 for name, x in found[0].items() if name in mix)


@pytest.mark.usefixtures("added")
def test_a_discrete_network_has_it_too() -> None:
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for stride in (1, 2):
        near = F.pad(x, (1, 1, 1, 1), value=float("inf")).unfold(2, 3, stride).unfold(3, 3, stride)
        torch.testing.assert_close(ops.build(NAME, 4, stride)(x), near.amin((4, 5)))
    space = Nb201(operations=(NAME,))
    assert str(space.parse(str(Nb201Genotype((NAME,) * 6)))).count(NAME) == 6
