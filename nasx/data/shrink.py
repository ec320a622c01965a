"""Downscaling by area averaging in exact arithmetic, with the same bytes on every machine.

If an axis of n pixels is reduced to m pixels, target pixel j is the mean of the source over [j n / m, (j + 1) n / m).
In units of 1 / m, source pixel i is [i m, (i + 1) m) and has weight max(0, min((i + 1) m, (j + 1) n) - max(i m, j n));
the weights for each j sum to n. The weighted sum over both axes is divided by n^2 and rounded half up. For m = n / 2,
this is the mean of 2 x 2 pixels.

Shapes: images uint8 (k, c, n, n) -> uint8 (k, c, m, m).
"""

from __future__ import annotations

import numpy as np

CHUNK = 1024
"""Number of images reduced at a time: 25 MB as float64 for CIFAR."""


def weights(n: int, m: int) -> np.ndarray:
    """Return the overlap (m, n) of each target and source pixel in units of 1 / m source pixel; rows sum to n."""
    i, j = np.arange(n), np.arange(m)[:, None]
    overlaps: np.ndarray = np.maximum(0, np.minimum((i + 1) * m, (j + 1) * n) - np.maximum(i * m, j * n))
    return overlaps


def square(x: np.ndarray) -> np.ndarray:
    """Crop images (k, c, h, w) to their centred square."""
    height, width = x.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return x[:, :, top : top + side, left : left + side]


def shrunk(x: np.ndarray, size: int) -> np.ndarray:
    """Reduce square images uint8 (k, c, n, n) to uint8 (k, c, size, size), where size <= n."""
    n = x.shape[2]
    w = weights(n, size).astype(np.float64)  # exact: products and sums are integers below 2^53
    found = np.empty((*x.shape[:2], size, size), np.uint8)
    for k in range(0, len(x), CHUNK):
        sums = w @ x[k : k + CHUNK].astype(np.float64) @ w.T
        found[k : k + CHUNK] = np.floor((2 * sums + n * n) / (2 * n * n))
    return found
