"""The search loop: draw batches, call the method's step, set schedules, average the logged values.

The length of an epoch is counted in weight updates. `state()` contains everything needed to resume: weights, buffers,
architecture, both optimizers, stream positions, running means, the number of updates and torch's random number
generator. A stream has no state other than its position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nasx.config.settings import SearchProtocol
from nasx.core.batch import Batches
from nasx.core.bilevel import Method, Search, Step
from nasx.core.meter import Meter, check_finite, refused
from nasx.core.plain import State
from nasx.core.schedules import rate


def on_device_of(optimizer: torch.optim.Optimizer, state: State) -> dict[str, object]:
    """Return an optimizer's saved state with the kernel settings (fused, ...) that suit its current device."""
    kernels = ("fused", "foreach", "capturable")
    groups = [
        {**saved, **{k: live[k] for k in kernels if k in live}}
        for saved, live in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**state, "param_groups": groups}


@dataclass
class Loop:
    """A search from its current position to its end.

    `begin_epoch(epoch)` is called before the first step of each epoch and again when a search resumes within it,
    `end_epoch(row)` with the means at the end of each epoch, and `tick(loop)` after every step; after the last step of
    an epoch, `end_epoch` is called before `tick`.
    """

    search: Search
    method: Method
    supernet: nn.Module
    train: Batches
    val: Batches
    settings: SearchProtocol
    updates_per_epoch: int
    span: tuple[int, int] | None = None
    """Number of schedule epochs before this search, and in total; None: 0, and the number of epochs of the search."""
    begin_epoch: Callable[[int], None] = lambda epoch: None
    end_epoch: Callable[[dict[str, float]], None] = lambda row: None
    tick: Callable[[Loop], None] = lambda loop: None
    advance: Step | None = None
    """Function that takes a step; if None, the method's `step`."""
    stopped: bool = False
    """Whether to end the search before its last epoch; set at the end of an epoch."""
    meter: Meter = field(default_factory=Meter)

    @property
    def total(self) -> int:
        """Number of weight updates of the whole search; 0 if the method does not train a supernet."""
        return self.settings.epochs * self.updates_per_epoch if self.method.trains else 0

    @property
    def position(self) -> tuple[int, int]:
        """Number of weight updates so far, and the current epoch (from 0)."""
        return self.search.updates, self.search.epoch

    def run(self) -> None:
        """Run the search to its end."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[int]:
        """Run step by step, and yield the number of updates after each step, so that searches can be interleaved."""
        started = -1
        if self.search.updates >= self.total > 0:  # only the selection is left
            self.enter(self.settings.epochs - 1)
        while self.search.updates < self.total and not self.stopped:
            epoch, inside = divmod(self.search.updates, self.updates_per_epoch)
            if epoch != started:
                self.enter(epoch)
                started = epoch
            self.search.progress = self.search.updates / self.total
            self._step(self.updates_per_epoch - inside)
            if self.search.updates % self.updates_per_epoch == 0:
                means = self.meter.means()
                self.guard(means)
                self.meter = Meter()
                self.end_epoch({"epoch": epoch + 1, "updates": self.search.updates, "lr": self.search.lr, **means})
            self.tick(self)  # last, so that no checkpoint is written between the end of an epoch and its row
            yield self.search.updates

    def enter(self, epoch: int) -> None:
        """Set the learning rate, the warm-up of the architecture and the options of the network for an epoch."""
        own = self.settings
        self.search.epoch, self.search.epochs = epoch, own.epochs
        self.search.warming = epoch < own.arch_warmup
        before, epochs = self.span or (0, own.epochs)
        for group in self.search.w_opt.param_groups:
            group["lr"] = rate(own.lr, own.lr_min, before + epoch, epochs, own.warmup_epochs, own.schedule)
        self.begin_epoch(epoch)

    def _step(self, left: int) -> None:
        updates, count = self.method.chunk(left)
        batches = [next(self.train) for _ in range(count)]
        step = self.advance or self.method.step
        values = step(self.search, batches, next(self.val))
        try:
            self.meter.add(values, updates)
        except (AttributeError, TypeError) as error:
            raise refused(f"method={type(self.method).__name__}", values) from error
        self.search.updates += updates

    def guard(self, means: Mapping[str, float], *, weights: bool = False) -> None:
        """Raise UserError if a mean or, with `weights`, a weight or architecture parameter is not finite."""
        tensors = [*self.search.w.values(), *self.search.a.values()] if weights else []
        check_finite(
            means, tensors, kind="search", update=self.search.updates, lr=self.settings.lr, clip=self.search.clip
        )

    # ------------------------------------------------------------------------------------------------ resume
    def buffers(self) -> dict[str, Tensor]:
        """Return the persistent buffers of the supernet (running statistics); others may change between versions."""
        kept = self.supernet.state_dict().keys()
        return {name: x for name, x in self.supernet.named_buffers() if name in kept}

    def state(self) -> State:
        """Return the tensors and plain values from which `load` resumes with bit-identical results."""
        return {
            "w": {k: x.detach() for k, x in self.search.w.items()},
            "buffers": self.buffers(),
            "a": {k: x.detach() for k, x in self.search.a.items()},
            "w_opt": self.search.w_opt.state_dict(),
            "a_opt": self.search.a_opt.state_dict(),
            "train": self.train.state_dict(),
            "val": self.val.state_dict(),
            "updates": self.search.updates,
            "meter": self.meter.state(),
            "rng": torch.get_rng_state(),
        }

    def load(self, state: State) -> None:
        with torch.no_grad():
            for name, live in (("w", self.search.w), ("a", self.search.a), ("buffers", self.buffers())):
                for k, x in live.items():
                    x.copy_(state[name][k])
        for optimizer, name in ((self.search.w_opt, "w_opt"), (self.search.a_opt, "a_opt")):
            optimizer.load_state_dict(on_device_of(optimizer, state[name]))
        self.train.load_state_dict(state["train"])
        self.val.load_state_dict(state["val"])
        self.search.updates = state["updates"]
        self.meter.load(state["meter"])
        torch.set_rng_state(state["rng"].cpu())
