"""The operation of CONTRIBUTING.md works from a user folder, in supernets and in discrete networks."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core.bilevel import gradient
from nasx.errors import UserError
from nasx.searcher.problem import weights
from nasx.spaces import operations, rules
from nasx.spaces.darts.space import Darts
from nasx.spaces.edge_operations import EdgeOperations, Norm, Style, weight
from nasx.spaces.nb201.genotype import Nb201Genotype
from nasx.spaces.nb201.space import Nb201

import small

NAME = "min_pool_3x3"
SECTION = (
    (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md")
    .read_text(encoding="utf-8")
    .partition("## Add an operation\n")[2]
    .partition("\n## ")[0]
)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the section."""
    for name, text in re.findall(r"```\w+\n# (mine/[^\n]+)\n(.*?)```", SECTION, re.S):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Scaled(EdgeOperations):
    """A 1x1 convolution with a batch norm, edge by edge: an operation with weights and without a merged path."""

    def __init__(self, edges: int, channels: int, stride: int, style: Style) -> None:
        super().__init__(edges, channels, stride, style)
        self.weight = weight(edges * channels, channels, 1)
        wide = edges * channels
        self.norm = Norm(wide, affine=style.affine, tracked=style.tracked, momentum=style.momentum)

    def single(self, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
        return self.norm(F.conv2d(x, self.weight[self.part(i)], stride=self.stride), part=self.part(i))


@pytest.fixture
def registered(mine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the section, imported here, and the operation `scaled`; nothing stays registered."""
    monkeypatch.setattr(operations, "OPERATIONS", dict(operations.OPERATIONS))
    monkeypatch.setattr(operations, "_OWN", {})
    monkeypatch.setattr(rules, "IMAGES", list(rules.IMAGES))
    monkeypatch.syspath_prepend(mine)
    operations.operation("scaled")(Scaled)
    yield importlib.import_module("mine.min_pool")
    for name in ("mine.min_pool", "mine"):
        sys.modules.pop(name, None)


def test_the_command_of_the_section_searches_and_its_cell_is_retrained(mine: Path) -> None:
    command = re.findall(r"^nasx (.*)$", SECTION, re.M)[0].replace("'", "").split()
    done = jobs.nasx(mine, *command, *jobs.TINY, "space.layers=1", "name=found")
    assert done.code == 0, done
    cell = str(Nb201Genotype(("nor_conv_3x3",) * 6)).replace("nor_conv_3x3~2", f"{NAME}~2")
    small_net = ("retrain.layers=1", "retrain.channels=4", "retrain.epochs=1", "retrain.batch=64", "dataset.size=16")
    again = (word for word in command[1:] if word != "search")
    done = jobs.nasx(mine, "retrain", *again, *small_net, "threads=1", "out=runs", "name=trained", f"genotype={cell}")
    assert done.code == 0, done
    assert NAME in (mine / "runs" / "trained" / "genotype.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("space", [Nb201, Darts])
@pytest.mark.parametrize("name", [NAME, "scaled"])
def test_both_paths_of_a_supernet_agree(space: type[Nb201 | Darts], name: str, registered: Any) -> None:
    made = space(layers=3 if space is Darts else 1, channels=4, operations=("skip_connect", name, "max_pool_3x3"))
    data, found = small.batch(1, size=16), []
    for naive in (False, True):
        net, mix = small.build(made, naive=naive), small.mixture(made, 2)
        loss = F.cross_entropy(net(data.x, mix).main, data.y)
        found.append({"loss": loss, **gradient(loss, {**weights(net), **mix})})
    assert found[0].keys() == found[1].keys()
    for key, x in found[0].items():
        torch.testing.assert_close(x, found[1][key], rtol=1e-9, atol=1e-12)
    assert any(float(x.abs().sum()) > 0 for key, x in found[0].items() if key in mix)


def test_a_discrete_network_has_it_too(registered: Any) -> None:
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for stride in (1, 2):
        near = F.pad(x, (1, 1, 1, 1), value=float("inf")).unfold(2, 3, stride).unfold(3, 3, stride)
        torch.testing.assert_close(operations.build(NAME, 4, stride)(x), near.amin((4, 5)))
    space = registered.WithMinPool(operations=(NAME,))
    assert str(space.parse(str(Nb201Genotype((NAME,) * 6)))).count(NAME) == 6


def test_a_derived_module_normalizes_as_torch_does(registered: Any) -> None:
    """Running statistics included, so that retraining, its synchronized batch norm and zero-cost scores see a norm."""
    torch.manual_seed(0)
    op = operations.build("scaled", 4, 2, momentum=0.3)
    ((_, norm),) = [(name, m) for name, m in op.named_modules() if isinstance(m, nn.BatchNorm2d)]
    plain = nn.Sequential(nn.Conv2d(4, 4, 1, 2, bias=False), nn.BatchNorm2d(4, momentum=0.3))
    plain.load_state_dict({"0.weight": op.operation.weight, **{f"1.{k}": v for k, v in norm.state_dict().items()}})
    x = torch.randn(3, 4, 8, 8)
    torch.testing.assert_close(op(x), plain(x))
    torch.testing.assert_close(op.eval()(x), plain.eval()(x))
    assert float(norm.running_mean.abs().sum()) > 0


def test_a_taken_or_impossible_name_is_refused(registered: Any) -> None:
    for name, fault in (("skip_connect", "already registered"), (NAME, "already registered"), ("a|b", "a valid name")):
        with pytest.raises(UserError, match=fault):
            operations.operation(name)(Scaled)
    importlib.reload(registered)  # the same class again is no fault
