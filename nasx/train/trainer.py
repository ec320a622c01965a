"""The training loop of a discrete network: from scratch, by a recipe, tested on the test set.

An epoch is one pass over the training set, counted in updates on full batches of an endless stream. Where the recipe
holds out a validation set, the weights that are best on it after an epoch are kept, and tested at the end. Where it
holds out none (images), the result of a run is the test accuracy after the **last** epoch; the best epoch is recorded
beside it, but it was chosen on the test set and is no result (DARTS, released code, cnn/train.py).

Where the recipe averages weights, the averaged network is the one that is evaluated. Images are mixed, and drop-path
and dropout are drawn, from the seed of the batch. `train_loss` is that of the main head against the recipe's
(smoothed, mixed) labels; `valid_loss` and `test_loss` are the plain cross entropy.

Resume: `Trainer.state()` holds weights, buffers, averages, the best weights, optimizer, stream, running means, counters
and torch's generators; everything else is a function of the configuration, so a killed run continues bit for bit.

Deviation: released codes leave out or shorten the last batch of an epoch; here a batch may straddle two epochs.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nasx.config import components
from nasx.core import distributed, metrics
from nasx.core import evaluate as core_evaluate
from nasx.core.bilevel import Batch, hand_on, scaled
from nasx.core.draws import placed
from nasx.core.metrics import ACCURACY, Metric
from nasx.data.stream import hashed
from nasx.errors import UserError
from nasx.runs import environment, lineage, progress, records
from nasx.runs.progress import Display
from nasx.search.loop import Batches, Meter, broken
from nasx.spaces.darts.network import cost, widest
from nasx.train import recipe

if TYPE_CHECKING:
    from nasx.config.settings import Retraining
    from nasx.runs.session import Config, Result, Session
    from nasx.spaces.base import Genotype, Network, Space
    from nasx.train.recipe import Average

log = logging.getLogger("nasx")
Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------------ loop
@dataclass
class Trainer:
    """One training from its current position to its end; it writes nothing.

    `end_epoch(row)` is called with an epoch's means, `tick(trainer)` after every update (and after the end of its
    epoch). `stream` gives this process's own images of each batch, all of them where the recipe mixes images; `test()`
    and `valid()` yield its own batches of these sets.
    """

    network: Network
    settings: Retraining
    stream: Batches
    test: Callable[[], Iterable[Batch]]
    updates_per_epoch: int
    valid: Callable[[], Iterable[Batch]] | None = None
    """The set that chooses the weights which are tested; None: the last ones are."""
    metric: Metric = ACCURACY
    tick: Callable[[Trainer], None] = lambda trainer: None
    end_epoch: Callable[[Row], None] = lambda row: None
    updates: int = 0
    meter: Meter = field(default_factory=Meter)
    tested: Row = field(default_factory=dict)
    best: float | None = None
    """The metric of the best evaluation so far."""
    kept: dict[str, Tensor] | None = None
    """The weights that were best on the validation set."""
    losses: list[float] = field(default_factory=list)
    """Those of all evaluations so far."""
    optimizer: torch.optim.SGD = field(init=False)
    average: Average | None = field(init=False)

    def __post_init__(self) -> None:
        self.device = next(self.network.parameters()).device
        self.random = torch.Generator(self.device)
        self.rows = distributed.rows(self.settings.batch, self.settings.accumulate)
        self.sizes = [len(rows) for rows in self.rows]
        self.optimizer = recipe.optimizer(self.network, self.settings)
        self.average = None if self.settings.ema is None else recipe.averaged(self.network, self.settings.ema)
        if self.settings.compile:
            self.network.compile()
        self.parallel = distributed.parallel(self.network)

    @property
    def total(self) -> int:
        """Updates of the whole training."""
        return self.settings.epochs * self.updates_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch of the next update, from 0."""
        return self.updates // self.updates_per_epoch

    def run(self) -> None:
        while self.updates < self.total:
            epoch = self.epoch
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate(self.settings, epoch)
            self.meter.add(self.step(next(self.stream)))
            if self.epoch > epoch:
                self._close(epoch)
            self.tick(self)  # last, so that no checkpoint is taken between an epoch's end and its row

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One weight update; the main head's loss and accuracy before it."""
        settings, alone = self.settings, distributed.count() == 1
        own = recipe.mix(batch, mixup=settings.mixup, cutmix=settings.cutmix)
        if recipe.mixes(settings) and not alone:
            own = own.rows(placed(torch.cat(self.rows), own.y.device))
        # once a batch, so that its pieces draw different paths
        self.random.manual_seed(batch.seed if alone else hashed(batch.seed, "process", distributed.rank()))
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        means, last, sizes, ends = torch.zeros(2, device=self.device), len(self.rows) - 1, self.sizes, []
        given = {**settings.options(self.epoch), "gen": self.random}
        for i, (part, state) in enumerate(zip(own.split(sizes), recipe.states(batch, sizes), strict=True)):
            with distributed.quiet(self.parallel, i == last):
                with self._precision():
                    logits = self.parallel(part.x, **given, **state)
                ends.append(logits.state)
                found = recipe.outcome(logits, part, auxiliary=settings.auxiliary, smoothing=settings.label_smoothing)
                share = len(part.y) / settings.batch
                (found.objective * (share * distributed.count())).backward()  # whose gradients are averaged
            means = means + torch.stack([found.loss, found.accuracy]) * share
        hand_on(batch, torch.cat(ends) if batch.carried is not None else None)
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        with scaled(self.optimizer, batch.rate):
            self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.updates += 1
        return dict(zip(("train_loss", "train_accuracy"), distributed.total(means), strict=True))

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.amp)

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
        self.end_epoch({"epoch": epoch + 1, "updates": self.updates, "lr": self.optimizer.param_groups[0]["lr"],
                        **self.metric.told(means), **found})

    def _judged(self, epoch: int) -> Row:
        """Evaluate after an epoch: what is best so far, and whether weights are averaged from now on."""
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
            self.tested = {**found, f"best_test_{self.metric.name}": self.best,
                           "best_epoch": epoch + 1 if first else self.tested["best_epoch"]}
        elif first:
            self.tested = {**found, "best_epoch": epoch + 1, "averaged": self.average is not None}
            self.kept = {name: x.detach().clone() for name, x in network.state_dict().items()}
        if self.average is None and recipe.stalled(self.losses, self.settings.patience):
            self.average = recipe.averaged(self.network, None)
            log.info("the validation stalls: weights are averaged from now on")
        return found

    def evaluate(self, network: nn.Module, part: str) -> Row:
        """Loss and metric of a network on the test or validation set."""
        batches = self.test if part == "test" or self.valid is None else self.valid
        found = core_evaluate.sums(network, batches(), self.device, amp=self.settings.amp)
        return self.metric.told(core_evaluate.means(distributed.total(found)).row(part))

    def guard(self, means: Mapping[str, float], *, weights: bool = False) -> None:
        """Stop before a broken state is kept: raises UserError where a mean (or a weight) is not finite."""
        wrong = broken(means, list(self.network.parameters()) if weights else [])
        if wrong:
            raise UserError(f"retrain, update {self.updates}", f"{wrong} became NaN or infinite",
                            f"lower retrain.lr={self.settings.lr:g}"
                            + ("" if self.settings.clip else " or set retrain.clip=5")
                            + "; checkpoints from before are kept, where there are any")

    # ------------------------------------------------------------------------------------------------ resume
    def state(self) -> dict[str, Any]:
        """Tensors and plain values that `load` continues from, bit for bit."""
        cuda = self.device.type == "cuda"
        return {"network": self.network.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(), "stream": self.stream.state_dict(), "updates": self.updates,
                "meter": self.meter.state(), "tested": dict(self.tested), "best": self.best, "kept": self.kept,
                "losses": list(self.losses), "rng": torch.get_rng_state(),
                "rng_cuda": torch.cuda.get_rng_state(self.device) if cuda else None}

    def load(self, state: Mapping[str, Any]) -> None:
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


# ------------------------------------------------------------------------------------------------------ run
def train(here: Session) -> Result:
    """Train the architecture that the configuration gives or its parent run has found; resumes, and records."""
    cfg, settings = here.config, components.build(here.config["retrain"])
    space, source = components.build(cfg["space"], cfg["allow"]), components.build(cfg["dataset"], cfg["allow"])
    genotype, parent = architecture(cfg, space)
    data = source.open(here.device, **settings.reading, channels_last=settings.channels_last,
                       workers=environment.workers(cfg["workers"]))
    if data.carries and distributed.count() > 1:
        raise UserError("nasx retrain", f"a text is read by one process, but {distributed.count()} have been started",
                        "start it without torchrun")
    settings = sized(settings, space, genotype, len(data.classes), data.shape)
    torch.manual_seed(cfg["seed"])
    network = built(settings, space, genotype, len(data.classes))
    rehearse(network, settings, lambda n: space.example(n, data.shape))
    price = cost(network, space.example(1, data.shape))
    layout = torch.channels_last if settings.channels_last else torch.preserve_format
    network = distributed.synchronized(network.to(here.device).to(memory_format=layout), here.device)

    rows = None if recipe.mixes(settings) else torch.cat(distributed.rows(settings.batch, settings.accumulate))
    own, held = data.split(cfg["seed"]) if settings.held_out or settings.validated else (None, None)
    stream = data.stream("retrain", own, batch=settings.batch, seed=cfg["seed"], rows=rows)

    def read(part: str, index: Any, batch: int) -> Iterator[Batch]:
        return data.ordered(part, index, batch=batch, first=distributed.rank(), step=distributed.count())

    def test() -> Iterator[Batch]:
        return read("train" if settings.held_out else "test", held if settings.held_out else None, settings.test_batch)

    def valid() -> Iterator[Batch]:
        return read("train", held, settings.valid_batch)

    test(), valid()  # a set that is too small for its batch is told now
    metric = metrics.OF[settings.data]
    trainer = Trainer(network, settings, stream, test, settings.updates_per_epoch or stream.per_pass,
                      valid if settings.validated else None, metric)
    saved = distributed.told(here.resume())
    if saved is not None:
        trainer.load(saved)

    def save() -> None:
        trainer.guard(trainer.meter.means(), weights=True)
        here.save(trainer.state(), trainer.updates)

    def tick(_: Trainer) -> None:
        here.check_signals(save)
        means = trainer.meter.means() if here.device.type == "cpu" or display.due() else {}
        trainer.guard(means)
        if means and display.due():
            display.show(trainer.updates, f"{trainer.epoch + 1}/{settings.epochs}", metric.told(means))
        if time.monotonic() - here.saved > cfg["checkpoint_s"]:
            save()

    def end_epoch(row: Row) -> None:
        row = named(row, held_out=settings.held_out)
        here.run.append({**row, "wall_s": round(here.elapsed_s, 3)})
        save()
        progress.told(f"{row['epoch']}/{settings.epochs}", progress.words("retrain", row))

    trainer.tick, trainer.end_epoch = tick, end_epoch
    with Display("retrain", total=trainer.total, done=trainer.updates, unit="image", amount=settings.batch,
                 quiet=cfg["quiet"] or not distributed.owner(), peak=lambda: environment.peak_mb(here.device)) as display:
        if saved is not None:
            log.info("%s: resuming at update %d of %d", here.run.folder, trainer.updates, trainer.total)
        trainer.run()
        tested, published = trainer.tested, here.info.get("published")
        if not distributed.owner():
            return tested
        tested = named(tested, held_out=settings.held_out)
        log.info(told(tested, metric, settings))
        result = here.record(
            "retrain", protocol=settings.recipe, labels=[], genotype=str(genotype), operations=genotype.operations(),
            lookup=None, parent=parent and parent["name"], parent_lookup=parent and parent.get("lookup"),
            searched=lineage.kept(parent),
            **{"test_accuracy": None, **tested}, images=data.described(), params=price.params,
            params_with_auxiliary=price.params_with_auxiliary, macs=price.macs, layers=settings.layers,
            channels=settings.channels, updates=trainer.updates, passes=trainer.updates,
            items_per_s=round(trainer.updates * settings.batch / max(here.elapsed_s, 1e-9), 1),
            processes=distributed.count(), changed=components.changed(cfg, published) if published else {})
        here.run.decide(genotype)
        result = here.run.finish(result)
    return result


def named(row: Row, *, held_out: bool) -> Row:
    """Results on held-out training images are not those of a test."""
    return {name.replace("test_", "valid_"): value for name, value in row.items()} if held_out else row


def told(tested: Row, metric: Metric, settings: Retraining) -> str:
    """The result in a sentence."""
    part = "valid" if settings.held_out else "test"
    value, epoch = metric.text(tested[f"{part}_{metric.name}"]), tested["best_epoch"]
    if settings.validated:
        return f"{part} {metric.name} {value} of the weights after epoch {epoch}, the best on the validation set"
    best = metric.text(tested[f"best_{part}_{metric.name}"])
    said = f"{part} {metric.name} {value} after the last epoch"
    if best == value:
        return said
    return f"{said}; the best, {best} after epoch {epoch}, was chosen on the {part} set and is no result"


def built(settings: Retraining, space: Space, genotype: Genotype, classes: int) -> Network:
    """The network that the recipe trains."""
    return space.network(genotype, classes, layers=settings.layers, channels=settings.channels, stem=settings.stem,
                         auxiliary=bool(settings.auxiliary))


def sized(settings: Retraining, space: Space, genotype: Genotype, classes: int,
          shape: tuple[int, ...]) -> Retraining:
    """The settings with the channels that `max_macs` allows for items of this shape. Raises UserError."""
    if settings.max_macs is None:
        return settings
    channels = widest(lambda width: built(replace(settings, channels=width), space, genotype, classes),
                      space.example(1, shape), settings.max_macs)
    return replace(settings, channels=channels)


def architecture(cfg: Config, space: Space) -> tuple[Genotype, Result | None]:
    """The genotype of `genotype=`, or of the finished search `from=` and that search's record. Raises UserError."""
    if cfg.get("genotype"):
        return space.parse(str(cfg["genotype"])), None
    name = cfg.get("from")
    if not name:
        raise UserError("retrain", "no architecture is given",
                        "give from=<a run of nasx search>, or genotype=<its text>")
    folder, found = lineage.searched(name, cfg["out"])
    try:
        return space.parse(found["genotype"]), {**found, "name": folder.resolve().name}
    except UserError as error:
        searched = ((records.configuration(folder) or {}).get("space")) or {}
        raise UserError(f"from={name}", f"its architecture does not fit space: {error}",
                        other_space(searched, cfg["space"])) from error


def other_space(searched: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What would make the given space that of the search."""
    old, new = records.flatten(searched), records.flatten(given)
    keys = [key for key in old if old[key] != new.get(key) and key != "_target_"]
    if old.get("_target_") != new.get("_target_") or not keys:
        return "use the space of the search"
    return "the search had " + " ".join(f"space.{key}={components.show(old[key])}" for key in keys) + ": give the same"


def rehearse(network: Network, settings: Retraining, example: Callable[[int], Tensor]) -> None:
    """One training pass without arithmetic: settings that the network cannot take raise UserError now, not at night.

    `example` gives an input of so many items without values.
    """
    shadow = copy.deepcopy(network).to("meta").train()
    piece = -(-settings.batch // settings.accumulate)
    dtype = next(shadow.parameters()).dtype
    try:
        given = example(piece)
        shadow(given.to(dtype) if given.is_floating_point() else given, **settings.options(settings.epochs))
    except ValueError as error:  # batch norm over a single value
        raise UserError(f"retrain.batch={settings.batch}, retrain.accumulate={settings.accumulate}",
                        f"pieces of {piece} images are too small for batch norm ({error})",
                        "use pieces of 2 images or more") from error
    if piece < distributed.count():
        raise UserError(f"retrain.batch={settings.batch}, retrain.accumulate={settings.accumulate}",
                        f"pieces of {piece} images are too few for {distributed.count()} processes",
                        "use larger pieces or fewer processes")
