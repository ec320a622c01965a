"""The width of the network that `nasx fit` trains: the most channels within a budget."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nasx.core import budgets
from nasx.core.files import write_atomic
from nasx.errors import UserError

if TYPE_CHECKING:
    from nasx.data.base import Images
    from nasx.spaces.base import Network, Space
    from nasx.spaces.cost import Cost

WIDEST = 16
"""Most channels without a budget: those of the networks of NAS-Bench-201."""
NOISE = 0.95
"""Share of a latency budget for which the width is chosen, since the final file is measured again."""


class Networks(NamedTuple):
    """The networks that can be built from a cell, by space, images, number of cells and stem."""

    space: Space
    images: Images
    layers: int
    stem: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.train_x.shape[1:])

    def feasible(self, quantity: str, target: float) -> None:
        """Raise UserError if no network of the space meets a budget of macs or params."""
        from nasx.spaces.cost import Counts
        from nasx.spaces.latency import Size

        if quantity not in ("macs", "params"):
            return
        counts = Counts(quantity)  # type: ignore[arg-type]
        classes, size = len(self.images.classes), Size(layers=self.layers, channels=2, stem=self.stem)
        least = self.space.cost_model(counts, classes, self.shape, **size).least()
        if least > target:
            raise UserError(
                f"{quantity}={target:g}",
                f"no network in this space costs less than {budgets.text(least, quantity)}",
                f"raise {quantity}, or lower dataset.size or retrain.layers",
            )

    def network(self, genotype: str, channels: int) -> Network:
        """Return the network of a cell, with newly initialized weights."""
        cell, classes = self.space.parse(genotype), len(self.images.classes)
        return self.space.network(cell, classes, layers=self.layers, channels=channels, stem=self.stem)

    def cost(self, genotype: str, channels: int) -> Cost:
        """Return the parameters and multiply-adds of the network of a cell."""
        import torch

        from nasx.spaces import cost

        with torch.device("meta"):
            return cost.cost(self.network(genotype, channels), self.space.example(1, self.shape))

    def widest(self, genotype: str, quantity: str, target: float, work: tuple[int, float]) -> int:
        """Return the largest number of channels within the budget, or up to `WIDEST` without a budget.

        `work`: a network with more channels than the first number must not take more multiply-adds than the second.
        Raises UserError.
        """
        from nasx.spaces.cost import Limit, widest

        where, (enough, most) = f"{quantity}={target:g}", work
        limits = [Limit("retrain.epochs", "macs", max(most, self.cost(genotype, enough).macs))]
        if quantity == "latency":
            limits.append(Limit(where, quantity, NOISE * target, partial(self.latency, genotype)))
        elif quantity:
            limits.append(Limit(where, quantity, target))
        else:
            limits.append(Limit("retrain.channels", "params", WIDEST, float))
        return widest(partial(self.network, genotype), self.space.example(1, self.shape), limits)

    def latency(self, genotype: str, channels: int) -> float:
        """Return the median latency of onnxruntime for one image, in milliseconds."""
        from nasx.cli import export
        from nasx.export import metadata, runtime

        facts = {
            "format": metadata.FORMAT,
            "classes": list(self.images.classes),
            "normalization": {"mean": list(self.images.mean), "std": list(self.images.std)},
            "image": list(self.shape),
            "dataset": {},
            "test": {},
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / runtime.FILE
            write_atomic(file, export.onnx(self.network(genotype, channels).eval(), facts))
            return runtime.measure_latency(file).median_ms
