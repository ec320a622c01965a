"""Compare with the reference implementations: losses in their signature, relative errors, small real searches.

Small networks are float64 and piecewise smooth: if the argument of a relu or a max-pool changes sign within a probe,
the difference quotient includes a jump that the derivative at the point does not. `RADIUS` is so small that no argument
changes sign at the tested points (rounding then costs about 1e-9); `smoothed` removes the kinks instead.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nasx.core.bilevel import Batch, Problem, Search, Tree
from nasx.spaces.base import Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201
from nasx.spaces.recurrent.space import Recurrent

import small
import toy
from reference import methods

RADIUS = 1e-6
SPACES: dict[str, Space] = {
    "nb201": Nb201(layers=1, channels=4),
    "darts": Darts(layers=4, channels=4),  # two normal cells and two reductions
    "nb1shot1": Nb1Shot1(variant=1, layers=3, channels=4),
}
TEXT: dict[str, Space] = {"darts_rnn": Recurrent(channels=4, nodes=3)}
"""Spaces whose networks read text."""
TRAIN, VAL = small.batch(1, size=8), small.batch(2, size=8)


def real_search(name: str, lr: float = 0.05, momentum: float = 0.0) -> Search:
    """Return a search on the small supernet of `SPACES[name]` (or of `TEXT[name]`)."""
    return small.search({**SPACES, **TEXT}[name], lr=lr, momentum=momentum)


def loss(problem: Problem, batch: Batch) -> methods.Loss:
    """Return L(w, a) of one batch."""
    return lambda w, a: problem.outcome(w, problem.relax(a), batch).loss


def mixed_loss(problem: Problem, batch: Batch) -> methods.Loss:
    """Return L(w, mix) of one batch."""
    return lambda w, mix: problem.outcome(w, mix, batch).loss


def copied(tree: Tree) -> Tree:
    return {k: x.detach().clone() for k, x in tree.items()}


def mixture(search: Search) -> Tree:
    return copied(search.problem.relax(search.a))


def relative(got: Tree, expected: Tree) -> float:
    """Return ||got - expected|| / ||expected|| over all leaves; the expected tree is not zero."""
    assert got.keys() == expected.keys()
    length = torch.linalg.vector_norm(toy.flat(expected))
    assert length > 1e-8, "nothing to compare with"
    return float(torch.linalg.vector_norm(toy.flat(got) - toy.flat(expected)) / length)


def same(x: Tree, y: Tree) -> bool:
    """Return whether two trees are equal bit for bit."""
    return x.keys() == y.keys() and all(torch.equal(x[k].detach(), y[k].detach()) for k in x)


def near(got: Tree | Tensor, expected: object, tolerance: float = 1e-8) -> None:
    """Assert that a tree or tensor agrees with a list of numbers, up to an absolute tolerance."""
    vector = toy.flat(got) if isinstance(got, dict) else got.detach().reshape(-1)
    numbers = torch.as_tensor(expected, dtype=torch.float64).reshape(-1)
    torch.testing.assert_close(vector, numbers, rtol=0, atol=tolerance)


def smoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every relu in the supernets with a softplus, so that losses are smooth where nothing max-pools."""
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: F.softplus(x, beta=5.0))


def gumbel(seed: int, a: Tree) -> Tree:
    """Return the noise of one batch, drawn name by name."""
    gen = torch.Generator().manual_seed(seed)
    return {k: -torch.log(-torch.log(torch.rand(x.shape, generator=gen, dtype=torch.float64))) for k, x in a.items()}
