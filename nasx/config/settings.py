"""Settings of searches and retrainings, except those of the space, method, dataset and benchmark.

The settings are frozen dataclasses that do not import torch. The values of each protocol and recipe, with their
sources, are in conf/search, conf/retrain and conf/engine. A default in this module means "off", or is the published
value that all protocols share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from nasx.core.constraints import (
    Below1,
    Channels,
    Count,
    Fraction,
    Layers,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Searches,
)
from nasx.core.regularizers import Regularizers


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Segment lengths of a text, and regularization of a language model, in search and retraining."""

    data: ClassVar[str] = "text"
    bptt: Positive
    """Number of words in a segment, the range of backpropagation; the hidden state carries over to the next segment."""
    short: Fraction
    """Share of training segments that have half the length `bptt`."""
    jitter: NonNegativeFloat
    """Standard deviation of the length of training segments, in words; 0: none."""
    dropout_embedding: Below1
    """Dropout rate of whole words of the vocabulary."""
    dropout_input: Below1
    """Dropout rate of the features of each word, with one mask per segment."""
    dropout_x: Below1
    """Dropout rate of the same features at the input of the cell, with one mask per segment."""
    dropout_hidden: Below1
    """Dropout rate of the features of every state inside the cell, with one mask per segment."""
    dropout_output: Below1
    """Dropout rate of the features that the decoder reads, with one mask per segment."""
    activation: NonNegativeFloat
    """Weight, in the training loss, of the mean square of the features that the decoder reads."""
    slowness: NonNegativeFloat
    """Weight, in the training loss, of the mean square of the state's change from word to word."""

    def options(self, epoch: int) -> dict[str, object]:
        """Return the keyword arguments of the network in a training pass, in addition to its input."""
        rates = self.dropout_embedding, self.dropout_input, self.dropout_x, self.dropout_hidden, self.dropout_output
        return {"regularizers": Regularizers(*rates, self.activation, self.slowness)}

    @property
    def reading(self) -> dict[str, object]:
        """The keyword arguments that open a dataset."""
        return {"bptt": self.bptt, "short": self.short, "jitter": self.jitter}


@dataclass(frozen=True, kw_only=True)
class SearchProtocol:
    """Settings that all search protocols share."""

    protocol: str
    """Name of the protocol; results of different protocols are never in the same table."""
    epochs: Positive
    """Number of passes over the training split, counted in weight updates (iDARTS: T passes per epoch)."""
    batch: Positive
    lr: PositiveFloat
    """Learning rate of the weights (SGD) in the first epoch."""
    lr_min: NonNegativeFloat
    """Learning rate at the end of the schedule."""
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup_epochs: NonNegative
    """Number W of warm-up epochs: in epoch e < W the weights' learning rate is multiplied by (e + 1) / W; 0: none."""
    momentum: Below1
    nesterov: bool
    weight_decay: NonNegativeFloat
    clip: PositiveFloat | None
    """Largest global norm of the weight gradient; null: no clipping."""
    arch_optimizer: Literal["adam", "sgd"]
    arch_lr: PositiveFloat
    arch_betas: tuple[Below1, Below1]
    arch_momentum: Below1 = 0.0
    arch_weight_decay: NonNegativeFloat
    arch_warmup: NonNegative
    """Number of initial epochs in which only the weights are trained."""
    updates_per_epoch: Positive | None
    """Weight updates per epoch; null: the number in one pass over the training split (iDARTS: times T)."""
    evaluate_every: NonNegative
    """Epochs between full evaluations of the supernet on the validation split; 0: at the end only."""
    diagnose_every: NonNegative
    """Epochs between diagnostics with passes of their own (eigenvalue, alignment, correlation); 0: none, at no cost."""
    diagnose_steps: NonNegative
    """Steps between measurements of layer gradients (mean alignment over the epoch, layer split); 0: none."""
    diagnose_order: Literal[1, 2] = 1
    """2: also measure the second-order alignment at these steps (Lambda-DARTS, eq. 20)."""
    probe_every: NonNegative = 0
    """Steps between comparisons of the method's finite differences with double backpropagation; 0: none."""
    keep_every: NonNegative = 0
    """Epochs between checkpoints that are kept for `nasx whatif`; 0: none. Not part of the identity."""

    @property
    def moving_epoch(self) -> int:
        """An epoch in which both weights and architecture are trained, if there is one."""
        return min(max(self.arch_warmup, 1), self.epochs - 1)


@dataclass(frozen=True, kw_only=True)
class SearchSettings(SearchProtocol):
    """The search protocol on images: conf/search/*.yaml."""

    data: ClassVar[str] = "images"
    evaluate_images: Positive | None
    """Number of images of the validation split in an evaluation; null: all."""
    cutout: NonNegative
    """Side of the cutout square in pixels; 0: none."""
    drop_path: Below1
    skip_dropout: Below1
    """Dropout rate of the elements of skip connections in the first epoch, which decays; 0: none."""
    auxiliary: NonNegativeFloat
    """Weight of the auxiliary head's loss; 0: no head."""
    FADE: ClassVar[float] = 0.2
    """Decay rate of the dropout on skip connections, in 1 / epochs (P-DARTS, released code: scale_factor)."""

    def options(self, epoch: int) -> dict[str, object]:
        """Return the keyword arguments of the network in the training passes of an epoch (from 0).

        Drop-path grows linearly from 0. Dropout on skip connections decays linearly while the architecture is frozen,
        then restarts from the full rate and decays exponentially (P-DARTS, released code).
        """
        epochs, moving = self.epochs, epoch - self.arch_warmup
        fading = (epochs - epoch - 1) / epochs if moving < 0 else math.exp(-self.FADE * moving)
        return {
            "drop_path": self.drop_path * epoch / epochs,
            **({"skip_dropout": self.skip_dropout * fading} if self.skip_dropout else {}),
        }

    @property
    def reading(self) -> dict[str, object]:
        return {"cutout": self.cutout}

    @property
    def evaluated(self) -> tuple[int | None, int]:
        """The number of images to evaluate on (None: all) and the batch size."""
        return self.evaluate_images, 4 * self.batch


@dataclass(frozen=True, kw_only=True)
class TextSearchSettings(TextSettings, SearchProtocol):
    """The search protocol on text: conf/search/ptb.yaml."""

    auxiliary: ClassVar[float] = 0.0
    evaluate_words: Positive | None
    """Number of words of the validation text in an evaluation; null: all."""

    @property
    def evaluated(self) -> tuple[int | None, int]:
        """The number of words to evaluate on (None: all) and the number of rows."""
        return self.evaluate_words, self.batch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that all recipes for training a discrete network from scratch share."""

    recipe: str
    """Name of the recipe, under which results are compared."""
    channels: Channels | None
    """Channels of the first cells; null: the space's default for retraining."""
    epochs: Positive
    batch: Positive
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = None
    accumulate: Positive = 1
    """Number of micro-batches per batch, which reduces memory; only batch norm depends on the micro-batches."""
    amp: bool = False
    updates_per_epoch: Positive | None = None
    """Weight updates per epoch; null: the number in one pass over the training set."""
    evaluate_every: NonNegative = 1
    """Epochs between evaluations (images: on the test set, text: on the validation set); 0: at the end only."""


@dataclass(frozen=True, kw_only=True)
class RetrainSettings(Recipe):
    """Recipe for training an image classification network from scratch: conf/retrain/*.yaml."""

    data: ClassVar[str] = "images"
    validated: ClassVar[bool] = False
    """Whether to hold out a validation set and test the weights that are best on it, instead of the last weights."""
    patience: ClassVar[int | None] = None
    layers: Layers | None
    """Number of cells (nb201: per stage); null: the space's default for retraining."""
    max_macs: Positive | None = None
    """Limit of multiply-adds per image: the largest even number of channels within it is used; null: `channels`."""
    stem: Literal["cifar", "imagenet"]
    lr_min: NonNegativeFloat = 0.0
    momentum: Below1 = 0.9
    nesterov: bool = False
    schedule: Literal["cosine", "linear", "step"] = "cosine"
    decay: Fraction = 1.0
    """Factor of the learning rate per epoch, with schedule=step."""
    warmup_epochs: NonNegative = 0
    cutout: NonNegative = 0
    drop_path: Below1 = 0.0
    auxiliary: NonNegativeFloat = 0.0
    label_smoothing: Below1 = 0.0
    ema: Below1 | None = None
    """Decay of the exponential moving average of the weights; null: none."""
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    channels_last: bool = False
    held_out: bool = False
    """Whether to train on the training images of a search and test on its validation images, for model selection."""
    compile: bool = False

    def options(self, epoch: int) -> dict[str, object]:
        return {"drop_path": self.drop_path * epoch / self.epochs}

    @property
    def reading(self) -> dict[str, object]:
        return {"cutout": self.cutout}

    @property
    def test_batch(self) -> int:
        """Batch size of the test: two micro-batches, because no activations are stored for a backward pass."""
        return 2 * -(-self.batch // self.accumulate)

    valid_batch = test_batch


@dataclass(frozen=True, kw_only=True)
class TextRetrainSettings(TextSettings, Recipe):
    """Recipe for training a language model from scratch: conf/retrain/ptb.yaml."""

    validated: ClassVar[bool] = True
    held_out: ClassVar[bool] = False
    layers: ClassVar[None] = None
    max_macs: ClassVar[int | None] = None
    stem: ClassVar[Literal["cifar"]] = "cifar"
    schedule: ClassVar[Literal["constant"]] = "constant"
    lr_min: ClassVar[float] = 0.0
    decay: ClassVar[float] = 1.0
    warmup_epochs: ClassVar[int] = 0
    momentum: ClassVar[float] = 0.0
    nesterov: ClassVar[bool] = False
    auxiliary: ClassVar[float] = 0.0
    label_smoothing: ClassVar[float] = 0.0
    ema: ClassVar[float | None] = None
    mixup: ClassVar[float] = 0.0
    cutmix: ClassVar[float] = 0.0
    channels_last: ClassVar[bool] = False
    compile: ClassVar[bool] = False
    patience: NonNegative | None
    """Averaging (ASGD) starts if a loss exceeds the best one more than this many validations earlier; null: never."""
    valid_batch: Positive
    test_batch: Positive
    """Number of parallel rows into which the validation text (`valid_batch`) and the test text are split."""


Retraining = RetrainSettings | TextRetrainSettings


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings for the speed, memory and precision of a supernet: conf/engine/*.yaml."""

    supernet: Literal["fused", "naive"] = "fused"
    """fused: one kernel for all operations of the same shape; naive: one module for each operation."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: Literal["off", "auto", "on"] = "off"
    """torch.compile for cells or the edges of each node; equal widths share graphs. auto: on a CUDA device."""
    graphs: Literal["off", "auto", "on"] = "off"
    """Whether whole steps run as CUDA graphs. auto: if they can be captured; on: an error if they cannot."""
    checkpoint: bool = False
    """Whether to store only the inputs of cells and recompute the cells in backward: less memory, identical numbers."""
    calibrate: NonNegativeFloat = 0.0
    """Largest share of a run's time for measuring compile, channels_last and graphs at the start; 0: no measurement."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Protocol of a publication with several searches: conf/study/*.yaml."""

    study: str
    searches: Searches
    """Number of independent searches, with seeds seed, seed + 1, ...; 0: use the architecture of from= or genotype=."""
    vary: dict[str, Any] = field(default_factory=dict)
    """Settings of `search`, each with a list of one value per search."""
    rank: Literal["none", "short", "full"]
    """Training by which the best cell is chosen. short: `rank_epochs` epochs on the search's split; full: a
    retraining; none: all cells are kept."""
    rank_epochs: Positive
    retrains: Count
    """Number of retrainings of each kept cell, with unused seeds, for the reported mean and standard deviation."""
