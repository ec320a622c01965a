"""Supernets, discrete networks and derived architectures against the authors' released code, in float64."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

import parity
import pytest
import space_variants
import torch
import torch.nn.functional as F
from parity import BOUND, FOLDER, Spy, error

from nasx.core import versions
from nasx.core.bilevel import Search, gradients
from nasx.methods.darts_minus import DartsMinus
from nasx.spaces.base import Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb1shot1.space import Nb1Shot1

SUPERNETS = (
    "darts_supernet",
    "nb201_supernet",
    "nb1shot1_1_supernet",
    "nb1shot1_2_supernet",
    "nb1shot1_3_supernet",
    "pc_darts",
)
NETWORKS = ("darts_network_cifar", "nb201_network")
GENOTYPES = json.loads((FOLDER / "genotypes.json").read_text())


def test_every_file_of_numbers_is_compared() -> None:
    text = "".join(path.read_text() for path in FOLDER.parent.glob("*/test_parity_*.py"))
    assert not [file.stem for file in FOLDER.glob("*.npz") if f'"{file.stem}"' not in text]


# --------------------------------------------------------------------------------------------------- supernets
@pytest.mark.parametrize("naive", [False, True], ids=["merged", "naive"])
@pytest.mark.parametrize("name", SUPERNETS)
def test_a_supernet_equals_the_release(name: str, naive: bool) -> None:
    """Logits, loss and the gradients by weights and logits."""
    fixture = parity.load(name)
    search, train = parity.search(fixture, naive=naive), fixture.batch("train")
    mix = search.problem.relax(search.a)
    loss = search.problem.outcome(search.w, mix, train).loss
    grad_w, grad_a = gradients(loss, search.w, search.a)
    assert error(search.problem.supernet(train.x, mix).main, fixture["logits"]) < BOUND  # type: ignore[attr-defined]
    assert error(loss, fixture["loss"]) < BOUND
    assert error(grad_w, fixture.tree("grad_w")) < BOUND
    assert error(grad_a, fixture.tree("grad_alpha")) < BOUND


@pytest.mark.parametrize("naive", [False, True], ids=["merged", "naive"])
def test_an_auxiliary_skip_connection_equals_the_release(naive: bool) -> None:
    """DARTS- at epoch 20 of 50, where beta is 0.6."""
    fixture, spy = parity.load("darts_minus"), Spy()
    search: Search = parity.search(fixture, naive=naive)
    method = DartsMinus(inner=spy)
    assert method.auxiliary(search) == pytest.approx(fixture.meta["beta"], abs=1e-15)
    method.step(search, [fixture.batch("train")], fixture.batch("train"))
    assert error(spy.seen[0].loss, fixture["loss"]) < BOUND
    assert error(spy.seen[0].grad_w, fixture.tree("grad_w")) < BOUND
    assert error(spy.seen[0].grad_a, fixture.tree("grad_alpha")) < BOUND


# ----------------------------------------------------------------------------------------------------- networks
@pytest.mark.parametrize("name", NETWORKS)
def test_a_discrete_network_equals_the_release(name: str) -> None:
    """Logits, loss and gradient in training, and the logits in eval mode after that one pass."""
    fixture = parity.load(name)
    meta, x, y = fixture.meta, fixture["train/x"], fixture["train/y"]
    settings = dict(meta["network"])
    module, cls = versions.present(settings.pop("space")).rsplit(".", 1)
    space: Space = getattr(importlib.import_module(module), cls)()
    net = space.network(space.parse(meta["genotype"]), **settings).double().train()
    w = fixture.tree("w")
    assert {k: v.shape for k, v in net.named_parameters()} == {k: v.shape for k, v in w.items()}
    net.load_state_dict(w, strict=False)
    out = net(x)
    loss = F.cross_entropy(out.main, y)
    assert error(out.main, fixture["logits"]) < BOUND
    if settings["auxiliary"]:
        assert error(out.auxiliary, fixture["logits_auxiliary"]) < BOUND
        loss = loss + meta["auxiliary_weight"] * F.cross_entropy(out.auxiliary, y)
    assert error(loss, fixture["loss"]) < BOUND
    live = dict(net.named_parameters())
    found = dict(zip(live, torch.autograd.grad(loss, list(live.values())), strict=True))
    whole, part = fixture.tree("grad_w"), fixture.tree("grad_w_part")
    assert whole.keys() | part.keys() == live.keys()
    assert error({k: found[k] for k in whole}, whole) < BOUND
    for k, expected in part.items():
        g = found[k].flatten()
        assert error(torch.cat([torch.stack([g.norm(), g.sum()]), g[:64]]), expected) < BOUND
    assert error(net.eval()(x).main, fixture["logits_eval"]) < BOUND


# ---------------------------------------------------------------------------------------------------- genotypes
def pairs(cell: Sequence[Sequence[Any]]) -> list[set[tuple[Any, ...]]]:
    """The two (operation, predecessor) of each node as a set: nasx sorts them by predecessor, the release by weight."""
    return [{*map(tuple, cell[i : i + 2])} for i in range(0, len(cell), 2)]


def derived(space: Space, genotype: Any) -> Any:
    """A genotype in the form of the fixture's cases."""
    match space:
        case Darts():
            return {kind: pairs(getattr(genotype, kind)) for kind in ("normal", "reduce")}
        case Nb1Shot1():
            return {"matrix": [list(row) for row in genotype.matrix], "ops": list(genotype.ops)}
    return {"text": str(genotype)}


def test_pc_darts_derives_the_released_architecture() -> None:
    """Edges and operations are ranked by the products of both weights."""
    fixture = parity.load("pc_darts")
    space = fixture.space()
    mix = space.relax(fixture.tree("alpha"), parity.softmax)
    expected = {kind: pairs(cell) for kind, cell in fixture.meta["genotype"].items()}
    assert derived(space, space.discretize(mix)) == expected


@pytest.mark.parametrize("name", GENOTYPES["spaces"])
def test_a_hundred_architectures_equal_the_release(name: str) -> None:
    """Of the spaces as `conf/space` has them; every tenth with ties, but for NAS-Bench-1Shot1."""
    space: Space = space_variants.full(name)
    assert len(GENOTYPES["spaces"][name]["cases"]) == 100
    different = []
    for case in GENOTYPES["spaces"][name]["cases"]:
        a = {k: torch.tensor(rows, dtype=torch.float64) / 1000 for k, rows in case["alpha"].items()}
        expected = {k: pairs(v) if k in ("normal", "reduce") else v for k, v in case.items() if k != "alpha"}
        if derived(space, space.discretize(space.relax(a, parity.softmax))) != expected:
            different.append(case)
    assert not different
