"""Random crop, flip, normalization and cutout of a whole batch, on the device that holds the images.

Each image is transformed with its own random numbers, in this order:

    crop      pad each side with `pad` black pixels, take the h x w window at (top, left), both uniform on 0..2 pad
    flip      mirror left to right with probability 1/2
    normalize (x / 255 - mean) / std
    cutout    zero the square [cy - l/2, cy + l/2) x [cx - l/2, cx + l/2), with side l = `cutout` and a centre uniform
              over the image, clipped at the borders (DeVries & Taylor 2017, as defined in DARTS' released code)

The order is that of DARTS' released code: padding is black before normalization, and the cutout is zero after
normalization. On 32 x 32 images, a cutout of side 16 erases 14^2 = 196 pixels on average, and at most 256.

Random numbers are drawn with a CPU generator, so that results on CPU and CUDA agree, and are copied to the device as
one small integer tensor.
Shapes: images uint8 (n, c, h, w), draws int64 (DRAWS, n).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

TOP, LEFT, MIRROR, CENTRE_Y, CENTRE_X = range(5)
DRAWS = 5


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Augmentation settings and transform. `cutout` is the side of the erased square in pixels; 0 disables it."""

    pad: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cutout: int = 0
    channels_last: bool = False
    dtype: torch.dtype = torch.float32

    def draws(self, n: int, height: int, width: int, gen: torch.Generator) -> Tensor:
        """Draw the random numbers for n images, int64 (DRAWS, n) on the CPU.

        All numbers are drawn regardless of the settings, so enabling cutout leaves the crops unchanged.
        """
        limits = (2 * self.pad + 1, 2 * self.pad + 1, 2, height, width)
        return torch.stack([torch.randint(limit, (n,), generator=gen) for limit in limits])

    def apply(self, x: Tensor, draws: Tensor) -> Tensor:
        """Augment and normalize uint8 images (n, c, h, w) with `draws`, on the same device.

        Does not synchronize with the host.
        """
        n, c, height, width = x.shape
        down, right = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        if self.pad or self.flip:
            rows = (draws[TOP, :, None] + (down - self.pad))[:, None, :, None]
            across = right.expand(n, width)
            if self.flip:  # a mirrored image has the window's columns in reverse order
                across = torch.where(draws[MIRROR, :, None] == 1, width - 1 - right, right)
            columns = (draws[LEFT, :, None] + (across - self.pad))[:, None, None, :]
            at = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
            x = x.reshape(n, c, -1).gather(2, at.reshape(n, 1, -1).expand(n, c, -1)).view(n, c, height, width)
            if self.pad:
                x = x * ((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width))
        out = self.plain(x)
        if self.cutout:
            half = self.cutout // 2
            dy, dx = down - draws[CENTRE_Y, :, None], right - draws[CENTRE_X, :, None]
            hit = ((dy >= -half) & (dy < half))[:, None, :, None] & ((dx >= -half) & (dx < half))[:, None, None, :]
            out.masked_fill_(hit, 0)
        return out

    def plain(self, x: Tensor) -> Tensor:
        """Normalize images without augmentation and return a new tensor of `dtype`."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        mean, std = _column(self.mean, x.device, self.dtype), _column(self.std, x.device, self.dtype)
        out = torch.empty(x.shape, dtype=self.dtype, device=x.device, memory_format=layout)
        return out.copy_(x).div_(255).sub_(mean).div_(std)


@cache
def _column(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return per-channel values as (c, 1, 1) on the device; cached because the copy synchronizes with the device."""
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)
