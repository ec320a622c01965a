"""A trained network in one file that needs no run folder: weights in safetensors, everything else in its metadata.

    network = nasx.load("model.safetensors")
    scores = network(network.normalize(images))         images uint8 (n, 3, h, w) -> scores (n, classes)

Metadata (text; JSON where it is no plain word):

    format      nasx 1                      genotype    the architecture, as nasx reads and writes it
    space       its component               settings    the recipe's settings; recipe, its name
    classes     their names                 normalization  mean and std a channel, on the scale [0, 1]
    image       channels, height, width     dataset     its component, without the path
    accuracy    of the last weights on the test set     test  batch size and precision that this was measured with
    commit      of nasx, in training        seed, run, nasx (its version)

The auxiliary head is left out: it speaks in training only. Of averaged weights the average is kept, since that was
tested. Nothing of the file is executed: only components of nasx, and of packages that `allow` names, are built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nasx.config import commands, components, instantiate
from nasx.core import files
from nasx.errors import UserError
from nasx.export import metadata
from nasx.export.metadata import FORMAT, PLAIN, REMEDY

if TYPE_CHECKING:
    from nasx.spaces.base import Network

__all__ = ["FORMAT", "PLAIN", "Classifier", "build", "described", "load", "save", "text"]
AUXILIARY = "auxiliary."


class Classifier(nn.Module):
    """A trained network that answers with class scores; `facts` are the file's metadata."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.facts = network, dict(facts)
        self.classes = tuple(str(name) for name in facts["classes"])
        for name in ("mean", "std"):
            values = torch.tensor(facts["normalization"][name], dtype=torch.float32)
            self.register_buffer(name, values.view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n, classes) of normalized images (n, channels, h, w)."""
        scores: Tensor = self.network(x).main
        return scores

    def normalize(self, images: Tensor) -> Tensor:
        """What the network reads, of images uint8 (n, channels, h, w)."""
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std


def save(path: Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write weights and facts; the file appears whole or not at all."""
    files.write_atomic(path, packed(network, facts))


def packed(network: nn.Module, facts: Mapping[str, Any]) -> bytes:
    """The content of model.safetensors: weights in their own precision and contiguous, and the facts.

    The same network and facts give the same bytes: the library writes its header in an order that differs from process
    to process, so the header is written again in the order of names. Offsets in it count from its end.
    """
    from safetensors.torch import save as library

    blob = library({name: x.detach().cpu().contiguous() for name, x in network.state_dict().items()}, text(facts))
    end = 8 + int.from_bytes(blob[:8], "little")
    header = json.dumps(json.loads(blob[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # weights stay aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header + blob[end:]


def text(facts: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as safetensors and ONNX hold them."""
    return {name: str(value) if name in PLAIN else json.dumps(value) for name, value in facts.items()}


def load(path: str | Path, device: str | torch.device = "cpu", allow: Sequence[str] = ()) -> Classifier:
    """The network of an export (its file, or the folder that holds model.safetensors), ready to evaluate.

    Raises UserError where the file is missing, damaged, or no export of nasx.
    """
    from safetensors import SafetensorError, safe_open

    file, facts = metadata.facts(path)
    try:
        with safe_open(file, "pt", device=str(device)) as content:
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(str(file), f"cannot be read as safetensors ({error})", REMEDY) from error
    if own := instantiate.foreign_packages(facts.get("space"), allow):
        raise UserError(
            str(file),
            f"uses classes of {', '.join(own)}, which are not trusted",
            f"if you trust them add allow=[{','.join(own)}]",
        )
    try:
        described(facts, weights, allow)
        network = build(facts, allow)
        network.load_state_dict(weights)
        return Classifier(network, facts).to(device).eval()
    except UserError as error:
        raise UserError(str(file), f"its description is damaged ({error})", REMEDY) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[-1].strip()
        raise UserError(str(file), f"its weights do not fit its genotype and settings ({said})", REMEDY) from error


def described(facts: Mapping[str, Any], weights: Mapping[str, Tensor], allow: Sequence[str]) -> None:
    """Raises before anything large is built where the description is damaged or asks for more than the file holds."""
    space, settings = facts["space"], facts["settings"]
    found = list(components.component_faults("space", space, (*commands.HOMES, *allow)))
    if found:
        raise UserError.join(found)
    most = max((x.numel() for x in weights.values()), default=0)
    sizes = {"layers": len(weights), "channels": most}
    for node in (settings, space):
        for name, limit in sizes.items():
            if not 0 < (node.get(name) or 1) <= limit:
                raise ValueError(f"{name} of {node[name]} in a file of {len(weights)} tensors")
    if not all(isinstance(name, str) for name in facts["classes"]):
        raise ValueError("a class without a name")


def build(facts: Mapping[str, Any], allow: Sequence[str] = ()) -> Network:
    """The network that the facts describe, without its auxiliary head and with fresh weights."""
    space, settings = instantiate.build(facts["space"], allow), facts["settings"]
    network: Network = space.network(
        space.parse(facts["genotype"]),
        len(facts["classes"]),
        layers=settings["layers"],
        channels=settings["channels"],
        stem=settings["stem"],
    )
    return network
