"""Data-parallel training and search in several processes; with one process, the functions have no effect.

    nasx retrain devices=N ...                              gloo on CPUs, nccl on GPUs, one process per device
    torchrun --nproc-per-node=N -m nasx retrain ...         the same, with torch's launcher

The same options work for `nasx search`. Every rank draws the same global batch and computes its own slice of it, so
that batches do not depend on the number of processes. Batch norm is synchronized over the global batch. N processes
therefore compute the same values as one process, up to the order of floating-point sums, and a run may resume with a
different number of processes. With several processes, drop-path and the `noise` operation are seeded per rank, and
therefore agree with one process only in distribution.

In retraining, a rank computes its slice of every accumulation step, after MixUp and CutMix. torch's
DistributedDataParallel averages the gradients. Batch norm is torch's SyncBatchNorm on GPUs, and `SyncNorm` on CPUs,
which SyncBatchNorm does not support.

A search differentiates its loss with respect to weights, architecture and mixture, up to twice, and also at
substituted weights. Therefore the loss itself is global: trees that all ranks have in common enter a rank's own pass
through `shared`, and `total` sums the results of the ranks. Both are differentiable any number of times (each is the
other's backward pass), so every gradient and every product that a method computes is that of the global batch and
bit-identical on all ranks, as are norms and step lengths. torch's SyncBatchNorm has no second derivative, so a search
uses `batch_norm` on all devices.

Rank 0 owns the run folder: only rank 0 reads, writes and prints. When a process dies, the others lose their connection
to it (gloo) or are terminated by torch's elastic agent (nccl); the same command resumes from the last checkpoint. The
resumed run is bit-identical with the same number of processes if the backend sums deterministically, as gloo does.

nccl has not been tested yet.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.core.trees import Tree
from nasx.errors import UserError

COMM_TIMEOUT = timedelta(minutes=10)
"""Longest wait for another process, which may have to decode images that this one has cached."""
PEER_FAILURES = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Socket Timeout", "TCPStore")
"""Substrings of torch's error messages after a process has died."""
PEER_ENDED = "lost the connection to the others: one of them died"
T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the rank of this process, starting at 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Return whether this process has rank 0 and owns the run folder."""
    return rank() == 0


def device_name(name: str) -> str:
    """Resolve `auto` and `cuda` to the GPU of this process; return other names unchanged. Raises UserError."""
    if world_size() == 1 or name == "cpu":
        return name
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if name not in ("auto", "cuda"):
        raise UserError(
            f"device={name}",
            f"names one device, but there are {world_size()} processes",
            "use device=auto, cuda or cpu",
        )
    if not there and name == "auto":
        return "cpu"
    if local >= there:
        raise UserError(
            f"device={name}",
            f"the number of processes ({os.environ.get('LOCAL_WORLD_SIZE', world_size())}) "
            f"exceeds the number of GPUs ({there})",
            "start one process per GPU, or use device=cpu",
        )
    return f"cuda:{local}"


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Initialize the process group for the block. Raises UserError if another process dies."""
    if world_size() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=COMM_TIMEOUT)
        yield
        dist.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in PEER_FAILURES):
            raise
        raise UserError(
            f"process {rank()} of {world_size()}",
            PEER_ENDED,
            "run the same command again to resume from the last checkpoint",
        ) from error


def is_peer_failure(error: BaseException) -> bool:
    """Return whether the error was raised by `process_group` because another process died."""
    return isinstance(error, UserError) and error.fault == PEER_ENDED


# ------------------------------------------------------------------------------------------------ collectives
def rank_rows(batch: int, pieces: int) -> list[Tensor]:
    """Return the indices of this rank's images in each of the `pieces` parts of a batch."""
    return [piece[rank_slice(len(piece))] for piece in torch.arange(batch).chunk(pieces)]


def rank_slice(n: int) -> slice:
    """Return this rank's slice of `n` items, which the ranks partition as evenly as possible."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


def all_reduce(x: Tensor) -> Tensor:
    """Return the sum of `x` over all ranks."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def broadcast_object(value: T) -> T:
    """Broadcast rank 0's object to all ranks over gloo, which does not synchronize the GPU."""
    if world_size() == 1:
        return value
    held = [value]  # on other ranks, replaced by the value of rank 0
    dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
    return held[0]


def all_gather(value: int) -> list[int]:
    """Gather the value of every rank, in rank order."""
    mine = torch.tensor([value])
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(parts, mine)
    return [int(part) for part in parts]


def wrap_ddp(network: nn.Module) -> nn.Module:
    """Wrap the network in DistributedDataParallel, with rank 0's weights; return it unchanged with one process.

    Unused parameters (of an operation followed only by `none`) get no gradient, as with one process.
    find_unused_parameters also fixes the order of gradient sums, which torch would otherwise change after the first
    update of each start, so that a resumed run would differ in the last bits. Buffers are not broadcast, because
    synchronized batch norms are equal on all ranks.
    """
    if world_size() == 1:
        return network
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified", UserWarning)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`broadcast_buffers` is deprecated", FutureWarning
        )  # its replacement is too new
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=True)


def no_sync(network: nn.Module, last: bool) -> contextlib.AbstractContextManager[object]:
    """Accumulate gradients in the block without averaging, unless it processes the `last` part of a batch."""
    return contextlib.nullcontext() if last or world_size() == 1 else network.no_sync()  # type: ignore[operator]


# ----------------------------------------------------------------------------------------- losses over all ranks
class Shared(torch.autograd.Function):
    """Identity on tensors that are equal on all ranks, as inputs to a rank's own pass; sums gradients over ranks."""

    @staticmethod
    def forward(ctx: object, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> object:
        return Total.apply(*grads)


class Total(torch.autograd.Function):
    """Sums of tensors over ranks, in one reduction; the gradient of each rank's summand is the gradient of the sum."""

    @staticmethod
    def forward(ctx: object, *tensors: Tensor) -> tuple[Tensor, ...]:
        flat = all_reduce(torch.cat([x.flatten() for x in tensors]))
        parts = flat.split([x.numel() for x in tensors])
        return tuple(part.view(x.shape).to(x.dtype) for part, x in zip(parts, tensors, strict=True))

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> object:
        return Shared.apply(*grads)


def shared(tree: Tree) -> Tree:
    """Return a tree, equal on all ranks, for use in a rank's own pass; the pass's results must go through `total`."""
    moving = {k: x for k, x in tree.items() if x.requires_grad}
    return tree | dict(zip(moving, Shared.apply(*moving.values()), strict=True)) if moving else tree


def total(*parts: Tensor) -> tuple[Tensor, ...]:
    """Sum each tensor over ranks, differentiably; see `shared`."""
    sums: tuple[Tensor, ...] = Total.apply(*parts)
    return sums


# ------------------------------------------------------------------------------------------------- batch norm
class Sum(torch.autograd.Function):
    """Differentiable sum over ranks; the gradient of each rank's part is the sum of the gradients of all ranks."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return all_reduce(x)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> object:
        return Sum.apply(grads[0].contiguous())


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Compute torch.nn.functional.batch_norm over the images of all ranks, with a single reduction.

    Running statistics use the unbiased variance, as in torch. `x` is (n, c, h, w); n may be 0 on a rank.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    size = torch.full((1,), float(x.numel() // x.size(1)), dtype=wide.dtype, device=x.device)
    found: Tensor = Sum.apply(torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), size]))
    first, second, n = found.split([x.size(1), x.size(1), 1])
    mean = first / n
    var = (second / n - mean.square()).clamp_min(0)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * n / (n - 1)).to(running_var.dtype), momentum)
    scale = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
    shift = -mean * scale if bias is None else bias - mean * scale
    out: Tensor = (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)
    return out


class SyncNorm(nn.BatchNorm2d):
    """Batch norm over the images of all ranks, computed by `batch_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        training = self.training or self.running_mean is None
        if training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        assert self.momentum is not None
        mean, var = self.running_mean, self.running_var
        return batch_norm(x, mean, var, self.weight, self.bias, training, self.momentum, self.eps)


def convert_sync_batchnorm(network: N, device: torch.device) -> N:
    """Replace batch norms with synchronized ones; the state dict is unchanged."""
    if world_size() == 1:
        return network
    if device.type == "cuda":
        converted: N = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                norm = SyncNorm(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
                held = child.state_dict()
                for x in [x for x in held.values() if x.is_floating_point()][:1]:
                    norm.to(x)
                norm.load_state_dict(held)
                setattr(module, name, norm)
    return network
