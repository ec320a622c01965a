"""Settings of searches and retrainings, except for those of the space, method, dataset and benchmark.

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
    """Segment lengths of a text and regularization of a language model, for both search and retraining."""

    data: ClassVar[str] = "text"
    bptt: Positive
    """Words per segment, the span of truncated backpropagation; the hidden state carries over to the next segment."""
    short: Fraction
    """Fraction of training segments that are only half as long as `bptt`."""
    jitter: NonNegativeFloat
    """Standard deviation of the length of training segments, in words; 0: no random variation."""
    dropout_embedding: Below1
    """Dropout rate for whole words of the vocabulary."""
    dropout_input: Below1
    """Dropout rate for the word embeddings, with one mask per segment."""
    dropout_x: Below1
    """Dropout rate for the word embeddings at the input of the cell, with one mask per segment."""
    dropout_hidden: Below1
    """Dropout rate for every state inside the cell, with one mask per segment."""
    dropout_output: Below1
    """Dropout rate for the decoder's input, with one mask per segment."""
    activation: NonNegativeFloat
    """Weight of activation regularization (mean square of the decoder's input) in the training loss."""
    slowness: NonNegativeFloat
    """Weight of temporal activation regularization (mean squared change of state per word) in the training loss."""

    def options(self, epoch: int) -> dict[str, object]:
        """Return the keyword arguments that the network takes in a training pass, in addition to its input."""
        rates = self.dropout_embedding, self.dropout_input, self.dropout_x, self.dropout_hidden, self.dropout_output
        return {"regularizers": Regularizers(*rates, self.activation, self.slowness)}

    @property
    def reading(self) -> dict[str, object]:
        """Keyword arguments for opening a dataset."""
        return {"bptt": self.bptt, "short": self.short, "jitter": self.jitter}


@dataclass(frozen=True, kw_only=True)
class SearchProtocol:
    """Settings shared by all search protocols."""

    protocol: str
    """Name of the protocol; results of different protocols never appear in the same table."""
    epochs: Positive
    """Number of epochs of `updates_per_epoch` weight updates each."""
    batch: Positive
    lr: PositiveFloat
    """Base learning rate of the weights (SGD)."""
    lr_min: NonNegativeFloat
    """Learning rate at the end of the schedule."""
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup_epochs: NonNegative
    """Number W of warm-up epochs: in epoch e < W, the weights' learning rate is multiplied by (e + 1) / W; 0: none."""
    momentum: Below1
    nesterov: bool
    weight_decay: NonNegativeFloat
    clip: PositiveFloat | None
    """Maximum global norm of the weight gradient; null: no clipping."""
    arch_optimizer: Literal["adam", "sgd"]
    arch_lr: PositiveFloat
    arch_betas: tuple[Below1, Below1]
    arch_momentum: Below1 = 0.0
    arch_weight_decay: NonNegativeFloat
    arch_warmup: NonNegative
    """Number of initial epochs in which only the weights are trained."""
    updates_per_epoch: Positive | None
    """Weight updates per epoch; null: one pass over the training split (iDARTS: T passes)."""
    evaluate_every: NonNegative
    """Epochs between full evaluations of the supernet on the validation split; 0: only at the end."""
    diagnose_every: NonNegative
    """Epochs between diagnostics that need extra passes (eigenvalue, alignment, correlation); 0: none, at no cost."""
    diagnose_steps: NonNegative
    """Steps between measurements of layer gradients (for the epoch's mean alignment and the layer split); 0: none."""
    diagnose_order: Literal[1, 2] = 1
    """2: at these steps, also measure the second-order alignment (Lambda-DARTS, eq. 20)."""
    probe_every: NonNegative = 0
    """Steps between comparisons of the method's finite differences with double backpropagation; 0: none."""
    keep_every: NonNegative = 0
    """Epochs between checkpoints that are kept for `nasx whatif`; 0: none. Not part of the run's identity."""

    @property
    def moving_epoch(self) -> int:
        """An epoch (from 0) in which both weights and architecture are trained; the last epoch if there is none."""
        return min(max(self.arch_warmup, 1), self.epochs - 1)


@dataclass(frozen=True, kw_only=True)
class SearchSettings(SearchProtocol):
    """The search protocol on images: conf/search/*.yaml."""

    data: ClassVar[str] = "images"
    evaluate_images: Positive | None
    """Number of validation images per evaluation; null: all."""
    cutout: NonNegative
    """Side length of the cutout square in pixels; 0: none."""
    drop_path: Below1
    skip_dropout: Below1
    """Initial dropout rate on the outputs of skip connections, which decays during the search; 0: none."""
    auxiliary: NonNegativeFloat
    """Weight of the auxiliary head's loss; 0: no head."""
    FADE: ClassVar[float] = 0.2
    """Decay rate per epoch of the dropout on skip connections (P-DARTS, released code: scale_factor)."""

    def options(self, epoch: int) -> dict[str, object]:
        """Return the keyword arguments that the network takes in the training passes of an epoch (from 0).

        The drop-path rate grows linearly from 0. The dropout rate on skip connections decays linearly while the
        architecture is frozen, then restarts at its initial value and decays exponentially (P-DARTS, released code).
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
        """Number of images to evaluate on (None: all), and the batch size."""
        return self.evaluate_images, 4 * self.batch


@dataclass(frozen=True, kw_only=True)
class TextSearchSettings(TextSettings, SearchProtocol):
    """The search protocol on text: conf/search/ptb.yaml."""

    auxiliary: ClassVar[float] = 0.0
    evaluate_words: Positive | None
    """Number of validation words per evaluation; null: all."""

    @property
    def evaluated(self) -> tuple[int | None, int]:
        """Number of words to evaluate on (None: all), and the batch size in rows of text."""
        return self.evaluate_words, self.batch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings shared by all recipes for training a discrete network from scratch."""

    recipe: str
    """Name of the recipe; only results of the same recipe are aggregated."""
    channels: Channels | None
    """Channels of the first cells; null: the space's default for retraining."""
    epochs: Positive
    batch: Positive
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = None
    accumulate: Positive = 1
    """Number of micro-batches into which each batch is split to save memory; the split affects only batch norm."""
    amp: bool = False
    updates_per_epoch: Positive | None = None
    """Weight updates per epoch; null: one pass over the training set."""
    evaluate_every: NonNegative = 1
    """Epochs between evaluations (images: on the test set, text: on the validation set); 0: only at the end."""


@dataclass(frozen=True, kw_only=True)
class RetrainSettings(Recipe):
    """Recipe for training an image classification network from scratch: conf/retrain/*.yaml."""

    data: ClassVar[str] = "images"
    validated: ClassVar[bool] = False
    """Whether to validate during training and test the best validated weights instead of the final ones."""
    patience: ClassVar[int | None] = None
    layers: Layers | None
    """Number of cells (nb201: per stage); null: the space's default for retraining."""
    max_macs: Positive | None = None
    """Limit on multiply-adds per image: the largest even number of channels within it is used; null: `channels`."""
    stem: Literal["cifar", "imagenet"]
    lr_min: NonNegativeFloat = 0.0
    momentum: Below1 = 0.9
    nesterov: bool = False
    schedule: Literal["cosine", "linear", "step"] = "cosine"
    decay: Fraction = 1.0
    """Factor by which the learning rate is multiplied every epoch if schedule=step."""
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
    """Whether to train on a search's training images and test on its validation images, for model selection."""
    compile: bool = False

    def options(self, epoch: int) -> dict[str, object]:
        return {"drop_path": self.drop_path * epoch / self.epochs}

    @property
    def reading(self) -> dict[str, object]:
        return {"cutout": self.cutout}

    @property
    def test_batch(self) -> int:
        """Batch size for testing: two micro-batches, because no activations are stored for a backward pass."""
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
    """Averaging (ASGD) starts when a loss exceeds the best one more than this many validations ago; null: never."""
    valid_batch: Positive
    test_batch: Positive
    """Batch size for testing; like `valid_batch`, the number of parallel rows into which the text is split."""


Retraining = RetrainSettings | TextRetrainSettings


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings for a supernet's speed, memory and precision: conf/engine/*.yaml."""

    supernet: Literal["fused", "naive"] = "fused"
    """fused: one kernel for all operations of the same shape; naive: one module per operation."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: Literal["off", "auto", "on"] = "off"
    """Whether to compile cells (if large, the edges of each node) with torch.compile. auto: on a single CUDA device."""
    graphs: Literal["off", "auto", "on"] = "off"
    """Whether to run whole steps as CUDA graphs. auto: if they can be captured; on: raise an error if they cannot."""
    checkpoint: bool = False
    """Whether to store only the inputs of cells and recompute cells in backward passes: less memory, same results."""
    calibrate: NonNegativeFloat = 0.0
    """Maximum fraction of a run's time spent on measuring compile, channels_last and graphs at the start; 0: off."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Evaluation protocol of a paper, usually with several searches: conf/study/*.yaml."""

    study: str
    searches: Searches
    """Number of independent searches, with seeds seed, seed + 1, ...; 0: use the architecture of from= or genotype=."""
    vary: dict[str, Any] = field(default_factory=dict)
    """Settings of `search` that differ between searches, each with a list of one value per search."""
    rank: Literal["none", "short", "full"]
    """How the best cell is chosen. short: by training for `rank_epochs` epochs on the search's split; full: by a full
    retraining; none: all cells are kept."""
    rank_epochs: Positive
    retrains: Count
    """Number of retrainings per kept cell, with different seeds, for the reported mean and standard deviation."""
