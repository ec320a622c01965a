"""Discrete networks of the DARTS space for CIFAR-like and ImageNet-like images, and the edges that define their cost.

A cell has two inputs (nodes 0 and 1: the outputs of the two previous cells, the earlier one first) and four nodes
(2 to 5), each the sum of two operations on earlier nodes; its output is the concatenation of the four nodes. Cells
L // 3 and 2 L // 3 are reduction cells: they double the channels, and their operations on nodes 0 and 1 have stride 2.
Both inputs first pass through ReLU-conv1x1-BN; input 0 passes through FactorizedReduce instead if the previous cell is
a reduction cell.

Stems: `cifar` is a 3x3 convolution to 3 C channels and BN, for both inputs. `imagenet` is 3x3/2 to C/2, BN, ReLU, 3x3/2
to C, BN for input 0, followed by ReLU, 3x3/2, BN for input 1, so that cell 0 treats the stem like a preceding reduction
cell. The auxiliary head reads the output of cell 2 L // 3 in training. All batch norms are affine and tracked; there is
none after pooling.

Drop-path zeroes the output of an operation with probability p, independently for each image, and otherwise divides it
by 1 - p; identities are not dropped (Larsson et al. 2017; released code of DARTS).

Source: H. Liu et al., DARTS, ICLR 2019, appendix A; released code. With L = 20 and C = 36, DARTS_V2 has 3,349,342
parameters for 10 classes and 3,401,272 for 100; with the auxiliary head, 3,825,768 and 3,946,908.

Deviations
1. The final pooling is global; the released ImageNet network uses 7x7 pooling, which is equivalent at 224x224.
2. As in the released code, the ImageNet auxiliary head has no BN after its 2x2 convolution.
3. The stem `single` has three 3x3/2 convolutions to 3C/2, 3C and 3C channels, each with BN, and ReLUs between them;
   Single-DARTS states only the number of convolutions.

Shapes: x (n, 3, h, w) -> Logits, each (n, classes).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasx.errors import UserError
from nasx.spaces import modules, operations
from nasx.spaces.base import Logits, Network
from nasx.spaces.expected_cost import Site
from nasx.spaces.genotypes import Cell
from nasx.spaces.rules import EDGES

SIZES = {"cifar": (20, 36), "imagenet": (14, 48)}
"""Layers and channels of retrained networks, by stem."""


def plan(layers: int) -> tuple[str, ...]:
    """Return "normal" or "reduce" for each cell; networks with one or two layers have only reduction cells."""
    return tuple("reduce" if i in (layers // 3, 2 * layers // 3) else "normal" for i in range(layers))


def sites(layers: int, channels: int, stem: str, shape: tuple[int, ...], *, untied: bool) -> Iterator[Site]:
    """Yield the 14 edges of each cell in a network for images of `shape` (3, height, width).

    If `untied`, each cell has its own decisions; otherwise, all cells of a kind share them.
    """
    h, w = shape[-2:]
    for _ in range(0 if stem == "cifar" else 3):
        h, w = -(-h // 2), -(-w // 2)
    count: Counter[str] = Counter()
    for kind in plan(layers):
        reduction = kind == "reduce"
        channels, before = channels * (2 if reduction else 1), (h, w)
        h, w = (-(-h // 2), -(-w // 2)) if reduction else before
        for edge, (source, _) in enumerate(EDGES):
            halves = reduction and source < 2
            yield Site(kind, count[kind] if untied else 0, edge, channels, 1 + halves, *(before if halves else (h, w)))
        count[kind] += 1


class Stem(nn.Module):
    """Stem that returns both inputs of cell 0.

    `width` is their number of channels; `reduced` is true if input 0 is twice as high and wide as input 1.
    """

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        if kind not in ("cifar", "imagenet", "single"):
            raise UserError(f"stem={kind}", "no such stem", "use cifar, imagenet or single")
        self.width = channels if kind == "imagenet" else 3 * channels
        self.reduced = kind == "imagenet"
        if kind == "cifar":
            self.stem0 = nn.Sequential(*self._conv(3, self.width, 1))
            self.stem1: nn.Module = nn.Identity()
            return
        half, full = self.width // 2, self.width
        first = [*self._conv(3, half, 2), nn.ReLU(), *self._conv(half, full, 2)]
        last = [nn.ReLU(), *self._conv(full, full, 2)]
        self.stem0 = nn.Sequential(*first) if self.reduced else nn.Sequential(*first, *last)
        self.stem1 = nn.Sequential(*last) if self.reduced else nn.Identity()

    @staticmethod
    def _conv(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = self.stem0(x)
        return before, self.stem1(before)


class AuxiliaryHead(nn.Module):
    """Auxiliary head: (n, c, h, w) -> (n, classes).

    Layers: ReLU, 5x5 average pooling, 1x1 to 128, BN, ReLU, 2x2 to 768, [BN,] ReLU, linear. With the imagenet stem, the
    pooling has stride 2, there is no last BN, and input maps must be 7 to 8 pixels wide and high; with other stems, the
    pooling has stride 3 and input maps must be 8 to 10 pixels wide and high. `without` is the setting that removes the
    head, for the error message.
    """

    def __init__(
        self, channels: int, classes: int, stem: str = "cifar", *, without: str = "retrain.auxiliary=0"
    ) -> None:
        super().__init__()
        self.without = without
        large = stem == "imagenet"
        self.sizes = (7, 8) if large else (8, 9, 10)
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=2 if large else 3, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([] if large else [nn.BatchNorm2d(768)]),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.size(2) not in self.sizes or x.size(3) not in self.sizes:
            raise UserError(
                "auxiliary",
                f"the auxiliary head needs feature maps of {self.sizes[0]} to {self.sizes[-1]} pixels, "
                f"but these images give {x.size(2)}x{x.size(3)}",
                f"set {self.without}, or use images of the size that the stem is designed for (32 or 224)",
            )
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


def dropped(x: Tensor, drop_path: float, gen: torch.Generator | None) -> Tensor:
    """Zero each image of x (n, c, h, w) with probability `drop_path`, and divide the others by 1 - drop_path."""
    keep = 1.0 - drop_path
    mask = torch.empty(x.size(0), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep, generator=gen)
    return x * (mask / keep)


class DartsCell(nn.Module):
    """A discrete cell of eight (operation, predecessor) pairs: `before` and `last` channels in, 4 * `channels` out."""

    def __init__(self, pairs: Cell, before: int, last: int, channels: int, *, reduction: bool, reduced: bool) -> None:
        super().__init__()
        self.preprocess0 = (
            modules.FactorizedReduce(before, channels) if reduced else modules.ReLUConvBN(before, channels)
        )
        self.preprocess1 = modules.ReLUConvBN(last, channels)
        self.predecessors = tuple(pred for _, pred in pairs)
        self.ops = nn.ModuleList(
            [operations.build(name, channels, 2 if reduction and pred < 2 else 1) for name, pred in pairs]
        )
        self.identity = tuple(operations.is_identity(op) for op in self.ops)

    def forward(self, before: Tensor, last: Tensor, drop_path: float, gen: torch.Generator | None) -> Tensor:
        nodes = [self.preprocess0(before), self.preprocess1(last)]
        outputs: list[Tensor] = []
        for op, pred, identity in zip(self.ops, self.predecessors, self.identity, strict=True):
            y = op(nodes[pred], gen)
            outputs.append(y if identity or not drop_path or not self.training else dropped(y, drop_path, gen))
            if len(outputs) == 2:
                nodes.append(outputs[0] + outputs[1])
                outputs = []
        return torch.cat(nodes[2:], dim=1)


class DartsNetwork(Network):
    """A discrete network with one cell per layer, `cells` in order; the auxiliary head is used only in training."""

    def __init__(
        self, cells: Sequence[Cell], classes: int, channels: int, *, stem: str = "cifar", auxiliary: bool = False
    ) -> None:
        super().__init__()
        kinds = plan(len(cells))
        self.stem = Stem(stem, channels)
        before = last = self.stem.width
        reduced = self.stem.reduced
        self.cells = nn.ModuleList()
        self.head_at = 2 * len(cells) // 3
        self.auxiliary: AuxiliaryHead | None = None
        for i, (pairs, kind) in enumerate(zip(cells, kinds, strict=True)):
            reduction = kind == "reduce"
            channels = 2 * channels if reduction else channels
            self.cells.append(DartsCell(pairs, before, last, channels, reduction=reduction, reduced=reduced))
            before, last, reduced = last, 4 * channels, reduction
            if auxiliary and i == self.head_at:
                self.auxiliary = AuxiliaryHead(last, classes, stem)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor, *, drop_path: float = 0.0, gen: torch.Generator | None = None) -> Logits:
        last, scores = self._run(x, drop_path, gen)
        return Logits(self.classifier(F.adaptive_avg_pool2d(last, 1).flatten(1)), scores)

    def features(self, x: Tensor, gen: torch.Generator | None = None, maps: list[Tensor] | None = None) -> Tensor:
        """Return the feature map (n, c, h, w) before the final pooling; `maps` collects the output of each cell."""
        return self._run(x, 0.0, gen, maps)[0]

    def _run(
        self, x: Tensor, drop_path: float, gen: torch.Generator | None, maps: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output of the last cell, and the scores of the auxiliary head (None if it did not run)."""
        before, last = self.stem(x)
        scores = None
        for i, cell in enumerate(self.cells):
            before, last = last, cell(before, last, drop_path, gen)
            if maps is not None:
                maps.append(last)
            if self.training and self.auxiliary is not None and i == self.head_at:
                scores = self.auxiliary(last)
        return last, scores
