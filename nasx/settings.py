"""What can be set that is not a space, a method, a data set or a benchmark: how a search and a retraining run.

Frozen dataclasses without torch, so that the command line can check values before anything heavy is imported. The
values and their sources are in conf/search, conf/retrain and conf/engine; the defaults here are "off", or the
published value that all protocols share.

The aliases below are the vocabulary of constraints for every component: `nasx.schema` reads the annotations of a
component's fields from its source and knows these names, so a method may import them under TYPE_CHECKING only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

Positive = Annotated[int, Gt(0)]
NonNegative = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
"""Between 0 and 1, both included."""
Below1 = Annotated[float, Ge(0), Lt(1)]
"""At least 0 and below 1: momenta, drop probabilities, decay rates that must not stand still."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The search protocol: conf/search/*.yaml."""

    protocol: str
    """Name under which results are compared; results of two protocols never share a table."""
    epochs: NonNegative
    """Passes over the training split, counted in weight updates."""
    batch: Positive
    lr: PositiveFloat
    """Learning rate of the weights (SGD) in the first epoch."""
    lr_min: NonNegativeFloat
    """Learning rate at the end of the cosine."""
    momentum: Below1
    nesterov: bool
    weight_decay: NonNegativeFloat
    clip: PositiveFloat | None
    """Bound of the global norm of the weight gradient; null: none."""
    arch_optimizer: Literal["adam", "sgd"]
    arch_lr: PositiveFloat
    arch_betas: tuple[Below1, Below1]
    arch_weight_decay: NonNegativeFloat
    arch_warmup: NonNegative
    """Epochs in which only the weights move."""
    updates_per_epoch: Positive | None
    """Weight updates in an epoch; null: as many as one pass over the training split needs."""
    evaluate_every: NonNegative
    """Epochs between full evaluations of the supernet on the validation split; 0: at the end only."""
    diagnose_every: NonNegative
    """Epochs between the diagnostics that need passes (eigenvalue, alignment, correlation); 0: none, and no cost."""
    diagnose_steps: NonNegative
    """Steps between looks at the layers' gradients (alignment as a mean over the epoch, layer split); 0: none."""
    evaluate_images: Positive | None
    """Images of the validation split that an evaluation reads; null: all."""
    cutout: NonNegative
    """Side of the square that is blanked, in pixels; 0: none."""
    drop_path: Below1
    auxiliary: NonNegativeFloat
    """Weight of the auxiliary head's loss; 0: no head."""


@dataclass(frozen=True, kw_only=True)
class RetrainSettings:
    """How a discrete network is trained from scratch: conf/retrain/*.yaml."""

    recipe: str
    """Name under which results are compared."""
    layers: Positive | None
    """Cells (of a stage, in nb201); null: the space's own retraining size."""
    channels: Positive | None
    """Channels of the first cells; null: the space's own retraining size."""
    stem: Literal["cifar", "imagenet"]
    epochs: Positive
    batch: Positive
    lr: PositiveFloat
    lr_min: NonNegativeFloat = 0.0
    momentum: Below1 = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["cosine", "linear", "step"] = "cosine"
    decay: Fraction = 1.0
    """Factor of the learning rate per epoch, with schedule=step."""
    warmup_epochs: NonNegative = 0
    clip: PositiveFloat | None = None
    cutout: NonNegative = 0
    drop_path: Below1 = 0.0
    auxiliary: NonNegativeFloat = 0.0
    label_smoothing: Below1 = 0.0
    ema: Below1 | None = None
    """Decay of the exponential moving average of the weights; null: none."""
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    accumulate: Positive = 1
    """Pieces that a batch is computed in, to fit a smaller memory; only batch norm sees the pieces."""
    amp: bool = False
    channels_last: bool = False
    compile: bool = False
    updates_per_epoch: Positive | None = None
    """Weight updates in an epoch; null: as many as one pass over the training images needs."""
    evaluate_every: NonNegative = 1
    """Epochs between evaluations on the test set; 0: at the end only."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How a supernet is computed, not what: conf/engine/*.yaml."""

    supernet: Literal["fused", "naive"] = "fused"
    """fused: one kernel for operations that share a shape; naive: one module for each operation."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: Literal["off", "auto", "on"] = "off"
    """torch.compile for each kind of cell: one graph for all cells of one width. auto: on a CUDA device."""
    graphs: Literal["off", "auto", "on"] = "off"
    """Whole steps from CUDA graphs. auto: where they can be; on: an error where they cannot."""
    checkpoint: bool = False
    """Keep only the inputs of each cell for the backward pass and compute the cell again there: less memory, the same
    numbers, one more forward pass of the cells for each backward pass."""


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Keys at the top level that every job has."""

    seed: NonNegative = 0
    out: str = "outputs"
    name: str | None = None
    device: str = "auto"
    threads: Positive | None = None
    workers: NonNegative | None = None
    """Processes that decode images, for sets on a disk; null: as many as there are CPUs for this process, less one."""
    deterministic: bool = False
    checkpoint_s: PositiveFloat = 300.0
    allow: tuple[str, ...] = ()
    quiet: bool = False
    seeds_per_job: Positive = 1
    """Searches that one process takes by turns, of seeds seed, seed + 1, ...: each as its seed alone would be."""


@dataclass(frozen=True, kw_only=True)
class SearchJob(JobSettings):
    """`nasx search`."""


@dataclass(frozen=True, kw_only=True)
class RetrainJob(JobSettings):
    """`nasx retrain`; the key `from` is `from_` here, since Python keeps that word."""

    from_: str | None = None
    genotype: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunJob(JobSettings):
    """`nasx run`."""

    then: Literal["auto", "lookup", "retrain", "both"] = "auto"


@dataclass(frozen=True, kw_only=True)
class TableJob:
    """`nasx table`."""

    runs: str | tuple[str, ...] = ()
    out: str = "outputs"
    format: Literal["console", "markdown", "latex", "csv"] = "console"
    out_file: str | None = None
    sort: str | tuple[str, ...] | None = None
    filter: str | tuple[str, ...] | dict[str, Any] | None = ()
    group: str | tuple[str, ...] = ()
    paper: Literal["idarts", "amended", "single", "lambda", "tse"] | None = None
    error: bool = False


@dataclass(frozen=True, kw_only=True)
class ListJob:
    """`nasx list`."""

    what: Literal["all", "methods", "spaces", "datasets", "benchmarks", "protocols", "recipes", "engines",
                  "loggers", "experiments"] = "all"
