"""Several processes for one training; with one process everything here does nothing.

    nasx retrain devices=N ...                              gloo on CPUs, nccl on GPUs, one process for each device
    torchrun --nproc-per-node=N -m nasx retrain ...         the same, started from outside

Every process knows the same global batch, so the batches do not depend on the number of processes, and takes its own
slice of every piece; where images are mixed, after that. torch's DistributedDataParallel averages the gradients. Batch
norm is synchronized: statistics are those of the whole piece, by torch's SyncBatchNorm on GPUs and by `SyncNorm` on
CPUs, where torch has none. So N processes compute what one computes, up to the order of floating-point sums, and a
training may go on with another number of them. Two things are equal in distribution only: drop-path and the `noise`
operation, which draw from (seed of the batch, process) where there are several.

The process of rank 0 owns the run folder: it alone reads, writes and prints. When a process dies the others lose their
connection to it (gloo) or are ended by the agent (nccl); the same command resumes from the last checkpoint, and with as
many processes as before to the same bits, as far as the sums of the backend are the same each time: gloo's are.

nccl has not been tried yet.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nasx.errors import UserError

COMM_TIMEOUT = timedelta(minutes=10)
"""The longest that a process waits for another: one may have to decode images that another has in its cache."""
PEER_FAILURES = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Socket Timeout", "TCPStore")
"""What an error says when a process has gone."""
PEER_ENDED = "lost the others: one of them has ended"
T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this process owns the run folder."""
    return rank() == 0


def device_name(name: str) -> str:
    """`auto` and `cuda` as the GPU of this process; other names as they are. Raises UserError."""
    if world_size() == 1 or name == "cpu":
        return name
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if name not in ("auto", "cuda"):
        raise UserError(f"device={name}", f"is one device for {world_size()} processes", "use device=auto, cuda or cpu")
    if not there and name == "auto":
        return "cpu"
    if local >= there:
        raise UserError(
            f"device={name}",
            f"{int(os.environ.get('LOCAL_WORLD_SIZE', world_size()))} processes for {there} GPUs",
            f"use {max(there, 1)}, or device=cpu",
        )
    return f"cuda:{local}"


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Within the block the processes know each other. Raises UserError where one of them has ended."""
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
            f"process {rank()} of {world_size()}", PEER_ENDED, "the same command resumes from the last checkpoint"
        ) from error


def is_peer_failure(error: BaseException) -> bool:
    """Whether the error is that of `joined`."""
    return isinstance(error, UserError) and error.fault == PEER_ENDED


# ------------------------------------------------------------------------------------------------------- talk
def rank_rows(batch: int, pieces: int) -> list[Tensor]:
    """For each piece of a batch the positions of this process's own images.

    The shares of the processes are as equal as they can be; together they are the batch, and none overlaps another.
    """
    return [
        piece[len(piece) * rank() // world_size() : len(piece) * (rank() + 1) // world_size()]
        for piece in torch.arange(batch).chunk(pieces)
    ]


def all_reduce(x: Tensor) -> Tensor:
    """The sum over the processes, for all of them."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def broadcast_object(value: T) -> T:
    """The owner's value, for all. By way of the CPU, as all that is not summed: a GPU would have to be waited for."""
    if world_size() == 1:
        return value
    held: list[Any] = [value if is_main_process() else None]
    dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
    found: T = held[0]
    return found


def all_gather(value: int) -> list[int]:
    """The value of every process, for all of them."""
    mine = torch.tensor([value])
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(parts, mine)
    return [int(part) for part in parts]


def wrap_ddp(network: nn.Module) -> nn.Module:
    """The network as it is trained: its gradients are averaged over the processes, its weights those of the owner.

    Parameters that no output depends on (an operation behind `none`) keep no gradient, as in one process. To look for
    them has a second good: torch then keeps the order in which it sums gradients, where it would otherwise learn a
    better one in the first update after each start, and a resumed run would differ in the last bits. Buffers are not
    sent around: synchronized batch norms are equal in all processes.
    """
    if world_size() == 1:
        return network
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified", UserWarning)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # its heir is too new
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=True)


def no_sync(network: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Within the block gradients are only added up; after the last piece of a batch they are averaged."""
    return contextlib.nullcontext() if last or world_size() == 1 else network.no_sync()  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------- batch norm
class Sum(torch.autograd.Function):
    """The sum over the processes; the gradient of each one's part is the sum of the gradients of all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return all_reduce(grads[0].contiguous())


class SyncNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, by one differentiable sum of (sum x, sum x^2, count).

    Running statistics take the unbiased variance, as torch's do. x (n, c, h, w); n may be 0 in a process.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.running_mean is None):
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        size = torch.full((1,), float(x.numel() // x.size(1)), dtype=wide.dtype, device=x.device)
        found: Tensor = Sum.apply(torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), size]))
        first, second, n = found.split([self.num_features, self.num_features, 1])
        mean = first / n
        var = (second / n - mean.square()).clamp_min(0)
        if self.training and self.running_mean is not None:
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_((var * n / (n - 1)).to(self.running_var.dtype), self.momentum)
        scale = (var + self.eps).rsqrt() if self.weight is None else self.weight * (var + self.eps).rsqrt()
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def convert_sync_batchnorm(network: N, device: torch.device) -> N:
    """The same network with synchronized batch norms; names and values of its state are kept."""
    if world_size() == 1:
        return network
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
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
