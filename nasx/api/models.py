"""`nasx.create_model`, modeled on timm: discrete architectures as modules that return plain tensors."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nasx.api.architectures import identify, list_models
from nasx.api.runs import Run
from nasx.cli import export, info
from nasx.config import components, instantiate
from nasx.errors import UserError
from nasx.spaces import published
from nasx.spaces.base import Genotype, Network
from nasx.tracking import lineage
from nasx.train.job import sized


class FeatureInfo(NamedTuple):
    """Number of channels and reduction (image size divided by map size) of a feature map."""

    channels: int
    reduction: int


class Model(nn.Module):
    """A discrete network that returns plain tensors.

    `model(images)` returns logits (n, num_classes). In training mode, a model with an auxiliary head returns a pair of
    such tensors (main and auxiliary logits, like torchvision's GoogLeNet). With `features_only`, it returns a list of
    the last feature map (n, channels, h, w) at each resolution, largest first.
    """

    def __init__(
        self,
        network: Network,
        genotype: Genotype,
        num_classes: int,
        *,
        drop_path: float = 0.0,
        features_only: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.genotype, self.num_classes = network, genotype, num_classes
        self.drop_path, self.features_only = drop_path, features_only

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor] | list[Tensor]:
        if self.features_only:
            return self.forward_maps(x)
        logits = self.network(x, drop_path=self.drop_path if self.training else 0.0)
        main: Tensor = logits.main
        return main if logits.auxiliary is None else (main, logits.auxiliary)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the feature map (n, channels, h, w) that is pooled before the classifier."""
        return self.forward_maps(x)[-1]

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """Return the last feature map (n, channels, h, w) at each resolution, largest first."""
        maps: list[Tensor] = []
        last: Tensor = self.network.features(x, maps=maps)  # type: ignore[operator]  # a method, see Network
        return list({tuple(found.shape[-2:]): found for found in (*maps, last)}.values())

    def feature_info(self, size: int = 32) -> list[FeatureInfo]:
        """Describe the maps that `forward_maps` returns for `size` x `size` images, without computing them."""
        shadow = copy.deepcopy(self).to("meta").eval()
        shapes = [found.shape for found in shadow.forward_maps(torch.zeros(1, 3, size, size, device="meta"))]
        return [FeatureInfo(shape[1], size // shape[2]) for shape in shapes]


def create_model(
    architecture: str | os.PathLike[str] | Run,
    *,
    num_classes: int | None = None,
    channels: int | None = None,
    layers: int | None = None,
    pretrained: bool = False,
    features_only: bool = False,
    auxiliary: bool = False,
    drop_path: float = 0.0,
    recipe: str | None = None,
    space: str | None = None,
    allow: Sequence[str] = (),
) -> Model:
    """Create the discrete network of an architecture as a module that returns plain tensors.

    Examples:
        >>> model = nasx.create_model("DARTS_V2", num_classes=100)  # 20 cells and 36 channels, for CIFAR
        >>> model = nasx.create_model("PDARTS", recipe="imagenet_darts", num_classes=1000)
        >>> model = nasx.create_model("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|", channels=8)
        >>> model = nasx.create_model("outputs/mine-retrain", pretrained=True)
        >>> maps = nasx.create_model("DARTS_V2", features_only=True)(images)

    Args:
        architecture: the name of a published cell, the text of a genotype, or a finished search or retraining (the
            result of `nasx.search` or `nasx.retrain`, its folder, or its name under outputs/).
        num_classes: number of classes; None: as in the retraining, else 10 (1000 with the ImageNet stem). 0: the model
            has no classifier and returns pooled features (n, channels).
        channels, layers: size of the network; None: as in the retraining, the recipe or the space.
        pretrained: load the weights with which a retraining was tested. If `num_classes` differs from the retraining's
            number of classes, the classifier is newly initialized.
        features_only: return the last feature map at each resolution instead of logits.
        auxiliary: add the auxiliary head of the DARTS networks.
        drop_path: drop-path probability in training (DARTS networks).
        recipe: retraining recipe that determines the stem and the size (`nasx list recipes`), e.g. imagenet_darts.
        space: space of a genotype given as text; None: the first space that contains the genotype.
        allow: your own packages whose classes may define the space of a run.

    Raises:
        UserError: if the name is unknown, no space contains the genotype, the size is invalid, or weights are missing.
    """
    key, value = identify(architecture)
    cell = published.find(value) if key == "genotype" else None
    given = {**dict.fromkeys(info.OPTIONS, ""), key: value, "retrain": recipe or ""}
    given["space"] = space or (cell.space if cell else "")
    run = lineage.open_parent(lineage.run_folder(value, "outputs")) if key == "from" else None
    text, _ = info.genotype_and_source(given, run)
    trained = run.record if run is not None and run.record.get("kind") == "retrain" else {}
    sizes = {
        "layers": trained.get("layers") or lineage.layers(text) or None if layers is None else layers,
        "channels": trained.get("channels") if channels is None else channels,
    }
    values = [f"retrain.{name}={size}" for name, size in sizes.items() if size is not None]
    cfg, _ = info.retrain_config(given, text, run, values)
    own, node = instantiate.build(cfg["space"], allow), {**cfg["retrain"], "drop_path": drop_path}
    if own.data != "images":
        raise UserError(value, "is a recurrent cell", f"name a cell for images: {', '.join(list_models()[:3])}, ...")
    if found := list(components.component_faults("retrain", node)):
        arguments = [[text.replace("retrain.", "") for text in (each.where, each.fault, each.remedy)] for each in found]
        raise UserError.join([UserError(*texts) for texts in arguments])
    genotype, settings = own.parse(value if cell else text), instantiate.build(node)
    size, usual = (224, 1000) if settings.stem == "imagenet" else (32, 10)
    images = trained.get("images")
    own_classes = len(images["classes"]) if isinstance(images, Mapping) else usual
    classes = own_classes if num_classes is None else num_classes
    if classes < 0:
        raise UserError(f"num_classes={classes}", "is negative", "use 0 for pooled features")
    network: Network
    if pretrained:
        if run is None:
            raise UserError(
                "pretrained=True", "no weights are published with nasx", "name a finished run of nasx retrain"
            )
        if auxiliary or recipe or layers is not None or channels is not None:
            raise UserError(
                "pretrained=True", "already determines the network", "leave out layers, channels, auxiliary and recipe"
            )
        network, own_classes = _pretrained(run, allow)
    else:
        settings = sized(settings, own, genotype, own_classes, (3, size, size))
        shape = {"layers": settings.layers, "channels": settings.channels, "stem": settings.stem}
        network = own.network(genotype, own_classes, **shape, auxiliary=auxiliary)
    if classes != own_classes:
        _replace_classifiers(network, classes)
    return Model(network, genotype, classes, drop_path=drop_path, features_only=features_only)


def _pretrained(run: lineage.Parent, allow: Sequence[str]) -> tuple[Network, int]:
    network, facts = export.trained_network(run.folder, export.finished_retraining(run.folder), allow)
    assert isinstance(network, Network)
    network.train()
    return network, len(facts["classes"])


def _replace_classifiers(network: Network, classes: int) -> None:
    """Replace the classifiers of the network and its auxiliary head with new ones, or with identities for 0 classes."""
    for module in list(network.modules()):
        if isinstance(old := getattr(module, "classifier", None), nn.Linear):
            module.classifier = nn.Linear(old.in_features, classes) if classes else nn.Identity()
