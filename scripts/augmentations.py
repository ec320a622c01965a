"""Draw what a recipe does to training images, one row per image: original, training view, cutout, MixUp, CutMix.

    python scripts/augmentations.py FILE.png [key=value ...]   the dataset and the recipe, as nasx retrain reads them

Each column adds a step to the previous one, with the random draws of one batch of the training stream, except that
MixUp and CutMix are shown side by side. The last column is the batch as the recipe itself makes it. A step that the
recipe omits is drawn with the usual value, and its title says so.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nasx.cli.info import compose_job
from nasx.config import instantiate
from nasx.data.batch_stream import Batch
from nasx.report import figure_style
from nasx.train import recipe

ROWS, BATCH = 6, 32


def shown(x: Tensor, said: dict[str, list[Any]]) -> np.ndarray:
    """Convert a normalized image (c, h, w) to pixels (h, w, c) in [0, 1]."""
    pixels = x.permute(1, 2, 0).double().numpy() * np.array(said["std"]) + np.array(said["mean"])
    return np.clip(pixels, 0, 1)


def main(file: str, *words: str) -> None:
    """Draw to `file`."""
    cfg, _ = compose_job({}, words)
    source, settings = instantiate.build(cfg["dataset"]), instantiate.build(cfg["retrain"])

    def batch(cutout: int) -> Batch:
        return source.open("cpu", cutout=cutout, workers=0).stream("retrain", batch=BATCH, seed=cfg["seed"]).at(0)

    images = source.open("cpu", workers=0)
    items = images.stream("retrain", batch=BATCH, seed=cfg["seed"]).items(0)
    [plain] = images.ordered("train", items.numpy(), batch=BATCH)
    side = settings.cutout or images.shape[1] // 2
    mixup, cutmix = (recipe.mix(batch(0), **{name: getattr(settings, name) or 1.0}) for name in ("mixup", "cutmix"))
    own = recipe.mix(batch(settings.cutout), mixup=settings.mixup, cutmix=settings.cutmix)
    off = {name: "" if getattr(settings, name) else "\n(not in the recipe)" for name in ("cutout", "mixup", "cutmix")}
    columns = {
        "original": plain.x,
        "training view": batch(0).x,
        f"cutout {side}{off['cutout']}": batch(side).x,
        f"MixUp, share {mixup.share:.2f}{off['mixup']}": mixup.x,
        f"CutMix, share {cutmix.share:.2f}{off['cutmix']}": cutmix.x,
        f"recipe\n{settings.recipe}": own.x,
    }
    with figure_style.style():
        made = figure_style.figure(1.5 * len(columns), 1.45 * ROWS + 0.4)
        axes = made.subplots(ROWS, len(columns))
        for column, (title, x) in enumerate(columns.items()):
            axes[0, column].set_title(title, fontsize=8)
            for row in range(ROWS):
                axes[row, column].imshow(shown(x[row], images.described()), interpolation="nearest")
                axes[row, column].axis("off")
        print(*figure_style.save(made, Path(file)))


if __name__ == "__main__":
    main(*sys.argv[1:])
