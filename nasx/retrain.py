"""The training loop of a discrete network: from scratch, by a recipe, tested on the test set.

An epoch is ceil(images / batch) updates on full batches of an endless stream over all training images. The result of
a run is the test accuracy after the **last** epoch; the best epoch is recorded beside it, but it was chosen on the
test set and is no result (DARTS, released code; spec section 3.2).

Where the recipe averages weights, the averaged network is the one that is tested. Images are mixed, and drop-path is
drawn, from the seed of the batch. `train_loss` is that of the main head against the recipe's (smoothed, mixed) labels;
`test_loss` is the plain cross entropy.

Resume: `Trainer.state()` holds weights, buffers, averages, optimizer, stream position, running means, counters and
torch's generators; everything else is a function of the configuration, so a killed run continues bit for bit.

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
from torch import Tensor

from nasx import accuracy, config, files, machine, processes, recipe, records
from nasx.data.stream import Batch, hashed, splits
from nasx.errors import UserError
from nasx.progress import Display, text
from nasx.search import Batches, Meter, broken
from nasx.spaces.network import cost, widest

if TYPE_CHECKING:
    from torch.optim.swa_utils import AveragedModel

    from nasx.session import Config, Result, Session
    from nasx.settings import RetrainSettings
    from nasx.spaces.base import Genotype, Network, Space

log = logging.getLogger("nasx")
Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------------ loop
@dataclass
class Trainer:
    """One training from its current position to its end; it writes nothing.

    `end_epoch(row)` is called with an epoch's means, `tick(trainer)` after every update (and after the end of its
    epoch). `stream` gives this process's own images of each batch, all of them where the recipe mixes images; `test()`
    yields its own batches of the test set.
    """

    network: Network
    settings: RetrainSettings
    stream: Batches
    test: Callable[[], Iterable[Batch]]
    updates_per_epoch: int
    tick: Callable[[Trainer], None] = lambda trainer: None
    end_epoch: Callable[[Row], None] = lambda row: None
    updates: int = 0
    meter: Meter = field(default_factory=Meter)
    tested: Row = field(default_factory=dict)
    optimizer: torch.optim.SGD = field(init=False)
    ema: AveragedModel | None = field(init=False)

    def __post_init__(self) -> None:
        self.device = next(self.network.parameters()).device
        self.random = torch.Generator(self.device)
        self.rows = processes.rows(self.settings.batch, self.settings.accumulate)
        self.drop_path = 0.0
        self.optimizer = recipe.optimizer(self.network, self.settings)
        self.ema = None if self.settings.ema is None else recipe.averaged(self.network, self.settings.ema)
        if self.settings.compile:
            self.network.compile()
        self.parallel = processes.parallel(self.network)

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
            self.drop_path = recipe.drop_path(self.settings, epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate(self.settings, epoch)
            self.meter.add(self.step(next(self.stream)))
            if self.epoch > epoch:
                self._close(epoch)
            self.tick(self)  # last, so that no checkpoint is taken between an epoch's end and its row

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One weight update; the main head's loss and accuracy before it."""
        settings, alone = self.settings, processes.count() == 1
        own = recipe.mix(batch, mixup=settings.mixup, cutmix=settings.cutmix)
        if recipe.mixes(settings) and not alone:
            own = own.rows(torch.cat(self.rows).to(own.y.device))
        # once a batch, so that its pieces draw different paths
        self.random.manual_seed(batch.seed if alone else hashed(batch.seed, "process", processes.rank()))
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        means, last = torch.zeros(2, device=self.device), len(self.rows) - 1
        for i, part in enumerate(own.split([len(rows) for rows in self.rows])):
            with processes.quiet(self.parallel, i == last):
                with self._precision():
                    logits = self.parallel(part.x, drop_path=self.drop_path, gen=self.random)
                found = recipe.outcome(logits, part, auxiliary=settings.auxiliary, smoothing=settings.label_smoothing)
                share = len(part.y) / settings.batch
                (found.objective * (share * processes.count())).backward()  # whose gradients are averaged
            means = means + torch.stack([found.loss, found.accuracy]) * share
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.network)
        self.updates += 1
        return dict(zip(("train_loss", "train_accuracy"), processes.total(means), strict=True))

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.amp)

    def _close(self, epoch: int) -> None:
        means = self.meter.means()
        self.guard(means)
        self.meter = Meter()
        every, last = self.settings.evaluate_every, self.updates == self.total
        test = self.evaluate() if last or (every and (epoch + 1) % every == 0) else {}
        if test:
            self.guard(test)
            best = max(test["test_accuracy"], self.tested.get("best_test_accuracy", -1.0))
            first = best > self.tested.get("best_test_accuracy", -1.0)
            self.tested = {**test, "best_test_accuracy": best,
                           "best_epoch": epoch + 1 if first else self.tested["best_epoch"]}
        self.end_epoch({"epoch": epoch + 1, "updates": self.updates, "lr": self.optimizer.param_groups[0]["lr"],
                        **means, **test})

    def evaluate(self) -> dict[str, float]:
        """Loss and accuracy on the test set: of the averaged weights where the recipe has them."""
        network = self.network if self.ema is None else self.ema.module
        found = accuracy.sums(network, self.test(), self.device, amp=self.settings.amp)
        return accuracy.means(processes.total(found)).row()

    def guard(self, means: Mapping[str, float], *, weights: bool = False) -> None:
        """Stop before a broken state is kept: raises UserError where a mean (or a weight) is not finite."""
        wrong = broken(means, list(self.network.parameters()) if weights else [])
        if wrong:
            raise UserError(f"retrain, update {self.updates}", f"{wrong} became NaN or infinite",
                            f"lower retrain.lr={self.settings.lr:g} or set retrain.clip; the last good checkpoint is "
                            "kept")

    # ------------------------------------------------------------------------------------------------ resume
    def state(self) -> dict[str, Any]:
        """Tensors and plain values that `load` continues from, bit for bit."""
        cuda = self.device.type == "cuda"
        return {"network": self.network.state_dict(), "ema": None if self.ema is None else self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(), "stream": self.stream.state_dict(), "updates": self.updates,
                "meter": self.meter.state(), "tested": dict(self.tested), "rng": torch.get_rng_state(),
                "rng_cuda": torch.cuda.get_rng_state(self.device) if cuda else None}

    def load(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stream.load_state_dict(state["stream"])
        self.updates, self.tested = state["updates"], dict(state["tested"])
        self.meter.load(state["meter"])
        torch.set_rng_state(state["rng"].cpu())
        if self.device.type == "cuda" and state["rng_cuda"] is not None:
            torch.cuda.set_rng_state(state["rng_cuda"].cpu(), self.device)


# ------------------------------------------------------------------------------------------------------ run
def train(here: Session) -> Result:
    """Train the architecture that the configuration gives or its parent run has found; resumes, and records."""
    cfg, settings = here.config, config.build(here.config["retrain"])
    space, source = config.build(cfg["space"], cfg["allow"]), config.build(cfg["dataset"], cfg["allow"])
    genotype, parent = architecture(cfg, space)
    images = source.open(here.device, cutout=settings.cutout, channels_last=settings.channels_last,
                         workers=machine.workers(cfg["workers"]))
    settings = sized(settings, space, genotype, len(images.classes), images.shape[1])
    torch.manual_seed(cfg["seed"])
    network = built(settings, space, genotype, len(images.classes))
    rehearse(network, settings, images.shape)
    price = cost(network, images.shape[1])
    layout = torch.channels_last if settings.channels_last else torch.preserve_format
    network = processes.synchronized(network.to(here.device).to(memory_format=layout), here.device)

    rows = None if recipe.mixes(settings) else torch.cat(processes.rows(settings.batch, settings.accumulate))
    own, held = splits(images, source, cfg["seed"]) if settings.held_out else (None, None)
    stream = images.stream("retrain", own, batch=settings.batch, seed=cfg["seed"], rows=rows)

    def test() -> Iterator[Batch]:
        return images.ordered("test" if held is None else "train", held, batch=test_batch(settings),
                              first=processes.rank(), step=processes.count())

    updates = settings.updates_per_epoch or -(-len(images.train_y if own is None else own) // settings.batch)
    trainer = Trainer(network, settings, stream, test, updates)
    kept = 0
    saved = processes.told(here.resume())
    if saved is not None:
        trainer.load(saved)
        kept = saved["rows"]

    def save() -> None:
        trainer.guard(trainer.meter.means(), weights=True)
        here.save(trainer.state(), trainer.updates, kept)

    def tick(_: Trainer) -> None:
        here.check_signals(save)
        means = trainer.meter.means() if here.device.type == "cpu" or display.due() else {}
        trainer.guard(means)
        if means and display.due():
            display.show(trainer.updates, f"{trainer.epoch + 1}/{settings.epochs}", means)
        if time.monotonic() - here.saved > cfg["checkpoint_s"]:
            save()

    def end_epoch(row: Row) -> None:
        nonlocal kept
        row = named(row, held_out=settings.held_out)
        here.run.append({**row, "wall_s": round(here.elapsed_s, 3)})
        kept += 1
        save()
        log.info("epoch %d/%d  %s", row["epoch"], settings.epochs, text(row))

    trainer.tick, trainer.end_epoch = tick, end_epoch
    with Display(total=trainer.total, done=trainer.updates, quiet=cfg["quiet"] or not processes.owner()) as display:
        if saved is not None:
            log.info("%s: resuming at update %d of %d", here.run.folder, trainer.updates, trainer.total)
        trainer.run()
        tested, published = trainer.tested, here.info.get("published")
        if not processes.owner():
            return tested
        tested = named(tested, held_out=settings.held_out)
        part = "valid" if settings.held_out else "test"
        log.info("%s accuracy %.2f %% after the last epoch; the best, %.2f %% after epoch %d, was chosen on the %s "
                 "set and is no result", part, *(100 * tested[f"{name}{part}_accuracy"] for name in ("", "best_")),
                 tested["best_epoch"], part)
        result = here.record(
            "retrain", protocol=settings.recipe, labels=[], genotype=str(genotype), operations=genotype.operations(),
            lookup=None, parent=parent and parent["name"], parent_lookup=parent and parent.get("lookup"),
            **{"test_accuracy": None, **tested}, images=images.described(), params=price.params,
            params_with_auxiliary=price.params_with_auxiliary, macs=price.macs, layers=settings.layers,
            channels=settings.channels, updates=trainer.updates, passes=trainer.updates,
            images_per_s=round(trainer.updates * settings.batch / max(here.elapsed_s, 1e-9), 1),
            processes=processes.count(), changed=config.changed(cfg, published) if published else {})
        files.write_atomic(here.run.folder / "genotype.txt", f"{genotype}\n")
        here.run.finish(result)
    return result


def named(row: Row, *, held_out: bool) -> Row:
    """Results on held-out training images are not those of a test."""
    return {name.replace("test_", "valid_"): value for name, value in row.items()} if held_out else row


def built(settings: RetrainSettings, space: Space, genotype: Genotype, classes: int) -> Network:
    """The network that the recipe trains."""
    return space.network(genotype, classes, layers=settings.layers, channels=settings.channels, stem=settings.stem,
                         auxiliary=bool(settings.auxiliary))


def sized(settings: RetrainSettings, space: Space, genotype: Genotype, classes: int, size: int) -> RetrainSettings:
    """The settings with the channels that `max_macs` allows for images of `size` x `size` pixels. Raises UserError."""
    if settings.max_macs is None:
        return settings
    channels = widest(lambda width: built(replace(settings, channels=width), space, genotype, classes), size,
                      settings.max_macs)
    return replace(settings, channels=channels)


def test_batch(settings: RetrainSettings) -> int:
    """Images that are tested at once: twice a piece, since nothing is kept for a backward pass."""
    return 2 * -(-settings.batch // settings.accumulate)


def architecture(cfg: Config, space: Space) -> tuple[Genotype, Result | None]:
    """The genotype of `genotype=`, or of the finished search `from=` and that search's record. Raises UserError."""
    if cfg.get("genotype"):
        return space.parse(str(cfg["genotype"])), None
    name = cfg.get("from")
    if not name:
        raise UserError("retrain", "no architecture is given",
                        "give from=<a run of nasx search>, or genotype=<its text>")
    folder = records.locate(name, cfg["out"])
    if folder is None:
        raise UserError(f"from={name}", "there is no such run", f"name a run's folder, or a run in {cfg['out']}")
    found = records.finished(folder)
    if found is None:
        raise UserError(f"from={name}", f"{folder} holds no finished run (no readable result.json)",
                        "give the command of that search again: it resumes and finishes")
    if found.get("kind") != "search" or not found.get("genotype"):
        raise UserError(f"from={name}", f"is a run of nasx {found.get('kind')}, not a search",
                        f"use from={found['parent']}" if found.get("parent") else "name a run of nasx search")
    try:
        return space.parse(found["genotype"]), {**found, "name": folder.resolve().name}
    except UserError as error:
        searched = ((files.read_yaml(folder / "config.yaml") or {}).get("space")) or {}
        raise UserError(f"from={name}", f"its architecture does not fit space: {error}",
                        other_space(searched, cfg["space"])) from error


def other_space(searched: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What would make the given space that of the search."""
    old, new = records.flatten(searched), records.flatten(given)
    keys = [key for key in old if old[key] != new.get(key) and key != "_target_"]
    if old.get("_target_") != new.get("_target_") or not keys:
        return "use the space of the search"
    return "the search had " + " ".join(f"space.{key}={config.show(old[key])}" for key in keys) + ": give the same"


def rehearse(network: Network, settings: RetrainSettings, shape: tuple[int, ...]) -> None:
    """One training pass without arithmetic: settings that the network cannot take raise UserError now, not at night."""
    shadow = copy.deepcopy(network).to("meta").train()
    piece = -(-settings.batch // settings.accumulate)
    dtype = next(shadow.parameters()).dtype
    try:
        shadow(torch.empty(piece, *shape, device="meta", dtype=dtype), drop_path=settings.drop_path)
    except ValueError as error:  # batch norm over a single value
        raise UserError(f"retrain.batch={settings.batch}, retrain.accumulate={settings.accumulate}",
                        f"pieces of {piece} images are too small for batch norm ({error})",
                        "use pieces of 2 images or more") from error
    if piece < processes.count():
        raise UserError(f"retrain.batch={settings.batch}, retrain.accumulate={settings.accumulate}",
                        f"pieces of {piece} images are too few for {processes.count()} processes",
                        "use larger pieces or fewer processes")
