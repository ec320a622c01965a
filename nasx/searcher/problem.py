"""A space and its supernet as a bilevel problem.

`RelaxedProblem` combines a space, a supernet and the criterion into the pure functions that methods use. Weights are
passed as a tree and substituted into the supernet, never copied into it, so an evaluation at other weights leaves the
current weights bit-identical.

Loss: cross entropy, plus `auxiliary` times the cross entropy of the auxiliary head (if any), plus the penalty that the
supernet returns (if any). Random operations (noise, drop-path, dropout) draw from a generator seeded with the batch's
seed, so two evaluations of a batch use the same random numbers, and finite differences keep their order of accuracy.

With `parallel`, each rank evaluates a slice of the batch, and all ranks get the loss, the accuracy and the derivatives
of the whole batch (core/distributed.py). The generator then also depends on the rank.

Deviation: the penalty is also added on validation batches; the released code for recurrent cells adds the slowness
penalty on the hidden states only to the loss of weight steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from nasx.core import distributed
from nasx.core.bilevel import Activate, Batch, Decision, Outcome, Tree, detached, state_kwargs, store_state
from nasx.core.draws import Draws, placed
from nasx.errors import UserError
from nasx.spaces.activation_checkpointing import recompute
from nasx.spaces.blocks import evaluating, synchronize, tracking, wrap
from nasx.spaces.edge_operations import EdgeOperations
from nasx.tracking.compiled import keep_compiled

if TYPE_CHECKING:
    from nasx.config.settings import EngineSettings
    from nasx.spaces.base import Genotype, Space, Supernet


class RelaxedProblem:
    """The `bilevel.Problem` of a space.

    `options` are keyword arguments of the supernet in training passes, which the job sets in each epoch.
    """

    def __init__(
        self,
        space: Space,
        supernet: Supernet,
        activate: Activate,
        *,
        auxiliary: float = 0.0,
        engine: EngineSettings | None = None,
        classes: int | None = None,
        parallel: bool = False,
    ) -> None:
        self.space, self.supernet, self.activate, self.classes = space, supernet, activate, classes
        self.auxiliary = auxiliary
        self.options: dict[str, object] = {}
        self.bf16 = engine is not None and engine.precision == "bf16"
        self.compiled, self.parallel = False, parallel
        if parallel:
            synchronize(supernet)
        if engine is not None:
            self._prepare(engine)
        self.groups = space.groups
        first = next(supernet.parameters())
        self.device, self.dtype = first.device, first.dtype
        self.draws = Draws()
        self.unseeded = torch.Generator(self.device)
        self.noisy = any(
            isinstance(m, EdgeOperations) and type(m).draw is not EdgeOperations.draw for m in supernet.modules()
        )
        self.passes = 0
        self.last_loss: Tensor | None = None
        self.masks: dict[str, Tree] = {}  # on the device, because a copy in each step would stall it

    def _prepare(self, engine: EngineSettings) -> None:
        """Set the memory layout, compile the cells (never falling back to eager silently), and enable recomputation."""
        if engine.channels_last:
            self.supernet.to(memory_format=torch.channels_last)
        device = next(self.supernet.parameters()).device
        auto = engine.compile == "auto" and device.type == "cuda" and not self.parallel
        self.compiled = engine.compile == "on" or auto
        if self.compiled and self.parallel:
            raise UserError("engine.compile=on", "does not support multiple processes", "use engine.compile=off")
        if self.compiled:
            keep_compiled()
            torch._dynamo.config.recompile_limit = 256
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            wrap(self.supernet, lambda body: torch.compile(body, fullgraph=True, dynamic=False))
        if engine.checkpoint:
            recompute(self.supernet)

    def relax(self, a: Tree, activate: Activate | None = None) -> Tree:
        return self.space.relax(a, activate or self.activate)

    def encode(self, genotype: Genotype) -> Tree:
        """Return the one-hot mixture of a genotype, on the device of the supernet."""
        return {k: placed(x.to(self.dtype), self.device) for k, x in self.space.encode(genotype).items()}

    def sample(self, gen: torch.Generator) -> Tree:
        return self.encode(self.space.sample(gen))

    def network(self, mix: Tree, seed: int) -> torch.nn.Module:
        """Return the discrete network of a mixture, at the size of the search and initialized from `seed`."""
        assert self.classes is not None, "made without the number of classes"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed other devices' generators
            network = self.space.standalone(self.space.discretize(mix), self.classes)
        return network.to(self.device, self.dtype)

    def mask(self, operation: str) -> Tree:
        if operation not in self.masks:
            self.masks[operation] = {k: x.to(self.device, self.dtype) for k, x in self.space.mask(operation).items()}
        return self.masks[operation]

    def biased(self, mix: Tree, weights: Tree) -> Tree:
        return self.space.biased(mix, weights)

    def decisions(self) -> tuple[tuple[Decision, ...], ...]:
        return self.space.decisions()

    def outcome(self, w: Tree, mix: Tree, batch: Batch, *, track: bool = False, evaluation: bool = False) -> Outcome:
        self.passes += 1
        options = {} if evaluation else self.options
        # salted, because methods draw from the unsalted seed
        salt = 1 + 2 * distributed.rank() if self.parallel else 1
        random = self.noisy or any(isinstance(x, Tensor) or x for x in options.values())
        gen = self.draws.generator(batch, self.device, salt) if random else self.unseeded
        n = batch.y.numel()
        if self.parallel:
            own = distributed.rank_slice(len(batch.y))
            batch = batch._replace(x=batch.x[own], y=batch.y[own])
            w, mix = distributed.shared(w), distributed.shared(mix)
        given = {**options, **state_kwargs(batch), "gen": gen}
        with (
            tracking(self.supernet, track),
            evaluating(self.supernet, evaluation),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
        ):
            logits = functional_call(self.supernet, w, (batch.x, mix), given, strict=False)
        store_state(batch, logits.state, track=track)
        y = batch.y.flatten()
        loss = self._entropy(logits.main, y, n)
        if self.auxiliary and logits.auxiliary is not None:
            loss = loss + self.auxiliary * self._entropy(logits.auxiliary, y, n)
        if logits.penalty is not None:
            penalty = logits.penalty.to(self.dtype)
            loss = loss + (penalty * (y.numel() / n) if self.parallel else penalty)
        with torch.no_grad():
            right = (logits.main.argmax(1) == y).to(loss.dtype)
            accuracy = right.sum() / n if self.parallel else right.mean()
        if self.parallel:
            loss, accuracy = distributed.total(loss, accuracy)
            accuracy = accuracy.detach()
        self.last_loss = loss.detach()
        return Outcome(loss, accuracy)

    def _entropy(self, logits: Tensor, y: Tensor, n: int) -> Tensor:
        """Compute the mean cross entropy () over a batch of n items; with `parallel`, this rank's part of the mean."""
        if self.parallel:
            return F.cross_entropy(logits.to(self.dtype), y, reduction="sum") / n
        return F.cross_entropy(logits.to(self.dtype), y)

    @torch.no_grad()
    def evaluate(self, w: Tree, mix: Tree, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the mean loss and accuracy over the items of `batches`, in eval mode (running statistics, if any)."""
        total, loss, correct = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for batch in batches:
            outcome = self.outcome(detached(w), detached(mix), batch, evaluation=True)
            count = batch.y.numel()
            loss = loss + outcome.loss.double() * count
            correct = correct + outcome.accuracy.double() * count
            total += count
        return {"loss": float(loss) / max(total, 1), "accuracy": float(correct) / max(total, 1)}


def weights(supernet: torch.nn.Module) -> dict[str, Tensor]:
    """Return the weights of a supernet as a tree; the architecture parameters are not among its parameters."""
    return dict(supernet.named_parameters())
