"""Static int8 quantization with onnxruntime, and a comparison with the float32 network.

Weights and activations are int8 (QDQ format, weights per channel). The ranges of the activations are measured on
training images (min and max, onnxruntime's default). Batch norms are folded into convolutions before quantization.

Source: onnxruntime's documentation, Quantize ONNX models: signed activations and weights in QDQ format are the
recommended first choice on CPUs; unsigned activations saturate on CPUs without VNNI.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nasx.core import evaluate, files
from nasx.core.evaluate import Tested
from nasx.core.timing import Latency
from nasx.data.batch_stream import Opened
from nasx.export import graph, runtime
from nasx.export.metadata import Facts
from nasx.export.model import OnnxNetwork
from nasx.export.runtime import OnnxModel

CPU = torch.device("cpu")


class Row(NamedTuple):
    """The results of one network file: test accuracy, size in bytes, and latency for one image on one thread."""

    name: str
    tested: Tested
    size: int
    latency: Latency


class Reader:
    """A calibration data reader for onnxruntime: batches of normalized images, float32 (n, channels, h, w)."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self.batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch as {input name: array}, or None after the last batch."""
        x = next(self.batches, None)
        return None if x is None else {"images": np.ascontiguousarray(x)}


def int8(model: bytes, batches: Iterable[np.ndarray], facts: Facts) -> bytes:
    """Return an ONNX network quantized to int8, calibrated on normalized images, with `facts` as its metadata."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        whole, folded, made = (Path(folder) / f"{name}.onnx" for name in ("whole", "folded", "int8"))
        files.write_atomic(whole, model)
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # hides a warning about the per-channel weights of norms
        try:
            quant_pre_process(whole, folded, skip_symbolic_shape=True)
            quantization.quantize_static(folded, made, Reader(batches), per_channel=True)
        finally:
            logging.disable(before)
        return graph.with_facts(made.read_bytes(), facts)


def calibration_batches(images: Opened, count: int, batch: int) -> Iterator[np.ndarray]:
    """Yield `count` training images of a dataset (all if it has fewer), drawn with a fixed seed, in batches of `batch`.

    The images are normalized but not augmented, float32 (n, channels, h, w).
    """
    index = np.sort(np.random.default_rng(0).permutation(len(images.train_y))[:count])
    return (each.x.cpu().numpy() for each in images.ordered("train", index, batch=batch))


def tested(model: OnnxModel, images: Opened, batch: int) -> Tested:
    """Return the loss and accuracy of a network on the test set."""
    return evaluate.means(evaluate.sums(OnnxNetwork(model), images.ordered("test", batch=batch), CPU))


def compared(models: Mapping[str, bytes], images: Opened, batch: int, repeats: int = 200) -> list[Row]:
    """Return the test results and latencies of networks (file name -> ONNX model).

    Latencies are measured on one random image with one thread; timings of different networks are interleaved.
    """
    opened = [runtime.opened(Path(name), content, 1) for name, content in models.items()]
    rows = [tested(model, images, batch) for model in opened]
    times = runtime.latencies(opened, repeats=repeats)
    return [
        Row(name, row, len(content), latency)
        for (name, content), row, latency in zip(models.items(), rows, times, strict=True)
    ]


def table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table that compares the networks."""
    width = max(len(row.name) for row in rows) + 2
    return [f"{'file'.ljust(width)}accuracy      size   latency (1 image, 1 thread; 10 to 90 %)"] + [
        f"{row.name.ljust(width)}{100 * row.tested.accuracy:6.2f} %{row.size / 1e6:7.3f} MB   "
        f"{row.latency.median_ms:.3f} ms ({row.latency.low_ms:.3f} to {row.latency.high_ms:.3f}, n={row.latency.n})"
        for row in rows
    ]
