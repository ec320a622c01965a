"""A trained network in one self-contained file: weights in safetensors, everything else in its metadata.

    network = nasx.load("model.safetensors")
    scores = network(network.normalize(images))         images uint8 (n, 3, h, w) -> scores (n, classes)

Metadata (text, or JSON for other values):

    format            nasx 1
    genotype          the architecture, in the text form of its space
    space, dataset    configurations of both components, without the dataset's path
    recipe, settings  name and settings of the recipe
    classes           class names
    image             channels, height, width
    normalization     mean and std per channel, for pixel values in [0, 1]
    preprocessing     steps that convert an image of any size to `image`, before normalization (Source.preprocessing)
    accuracy          test accuracy of the exported weights, a fraction
    test              batch size and precision of that evaluation
    run, seed         name and seed of the training run
    commit, nasx      commit of nasx during training, version of nasx during export

The auxiliary head is not exported, because it is used only in training. If the weights were averaged during training,
the averaged weights are exported, because these were tested. No code in the file is executed: only components of nasx
and of packages listed in `allow` are instantiated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nasx.config import commands, components, instantiate
from nasx.core import files, spelling
from nasx.data.fitting import Images
from nasx.errors import UserError
from nasx.export import metadata
from nasx.export.metadata import FORMAT, PLAIN, REMEDY, Facts
from nasx.export.predict import Predictions, predictions
from nasx.spaces.base import Logits

if TYPE_CHECKING:
    from nasx.export.runtime import OnnxModel
    from nasx.spaces.base import Network

__all__ = ["FORMAT", "PLAIN", "Classifier", "OnnxNetwork", "build", "described", "load", "save", "text"]
AUXILIARY = "auxiliary."


class Classifier(nn.Module):
    """A trained network that returns class scores; `facts` is the metadata of its file."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, facts: Facts) -> None:
        super().__init__()
        self.network, self.facts = network, dict(facts)
        self.classes = tuple(str(name) for name in facts["classes"])
        for name in ("mean", "std"):
            values = torch.tensor(facts["normalization"][name], dtype=torch.float32)
            self.register_buffer(name, values.view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (n, classes) of normalized images (n, channels, h, w)."""
        scores: Tensor = self.network(x).main
        return scores

    def normalize(self, images: Tensor) -> Tensor:
        """Convert uint8 images (n, channels, h, w) to the normalized float input of the network."""
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std

    def predict(self, images: Images) -> Predictions:
        """Return class probabilities for images from files, PIL images or arrays.

        Examples:
            >>> found = nasx.load("model").predict("photos")
            >>> dict(zip(found.names, found.labels))

        Args:
            images: An image file, a folder (including its subfolders), a PIL image, a uint8 array, or an iterable of
                these. Arrays are (h, w) or (h, w, 3) for one image, and (n, h, w, 3) or (n, 3, h, w) for several.
                Images are cropped and resized in the same way as the images of the dataset.

        Raises:
            UserError: If an image cannot be read, or cannot be converted to the network's input size.
        """

        @torch.no_grad()
        def probabilities(x: np.ndarray) -> np.ndarray:
            found: np.ndarray = (
                torch.softmax(self(self.normalize(torch.from_numpy(x).to(self.mean.device))), 1).cpu().numpy()
            )
            return found

        return predictions(images, self.facts, probabilities)


class OnnxNetwork(nn.Module):
    """A torch module that runs an ONNX network on the CPU, for code that evaluates torch modules."""

    def __init__(self, model: OnnxModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, **_: object) -> Logits:
        """Return the class scores (n, classes) of normalized images (n, channels, h, w)."""
        return Logits(torch.from_numpy(self.model(x.numpy())))


def save(path: Path, network: nn.Module, facts: Facts) -> None:
    """Write the network's weights and `facts` to `path` atomically."""
    files.write_atomic(path, packed(network, facts))


def packed(network: nn.Module, facts: Facts) -> bytes:
    """Return the bytes of model.safetensors: contiguous weights in their original dtype, with `facts` as metadata.

    The bytes depend only on the network and `facts`: safetensors orders the entries of the header differently in each
    process, so the header is rewritten with sorted names. Offsets in the header are relative to its end.
    """
    from safetensors.torch import save as library

    blob = library({name: x.detach().cpu().contiguous() for name, x in network.state_dict().items()}, text(facts))
    end = 8 + int.from_bytes(blob[:8], "little")
    header = json.dumps(json.loads(blob[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # align the weights to 8 bytes
    return len(header).to_bytes(8, "little") + header + blob[end:]


def text(facts: Facts) -> dict[str, str]:
    """Convert `facts` to text metadata for safetensors and ONNX files."""
    return {name: str(value) if name in PLAIN else json.dumps(value) for name, value in facts.items()}


def load(path: str | Path, device: str | torch.device = "cpu", allow: Sequence[str] = ()) -> Classifier:
    """Load an exported network from model.safetensors, given the file or its folder, in evaluation mode.

    `allow` lists packages whose classes may be instantiated. Raises UserError if the file is missing, damaged, not an
    export of nasx, or uses classes from other packages.
    """
    from safetensors import SafetensorError, safe_open

    file, facts = metadata.facts(path)
    try:
        with safe_open(file, "pt", device=str(device)) as content:
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(str(file), f"cannot be read as safetensors ({error})", REMEDY) from error
    if own := instantiate.foreign_packages(facts.get("space"), allow):
        raise UserError(
            str(file),
            f"uses classes from {', '.join(own)}, which are not trusted",
            f"if you trust them, add allow=[{','.join(own)}]",
        )
    try:
        described(facts, weights, allow)
        network = build(facts, allow)
        network.load_state_dict(weights)
        return Classifier(network, facts).to(device).eval()
    except UserError as error:
        raise UserError(str(file), f"its metadata is damaged ({error})", REMEDY) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[-1].strip()
        raise UserError(str(file), f"its weights do not match its genotype and settings ({said})", REMEDY) from error


def described(facts: Facts, weights: Mapping[str, Tensor], allow: Sequence[str]) -> None:
    """Raise ValueError or UserError if `facts` are damaged or describe a larger network than `weights` allow.

    Call this before building the network.
    """
    space, settings = facts["space"], facts["settings"]
    found = list(components.component_faults("space", space, (*commands.HOMES, *allow)))
    if found:
        raise UserError.join(found)
    most = max((x.numel() for x in weights.values()), default=0)
    sizes = {"layers": len(weights), "channels": most}
    for node in (settings, space):
        for name, limit in sizes.items():
            if not 0 < (node.get(name) or 1) <= limit:
                raise ValueError(f"{name}={node[name]} is out of range for {spelling.counted(len(weights), 'tensor')}")
    if not all(isinstance(name, str) for name in facts["classes"]):
        raise ValueError("a class name is not a string")


def build(facts: Facts, allow: Sequence[str] = ()) -> Network:
    """Build the network described by `facts`, without an auxiliary head and with newly initialized weights."""
    space, settings = instantiate.build(facts["space"], allow), facts["settings"]
    network: Network = space.network(
        space.parse(facts["genotype"]),
        len(facts["classes"]),
        layers=settings["layers"],
        channels=settings["channels"],
        stem=settings["stem"],
    )
    return network
