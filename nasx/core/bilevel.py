"""The interface between methods and the bilevel problem.

    min over a of L2(w*(a), a)   with   w*(a) = argmin over w of L1(w, a)

`w` are the supernet's weights, `a` the architecture parameters, `mix = relax(a)` the mixture weights that scale the
operations. L1 is the loss on training batches, L2 the loss on validation batches. A method uses two pure functions,
`relax` and `outcome`, and updates `w` and `a` only through `Search`; it does not depend on space, network or data.

All second-order terms use one primitive, `SecondDerivative` (second_derivatives.py). Probes do not modify and restore
the weights: they evaluate the loss at substituted weights, so that `w` stays bit-identical.

Shapes: a tree maps names to tensors; two trees in one expression have the same names and shapes. `mix` tensors have
a leading axis over the cells that share an architecture parameter, so that a method can read and perturb each cell.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, Protocol, Self, Unpack

import torch
from torch import Tensor

from nasx.core.batch import Batch, Carried, state_kwargs, store_state, without_writes
from nasx.core.draws import Draws
from nasx.core.schedules import scaled
from nasx.core.second_derivatives import Length, SecondDerivative, directional, step_length
from nasx.core.selection import Selection
from nasx.core.trees import (
    Activate,
    Decision,
    Number,
    Tree,
    check_gradient,
    combine,
    detached,
    dot,
    frozen,
    gradient,
    gradients,
    like,
    norm,
    shift,
    vanishes,
)
from nasx.errors import UserError

# The names that methods import: the interface, and functions on trees of tensors.
__all__ = [
    "Activate", "Batch", "Carried", "Cost", "Decision", "Method", "Number", "Outcome", "Problem", "Search",
    "SecondDerivative", "Selection", "Snapshot", "Step", "Tree", "combine", "detached", "directional", "dot", "frozen",
    "gradient", "gradients", "like", "logs", "norm", "shift", "state_kwargs", "step_length",
    "store_state", "vanishes", "without_writes",
]  # fmt: skip


class Outcome(NamedTuple):
    """Mean loss () and accuracy () in [0, 1] of one forward pass; the accuracy has no gradient."""

    loss: Tensor
    accuracy: Tensor

    @classmethod
    def mean(cls, outcomes: Sequence[Outcome]) -> Outcome:
        """Return the mean of several outcomes, without gradients."""
        return cls(*(torch.stack([x.detach() for x in values]).mean() for values in zip(*outcomes, strict=True)))


class Problem(Protocol):
    """Space, network and criterion as pure functions of architecture and weights."""

    groups: tuple[tuple[str, ...], ...]
    """Names of the mixture tensors that describe a cell, for each cell type to which layer regularizers apply."""

    def relax(self, a: Tree, activate: Activate | None = None) -> Tree:
        """Return the mixture for `a`; `activate` maps logits to weights along the last axis (default: the method's)."""

    def sample(self, gen: torch.Generator) -> Tree:
        """Draw an architecture uniformly from the space; return its one-hot mixture."""

    def mask(self, operation: str) -> Tree:
        """Return a tree shaped like the mixture, with 1 for operations named `operation` and 0 elsewhere."""

    def biased(self, mix: Tree, weights: Tree) -> Tree:
        """Return `mix` with a bias for each edge, which is added to the edge's output: the sum of its `weights`."""

    def decisions(self) -> Sequence[Sequence[Decision]]:
        """Return the decisions that determine a genotype, in phases: operations first, then edges."""

    def outcome(self, w: Tree, mix: Tree, batch: Batch, *, track: bool = False, evaluation: bool = False) -> Outcome:
        """Evaluate the loss and accuracy at (w, mix); `track` updates batch norm's running statistics, if any.

        With `evaluation`, use eval mode: running statistics, if any, and no dropout, drop-path or auxiliary loss.
        """


# --------------------------------------------------------------------------------------------------- search
class Snapshot(NamedTuple):
    """Copies of the weights and of the weight optimizer's momentum buffers."""

    w: list[Tensor]
    buffers: list[Tensor | None]


@dataclass
class Search:
    """The state that a step reads and updates: the weights `w`, the architecture `a`, and their optimizers.

    `w` and `a` are trees of leaves owned by the optimizers. `clip` is the maximum global norm of the weight gradient
    (never of the architecture gradient). `progress` is the completed fraction of the search, in [0, 1]; while
    `warming` is set, the architecture is not updated.

    In steps that may be replayed from a CUDA graph, `epoch`, `updates`, `progress` and `lr` are 0-d tensors on the
    device: compute with them, but never read their values (`if`, `int`, `math`), or the steps will run eagerly.
    """

    problem: Problem
    w: Tree
    a: Tree
    w_opt: torch.optim.SGD
    a_opt: torch.optim.Optimizer
    clip: float | None = 5.0
    epoch: int = 0
    epochs: int = 1
    updates: int = 0
    progress: float = 0.0
    warming: bool = False
    sampler: Callable[[Tree, Batch], Tree] | None = None
    """Function that samples the mixture for a batch, set by wrappers; if None, the mixture is `relax(a)`."""
    transform: Callable[[Tree], Tree] | None = None
    """Function applied to every mixture, sampled or not, set by wrappers."""
    arch_penalty: Callable[[Tree], Tree] | None = None
    """Function of `a` that returns a gradient to add to every architecture gradient, set by wrappers."""
    probe: Callable[[str, Tree, Callable[[], Tree], tuple[int, int]], None] | None = None
    """Function that `compare` calls; if None, comparisons are skipped and cost nothing."""
    draws: Draws = field(default_factory=Draws)
    """Source of random numbers."""

    @property
    def lr(self) -> float:
        """Current learning rate of the weights."""
        rate: float = self.w_opt.param_groups[0]["lr"]
        return rate

    def mixture(self, a: Tree, batch: Batch) -> Tree:
        """Return the mixture weights for `a` in passes over `batch`; only `sampler` may make them random."""
        return self.transformed(self.problem.relax(a) if self.sampler is None else self.sampler(a, batch))

    def transformed(self, mix: Tree) -> Tree:
        """Apply the transforms set by wrappers to a mixture."""
        return mix if self.transform is None else self.transform(mix)

    def generator(self, batch: Batch) -> torch.Generator:
        """Return a generator seeded with the batch's seed, on the device of the architecture parameters."""
        return self.draws.generator(batch, next(iter(self.a.values())).device)

    def sampled(self, batch: Batch) -> Tree:
        """Draw an architecture uniformly from the space, with the batch's seed; return its one-hot mixture."""
        return self.draws.made(batch, self.problem.sample)

    def with_sampler(self, sampler: Callable[[Tree, Batch], Tree]) -> Self:
        """Return a view for one step that shares weights, architecture and optimizers, and samples with `sampler`.

        `sampler` must depend only on its arguments (noise: on the batch's seed), so that probes use the same sample.
        """
        return replace(self, sampler=sampler)

    def with_transform(self, transform: Callable[[Tree], Tree]) -> Self:
        """Return a view for one step that applies `transform` to every mixture, sampled or not."""
        return replace(self, transform=lambda mix: self.transformed(transform(mix)))

    def with_arch_penalty(self, penalty: Callable[[Tree], Tree]) -> Self:
        """Return a view for one step that adds `penalty(a)`, a gradient, to every architecture gradient."""
        before = self.arch_penalty
        return replace(self, arch_penalty=penalty if before is None else lambda a: combine(before(a), penalty(a), 1.0))

    def probed(
        self, name: str, second: SecondDerivative, v: Tree, found: Tree | None = None, **length: Unpack[Length]
    ) -> Tree:
        """Return `found`, by default the central difference of `second` along `v`, and pass it to `compare`.

        Comparison `name` uses double backward, `name-half` a central difference of half the step length.
        """
        found = second.central(v, **length) if found is None else found
        self.compare(name, found, lambda: second.exact(v), 1, 2)
        self.compare(f"{name}-half", found, lambda: second.central(v, shorter=2, **length), 2, 2)
        return found

    def compare(self, name: str, found: Tree, better: Callable[[], Tree], forward: int, backward: int) -> None:
        """Call `probe`, if set, to compare `found` with a `better` estimate, which costs these numbers of passes."""
        if self.probe is not None:
            self.probe(name, found, better, (forward, backward))

    def outcome(self, w: Tree, a: Tree, batch: Batch) -> Outcome:
        return self.problem.outcome(w, self.mixture(a, batch), batch)

    def loss(self, w: Tree, a: Tree, batch: Batch) -> Tensor:
        return self.outcome(w, a, batch).loss

    def grad_w(self, w: Tree, mix: Tree, batch: Batch) -> Tree:
        """Compute d L / d w at fixed mixture weights; `w` must require gradients. Cost: one pass."""
        return gradient(self.problem.outcome(w, mix, batch).loss, w)

    def grad_a(self, w: Tree, batch: Batch) -> Tree:
        """Compute d L / d a at fixed weights, whose gradients are not computed. Cost: one pass."""
        return gradient(self.loss(detached(w), self.a, batch), self.a)

    def lr_of(self, batch: Batch) -> float:
        """Return the learning rate of a weight update on `batch`."""
        return self.lr * batch.rate

    def clip_gradient(self, g: Tree) -> Tree:
        """Clip a weight gradient to the global norm `clip`, if set."""
        return self.clip_with_factor(g)[0]

    def clip_with_factor(self, g: Tree) -> tuple[Tree, Number]:
        """Clip a weight gradient; return it and the factor by which it was scaled (at most 1)."""
        if self.clip is None:
            return g, 1.0
        scale = (self.clip / (norm(g) + 1e-6)).clamp(max=1.0)
        return dict(zip(g, torch._foreach_mul([x.detach() for x in g.values()], scale), strict=True)), scale

    # ---------------------------------------------------------------------------------------------- updates
    def update_w(self, batch: Batch, mix: Tree | None = None) -> Outcome:
        """Update the weights on `batch`: gradient at the current weights, clipping, optimizer step. Cost: one pass."""
        mix = detached(self.mixture(self.a, batch) if mix is None else mix)
        outcome = self.problem.outcome(self.w, mix, batch, track=True)
        self.descend_w(gradient(outcome.loss, self.w), batch.rate)
        return outcome

    def update_a(self, batch: Batch) -> Outcome:
        """Update the architecture on `batch` by the first-order gradient. Cost: one pass without weight gradients."""
        outcome = self.outcome(detached(self.w), self.a, batch)
        if not self.warming:
            self.descend_a(gradient(outcome.loss, self.a))
        return outcome

    def descend_w(self, g: Tree, rate: float = 1.0) -> None:
        """Take a step of the weight optimizer along a clipped copy of `g`; `rate` scales the learning rate."""
        check_gradient("search.descend_w", g, self.w)
        moves = self.clip_gradient(g)
        for k, x in self.w.items():
            x.grad = like(moves[k].detach(), x)
        with scaled(self.w_opt, rate):
            self.w_opt.step()
        self.w_opt.zero_grad(set_to_none=True)

    def descend_a(self, g: Tree) -> None:
        """Take an unclipped step of the architecture optimizer along `g`; do nothing while `warming`."""
        if self.warming:
            return
        check_gradient("search.descend_a", g, self.a)
        if self.arch_penalty is not None:
            g = combine(g, self.arch_penalty(self.a), 1.0)
        for k, x in self.a.items():
            x.grad = g[k].detach()
        self.a_opt.step()
        self.a_opt.zero_grad(set_to_none=True)

    def virtual_step(self, g: Tree, rate: float = 1.0, *, create: bool = False) -> Tree:
        """Return w - rate * lr * (momentum * buffer + g + weight_decay * w), the result of an unclipped step along `g`.

        No state changes. The tensors are leaves or, with `create`, functions of g. With heavy-ball momentum, the result
        equals that of `descend_w` without clipping; Nesterov momentum is ignored, as in DARTS' released architect
        (methods/darts.py).
        """
        group = self.w_opt.param_groups[0]
        moved = {}
        for k, x in self.w.items():
            move = (g[k] if create else g[k].detach()) + group["weight_decay"] * x.detach()
            buffer = self.w_opt.state[x].get("momentum_buffer") if x in self.w_opt.state else None
            if buffer is not None:
                move = move + group["momentum"] * buffer
            after = x.detach() - group["lr"] * rate * move
            moved[k] = after if create else after.requires_grad_()
        return moved

    # -------------------------------------------------------------------------------------------- snapshots
    def save_w(self) -> Snapshot:
        """Copy the weights and momentum buffers, so that a method can undo its steps."""
        state = self.w_opt.state
        buffers = [state[x].get("momentum_buffer") if x in state else None for x in self.w.values()]
        w = [x.detach().clone() for x in self.w.values()]
        return Snapshot(w, [None if b is None else b.clone() for b in buffers])

    def restore_w(self, saved: Snapshot, *, momentum: bool = True) -> None:
        """Restore the saved weights and, with `momentum`, the momentum buffers, bit for bit."""
        with torch.no_grad():
            for x, copy, buffer in zip(self.w.values(), saved.w, saved.buffers, strict=True):
                x.copy_(copy)
                if momentum:
                    if buffer is None:
                        self.w_opt.state[x].pop("momentum_buffer", None)
                    else:
                        self.w_opt.state[x]["momentum_buffer"].copy_(buffer)


# --------------------------------------------------------------------------------------------------- method
RENAMED_MEMBERS = {"choose": "select", "draws": "samples_mixture", "compares": "needs_two_cells"}
"""Name of a method's member in 0.1.0 -> current name."""


class Cost(NamedTuple):
    """Number of passes per step, and extra peak memory relative to a first-order step, in copies of the weights."""

    forward: int
    backward: int
    copies: int = 0


class Method(ABC):
    """Base class for search methods: frozen hyperparameters and one outer step; no state, data or device.

    A subclass is a frozen keyword-only dataclass. `step` receives `train_batches` training batches (fewer if an epoch
    ends within a chunk) and one validation batch, and returns 0-d tensors to log.
    """

    trains: ClassVar[bool] = True
    """Whether the method trains a supernet."""
    samples_mixture: ClassVar[bool] = False
    """Whether the method samples mixtures for an inner method (`Search.with_sampler`)."""
    needs_two_cells: ClassVar[bool] = False
    """Whether the method compares cells of a supernet, and therefore needs at least two."""
    reads: ClassVar[str | None] = None
    """The kind of input that the method supports, images or text; None if it supports both."""
    reproduces_faults: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that reproduce a known fault in released code."""

    def __init_subclass__(cls, **more: object) -> None:
        """Raise UserError for members that still have their 0.1.0 names, which would be ignored."""
        super().__init_subclass__(**more)
        for old, new in RENAMED_MEMBERS.items():
            if callable(cls.__dict__.get(old)) or cls.__dict__.get(old) is True:
                raise UserError(f"method {cls.__name__}", f"defines {old}, which was renamed to {new}", "rename it")

    @property
    def labels(self) -> list[str]:
        """Names of the enabled fields that reproduce known faults; every table shows them."""
        return [name for name in self.reproduces_faults if getattr(self, name)]

    @property
    def cost(self) -> Cost | None:
        """Stated cost of a step, which `nasx audit` compares with the measured cost; None if not stated."""
        return None

    def response(self, h: Tensor, lr: float) -> Tensor | None:
        """Return p(h) (n,) for eigenvalues h (n,) of H, if the hypergradient is d/da L2 - M p(H) d/dw L2.

        Returns None if not stated. The exact hypergradient has p(h) = 1 / h. `nasx audit` measures p.
        """
        return None

    @property
    def steps_w(self) -> int:
        """Number of weight updates per outer step; the loop counts epochs in weight updates."""
        return 1

    @property
    def train_batches(self) -> int:
        """Number of training batches drawn per outer step."""
        return self.steps_w

    @property
    def updates_per_batch(self) -> int:
        """Number of weight updates per batch of a pass over the training split."""
        return 1

    def chunk(self, left: int) -> tuple[int, int]:
        """Return the numbers of weight updates and training batches of the next step, if `left` updates remain."""
        return (self.steps_w, self.train_batches) if left >= self.steps_w else (left, left)

    @abstractmethod
    def step(self, search: Search, train: Sequence[Batch], val: Batch) -> dict[str, Tensor]:
        """Take one outer step; return train_loss, train_accuracy, val_loss, val_accuracy and values of the method."""

    def start(self, a: Tree) -> Tree:
        """Return the initial architecture parameters, given the space's initial values `a`."""
        return a

    def activate(self, logits: Tensor) -> Tensor:
        """Map logits to mixture weights along the last axis."""
        return torch.softmax(logits, dim=-1)

    def select(self, search: Search, selection: Selection) -> Tree:
        """Return the mixture to discretize at the end of the search."""
        return detached(search.problem.relax(search.a))


Step = Callable[[Search, Sequence[Batch], Batch], dict[str, Tensor]]


def logs(train: Outcome | None = None, val: Outcome | None = None, **more: Tensor) -> dict[str, Tensor]:
    """Return the values that a step logs, under the names that loops, tables and curves use."""
    named: dict[str, Tensor] = {}
    for prefix, outcome in (("train", train), ("val", val)):
        if outcome is not None:
            named |= {f"{prefix}_loss": outcome.loss.detach(), f"{prefix}_accuracy": outcome.accuracy.detach()}
    return named | {name: value.detach() for name, value in more.items()}
