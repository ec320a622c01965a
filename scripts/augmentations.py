"""Draw what a recipe does to training images, one row an image: the original, crop and flip, cutout, MixUp, CutMix.

    python scripts/augmentations.py FILE.png [key=value ...]   the data set and the recipe, as nasx retrain reads them

Each column adds to the one before it, from the draws of one batch of the training stream, except that MixUp and CutMix
are shown side by side. The last column is the batch as the recipe itself makes it. A step that the recipe leaves out is
drawn with the usual value and says so in its title.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from torch import Tensor

from nasx import config, pictures, recipe
from nasx.data.augment import Augment
from nasx.data.stream import Stream, device_images
from nasx.info import composed

ROWS, BATCH = 6, 32


def shown(x: Tensor, augment: Augment) -> np.ndarray:
    """A normalized image (c, h, w) as pixels (h, w, c) in [0, 1]."""
    pixels = x.permute(1, 2, 0).double().numpy() * np.array(augment.std) + np.array(augment.mean)
    return np.clip(pixels, 0, 1)


def main(file: str, *words: str) -> None:
    """Draw to `file`."""
    cfg, _ = composed({}, words)
    source, settings = config.build(cfg["dataset"]), config.build(cfg["retrain"])
    images = source.load()
    data = device_images(images, "cpu")

    def batch(cutout: int, *, plain: bool = False):
        augment = Augment.of(source, images, cutout=cutout)
        stream = Stream(data.train_x, data.train_y, None, batch=BATCH, seed=cfg["seed"], augment=augment,
                        name="retrain")
        found = stream.at(0)
        return found._replace(x=augment.plain(data.train_x[stream.items(0)])) if plain else found

    side = settings.cutout or data.train_x.shape[2] // 2
    mixup, cutmix = (recipe.mix(batch(0), **{name: getattr(settings, name) or 1.0}) for name in ("mixup", "cutmix"))
    own = recipe.mix(batch(settings.cutout), mixup=settings.mixup, cutmix=settings.cutmix)
    off = {name: "" if getattr(settings, name) else "\n(not in the recipe)" for name in ("cutout", "mixup", "cutmix")}
    columns = {"original": batch(0, plain=True).x, f"crop {source.pad}{', flip' if source.flip else ''}": batch(0).x,
               f"cutout {side}{off['cutout']}": batch(side).x,
               f"MixUp, share {mixup.share:.2f}{off['mixup']}": mixup.x,
               f"CutMix, share {cutmix.share:.2f}{off['cutmix']}": cutmix.x,
               f"recipe\n{settings.recipe}": own.x}
    augment = Augment.of(source, images)
    with pictures.style():
        made = pictures.figure(1.5 * len(columns), 1.45 * ROWS + 0.4)
        axes = made.subplots(ROWS, len(columns))
        for column, (title, x) in enumerate(columns.items()):
            axes[0, column].set_title(title, fontsize=8)
            for row in range(ROWS):
                axes[row, column].imshow(shown(x[row], augment), interpolation="nearest")
                axes[row, column].axis("off")
        print(*pictures.save(made, Path(file)))


if __name__ == "__main__":
    main(*sys.argv[1:])
