"""CPU inference with onnxruntime, without torch, for networks exported by `nasx export format=onnx`.

    model = load("model.onnx")
    found = model.predict("photos")                 found.probabilities (n, classes), found.labels, found.names
    latency = measure_latency("model.onnx")         median, 10th and 90th percentiles in milliseconds

The metadata has the same keys as in model.safetensors (see export/model.py) and is stored as properties of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from nasx.core import extras, timing
from nasx.core.timing import Latency
from nasx.data.fitting import Images
from nasx.errors import UserError
from nasx.export import metadata
from nasx.export.metadata import Facts
from nasx.export.predict import Predictions, predictions

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILE = "model.onnx"
READ = ("classes", "normalization", "image", "dataset", "test")
"""Metadata keys that are required to run the network on images."""


class OnnxModel:
    """A network in an onnxruntime session on the CPU; `facts` is the metadata of its file."""

    def __init__(self, file: Path, session: InferenceSession, facts: Facts) -> None:
        self.file, self.session, self.facts = file, session, facts
        self.classes = tuple(str(name) for name in facts["classes"])
        self.mean, self.std = (
            np.array(facts["normalization"][name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std")
        )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the class scores (n, classes) of normalized images, float32 (n, channels, h, w)."""
        scores: np.ndarray = self.session.run(["scores"], {"images": np.ascontiguousarray(x, np.float32)})[0]
        return scores

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """Convert uint8 images (n, channels, h, w) to the normalized float32 input of the network."""
        return (images.astype(np.float32) / 255 - self.mean) / self.std

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Return the class probabilities (n, classes) of uint8 images (n, channels, h, w)."""
        scores = self(self.normalize(x))
        powers = np.exp(scores - scores.max(1, keepdims=True))
        found: np.ndarray = powers / powers.sum(1, keepdims=True)
        return found

    def predict(self, images: Images) -> Predictions:
        """Return predictions for image files, folders, PIL images or arrays (see data/fitting.py). Raises UserError."""
        return predictions(images, self.facts, self.probabilities)


def library() -> ModuleType:
    """Import the package onnxruntime and return it. Raises UserError if it is not installed."""
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise UserError("onnxruntime", "is not installed", extras.install("onnx")) from error


def session(source: str | bytes, threads: int) -> InferenceSession:
    """Create a CPU session for an ONNX file, given its path or bytes (0 threads: one per core). Raises UserError."""
    onnxruntime = library()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # errors are raised, not logged
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        said, where = str(error).splitlines()[0], source if isinstance(source, str) else "onnxruntime"
        raise UserError(where, f"cannot be read as ONNX ({said})", metadata.REMEDY) from error


def load(path: str | Path, threads: int = 0) -> OnnxModel:
    """Load model.onnx, given the file or its folder, to run with `threads` threads (0: one per core).

    Raises UserError if the file is missing, damaged, or not an export of nasx, or if onnxruntime is not installed.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(str(file), "does not exist", "create it with nasx export from=RUN format=onnx")
    return opened(file, str(file), threads)


def opened(file: Path, source: str | bytes, threads: int) -> OnnxModel:
    """Load an exported network from `source`, the path or bytes of `file`. Raises UserError."""
    runs = session(source, threads)
    facts = metadata.read(file, runs.get_modelmeta().custom_metadata_map)
    try:
        fault, model = _fault(runs, facts), OnnxModel(file, runs, facts)
    except (KeyError, TypeError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
    if fault:
        raise UserError(str(file), f"its metadata is damaged ({fault})", metadata.REMEDY)
    return model


def _fault(session: InferenceSession, facts: Facts) -> str:
    """Return a description of an error in the metadata or of a mismatch with the graph; empty if there is none."""
    if missing := [name for name in READ if name not in facts]:
        return f"it lacks {', '.join(missing)}"
    if not isinstance(facts["classes"], list) or not isinstance(facts["normalization"], dict):
        return "classes is not a list, or normalization is not a mapping"
    wanted = [("images", list(facts["image"]))], [("scores", [len(facts["classes"])])]
    found = [[(x.name, x.shape[1:]) for x in part] for part in (session.get_inputs(), session.get_outputs())]
    if found != list(wanted):
        return f"the graph maps {found[0]} to {found[1]}, but the metadata says {wanted[0]} and {wanted[1]}"
    return ""


def measure_latency(
    path: str | Path, *, threads: int = 1, batch: int = 1, repeats: int = 100, warm: int = 10
) -> Latency:
    """Measure the latency of an ONNX network on this CPU for a batch of random images.

    Args:
        path: model.onnx, or its folder.
        threads: Number of threads; 0 means one per core.
        batch: Number of images in the batch.
        repeats: Number of timed passes.
        warm: Number of passes before the timed ones.

    Returns:
        The median and the 10th and 90th percentiles, in milliseconds; preprocessing is not included.

    Raises:
        UserError: If the file cannot be loaded (see `load`).
    """
    return latencies([load(path, threads)], batch=batch, repeats=repeats, warm=warm)[0]


def latencies(models: Sequence[OnnxModel], *, batch: int = 1, repeats: int = 100, warm: int = 10) -> list[Latency]:
    """Measure the latencies of networks, interleaved, each on `batch` random images of its input size."""

    def call(model: OnnxModel) -> Callable[[], object]:
        x = np.random.default_rng(0).standard_normal((batch, *model.facts["image"]), np.float32)
        return lambda: model(x)

    return list(map(timing.summary, timing.rounds([call(model) for model in models], repeats, warm).T))
