"""Training loop for a network that is trained from scratch with a recipe and evaluated on the test set.

An epoch is a fixed number of updates on full batches of an endless stream, by default one pass over the training set.
With a validation set, the weights after the epoch with the best validation result are kept and tested at the end.
Without a validation set (images), the result is the test accuracy after the **last** epoch; the best epoch is also
recorded, but it was chosen on the test set and is not a result (DARTS, released code, cnn/train.py).

If the recipe averages weights, the averaged network is evaluated. The random numbers for MixUp, CutMix, drop-path and
dropout come from the seed of the batch. `train_loss` is the loss of the main head against the recipe's (smoothed,
mixed) labels; `valid_loss` and `test_loss` are the plain cross entropy.

Resume: `Trainer.state()` contains weights, buffers, averages, the best weights, optimizer, stream, running means,
counters and the states of torch's random generators. Everything else is determined by the configuration, so a killed
run can be resumed bit for bit.

Deviation: released code drops or shortens the last batch of a pass; here, a batch may span two passes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nasx.core import distributed
from nasx.core import evaluate as core_evaluate
from nasx.core.batch import Batches
from nasx.core.bilevel import Batch, store_state
from nasx.core.draws import placed
from nasx.core.meter import Meter, check_finite
from nasx.core.metrics import ACCURACY, Metric
from nasx.core.plain import State
from nasx.core.schedules import scaled
from nasx.data.batch_stream import hashed
from nasx.train import recipe

if TYPE_CHECKING:
    from nasx.config.settings import Retraining
    from nasx.train.recipe import Average

log = logging.getLogger("nasx")


# ------------------------------------------------------------------------------------------------------ loop
@dataclass
class Trainer:
    """A training run from its current position to the end, without file output.

    `end_epoch(row)` is called with the metrics of each epoch, and `tick(trainer)` after every update (and `end_epoch`).
    `stream` yields this rank's images of each batch, or all images if the recipe mixes them; `test()` and `valid()`
    return this rank's batches of the test and validation sets.
    """

    network: nn.Module
    settings: Retraining
    stream: Batches
    test: Callable[[], Iterable[Batch]]
    updates_per_epoch: int
    valid: Callable[[], Iterable[Batch]] | None = None
    """Returns the batches of the set on which the tested weights are selected; None: the last weights are tested."""
    metric: Metric = ACCURACY
    tick: Callable[[Trainer], None] = lambda trainer: None
    end_epoch: Callable[[dict[str, float]], None] = lambda row: None
    updates: int = 0
    meter: Meter = field(default_factory=Meter)
    tested: dict[str, float | None] = field(default_factory=dict)
    best: float | None = None
    """The best value of the evaluated metric so far."""
    kept: dict[str, Tensor] | None = None
    """The weights with the best validation metric so far."""
    losses: list[float] = field(default_factory=list)
    """The losses of all evaluations so far."""
    optimizer: torch.optim.SGD = field(init=False)
    average: Average | None = field(init=False)

    def __post_init__(self) -> None:
        self.device = next(self.network.parameters()).device
        self.random = torch.Generator(self.device)
        self.rows = distributed.rank_rows(self.settings.batch, self.settings.accumulate)
        self.sizes = [len(rows) for rows in self.rows]
        self.optimizer = recipe.optimizer(self.network, self.settings)
        self.average = None if self.settings.ema is None else recipe.averaged(self.network, self.settings.ema)
        if self.settings.compile:
            self.network.compile()
        self.parallel = distributed.wrap_ddp(self.network)

    @property
    def total(self) -> int:
        """The total number of updates in the run."""
        return self.settings.epochs * self.updates_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch of the next update, counted from 0."""
        return self.updates // self.updates_per_epoch

    @property
    def position(self) -> tuple[int, int]:
        """The number of updates so far, and the epoch of the next update, counted from 0."""
        return self.updates, self.epoch

    def run(self) -> None:
        """Train to the end."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[int]:
        """Train step by step, and yield the number of updates so far after each step."""
        while self.updates < self.total:
            epoch = self.epoch
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate(self.settings, epoch)
            self.meter.add(self.step(next(self.stream)))
            if self.epoch > epoch:
                self._close(epoch)
            self.tick(self)  # last, so that no checkpoint is written after an epoch but before its metrics row
            yield self.updates

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one weight update and return the main head's loss and accuracy on the batch before the update."""
        settings, alone = self.settings, distributed.world_size() == 1
        own = recipe.mix(batch, mixup=settings.mixup, cutmix=settings.cutmix)
        if recipe.mixes(settings) and not alone:
            own = own.rows(placed(torch.cat(self.rows), own.y.device))
        # seeded once per batch, so that its micro-batches drop different paths
        self.random.manual_seed(batch.seed if alone else hashed(batch.seed, "process", distributed.rank()))
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        means, last, sizes, ends = torch.zeros(2, device=self.device), len(self.rows) - 1, self.sizes, []
        given = {**settings.options(self.epoch), "gen": self.random}
        for i, (part, state) in enumerate(zip(own.split(sizes), recipe.states(batch, sizes), strict=True)):
            with distributed.no_sync(self.parallel, i == last):
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=settings.amp):
                    logits = self.parallel(part.x, **given, **state)
                ends.append(logits.state)
                found = recipe.outcome(logits, part, auxiliary=settings.auxiliary, smoothing=settings.label_smoothing)
                share = len(part.y) / settings.batch
                (found.objective * (share * distributed.world_size())).backward()  # DDP averages gradients
            means = means + torch.stack([found.loss, found.accuracy]) * share
        store_state(batch, torch.cat(ends) if batch.carried is not None else None)
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        with scaled(self.optimizer, batch.rate):
            self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.updates += 1
        return dict(zip(("train_loss", "train_accuracy"), distributed.all_reduce(means), strict=True))

    def _close(self, epoch: int) -> None:
        means = self.meter.means()
        self.guard(means)
        self.meter = Meter()
        every, last = self.settings.evaluate_every, self.updates == self.total
        found = self._judged(epoch) if last or (every and (epoch + 1) % every == 0) else {}
        if last and self.kept is not None:
            self.network.load_state_dict(self.kept)
            test = self.evaluate(self.network, "test")
            found |= test
            self.tested |= test
        self.end_epoch(
            {
                "epoch": epoch + 1,
                "updates": self.updates,
                "lr": self.optimizer.param_groups[0]["lr"],
                **self.metric.convert(means),
                **found,
            }
        )

    def _judged(self, epoch: int) -> dict[str, float]:
        """Evaluate after an epoch, update the best weights, and start averaging if the validation loss stalls."""
        part = "test" if self.valid is None else "valid"
        network = self.network if self.average is None else self.average.module
        found = self.evaluate(network, part)
        self.guard(found)
        self.losses.append(found[f"{part}_loss"])
        value = found[f"{part}_{self.metric.name}"]
        first = self.metric.better(value, self.best)
        if first:
            self.best = value
        if self.valid is None:
            self.tested = {
                **found,
                f"best_test_{self.metric.name}": self.best,
                "best_epoch": epoch + 1 if first else self.tested["best_epoch"],
            }
        elif first:
            self.tested = {**found, "best_epoch": epoch + 1, "averaged": self.average is not None}
            self.kept = {name: x.detach().clone() for name, x in network.state_dict().items()}
        if self.average is None and recipe.stalled(self.losses, self.settings.patience):
            self.average = recipe.averaged(self.network, None)
            log.info("the validation loss stalls: weights are averaged from now on")
        return found

    def evaluate(self, network: nn.Module, part: str) -> dict[str, float]:
        """Return the loss and metric of a network on the set that `part` names: test or valid."""
        batches = self.test if part == "test" or self.valid is None else self.valid
        found = core_evaluate.sums(network, batches(), self.device, amp=self.settings.amp)
        return self.metric.convert(core_evaluate.means(distributed.all_reduce(found)).row(part))

    def guard(self, means: Mapping[str, float], *, weights: bool = False) -> None:
        """Raise UserError if a mean, or (with `weights`) a weight, is not finite; called before the state is saved."""
        tensors, settings = list(self.network.parameters()) if weights else [], self.settings
        check_finite(means, tensors, kind="retrain", update=self.updates, lr=settings.lr, clip=settings.clip)

    # ------------------------------------------------------------------------------------------------ resume
    def state(self) -> State:
        """Return the tensors and plain values from which `load` resumes bit for bit."""
        cuda = self.device.type == "cuda"
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "stream": self.stream.state_dict(),
            "updates": self.updates,
            "meter": self.meter.state(),
            "tested": dict(self.tested),
            "best": self.best,
            "kept": self.kept,
            "losses": list(self.losses),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
        }

    def load(self, state: State) -> None:
        self.network.load_state_dict(state["network"])
        if state["average"] is not None:
            self.average = self.average or recipe.averaged(self.network, None)
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stream.load_state_dict(state["stream"])
        self.updates, self.tested = state["updates"], dict(state["tested"])
        self.best, self.kept, self.losses = state["best"], state["kept"], list(state["losses"])
        self.meter.load(state["meter"])
        torch.set_rng_state(state["rng"].cpu())
        if self.device.type == "cuda" and state["rng_cuda"] is not None:
            torch.cuda.set_rng_state(state["rng_cuda"].cpu(), self.device)
