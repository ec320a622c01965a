"""Retraining job: builds the network, data and trainer, and defines the rows of metrics.jsonl and result.json."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nasx.config import identity, instantiate, overrides
from nasx.core import distributed, metrics, spelling
from nasx.core.bilevel import Batch
from nasx.core.metrics import Metric
from nasx.core.plain import Config, Result, Row
from nasx.errors import UserError
from nasx.spaces.cost import Limit, cost, widest
from nasx.tracking import environment, lineage, records
from nasx.tracking.job import Job
from nasx.train import recipe, relaxed
from nasx.train.trainer import Trainer, log

if TYPE_CHECKING:
    from nasx.config.settings import Retraining
    from nasx.spaces.base import Genotype, Network, Space
    from nasx.tracking.session import Session


class RetrainJob(Job):
    """Training of the architecture that is given in the configuration or was found by the parent run."""

    kind = "retrain"
    unit = "image"

    def __init__(self, ctx: Session) -> None:
        cfg, settings = ctx.config, instantiate.build(ctx.config["retrain"])
        space, source = instantiate.build(cfg["space"], cfg["allow"]), instantiate.build(cfg["dataset"], cfg["allow"])
        self.genotype, self.parent = architecture(cfg, space)
        self.data = source.open(
            ctx.device,
            **settings.reading,
            channels_last=settings.channels_last,
            workers=environment.workers(cfg["workers"]),
        )
        if self.data.carries and distributed.world_size() > 1:
            raise UserError(
                "nasx retrain",
                f"jobs with text data run in only one process, but {distributed.world_size()} were started",
                "run the command without torchrun",
            )
        classes, shape = len(self.data.classes), self.data.shape
        if not cfg.get("relaxed"):
            budget = instantiate.build(cfg["budget"])
            settings = sized(settings, space, self.genotype, classes, shape, budget.width_limits())
        self.settings = settings
        torch.manual_seed(cfg["seed"])
        network: nn.Module
        if cfg.get("relaxed"):
            folder, _ = lineage.finished_search(cfg["from"], cfg["out"])
            network = relaxed.network(space, lineage.epoch_row(folder, cfg.get("epoch")), classes, cfg["from"])
        else:
            network = built(settings, space, self.genotype, classes)
        rehearse(network, settings, lambda n: space.example(n, shape))
        self.cost = cost(network, space.example(1, shape))
        layout = torch.channels_last if settings.channels_last else torch.preserve_format
        network = distributed.convert_sync_batchnorm(network.to(ctx.device).to(memory_format=layout), ctx.device)

        rows = None if recipe.mixes(settings) else torch.cat(distributed.rank_rows(settings.batch, settings.accumulate))
        split = settings.held_out or settings.validated
        self.held: Tensor | None  # indices of the held-out training items
        own, self.held = self.data.split(cfg["seed"]) if split else (None, None)
        stream = self.data.stream("retrain", own, batch=settings.batch, seed=cfg["seed"], rows=rows)
        self.test(), self.valid()  # raises early if a set is too small for its batch
        metric = metrics.OF[settings.data]
        self.trainer = Trainer(
            network,
            settings,
            stream,
            self.test,
            settings.updates_per_epoch or stream.per_pass,
            self.valid if settings.validated else None,
            metric,
            self.tick,
            self.end_epoch,
        )
        self.amount = settings.batch
        super().__init__(ctx, self.trainer, metric, settings.epochs)

    def ordered(self, part: str, index: object, batch: int) -> Iterator[Batch]:
        """Yield this rank's batches of a part of the dataset (train or test), in order."""
        batches: Iterator[Batch] = self.data.ordered(
            part, index, batch=batch, first=distributed.rank(), step=distributed.world_size()
        )
        return batches

    def test(self) -> Iterator[Batch]:
        """Return the batches of the test set, or of the held-out training images if the recipe sets `held_out`."""
        if self.settings.held_out:
            return self.ordered("train", self.held, self.settings.test_batch)
        return self.ordered("test", None, self.settings.test_batch)

    def valid(self) -> Iterator[Batch]:
        """Return the batches of the validation set."""
        return self.ordered("train", self.held, self.settings.valid_batch)

    def row(self, means: dict[str, float]) -> dict[str, object]:
        return dict(named(means, held_out=self.settings.held_out))

    def record(self) -> Result:
        settings, parent, updates = self.settings, self.parent, self.trainer.updates
        tested, published = named(self.trainer.tested, held_out=settings.held_out), self.ctx.info.published
        log.info(describe_test(tested, self.metric, settings))
        return self.ctx.record(
            "retrain",
            protocol=settings.recipe,
            labels=[],
            genotype=str(self.genotype),
            operations=self.genotype.operations(),
            lookup=None,
            parent=parent and parent["name"],
            parent_lookup=parent and parent.get("lookup"),
            searched=lineage.parent_fields(parent),
            relaxed=bool(self.ctx.config.get("relaxed")),
            **{"test_accuracy": None, **tested},
            images=self.data.described(),
            params=self.cost.params,
            params_with_auxiliary=self.cost.params_with_auxiliary,
            macs=self.cost.macs,
            layers=settings.layers,
            channels=settings.channels,
            updates=updates,
            passes=updates,
            items_per_s=round(updates * settings.batch / max(self.ctx.elapsed_s, 1e-9), 1),
            processes=distributed.world_size(),
            changed=identity.changed(self.ctx.config, published) if published else {},
        )


def named(row: Row, *, held_out: bool) -> Row:
    """Rename the test results in a row to validation results if they were measured on held-out training images."""
    return {name.replace("test_", "valid_"): value for name, value in row.items()} if held_out else row


def describe_test(tested: Row, metric: Metric, settings: Retraining) -> str:
    """Return a one-sentence description of the test result."""
    part = "valid" if settings.held_out else "test"
    value, epoch = metric.text(tested[f"{part}_{metric.name}"]), tested["best_epoch"]
    if settings.validated:
        return f"{part} {metric.name} {value} of the weights after epoch {epoch}, the best on the validation set"
    best = metric.text(tested[f"best_{part}_{metric.name}"])
    said = f"{part} {metric.name} {value} after the last epoch"
    if best == value:
        return said
    return f"{said}; the best, {best} after epoch {epoch}, was chosen on the {part} set and is not a result"


def built(settings: Retraining, space: Space, genotype: Genotype, classes: int) -> Network:
    """Build the network that the recipe trains."""
    return space.network(
        genotype,
        classes,
        layers=settings.layers,
        channels=settings.channels,
        stem=settings.stem,
        auxiliary=bool(settings.auxiliary),
    )


def sized(
    settings: Retraining,
    space: Space,
    genotype: Genotype,
    classes: int,
    shape: tuple[int, ...],
    limits: Sequence[Limit] = (),
) -> Retraining:
    """Return the settings with the largest number of channels that `max_macs` and `limits` allow for this input shape.

    Without limits, the settings are returned unchanged. Raises UserError if even two channels exceed a limit.
    """
    if settings.max_macs is not None:
        limits = [*limits, Limit(f"retrain.max_macs={settings.max_macs}", "macs", settings.max_macs)]
    if not limits:
        return settings
    channels = widest(
        lambda width: built(replace(settings, channels=width), space, genotype, classes),
        space.example(1, shape),
        limits,
    )
    return replace(settings, channels=channels)


def architecture(cfg: Config, space: Space) -> tuple[Genotype, Result | None]:
    """Return the genotype given by `genotype=`, or the genotype and record of the search `from=`. Raises UserError.

    With `epoch=`, the genotype and its benchmark lookup are taken from this epoch of the search.
    """
    if cfg.get("genotype"):
        return space.parse(str(cfg["genotype"])), None
    name = cfg.get("from")
    if not name:
        raise UserError("retrain", "no architecture is given", "set from=<a run of nasx search> or genotype=<text>")
    folder, found = lineage.finished_search(name, cfg["out"])
    cell = found if cfg.get("epoch") is None else lineage.epoch_row(folder, cfg["epoch"])
    try:
        return space.parse(cell["genotype"]), {**found, "name": folder.resolve().name, "lookup": cell.get("lookup")}
    except UserError as error:
        searched = ((records.configuration(folder) or {}).get("space")) or {}
        raise UserError(
            f"from={name}", f"its architecture is not in the space: {error}", other_space(searched, cfg["space"])
        ) from error


def other_space(searched: Mapping[str, object], given: Mapping[str, object]) -> str:
    """Return the remedy for an error message: the overrides that turn the given space into that of the search."""
    old, new = records.flatten(searched), records.flatten(given)
    keys = [key for key in old if old[key] != new.get(key) and key != "_target_"]
    if old.get("_target_") != new.get("_target_") or not keys:
        return "use the space of the search"
    return (
        "the search had "
        + " ".join(f"space.{key}={overrides.format_value(old[key])}" for key in keys)
        + ": use the same settings"
    )


def rehearse(network: nn.Module, settings: Retraining, example: Callable[[int], Tensor]) -> None:
    """Run one training pass on meta tensors. Raises UserError for batch settings that the network does not support.

    `example(n)` returns an input of n items on the meta device.
    """
    shadow = copy.deepcopy(network).to("meta").train()
    piece = -(-settings.batch // settings.accumulate)
    small = f"micro-batches of {spelling.counted(piece, 'image')} are too small for"
    dtype = next(shadow.parameters()).dtype
    try:
        given = example(piece)
        shadow(given.to(dtype) if given.is_floating_point() else given, **settings.options(settings.epochs))
    except ValueError as error:  # batch norm over a single value per channel
        raise UserError(
            f"retrain.batch={settings.batch}, retrain.accumulate={settings.accumulate}",
            f"{small} batch norm ({error})",
            "lower retrain.accumulate or raise retrain.batch",
        ) from error
    if piece < distributed.world_size():
        raise UserError(
            f"retrain.batch={settings.batch}, retrain.accumulate={settings.accumulate}",
            f"{small} {distributed.world_size()} processes",
            "lower retrain.accumulate, raise retrain.batch, or start fewer processes",
        )
