"""Does the fake runtime follow CUDA's rules? Does nasx.searcher.cuda_graphs end a broken recording? runtime.py rules.py

Each rule of stream capture is broken once, which must be detected; a recording that follows them must pass before and
after. The last line of the output is {check: detail if it failed, else null} as JSON.
"""

from __future__ import annotations

import contextlib
import gc
import json
import threading
from collections.abc import Callable
from typing import Any

import events
import torch

from nasx.searcher import cuda_graphs

DEVICE = torch.device("cuda", 0)
x = torch.zeros(64, device=DEVICE)
found: dict[str, Any] = {}


def check(name: str, fine: bool, detail: object = "failed") -> None:
    found[name] = None if fine else str(detail)
    print("ok   " if fine else "WRONG", name, "" if fine else detail, flush=True)


def recorded(work: Callable[[], object], **options: Any) -> str:
    """Return the error of a recording by torch; empty if there is none."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(), **options):
            work()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.synchronize()
    before = events.replays()
    graph.replay()
    return "" if events.replays() == before + 1 else "no replay"


def forked(join: bool) -> None:
    other = torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        x.mul(2)
    if join:
        torch.cuda.current_stream().wait_stream(other)


def threaded(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    x.add_(1)


def pinned() -> None:
    with contextlib.suppress(RuntimeError):
        torch.zeros(1 << 20).pin_memory()


def allocator() -> int:
    """Return the MiB taken by fifty tensors that another stream uses and that are freed one after another."""
    other = torch.cuda.Stream()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(50):
        held = torch.zeros(1 << 22, device=DEVICE)
        held.record_stream(other)
        del held
    return (torch.cuda.memory_reserved() - before) >> 20


def read_back() -> None:
    held = [torch.zeros(1 << 20, device=DEVICE) for _ in range(8)]
    held[0].sum().item()


def runtime() -> None:
    check("a device", torch.cuda.get_device_name() == "Fake GPU (no arithmetic)")
    host = torch.arange(8.0)
    check("copies are real", torch.equal(host.to(DEVICE).cpu(), host))
    torch.backends.cudnn.enabled = False
    weight, before = torch.zeros(8, 3, 3, 3, device=DEVICE, requires_grad=True), events.launches()
    torch.nn.functional.conv2d(torch.zeros(4, 3, 8, 8, device=DEVICE), weight, padding=1).sum().backward()
    check("a convolution and its backward pass launch kernels", events.launches() > before + 3)
    big = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    check("the allocator counts", torch.cuda.memory_allocated() >= 1 << 30)
    del big
    torch.cuda.empty_cache()
    try:
        torch.empty(1 << 42, dtype=torch.uint8, device=DEVICE)
        check("4 TiB do not fit", False)
    except torch.OutOfMemoryError:
        check("4 TiB do not fit", True)
    events.listen()
    x.sum().item()
    check("a wait is counted", bool(events.of("", "SYNC")))
    events.deaf()
    check("a recording", not recorded(lambda: x.add_(1)))
    check("fork and join", not recorded(lambda: forked(join=True)))
    for name, work in (
        ("fork without join", lambda: forked(join=False)),
        ("item()", lambda: x.sum().item()),
        ("a copy from pageable memory", lambda: torch.ones(3).to(DEVICE)),
        ("synchronize()", torch.cuda.synchronize),
        ("memory pinned in another thread, in global mode", lambda: threaded(pinned)),
    ):
        fault = recorded(work)
        check(f"what breaks a recording: {name}", bool(fault), fault or "not found")
    fault = recorded(lambda: threaded(pinned), capture_error_mode="thread_local")
    check("memory pinned in another thread, in thread-local mode", not fault, fault)


def nasx() -> None:
    """Check recordings of nasx.searcher.cuda_graphs: other threads, random numbers, and the state after a break."""
    record = cuda_graphs.cuda(DEVICE)
    record(lambda: threaded(pinned), [])
    check("nasx: another thread pins memory during a recording", True)
    gen = torch.Generator(DEVICE)
    replay = record(lambda: x.add_(torch.rand(64, device=DEVICE, generator=gen)), [gen])
    gen.manual_seed(7)
    replay()
    check("nasx: a replay draws from its generator", gen.initial_seed() == 7 and gen.get_offset() > 0, gen.get_offset())
    usual, stream = allocator(), torch.cuda.current_stream()
    for work in (read_back, lambda: 1 / 0, read_back):
        try:
            record(work, [])
            check("nasx: a recording breaks", False)
        except (RuntimeError, ZeroDivisionError):
            check("nasx: a recording breaks", True)
    gc.collect()
    check("nasx: the stream is the one before", torch.cuda.current_stream() == stream)
    check("nasx: the allocator reuses memory again", allocator() <= usual, f"{allocator()} instead of {usual} MiB")
    torch.manual_seed(3)
    torch.rand(3, device=DEVICE)
    check("nasx: the device's own generator draws again", True)
    replay()
    record(lambda: x.add_(1), [])()
    check("nasx: earlier graphs replay, new ones are recorded", True)


if __name__ == "__main__":
    for part in (runtime, nasx):
        try:
            part()
        except Exception as error:  # noqa: BLE001
            check(part.__name__, False, error)
    print(json.dumps(found))
