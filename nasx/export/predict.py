"""Predictions of a trained network for image files, PIL images and arrays (see data/fitting.py)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nasx.data import fitting
from nasx.data.fitting import Images
from nasx.errors import UserError
from nasx.export.metadata import Facts

BATCH = 64
"""Number of images per forward pass."""


class Predictions(NamedTuple):
    """Predictions for n images: float32 probabilities (n, classes), class names, and each image's path or number."""

    probabilities: np.ndarray
    classes: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The most probable class of each image."""
        return tuple(self.classes[i] for i in self.probabilities.argmax(1))


def predictions(images: Images, facts: Facts, probabilities: Callable[[np.ndarray], np.ndarray]) -> Predictions:
    """Return predictions for `images`; `probabilities` maps a uint8 batch (n, channels, h, w) to (n, classes).

    Raises UserError if there are no images, if an input is not an image, or if an image cannot be converted to the
    network's input size by the preprocessing in `facts`.
    """
    names: list[str] = []
    found = [np.empty((0, len(facts["classes"])), np.float32)]
    several = fitting.read(images, facts.get("preprocessing") or [], facts["image"])
    while batch := list(itertools.islice(several, BATCH)):
        names += [one.name for one in batch]
        found.append(probabilities(np.stack([one.x for one in batch])))
    if not names:
        raise UserError("predict", "there are no images", "give a path, a PIL image or an array")
    return Predictions(np.concatenate(found), tuple(map(str, facts["classes"])), tuple(names))
