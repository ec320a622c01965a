"""Call a function in two processes of one process group (gloo, on loopback), as devices=2 does."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from nasx.core import distributed


def found(work: Callable[[], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the results of `work()`, a function at the top level of a module, in each rank; files go to `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    mp.spawn(_process, (work, port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _process(rank: int, work: Callable[[], dict[str, Any]], port: str, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    with distributed.process_group(torch.device("cpu")):
        made = work()
    torch.save(made, Path(folder) / f"{rank}.pt")
