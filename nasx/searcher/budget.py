"""Budget of a search: the architecture objective penalizes the expected cost of the discrete network.

With E(a) = E[cost](relax(a)) from spaces/expected_cost.py, target T, weight b and the loss L that the search minimizes:

    hinge           L + b max(0, E / T - 1)             nasx
    linear          L + b (E - T) / T                   ProxylessNAS, released code: add#linear
    logarithmic     L (log E / log T)^b                 FBNet, eq. 2; ProxylessNAS, released code: mul#log
    multiplicative  L (E / T)^b                         MnasNet, eq. 2, with w = b, for a loss instead of an accuracy

For any method, the penalty's gradient is added to every architecture gradient (`Search.arch_penalty`).

Sources: H. Cai, L. Zhu, S. Han, ProxylessNAS, ICLR 2019, section 3.3 and released code (search/nas_manager.py); B. Wu
et al., FBNet, CVPR 2019, section 3.3; M. Tan et al., MnasNet, CVPR 2019, section 3.1.

Deviations
1. For the two products L R, the gradient is dL + L d log R. The published gradient is R times as large (alpha R times
   for FBNet). This positive factor scales the learning rate of SGD and does not affect the steps of Adam.
2. L is the detached loss of the step's most recent forward pass. In second-order methods, that pass may use other
   weights or another batch than the hypergradient.
3. Logarithms are taken of multiply-adds, parameters or microseconds.
4. The mixture is relax(a) even if the method samples its mixtures: for GDAS and SNAS, it contains the sampling
   probabilities; for DrNAS, the weights by which the architecture is selected.

Shapes: `a` as in the space. Units: costs in multiply-adds, parameters or milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

import torch
from torch import Tensor

from nasx.core import budgets
from nasx.core.bilevel import Tree, detached, gradient
from nasx.core.plain import Result
from nasx.errors import UserError
from nasx.spaces import latency
from nasx.spaces.cost import Counts
from nasx.spaces.cost import Limit as CostLimit
from nasx.spaces.expected_cost import CostModel, nearest
from nasx.spaces.latency import Size

if TYPE_CHECKING:
    from nasx.benchmarks.base import Benchmark
    from nasx.core.constraints import Channels, Layers, Pixels, PositiveFloat
    from nasx.searcher.problem import RelaxedProblem
    from nasx.spaces.base import Genotype

WEIGHTS = {"hinge": 1.0, "linear": 0.1, "logarithmic": 0.6, "multiplicative": 0.07}
"""Default weight of each form. linear: released code of ProxylessNAS; logarithmic: the same code, and beta in FBNet;
multiplicative: |w| in MnasNet; hinge: chosen by nasx so that the cost outweighs the loss above the target."""


@dataclass(frozen=True, kw_only=True)
class NoBudget:
    """No limit on the cost of the discrete network."""

    def open(self, problem: RelaxedProblem, benchmark: Benchmark, shape: tuple[int, ...]) -> None:
        """Return None: the search has no limit."""

    def width_limits(self) -> list[CostLimit]:
        """Return an empty list: the width of a retrained network is not limited."""
        return []


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A target for the cost of the discrete network, and the form of the penalty on its expected cost."""

    quantity: Literal["macs", "params", "latency"]
    target: float | str
    form: Literal["hinge", "linear", "logarithmic", "multiplicative"] = "hinge"
    weight: PositiveFloat | None = None
    enforce: bool = False
    layers: Layers | None = None
    channels: Channels | None = None
    stem: Literal["cifar", "imagenet", "single"] = "cifar"
    image: Pixels | None = None
    device: str | None = None

    def width_limits(self) -> list[CostLimit]:
        """Return the target, which must be absolute, as a limit on the width of a retrained network."""
        amount, _ = budgets.target(self.target, self.quantity)
        return [CostLimit(f"budget.target={self.target}", self.quantity, amount)]

    def open(self, problem: RelaxedProblem, benchmark: Benchmark, shape: tuple[int, ...]) -> Limit:
        """Return the limit for a search on images of `shape` (channels, height, width).

        Raises UserError if every network of the space costs more than the target.
        """
        space, classes = problem.space, problem.classes
        assert classes is not None
        shape = shape if self.image is None else (*shape[:-2], self.image, self.image)
        size: Size = {"layers": self.layers, "channels": self.channels, "stem": self.stem}
        model: CostModel
        if self.quantity == "latency":
            if str(self.device).endswith(latency.SUFFIX):
                model = space.measured(latency.read(str(self.device)))
            else:
                model = space.tabulated(benchmark.latencies(str(self.device)).tolist())

            def count(genotype: Genotype) -> float:
                return float(model(space.encode(genotype)))
        else:
            counts = Counts(self.quantity)
            model = space.cost_model(counts, classes, shape, **size)

            def count(genotype: Genotype) -> float:
                with torch.device("meta"):
                    network = space.network(genotype, classes, **size)
                return counts.network(network, space.example(1, shape))

        uniform = space.relax({k: torch.zeros(x) for k, x in space.shapes().items()}, lambda x: torch.softmax(x, -1))
        amount, relative = budgets.target(self.target, self.quantity)
        mean, least = float(model(uniform)), model.least()
        target = amount * mean if relative else amount
        if target < least:
            raise UserError(
                f"budget.target={self.target}",
                f"no network in this space costs less than {budgets.text(least, self.quantity)}",
                f"raise budget.target (the mean is {budgets.text(mean, self.quantity)}), or lower budget.channels",
            )
        return Limit(self, problem, model, target, count)


class Counted(TypedDict):
    """A genotype as text and the cost of its network; the job adds the benchmark results as `lookup`."""

    genotype: str
    cost: float
    lookup: NotRequired[Result | None]


class Choice(TypedDict):
    """Record of a budget: the found architecture, the nearest one within the budget, and whether the latter is kept."""

    quantity: str
    target: float
    expected: float
    cost: float
    ratio: float
    met: bool
    enforced: bool
    found: Counted
    nearest: Counted | None


class Limit:
    """The cost limit of one search; `target` is in multiply-adds, parameters or milliseconds."""

    def __init__(
        self,
        budget: Budget,
        problem: RelaxedProblem,
        model: CostModel,
        target: float,
        count: Callable[[Genotype], float],
    ) -> None:
        self.budget, self.problem, self.target, self.count = budget, problem, target, count
        self.model, self.device_model = model, model.to(problem.device)
        self.weight = WEIGHTS[budget.form] if budget.weight is None else budget.weight

    def penalty(self, a: Tree) -> Tree:
        """Compute the gradient of the penalty with respect to `a`."""
        leaves = detached(a, requires_grad=True)
        expected = self.device_model(self.problem.relax(leaves))
        slope = self.slope(expected.detach())
        return {k: slope.to(x.dtype) * x for k, x in gradient(expected, leaves).items()}

    def slope(self, expected: Tensor) -> Tensor:
        """Return the derivative () of the penalty with respect to the expected cost."""
        b, t, form = self.weight, self.target, self.budget.form
        if form == "hinge":
            return b / t * (expected > t).to(expected.dtype)
        if form == "linear":
            return torch.full_like(expected, b / t)
        loss = self.problem.last_loss
        assert loss is not None, "an architecture gradient before any pass"
        if form == "multiplicative":
            return loss.double() * b / expected
        unit = 1e3 if self.budget.quantity == "latency" else 1.0
        return loss.double() * b / (expected * torch.log(unit * expected))

    def expected(self, mix: Tree) -> float:
        """Compute the expected cost of the discrete network of a mixture."""
        return float(self.device_model(mix))

    def kept(self, mix: Tree) -> tuple[Tree, Choice]:
        """Return the mixture to discretize, and the record of the choice.

        If the architecture of `mix` exceeds the target and `enforce` is set, the nearest mixture whose architecture
        does not exceed it is returned instead, provided there is one.
        """
        space, budget = self.problem.space, self.budget
        mix = {name: x.detach().cpu() for name, x in mix.items()}

        def counted(tree: Tree) -> Counted:
            genotype = space.discretize(tree)
            return {"genotype": str(genotype), "cost": self.count(genotype)}

        found = counted(mix)
        near: Counted | None = None
        chosen, cost, enforced = mix, found["cost"], False
        if cost > self.target and (close := nearest(space, mix, self.model, self.target)) is not None:
            near, enforced = counted(close), budget.enforce
            if enforced:
                chosen, cost = close, near["cost"]
        return chosen, {
            "quantity": budget.quantity,
            "target": self.target,
            "expected": float(self.model(mix)),
            "cost": cost,
            "ratio": cost / self.target,
            "met": cost <= self.target,
            "enforced": enforced,
            "found": found,
            "nearest": near,
        }
