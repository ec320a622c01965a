"""Components of a training recipe: learning rate, drop-path, MixUp and CutMix, objective, weight averaging.

Learning rate in epoch e of E, with base rate r and minimum l (constant within an epoch, as in all released code):

    cosine   l + (r - l) (1 + cos(pi e / E)) / 2                                DARTS
    step     r decay^e                                                          DARTS on ImageNet
    linear   l + (r - l) (E - 5 - e) / (E - 5)      while E - e > 5             P-DARTS, PC-DARTS on ImageNet
             l + (r - l) (E - e) / (5 (E - 5))      in the last 5 epochs: the slope is 5 times smaller
    constant r                                                                  DARTS on Penn Treebank
    warm-up  r (e + 1) / W                          while e < W, for all schedules

Drop-path probability: p e / E. Objective: cross entropy of the main head plus `auxiliary` times that of the auxiliary
head, both against smoothed labels (1 - s) onehot + s / classes.

MixUp (Zhang et al. 2018): x_i <- c x_i + (1 - c) x_j, loss c L(y_i) + (1 - c) L(y_j), with c ~ Beta(m, m) drawn once
per batch and j a permutation of the batch. CutMix (Yun et al. 2019): a box of height h sqrt(1 - c) and width
w sqrt(1 - c), with a centre drawn uniformly and clipped at the borders, is pasted from x_j; c is then set to the
fraction of pixels outside the box.

Averaged SGD (Polyak and Juditsky 1992; "non-monotonically triggered" in Merity et al. 2018): SGD continues unchanged,
and the mean of its iterates is evaluated. Averaging starts when the validation loss exceeds the smallest of the losses
recorded more than `patience` validations earlier.

Sources: H. Liu et al., DARTS, ICLR 2019; X. Chen et al., P-DARTS, ICCV 2019; Y. Xu et al., PC-DARTS, ICLR 2020; their
released code; C. Szegedy et al. 2016 (label smoothing).

Deviations
1. Warm-up scales the base rate, as in PC-DARTS; P-DARTS scales the decayed rate (released code of both,
   train_imagenet.py).
2. With 5 epochs or fewer, the linear schedule has no flat end: l + (r - l) (E - e) / E.
3. If both MixUp and CutMix are enabled, one of them is chosen for each batch, with equal probability. Without MixUp,
   CutMix is applied to every batch; its released code for CIFAR applies it to half of the batches.
4. The running statistics of batch norm are also averaged, to match the averaged weights.
5. torch's ASGD excludes the first iterate after the switch from the mean, and takes each step with the learning rate of
   the previous step (which matters if the rate depends on the segment length). Here, the mean includes all iterates,
   and each step uses its own learning rate.
6. Text: the learning rate for a segment is the recipe's rate times length / bptt, as in the released code. If values
   are not finite, the run stops; the released code returns to the best weights and retries.

Shapes: x (n, 3, h, w), y (n,), logits (n, classes); for text, x, y (n, steps), logits (n * steps, words).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

from nasx.core.bilevel import state_kwargs
from nasx.core.draws import placed
from nasx.core.schedules import cosine

if TYPE_CHECKING:
    from nasx.config.settings import Retraining
    from nasx.core.bilevel import Batch
    from nasx.spaces.base import Logits

FLAT = 5
"""Number of final epochs in which the linear schedule has a smaller slope."""


# ------------------------------------------------------------------------------------------------- schedules
def rate(settings: Retraining, epoch: int) -> float:
    """Return the learning rate in an epoch (counted from 0)."""
    if epoch < settings.warmup_epochs:
        return settings.lr * (epoch + 1) / settings.warmup_epochs
    match settings.schedule:
        case "cosine":
            return cosine(settings.lr, settings.lr_min, epoch, settings.epochs)
        case "linear":
            return settings.lr_min + (settings.lr - settings.lr_min) * linear(epoch, settings.epochs)
        case "step":
            return settings.lr * settings.decay**epoch
        case "constant":
            return settings.lr


def linear(epoch: int, epochs: int) -> float:
    """Return the linear schedule as a fraction, which falls from 1 (base rate) to 0 (minimum)."""
    left, slope = epochs - epoch, epochs - FLAT
    if slope <= 0:
        return left / epochs
    return (left - FLAT) / slope if left > FLAT else left / (FLAT * slope)


# ------------------------------------------------------------------------------------------------ mixed images
class Mixed(NamedTuple):
    """Mixed images (n, 3, h, w), with labels `y` of weight `share` and labels `other` of weight 1 - `share`."""

    x: Tensor
    y: Tensor
    other: Tensor
    share: float

    def rows(self, which: Tensor) -> Mixed:
        """Return the images and labels at the indices `which`."""
        return Mixed(self.x[which], self.y[which], self.other[which], self.share)

    def split(self, sizes: list[int]) -> Iterator[Mixed]:
        """Split the images and labels into consecutive parts of these sizes."""
        for part in zip(self.x.split(sizes), self.y.split(sizes), self.other.split(sizes), strict=True):
            yield Mixed(*part, self.share)


def states(batch: Batch, sizes: list[int]) -> list[dict[str, Tensor | None]]:
    """Split the initial hidden state of a batch into parts of these sizes, as keyword arguments for the network."""
    given = state_kwargs(batch)
    whole = given.get("state")
    parts: Sequence[Tensor | None] = [None] * len(sizes) if whole is None else whole.split(sizes)
    return [dict.fromkeys(given, part) for part in parts]


def mixes(settings: Retraining) -> bool:
    """Return whether the recipe mixes images within a batch, so that any part of a batch depends on the whole batch."""
    return bool(settings.mixup or settings.cutmix)


def mix(batch: Batch, *, mixup: float = 0.0, cutmix: float = 0.0) -> Mixed:
    """Apply MixUp or CutMix with random numbers from the batch's seed; do nothing if `mixup` and `cutmix` are 0."""
    if not (mixup or cutmix):
        return Mixed(batch.x, batch.y, batch.y, 1.0)
    draw = np.random.RandomState([batch.seed >> 32, batch.seed & 0xFFFFFFFF])  # its algorithm is frozen in numpy
    cut = bool(cutmix) and (not mixup or draw.uniform() < 0.5)
    share = float(draw.beta(cutmix, cutmix) if cut else draw.beta(mixup, mixup))
    partner = placed(torch.from_numpy(draw.permutation(len(batch.y))), batch.x.device)
    if not cut:
        return Mixed(torch.lerp(batch.x[partner], batch.x, share), batch.y, batch.y[partner], share)
    height, width = batch.x.shape[-2:]
    (top, bottom), (left, right) = (span(side, int(draw.randint(side)), share) for side in (height, width))
    x = batch.x.clone()
    x[:, :, top:bottom, left:right] = batch.x[partner, :, top:bottom, left:right]
    return Mixed(x, batch.y, batch.y[partner], 1 - (bottom - top) * (right - left) / (height * width))


def span(side: int, centre: int, share: float) -> tuple[int, int]:
    """Return the start and end (exclusive) of the CutMix box along an axis of `side` pixels."""
    half = int(side * math.sqrt(1 - share)) // 2
    return max(centre - half, 0), min(centre + half, side)


# --------------------------------------------------------------------------------------------------- objective
class Outcome(NamedTuple):
    """The objective, and the loss and accuracy (in [0, 1]) of the main head; all 0-d tensors."""

    objective: Tensor
    loss: Tensor
    accuracy: Tensor


def outcome(logits: Logits, part: Mixed, *, auxiliary: float = 0.0, smoothing: float = 0.0) -> Outcome:
    """Compute the objective, loss and accuracy as means over `part`, in float32 for half-precision logits."""
    loss = mean_loss(logits.main, part, smoothing)
    objective = loss
    if auxiliary and logits.auxiliary is not None:
        objective = loss + auxiliary * mean_loss(logits.auxiliary, part, smoothing)
    if logits.penalty is not None:
        objective = objective + logits.penalty.to(loss.dtype)
    with torch.no_grad():
        best = logits.main.argmax(1)
        hits = [(best == y.flatten()).to(loss.dtype).mean() for y in (part.y, part.other)]
        accuracy = hits[0] if part.share == 1 else part.share * hits[0] + (1 - part.share) * hits[1]
    return Outcome(objective, loss.detach(), accuracy)


def mean_loss(scores: Tensor, part: Mixed, smoothing: float = 0.0) -> Tensor:
    """Compute the mean cross entropy of scores (n, classes) against smoothed and mixed labels."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    first = F.cross_entropy(scores, part.y.flatten(), label_smoothing=smoothing)
    if part.share == 1:
        return first
    return part.share * first + (1 - part.share) * F.cross_entropy(scores, part.other, label_smoothing=smoothing)


# ----------------------------------------------------------------------------------------------------- weights
def optimizer(network: nn.Module, settings: Retraining) -> torch.optim.SGD:
    """Create an SGD optimizer with weight decay on all parameters, including batch norm, as in all released code."""
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


class Average(AveragedModel):
    """torch's AveragedModel with its update count on the CPU, which avoids a synchronization per update."""

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        own, new = ([*net.parameters(), *net.buffers()] for net in (self.module, model))
        count = int(self.n_averaged)  # on the CPU
        if count == 0:
            for x, y in zip(own, new, strict=True):
                x.copy_(y)
        elif self.multi_avg_fn is not None:
            for dtype in dict.fromkeys(x.dtype for x in own):
                same = [i for i, x in enumerate(own) if x.dtype == dtype]
                self.multi_avg_fn([own[i] for i in same], [new[i] for i in same], count)
        else:
            mean, filled = get_swa_avg_fn(), torch.full((), count, device=own[0].device)
            for x, y in zip(own, new, strict=True):
                x.copy_(mean(x, y, filled))
        self.n_averaged += 1


def averaged(network: nn.Module, decay: float | None) -> Average:
    """Return a copy of the network for its averaged weights: w_ema <- decay w_ema + (1 - decay) w after every update.

    If `decay` is None, the copy averages the weights equally over all subsequent updates.
    """
    how = None if decay is None else get_ema_multi_avg_fn(decay)
    return Average(network, multi_avg_fn=how, use_buffers=True)


def stalled(losses: Sequence[float], patience: int | None) -> bool:
    """Return whether the last loss exceeds the smallest of the losses more than `patience` evaluations earlier."""
    if patience is None or len(losses) < patience + 2:
        return False
    return losses[-1] > min(losses[: len(losses) - 1 - patience])
