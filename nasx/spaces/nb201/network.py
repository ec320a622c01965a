"""Discrete network of NAS-Bench-201."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.spaces import modules, operations
from nasx.spaces.base import Logits, Network
from nasx.spaces.cost import no_drop_path
from nasx.spaces.nb201.genotype import Nb201Genotype


class Nb201Cell(nn.Module):
    """A discrete cell, with `ops` in the order of the architecture string."""

    def __init__(self, genotype: Nb201Genotype, channels: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList([operations.build(name, channels) for name in genotype.ops])

    def forward(self, x: Tensor, gen: torch.Generator | None = None) -> Tensor:
        nodes: list[Tensor] = [x]
        edge = iter(self.ops)
        for target in (1, 2, 3):
            outputs = [next(edge)(nodes[source], gen) for source in range(target)]
            nodes.append(sum(outputs[1:], start=outputs[0]))
        return nodes[3]


class Nb201Network(Network):
    """Network: stem, three stages of cells with residual blocks between them, BN, ReLU, pooling, linear layer."""

    def __init__(self, genotype: Nb201Genotype, classes: int, layers: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.blocks = nn.ModuleList()
        for stage in range(3):
            width = channels * 2**stage
            if stage:
                self.blocks.append(modules.ResidualBlock(width // 2, width))
            self.blocks.extend(Nb201Cell(genotype, width) for _ in range(layers))
        self.norm = nn.BatchNorm2d(4 * channels)
        self.classifier = nn.Linear(4 * channels, classes)

    def forward(self, x: Tensor, *, drop_path: float = 0.0, gen: torch.Generator | None = None) -> Logits:
        no_drop_path(drop_path, "nb201")
        return Logits(self.classifier(self.features(x, gen).mean((2, 3))))

    def features(self, x: Tensor, gen: torch.Generator | None = None, maps: list[Tensor] | None = None) -> Tensor:
        """Return the feature map (n, 4 C, h, w) before the final pooling.

        The outputs of all cells and residual blocks are appended to `maps` if given.
        """
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, gen)
            if maps is not None:
                maps.append(x)
        return F.relu(self.norm(x))
