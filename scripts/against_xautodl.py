"""First-order DARTS on NAS-Bench-201: an update of nasx, and the same update of the benchmark authors' code (xautodl).

    uv pip install --no-deps --target XAUTODL xautodl==1.0.0
    PYTHONPATH=XAUTODL uv run python scripts/against_xautodl.py --runs 7

xautodl is the released package of AutoDL-Projects, to which NAS-Bench-201 refers for its search code. First, loss and
gradients of both supernets are compared in float64 at equal weights. Then updates of both (an architecture step with
Adam and a weight step with clipped SGD) are timed in turn, so that a machine that slows down affects both, for each
engine setting of nasx; `ratio` is the median of the pairwise ratios xautodl / nasx.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from benchmark import PROTOCOL, batches, build, pairs
from torch import Tensor, nn
from torch.nn import functional as F

from nasx.config.settings import EngineSettings
from nasx.core.batch import Batch
from nasx.core.bilevel import Search, detached, gradients
from nasx.methods.darts import Darts
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import environment

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
ENGINES = {
    "eager": EngineSettings(),
    "compiled, channels_last": EngineSettings(compile="on", channels_last=True),
    "compiled, channels_last, bf16": EngineSettings(compile="on", channels_last=True, precision="bf16"),
}


def theirs(layers: int, channels: int, device: torch.device) -> Any:
    """Build the supernet of xautodl."""
    from xautodl.models.cell_searchs.search_model_darts import TinyNetworkDarts

    torch.manual_seed(0)
    return TinyNetworkDarts(channels, layers, 4, 10, list(OPERATIONS), affine=False, track_running_stats=False).to(
        device
    )


def copy_weights(search: Search, network: Any) -> None:
    """Copy weights and architecture of a nasx search to the supernet of xautodl; its biases before norms become 0."""
    w = search.w
    with torch.no_grad():
        network.arch_parameters.copy_(search.a["cell"])
        for name, p in network.named_parameters():
            if name.endswith("op.1.bias"):
                p.zero_()
        pairs_of = {
            "stem.0.weight": "stem.weight",
            "stem.1.weight": "stem.norm.weight",
            "stem.1.bias": "stem.norm.bias",
        }
        pairs_of |= {f"lastact.0.{each}": f"norm.{each}" for each in ("weight", "bias")}
        pairs_of |= {f"classifier.{each}": f"classifier.{each}" for each in ("weight", "bias")}
        mine = 0
        for i, cell in enumerate(network.cells):
            if not hasattr(cell, "edges"):
                for conv, block in (("conv1", "conv_a"), ("conv2", "conv_b")):
                    pairs_of[f"cells.{i}.{block}.op.1.weight"] = f"reductions.{mine}.{conv}.weight"
                    for each in ("weight", "bias"):
                        pairs_of[f"cells.{i}.{block}.op.2.{each}"] = f"reductions.{mine}.{conv}.norm.{each}"
                pairs_of[f"cells.{i}.downsample.1.weight"] = f"reductions.{mine}.shortcut"
                continue
            for source in range(3):  # nasx joins the convolutions of all edges that leave a node
                for bank, kernel in ((1, 2), (2, 3)):
                    parts = w[f"cells.{mine}.bundles.{source}.banks.{bank}.weight"].chunk(3 - source)
                    for target, part in enumerate(parts, source + 1):
                        cell.edges[f"{target}<-{source}"][kernel].op[1].weight.copy_(part)
            mine += 1
        found = dict(network.named_parameters())
        for name, own in pairs_of.items():
            found[name].copy_(w[own])


def compare(layers: int, channels: int, device: torch.device) -> dict[str, float]:
    """Return the differences of loss and gradients in float64 at equal weights, relative to their lengths."""
    torch.set_default_dtype(torch.float64)
    try:
        search, network = (
            build(Nb201(layers=layers, channels=channels), False, device),
            theirs(layers, channels, device),
        )
        copy_weights(search, network)
        batch = batches(8, 32, device, 1)[0]
        batch = Batch(batch.x.double(), batch.y, batch.seed)
        logits = detached(search.a, requires_grad=True)
        loss = search.problem.outcome(search.w, search.problem.relax(logits), batch).loss
        (grad_w, grad_a) = gradients(loss, search.w, logits)
        other = F.cross_entropy(network(batch.x)[1], batch.y)
        other.backward()
        norms = [
            sum(float(g.square().sum()) for g in grads) ** 0.5 for grads in (grad_w.values(), gradients_of(network))
        ]
        apart = (grad_a["cell"] - network.arch_parameters.grad).norm() / grad_a["cell"].norm()
        return {
            "loss": abs(loss.item() - other.item()) / abs(other.item()),
            "architecture gradient": apart.item(),
            "norm of the weight gradient": abs(norms[0] / norms[1] - 1),
        }
    finally:
        torch.set_default_dtype(torch.float32)


def gradients_of(network: Any) -> list[Tensor]:
    """Return the weight gradients, without those of the biases before norms, which are 0 except for rounding."""
    named = network.named_parameters()
    return [p.grad for name, p in named if name != "arch_parameters" and not name.endswith("op.1.bias")]


def their_update(network: Any, data: list[Batch]) -> Callable[[], None]:
    """Return an update as in xautodl's search with the first-order approximation: weights, then architecture."""
    weights = network.get_weights()
    w_optimizer = torch.optim.SGD(weights, PROTOCOL.lr, PROTOCOL.momentum, weight_decay=PROTOCOL.weight_decay)
    a_optimizer = torch.optim.Adam(network.get_alphas(), PROTOCOL.arch_lr, PROTOCOL.arch_betas)

    def update() -> None:
        for optimizer, batch in ((w_optimizer, data[0]), (a_optimizer, data[1])):
            w_optimizer.zero_grad()
            a_optimizer.zero_grad()
            F.cross_entropy(network(batch.x)[1], batch.y).backward()
            if optimizer is w_optimizer:
                nn.utils.clip_grad_norm_(weights, 5)
            optimizer.step()

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=5, help="cells per stage")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=environment.device("auto"))
    parser.add_argument("--json", help="write all figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report: dict[str, Any] = {"hardware": environment.hardware(args.device), "threads": args.threads, "rows": []}
    report["float64"] = compare(min(args.layers, 2), args.channels, args.device)
    print("difference in float64:", ", ".join(f"{name} {x:.1e}" for name, x in report["float64"].items()))
    if not max(report["float64"].values()) < 1e-8:
        raise SystemExit("the supernets differ: their times cannot be compared")
    data = batches(args.batch, 32, args.device)
    print("| nasx | xautodl s | nasx s | ratio (min to max) | n |\n|---|--:|--:|--:|--:|")
    for name, engine in ENGINES.items():
        search = build(Nb201(layers=args.layers, channels=args.channels), False, args.device, engine)
        layout = torch.channels_last if engine.channels_last else torch.contiguous_format
        own = [Batch(b.x.contiguous(memory_format=layout), b.y, b.seed) for b in data]
        network, method = theirs(args.layers, args.channels, args.device), Darts()

        def step(search: Search = search, own: list[Batch] = own, method: Darts = method) -> None:
            method.step(search, own[:1], own[1])

        row = pairs(their_update(network, data), step, args.runs, args.device)
        report["rows"].append({"nasx": name, **row})
        spread = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        print(f"| {name} | {row['naive_s']:.3f} | {row['engine_s']:.3f} | {spread} | {row['n']} |", flush=True)
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
