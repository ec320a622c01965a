"""Settings of searches and retrainings other than those of the space, method, dataset and benchmark.

Frozen dataclasses that do not import torch. The values of each protocol and recipe, with their sources, are in
conf/search, conf/retrain and conf/engine; a default here is "off", or the published value that all protocols share.
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
    """Segment lengths of a text and regularization of a language model, for search and retraining."""

    data: ClassVar[str] = "text"
    bptt: Positive
    """Words of a segment, through which gradients flow; the state continues in the next one."""
    short: Fraction
    """Share of training segments of half that length."""
    jitter: NonNegativeFloat
    """Standard deviation of the length of training segments, in words; 0: none."""
    dropout_embedding: Below1
    """Rate of whole words of the vocabulary."""
    dropout_input: Below1
    """Rate of a word's features, one mask for a segment."""
    dropout_x: Below1
    """The same where the cell reads them."""
    dropout_hidden: Below1
    """Rate of the features of every state inside the cell, one mask for a segment."""
    dropout_output: Below1
    """Rate of the features that the decoder reads, one mask for a segment."""
    activation: NonNegativeFloat
    """Factor of the mean square of what the decoder reads, in the training loss."""
    slowness: NonNegativeFloat
    """Factor of the mean square of the state's change from word to word, in the training loss."""

    def options(self, epoch: int) -> dict[str, object]:
        """Arguments of the network in a training pass, in addition to its input."""
        rates = self.dropout_embedding, self.dropout_input, self.dropout_x, self.dropout_hidden, self.dropout_output
        return {"regularizers": Regularizers(*rates, self.activation, self.slowness)}

    @property
    def reading(self) -> dict[str, object]:
        """Return the arguments to open a dataset with."""
        return {"bptt": self.bptt, "short": self.short, "jitter": self.jitter}


@dataclass(frozen=True, kw_only=True)
class SearchProtocol:
    """Settings common to all search protocols."""

    protocol: str
    """Name under which results are compared; results of two protocols never share a table."""
    epochs: Positive
    """Passes over the training split, counted in weight updates (iDARTS: T of them per epoch)."""
    batch: Positive
    lr: PositiveFloat
    """Learning rate of the weights (SGD) in the first epoch."""
    lr_min: NonNegativeFloat
    """Learning rate at the end of the schedule."""
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup_epochs: NonNegative
    """The first epochs, W, in which the weights' rate is that of the schedule times (e + 1) / W; 0: none."""
    momentum: Below1
    nesterov: bool
    weight_decay: NonNegativeFloat
    clip: PositiveFloat | None
    """Bound of the global norm of the weight gradient; null: none."""
    arch_optimizer: Literal["adam", "sgd"]
    arch_lr: PositiveFloat
    arch_betas: tuple[Below1, Below1]
    arch_momentum: Below1 = 0.0
    arch_weight_decay: NonNegativeFloat
    arch_warmup: NonNegative
    """Epochs in which only the weights move."""
    updates_per_epoch: Positive | None
    """Weight updates per epoch; null: as many as one pass over the training split needs (iDARTS: times T)."""
    evaluate_every: NonNegative
    """Epochs between full evaluations of the supernet on the validation split; 0: at the end only."""
    diagnose_every: NonNegative
    """Epochs between the diagnostics that need passes (eigenvalue, alignment, correlation); 0: none, and no cost."""
    diagnose_steps: NonNegative
    """Steps between looks at the layers' gradients (alignment as a mean over the epoch, layer split); 0: none."""
    diagnose_order: Literal[1, 2] = 1
    """2: also the alignment of second order at these steps (Lambda-DARTS, eq. 20)."""
    probe_every: NonNegative = 0
    """Steps between comparisons of the method's finite differences with double backward; 0: none."""
    keep_every: NonNegative = 0
    """Epochs between checkpoints that are kept for `nasx whatif`; 0: none. Not part of the identity."""

    @property
    def moving_epoch(self) -> int:
        """An epoch in which both weights and architecture move, where there is one."""
        return min(max(self.arch_warmup, 1), self.epochs - 1)


@dataclass(frozen=True, kw_only=True)
class SearchSettings(SearchProtocol):
    """The search protocol on images: conf/search/*.yaml."""

    data: ClassVar[str] = "images"
    evaluate_images: Positive | None
    """Images of the validation split that an evaluation reads; null: all."""
    cutout: NonNegative
    """Side of the square that is blanked, in pixels; 0: none."""
    drop_path: Below1
    skip_dropout: Below1
    """Rate of elements of skip connections in the first epoch, fading; 0: none."""
    auxiliary: NonNegativeFloat
    """Weight of the auxiliary head's loss; 0: no head."""
    FADE: ClassVar[float] = 0.2
    """How fast dropout on skip connections fades, in 1 / epochs (P-DARTS, released code: scale_factor)."""

    def options(self, epoch: int) -> dict[str, object]:
        """Arguments of the network in the training passes of an epoch (from 0), in addition to its input.

        Drop-path grows linearly from 0. Dropout on skip connections falls linearly as long as the architecture is
        frozen, and exponentially, from the full rate again, as soon as it moves (P-DARTS, released code).
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
        """Return the number of items to evaluate on (None: all) and the batch size."""
        return self.evaluate_images, 4 * self.batch


@dataclass(frozen=True, kw_only=True)
class TextSearchSettings(TextSettings, SearchProtocol):
    """The search protocol on text: conf/search/ptb.yaml."""

    auxiliary: ClassVar[float] = 0.0
    evaluate_words: Positive | None
    """Words of the validation text that an evaluation reads; null: all."""

    @property
    def evaluated(self) -> tuple[int | None, int]:
        """Return the number of words to evaluate on (None: all) and the number of rows."""
        return self.evaluate_words, self.batch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings common to all recipes for training a discrete network from scratch."""

    recipe: str
    """Name under which results are compared."""
    channels: Channels | None
    """Channels of the first cells; null: the space's own retraining size."""
    epochs: Positive
    batch: Positive
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = None
    accumulate: Positive = 1
    """Pieces that a batch is computed in, to fit a smaller memory; only batch norm sees the pieces."""
    amp: bool = False
    updates_per_epoch: Positive | None = None
    """Weight updates per epoch; null: as many as one pass over the training set needs."""
    evaluate_every: NonNegative = 1
    """Epochs between evaluations (of images on the test set, of text on the validation set); 0: at the end only."""


@dataclass(frozen=True, kw_only=True)
class RetrainSettings(Recipe):
    """Recipe for training an image classification network from scratch: conf/retrain/*.yaml."""

    data: ClassVar[str] = "images"
    validated: ClassVar[bool] = False
    """Whether a part is held out, and the weights that are best on it are tested; else the last ones are."""
    patience: ClassVar[int | None] = None
    layers: Layers | None
    """Cells (of a stage, in nb201); null: the space's own retraining size."""
    max_macs: Positive | None = None
    """Most multiply-adds of one image: the most channels (an even number) below it are taken; null: `channels`."""
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
    """Train on the training images of a search and test on its validation images: a choice without the test set."""
    compile: bool = False

    def options(self, epoch: int) -> dict[str, object]:
        return {"drop_path": self.drop_path * epoch / self.epochs}

    @property
    def reading(self) -> dict[str, object]:
        return {"cutout": self.cutout}

    @property
    def test_batch(self) -> int:
        """Images that are tested at once: twice a piece, since nothing is kept for a backward pass."""
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
    """Validations without a better one than those before, after which weights are averaged (ASGD); null: never."""
    valid_batch: Positive
    test_batch: Positive
    """Pieces that the validation text and the test text are read in side by side."""


Retraining = RetrainSettings | TextRetrainSettings


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings of speed, memory and precision of a supernet: conf/engine/*.yaml."""

    supernet: Literal["fused", "naive"] = "fused"
    """fused: one kernel for operations that share a shape; naive: one module for each operation."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: Literal["off", "auto", "on"] = "off"
    """torch.compile for cells, or the edges of each node: one width shares graphs. auto: on a CUDA device."""
    graphs: Literal["off", "auto", "on"] = "off"
    """Whole steps from CUDA graphs. auto: where they can be; on: an error where they cannot."""
    checkpoint: bool = False
    """Keep only the inputs of cells, and compute cells again in the backward pass: less memory, the same numbers."""
    calibrate: NonNegativeFloat = 0.0
    """Share of a run's time that may go into measuring compile, channels_last and graphs at its start; 0: none."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Protocol of a publication with several searches: conf/study/*.yaml."""

    study: str
    searches: Searches
    """Independent searches, of seeds seed, seed + 1, ...; 0: none, the architecture is that of from= or genotype=."""
    vary: dict[str, Any] = field(default_factory=dict)
    """Settings of `search` with one value for each of the searches."""
    rank: Literal["none", "short", "full"]
    """How the best cell is chosen. short: `rank_epochs` epochs on the search's split; full: retrained; none: all."""
    rank_epochs: Positive
    retrains: Count
    """Retrainings of each kept cell, of seeds not used before, which the reported mean and deviation are over."""
