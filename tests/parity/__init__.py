"""Numbers of the authors' released code, and small nasx searches on the same weights, logits and batches.

Each `.npz` holds one problem in nasx's names and what the release computed for it in float64; `README.md` says which
release and what the arrays are. `Fixture` reads a file, `search` builds its problem in nasx, `Spy` is a method that
records the loss and the gradients that any method around it leads to.

Shapes: a tree over the weights is one flat array in the file, split here by the names and shapes in its `meta`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nasx.core import versions
from nasx.core.bilevel import Activate, Batch, Method, Search, Tree, gradients
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.base import Space, Supernet

FOLDER = Path(__file__).parent
BOUND = 1e-10
"""Relative error (2-norm) below which a quantity equals the release's; the largest found is 2e-11."""


class Fixture(NamedTuple):
    """One file: its `meta`, and its arrays as tensors."""

    meta: dict[str, Any]
    arrays: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def tree(self, group: str) -> Tree:
        """The arrays of a group: a tree over the weights where it is one flat array, else `group/NAME` by NAME."""
        if group in self.arrays:
            parts = self.arrays[group].split([int(np.prod(shape)) for _, shape in self.meta["weights"]])
            return {name: x.view(shape).clone() for (name, shape), x in zip(self.meta["weights"], parts, strict=True)}
        return {k.removeprefix(f"{group}/"): x.clone() for k, x in self.arrays.items() if k.startswith(f"{group}/")}

    def batch(self, name: str) -> Batch:
        """The batch `train` or `val`."""
        return Batch(self[f"{name}/x"], self[f"{name}/y"], self.meta["seed"].get(name, 0))

    def batches(self) -> list[Batch]:
        """The batches of a fixture of several steps."""
        return [Batch(x, y, seed) for seed, (x, y) in enumerate(zip(self["batches_x"], self["batches_y"], strict=True))]

    def space(self, **settings: Any) -> Space:
        """The space of the fixture, with other `settings` where given."""
        module, name = versions.present(self.meta["space"]["class"]).rsplit(".", 1)
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in self.meta["space"]["settings"].items()}
        built: Space = getattr(importlib.import_module(module), name)(**given | settings)
        return built

    def supernet(self, *, naive: bool = False, **settings: Any) -> Supernet:
        """The relaxed network of the space at the fixture's weights, in float64."""
        net = self.space(**settings).supernet(self.meta["space"]["classes"], naive=naive).double().train()
        w = self.tree("w")
        assert {k: x.shape for k, x in net.named_parameters()} == {k: x.shape for k, x in w.items()}
        net.load_state_dict(w, strict=False)
        return net


@cache
def _read(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    arrays = dict(np.load(FOLDER / f"{name}.npz"))
    meta = json.loads(str(arrays.pop("meta")))
    return meta, {k: torch.from_numpy(np.array(x)) for k, x in arrays.items()}


def load(name: str) -> Fixture:
    """The fixture of that name."""
    return Fixture(*_read(name))


def softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, -1)


def search(
    fixture: Fixture, activate: Activate = softmax, *, naive: bool = False, plain: bool = False, **settings: Any
) -> Search:
    """The fixture's search: its weights, logits, optimizers, clipping and epoch.

    `plain` gives the architecture gradient descent of rate 1, so that a step moves it by minus the gradient. `settings`
    are those of the space that differ.
    """
    meta, net = fixture.meta, fixture.supernet(naive=naive, **settings)
    problem = RelaxedProblem(fixture.space(**settings), net, activate)
    w = weights(net)
    a = {k: x.requires_grad_() for k, x in fixture.tree("alpha").items()}
    w_opt = torch.optim.SGD(w.values(), **{"lr": 0.1, **meta.get("w_opt", {})})
    given = {k: v for k, v in meta.get("a_opt", {}).items() if k != "kind"}
    a_opt: torch.optim.Optimizer = (
        torch.optim.SGD(a.values(), lr=1.0)
        if plain or not given
        else torch.optim.Adam(a.values(), **{**given, "betas": tuple(given["betas"])})
    )
    for k, x in fixture.tree("momentum").items():
        w_opt.state[w[k]]["momentum_buffer"] = x
    return Search(
        problem, w, a, w_opt, a_opt, clip=meta.get("clip"), epoch=meta.get("epoch", 0), epochs=meta.get("epochs", 1)
    )


class Seen(NamedTuple):
    """What a method inside another one meets on its training batch."""

    loss: Tensor
    mix: Tree
    grad_w: Tree
    grad_a: Tree


@dataclass(frozen=True, kw_only=True)
class Spy(Method):
    """A method that moves nothing and records what it is given to step on."""

    seen: list[Seen] = field(default_factory=list)

    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        mix = search.mixture(search.a, train[0])
        loss = search.problem.outcome(search.w, mix, train[0]).loss
        grad_w, grad_a = gradients(loss, search.w, search.a)
        self.seen.append(Seen(loss.detach(), {k: x.detach() for k, x in mix.items()}, grad_w, grad_a))
        return {}


def error(got: Tree | Tensor, expected: Tree | Tensor) -> float:
    """||got - expected|| / ||expected||, over all leaves of a tree."""
    got, expected = ({"": x} if isinstance(x, Tensor) else x for x in (got, expected))
    assert got.keys() == expected.keys()
    x, y = (torch.cat([tree[k].detach().reshape(-1) for k in expected]) for tree in (got, expected))
    assert x.shape == y.shape
    assert y.norm() > 0, "nothing to compare with"
    return float((x - y).norm() / y.norm())
