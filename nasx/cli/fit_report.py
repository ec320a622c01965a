"""Output of `nasx fit`: a description of the images, the ONNX file with its model card, and the final summary."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from nasx.cli import export
from nasx.cli.invoke import Done
from nasx.core import budgets, files
from nasx.data import decode
from nasx.errors import cleaned
from nasx.export import runtime
from nasx.report.run_summary import Screen
from nasx.tracking import lineage

if TYPE_CHECKING:
    from nasx.data.base import Images
    from nasx.data.images import Folder
    from nasx.data.listing import Listing

CONFUSIONS = 5
"""Maximum number of confused class pairs on the terminal and in the model card."""


def sides(found: Listing, sample: int) -> list[int]:
    """Return the shorter sides of at most `sample` training images in pixels, sorted.

    Unreadable images are skipped, because they are reported when all images are decoded.
    """
    from PIL import Image

    paths, known = found.train.paths(), []
    for path in paths[:: -(-len(paths) // sample)]:
        with contextlib.suppress(*decode.DAMAGES, Image.DecompressionBombError), Image.open(path) as image:
            known.append(min(image.size))
    return sorted(known)


def understood(
    found: Listing, source: Folder, images: Images, sides: Sequence[int], split: Sequence[np.ndarray], proxy: int | None
) -> None:
    """Print the classes, counts and sizes of the images, how they are split, and their size in the search."""
    counts = np.bincount(images.train_y, minlength=len(images.classes))
    named = ", ".join(f"{name} {n}" for name, n in list(zip(images.classes, counts, strict=True))[:10])
    least, median, most = (sides[0], sides[len(sides) // 2], sides[-1]) if sides else (0, 0, 0)
    shape = images.train_x.shape
    lines = [
        f"images    {source.path}: {found.said}",
        f"training  {named}{', ...' * (len(images.classes) > 10)}",
        f"size      shorter side {least} to {most} pixels, median {median}; centred square at {shape[3]} x {shape[2]}",
        f"split     search: {len(split[0]):,} images train the supernet, {len(split[1]):,} validate it",
        f"          network: trained on all {len(images.train_y):,}, tested once on {len(images.test_y):,} others",
    ]
    if proxy:
        lines.append(f"proxy     the search reads the images at {proxy} x {proxy} (proxy={proxy})")
    screen = Screen()
    for line in cleaned(lines):
        screen.say(str(line), indent=10)


def written(
    out: Path, quantity: str, target: float, trained: Done, images: Images, allow: Sequence[str]
) -> dict[str, object]:
    """Write the ONNX file, measure its accuracy and latency, write its model card, and return the results."""
    import onnxruntime
    import torch

    from nasx.tracking import environment

    network, facts = export.trained_network(trained.folder, trained.record, allow)
    files.write_atomic(out, blob := export.onnx(network, facts))
    model = runtime.load(out)
    batch = facts["test"]["batch"]
    parts = [images.test_x[i : i + batch] for i in range(0, len(images.test_x), batch)]
    answers = np.concatenate([model.probabilities(part).argmax(1) for part in parts])
    correct, n = int((answers == images.test_y).sum()), len(answers)
    latency, cpu = runtime.measure_latency(out), environment.hardware(torch.device("cpu"))["name"]
    low, high = wilson(correct, n)
    budget = None
    if quantity:
        value = latency.median_ms if quantity == "latency" else float(trained.record[quantity])
        budget = {"met": value <= target, "text": budgets.ratio_text(value, target, quantity)}
    found = {
        "file": out.name,
        "correct": correct,
        "images": n,
        "accuracy": correct / n,
        "interval": [low, high],
        "confusions": confusions(images.test_y, answers, images.classes)[:CONFUSIONS],
        **{name: trained.record[name] for name in ("macs", "params")},
        "bytes": len(blob),
        "latency": latency._asdict(),
        "runtime": f"onnxruntime {onnxruntime.__version__}, one thread, {cpu}",
        "torch_accuracy": trained.record["test_accuracy"],
        "run": str(trained.folder),
        "sha256": hashlib.sha256(blob).hexdigest(),
        "budget": budget,
    }
    files.write_atomic(card_of(out), export.card(facts, trained.record, ["model.onnx"], cleaned(found)))
    return found


def confusions(y: np.ndarray, answers: np.ndarray, classes: Sequence[str]) -> list[list[object]]:
    """Return [class, prediction, count, images in the class] for each confused pair of classes, most frequent first."""
    counts = np.bincount(y, minlength=len(classes))
    wrong = Counter((int(a), int(b)) for a, b in zip(y, answers, strict=True) if a != b)
    ordered = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    return [[classes[a], classes[b], times, int(counts[a])] for (a, b), times in ordered]


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (Wilson 1927); test images are treated as independent trials."""
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def card_of(out: Path) -> Path:
    """Return the path of the model card of an ONNX file."""
    return out.with_suffix(".md")


def finished(result: Mapping[str, object] | None, out: Path) -> bool:
    """Return whether the model card exists and the ONNX file is the one that the finished fit wrote."""
    there = result is not None and card_of(out).is_file() and out.is_file()
    return there and hashlib.sha256(out.read_bytes()).hexdigest() == str((result or {})["sha256"])


def show(result: Mapping[str, object], out: Path, folder: str) -> None:
    """Print the final summary: accuracy, cost, latency, budget, confusions, files and the next command."""
    found, screen = cleaned(dict(result)), Screen()
    low, high = found["interval"]
    lines = [
        f"test accuracy   {100 * found['accuracy']:.2f} % ({found['correct']:,} of {found['images']:,}), "
        f"95 % interval {100 * low:.2f} to {100 * high:.2f} %",
        f"network         {budgets.text(found['params'], 'params')}, {budgets.text(found['macs'], 'macs')}",
        f"file            {found['bytes'] / 1e6:.2f} MB",
        "latency         {median_ms:.2f} ms for one image ({low_ms:.2f} to {high_ms:.2f}, n = {n})".format(
            **found["latency"]
        ),
        f"                {found['runtime']}",
    ]
    if budget := found["budget"]:
        lines.append(f"budget          {'met' if budget['met'] else 'NOT met'}: {budget['text']}")
    screen.print()
    for line in lines:
        screen.say(line, indent=16)
    if found["confusions"]:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("true class", "predicted class", "images"):
            table.add_column(heading)
        for y, z, times, count in found["confusions"]:
            table.add_row(y, z, f"{times} of {count}")
        screen.print(table, markup=False)
    screen.unwrapped(f"model           {out}\nmodel card      {card_of(out)}")
    evaluate = ["nasx", "evaluate", lineage.as_positional(out), f"path={folder}"]
    screen.unwrapped("\n".join(lineage.format_commands(evaluate)))
