"""Speed of the engine, as ratios to the naive reference path, measured side by side in one run.

    uv run python scripts/benchmark.py --quick            # a few minutes on two cores
    uv run python scripts/benchmark.py --json out.json    # full sizes (a GPU, or patience)

Each row interleaves A (naive) and B (the engine), so that a drifting machine affects both equally, and gives the median
of the pairwise ratios with their spread, and the seconds of the engine's first run, including compilation. Kernels are
counted as dispatched operations other than views and allocations. Activation memory is the sum of tensors that autograd
keeps for the backward pass. No test checks a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nasx.config.settings import EngineSettings
from nasx.core.bilevel import Batch, Method, Search, detached, gradients
from nasx.data.augment import Augment
from nasx.data.batch_stream import Stream
from nasx.methods.amended import Amended
from nasx.methods.darts import Darts as DartsMethod
from nasx.methods.idarts import IDarts
from nasx.methods.lambda_ import Lambda
from nasx.methods.single import Single
from nasx.methods.tse import Tse
from nasx.searcher.optimizers import architecture_optimizer, weight_optimizer
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.spaces.base import Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import environment

NO_KERNEL = {
    "view",
    "_unsafe_view",
    "t",
    "transpose",
    "permute",
    "expand",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "detach",
    "split",
    "split_with_sizes",
    "unbind",
    "alias",
    "as_strided",
    "unfold",
    "narrow",
    "_reshape_alias",
    "reshape",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "lift_fresh",
}
METHODS: dict[str, Method] = {
    "darts order 1": DartsMethod(),
    "darts order 2": DartsMethod(order=2),
    "idarts (difference)": IDarts(T=1, products="difference"),
    "idarts (exact)": IDarts(T=1),
    "amended": Amended(),
    "single": Single(),
    "tse (T=2)": Tse(T=2),
    "lambda": Lambda(schedule="constant"),
}


PROTOCOL = SimpleNamespace(
    lr=0.025,
    momentum=0.9,
    nesterov=False,
    weight_decay=3e-4,
    arch_optimizer="adam",
    arch_lr=3e-4,
    arch_betas=(0.9, 0.999),
    arch_weight_decay=0.0,
)


class Kernels(TorchDispatchMode):
    """Counts dispatched operations that launch work."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.__name__.split(".")[0] not in NO_KERNEL
        return func(*args, **(kwargs or {}))


def profiled(function: Callable[[], Any]) -> int:
    """Count the kernels of a compiled function, generated ones and dispatched operations, with torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    names = [e.name for e in profile.events() if not e.cpu_children]
    return sum("_fused_" in n or (n.startswith("aten::") and n.removeprefix("aten::") not in NO_KERNEL) for n in names)


def saved_mb(function: Callable[[], Tensor]) -> float:
    """Return the megabytes of distinct storages that autograd keeps for the backward pass of `function`."""
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        function()
    return sum(seen.values()) / 2**20


def pairs(a: Callable[[], Any], b: Callable[[], Any], runs: int, device: torch.device) -> dict[str, float]:
    """Time both, interleaved after one warm-up each; return their seconds and the ratio a / b of the pairs."""

    def timed(function: Callable[[], Any]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    warm = [timed(a), timed(b)]
    times = [(timed(a), timed(b)) for _ in range(runs)]
    ratios = sorted(x / y for x, y in times)
    print(f"  {statistics.median(ratios):.2f}", file=sys.stderr, flush=True)
    return {
        "naive_s": statistics.median(x for x, _ in times),
        "engine_s": statistics.median(y for _, y in times),
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "n": runs,
        "warm_up_s": warm[1],
    }


def softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, -1)


def build(space: Space, naive: bool, device: torch.device, engine: EngineSettings | None = None) -> Search:
    """Build a search with the same weights for both paths."""
    torch.manual_seed(0)
    net = space.supernet(10, naive=naive).to(device)
    problem = RelaxedProblem(space, net, softmax, engine=engine)
    a = {k: x.to(device).requires_grad_() for k, x in space.init(torch.Generator().manual_seed(0)).items()}
    w = weights(net)
    return Search(problem, w, a, weight_optimizer(w, PROTOCOL), architecture_optimizer(a, PROTOCOL), 5.0)


def batches(n: int, size: int, device: torch.device, count: int = 3) -> list[Batch]:
    gen = torch.Generator().manual_seed(1)
    return [
        Batch(
            torch.randn(n, 3, size, size, generator=gen).to(device),
            torch.randint(10, (n,), generator=gen).to(device),
            i,
        )
        for i in range(count)
    ]


def both(search: Search, batch: Batch) -> Tensor:
    """Run one forward pass whose loss depends on weights and mixture."""
    mix = detached(search.problem.relax(search.a), requires_grad=True)
    return search.problem.outcome(search.w, mix, batch).loss


def forward_backward(search: Search, batch: Batch) -> Callable[[], Any]:
    def run() -> None:
        mix = detached(search.problem.relax(search.a), requires_grad=True)
        gradients(search.problem.outcome(search.w, mix, batch).loss, search.w, mix)

    return run


def engines(args: argparse.Namespace) -> dict[str, EngineSettings]:
    found = {"eager": EngineSettings()}
    if args.compile:
        found |= {
            "compiled": EngineSettings(compile="on"),
            "compiled, channels_last": EngineSettings(compile="on", channels_last=True),
        }
    return {label: engine for label, engine in found.items() if args.engine in label}


def network_rows(name: str, space: Space, n: int, runs: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the forward and backward passes of one supernet for each engine setting."""
    device, rows = args.device, []
    batch = batches(n, 32, device, 1)[0]
    naive = build(space, True, device)
    with Kernels() as kernels:
        forward_backward(naive, batch)()
    before, memory = kernels.count, saved_mb(lambda: both(naive, batch))
    for label, engine in engines(args).items():
        search = build(space, False, device, engine)
        data = batch
        if engine.channels_last:
            data = Batch(batch.x.to(memory_format=torch.channels_last), batch.y, batch.seed)
        row = {
            "what": f"{name} forward and backward, {label}",
            "batch": n,
            **pairs(forward_backward(naive, batch), forward_backward(search, data), runs, device),
        }
        if engine.compile == "off":
            with Kernels() as kernels:
                forward_backward(search, data)()
            row |= {
                "naive_kernels": before,
                "engine_kernels": kernels.count,
                "naive_mb": memory,
                "engine_mb": saved_mb(lambda search=search, data=data: both(search, data)),
            }
        elif args.kernels:
            row |= {"naive_kernels": before, "engine_kernels": profiled(forward_backward(search, data))}
        rows.append(row)
    return rows


def step_rows(name: str, space: Space, n: int, runs: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a whole outer step of every method for each engine setting."""
    rows: list[dict[str, Any]] = []
    data = batches(n, 32, args.device)
    moved = [Batch(b.x.to(memory_format=torch.channels_last), b.y, b.seed) for b in data]

    def step(method: Method, naive: bool, engine: EngineSettings) -> Callable[[], Any]:
        search, given = build(space, naive, args.device, engine), moved if engine.channels_last else data
        return lambda: method.step(search, given[: method.train_batches], given[2])

    for label, method in METHODS.items():
        for kind, engine in engines(args).items() if args.method in label else ():
            timed = pairs(step(method, True, EngineSettings()), step(method, False, engine), runs, args.device)
            rows.append({"what": f"{name} step, {label}, {kind}", "batch": n, **timed})
    return rows


def data_row(n: int, runs: int, device: torch.device) -> dict[str, Any]:
    """Compare batches from bytes on the device with PIL transforms image by image."""
    from PIL import Image
    from torchvision import transforms

    images = np.random.RandomState(0).randint(0, 256, (2000, 3, 32, 32), dtype=np.uint8)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    plain = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    pictures = [Image.fromarray(x.transpose(1, 2, 0)) for x in images]
    labels = torch.zeros(2000, dtype=torch.int64, device=device)
    stream = Stream(
        torch.from_numpy(images).to(device),
        labels,
        None,
        batch=n,
        seed=0,
        augment=Augment(pad=4, flip=True, mean=mean, std=std),
    )
    order = np.random.RandomState(1)
    return {
        "what": "data: one batch, crop, flip, normalize",
        "batch": n,
        **pairs(
            lambda: torch.stack([plain(pictures[i]) for i in order.randint(0, 2000, n)]).to(device),
            lambda: next(stream),
            5 * runs,
            device,
        ),
    }


def markdown(report: dict[str, Any]) -> str:
    hardware = report["hardware"]
    lines = [
        f"{hardware['name']}, {hardware['threads']} threads, torch {report['versions']['torch']}, commit "
        f"{report['commit']}; `{report['command']}`",
        "",
        "| what | batch | naive s | engine s | ratio (min to max) | n | first s | kernels | activations MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        kernels = f"{row['naive_kernels']:,} to {row['engine_kernels']:,}" if "engine_kernels" in row else ""
        memory = (
            f"{row['naive_mb']:.0f} to {row['engine_mb']:.0f} ({row['engine_mb'] / row['naive_mb']:.2f})"
            if "engine_mb" in row
            else ""
        )
        ratio = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        lines.append(
            f"| {row['what']} | {row['batch']} | {row['naive_s']:.3g} | {row['engine_s']:.3g} | {ratio} | "
            f"{row['n']} | {row['warm_up_s']:.3g} | {kernels} | {memory} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller steps and fewer runs")
    parser.add_argument("--compile", action="store_true", help="also compiled engines (minutes of warm-up on a CPU)")
    parser.add_argument("--kernels", action="store_true", help="also for compiled engines; they compile longer")
    parser.add_argument("--only", choices=("network", "steps", "data"), help="one part")
    parser.add_argument("--method", default="", help="steps of methods whose label contains this text")
    parser.add_argument("--engine", default="", help="engines whose label contains this text")
    parser.add_argument("--runs", type=int, help="pairs of runs for each row")
    parser.add_argument("--space", choices=("nb201", "darts"), help="one space")
    parser.add_argument("--device", type=torch.device, default=environment.device("auto"))
    parser.add_argument("--json", help="write all figures to this file")
    args = parser.parse_args()
    torch._inductor.config.cpp.enable_kernel_profile = args.kernels  # type: ignore[attr-defined]
    with environment.prepared(args.device, threads=None, deterministic=False, seed=0):  # as in a run
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Measure, print and write all rows."""
    runs = args.runs or (3 if args.quick else 9)
    full, small = (64, 8) if args.quick else (64, 64)
    networks = {"nb201 N=5 C=16": (Nb201(), full), "darts L=8 C=16": (Darts(), small)}
    steps = {"nb201": Nb201(layers=1) if args.quick else Nb201(), "darts": Darts(layers=3) if args.quick else Darts()}
    rows: list[dict[str, Any]] = []
    if args.only in (None, "network"):
        for name, (space, n) in networks.items():
            if args.space and not name.startswith(args.space):
                continue
            rows += network_rows(name, space, n, runs, args)
    if args.only in (None, "steps"):
        for name, space in steps.items():
            if args.space and name != args.space:
                continue
            rows += step_rows(name, space, small, runs, args)
    if args.only in (None, "data"):
        rows.append(data_row(64, runs, args.device))
    report = {
        "command": " ".join(["scripts/benchmark.py", *sys.argv[1:]]),
        "hardware": environment.hardware(args.device),
        "versions": environment.versions(),
        "commit": environment.commit(),
        "platform": platform.platform(),
        "rows": rows,
    }
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    print(markdown(report))


if __name__ == "__main__":
    main()
