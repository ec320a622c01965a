"""Width of the network that `nasx fit` trains: the largest number of channels within a budget."""

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
"""Maximum number of channels without a budget, as in the networks of NAS-Bench-201."""
NOISE = 0.95
"""Share of a latency budget that may be used; the rest is a margin, because the final file is measured again."""


class Networks(NamedTuple):
    """Networks with a fixed space, dataset, number of layers and stem, for any cell and width."""

    space: Space
    images: Images
    layers: int
    stem: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.train_x.shape[1:])

    def feasible(self, quantity: str, target: float) -> None:
        """Raise UserError if no network in the space meets a budget of macs or params."""
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
        """Return the parameters and multiply-adds (for one image) of the network of a cell."""
        import torch

        from nasx.spaces import cost

        with torch.device("meta"):
            return cost.cost(self.network(genotype, channels), self.space.example(1, self.shape))

    def widest(self, genotype: str, quantity: str, target: float, work: tuple[int, float]) -> int:
        """Return the largest number of channels within the budget, or up to `WIDEST` without a budget.

        `work` is (channels, macs): a network with more than `channels` channels may take at most `macs` multiply-adds.
        Raises UserError if no width is within the budget.
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
        """Return the median onnxruntime latency for one image in milliseconds."""
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
