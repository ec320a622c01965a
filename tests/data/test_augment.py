"""The batched transform equals a plain loop over images bit for bit, with the same draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nasx.data.augment import DRAWS, Augment

CIFAR = {"mean": (0.49139968, 0.48215827, 0.44653124), "std": (0.24703233, 0.24348505, 0.26158768)}


def one_image(x: Tensor, pad: int, top: int, left: int, mirror: int, cy: int, cx: int, setting: Augment) -> Tensor:
    """Crop, flip, normalize, cutout of one image, pixel by pixel."""
    c, h, w = x.shape
    out = torch.zeros(c, h, w, dtype=setting.dtype)
    for k in range(c):
        for i in range(h):
            for j in range(w):
                row, column = i + top - pad, (w - 1 - j if mirror else j) + left - pad
                inside = 0 <= row < h and 0 <= column < w
                level = x[k, row, column] if inside else torch.tensor(0)
                value = level.to(setting.dtype) / 255
                value = value - torch.tensor(setting.mean[k], dtype=setting.dtype)
                out[k, i, j] = value / torch.tensor(setting.std[k], dtype=setting.dtype)
                half = setting.cutout // 2
                if max(0, cy - half) <= i < min(h, cy + half) and max(0, cx - half) <= j < min(w, cx + half):
                    out[k, i, j] = 0
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("pad", "flip", "cutout"), [(4, True, 0), (2, True, 6), (0, True, 0), (3, False, 5), (0, False, 8)]
)
def test_equals_the_loop_over_images(pad: int, flip: bool, cutout: int, dtype: torch.dtype) -> None:
    gen = torch.Generator().manual_seed(1)
    x = torch.randint(256, (6, 3, 9, 11), dtype=torch.uint8, generator=gen)
    setting = Augment(pad=pad, flip=flip, cutout=cutout, dtype=dtype, **CIFAR)
    draws = setting.draws(len(x), 9, 11, gen)
    expected = torch.stack(
        [
            one_image(
                x[i],
                pad,
                *(int(d) for d in draws[:2, i]),
                int(draws[2, i]) if flip else 0,
                *(int(d) for d in draws[3:, i]),
                setting,
            )
            for i in range(len(x))
        ]
    )
    assert torch.equal(setting.apply(x, draws), expected)


def test_equals_torchvision_on_every_crop() -> None:
    """The released codes' transforms, on PIL images, with the same draws."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    x = torch.randint(256, (81, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    setting = Augment(pad=4, flip=True, **CIFAR)
    draws = torch.zeros(DRAWS, 81, dtype=torch.int64)
    draws[0], draws[1], draws[2] = torch.arange(81) // 9, torch.arange(81) % 9, torch.arange(81) % 2
    got = setting.apply(x, draws)
    for i in range(81):
        one = functional.pad(functional.to_pil_image(x[i]), [4])
        one = functional.crop(one, int(draws[0, i]), int(draws[1, i]), 32, 32)
        one = functional.to_tensor(functional.hflip(one) if draws[2, i] else one)
        assert torch.equal(got[i], functional.normalize(one, list(setting.mean), list(setting.std)))


def test_mean_erased_area_of_cutout_16() -> None:
    """Every centre of a 32 x 32 image once: 14 rows by 14 columns on average, of at most 16 by 16."""
    setting = Augment(pad=0, flip=False, mean=(0.0,), std=(1.0,), cutout=16)
    draws = torch.zeros(DRAWS, 1024, dtype=torch.int64)
    draws[3], draws[4] = torch.arange(1024) // 32, torch.arange(1024) % 32
    x = torch.full((1024, 1, 32, 32), 255, dtype=torch.uint8)
    erased = (setting.apply(x, draws) == 0).sum((1, 2, 3))
    assert erased.sum() == 196 * 1024
    assert erased.min() == 8 * 8
    assert erased.max() == 256


def test_draws_cover_their_ranges_and_differ_between_images() -> None:
    setting = Augment(pad=4, flip=True, cutout=16, **CIFAR)
    draws = setting.draws(4096, 32, 16, torch.Generator().manual_seed(0))
    assert [d.min() for d in draws] == [0] * DRAWS
    assert [d.max() for d in draws] == [8, 8, 1, 31, 15]


def test_cutout_leaves_the_other_draws_alone() -> None:
    draws = [
        Augment(pad=4, flip=True, cutout=c, **CIFAR).draws(8, 32, 32, torch.Generator().manual_seed(3)) for c in (0, 16)
    ]
    assert torch.equal(*draws)


def test_channels_last_has_the_same_pixels() -> None:
    x = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    flat = Augment(pad=2, flip=True, cutout=4, **CIFAR)
    last = Augment(pad=2, flip=True, cutout=4, channels_last=True, **CIFAR)
    draws = flat.draws(4, 8, 8, torch.Generator().manual_seed(0))
    assert torch.equal(flat.apply(x, draws), last.apply(x, draws))
    assert last.apply(x, draws).is_contiguous(memory_format=torch.channels_last)
    assert last.plain(x).is_contiguous(memory_format=torch.channels_last)
    assert flat.apply(x, draws).is_contiguous()


def test_the_images_are_not_changed() -> None:
    x = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    before = x.clone()
    setting = Augment(pad=0, flip=False, cutout=8, **CIFAR)
    setting.apply(x, setting.draws(4, 8, 8, torch.Generator()))
    assert torch.equal(x, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    x = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8)
    setting = Augment(pad=4, flip=True, cutout=16, **CIFAR)
    draws = setting.draws(64, 32, 32, torch.Generator().manual_seed(0))
    assert torch.equal(setting.apply(x, draws), setting.apply(x.cuda(), draws.cuda()).cpu())
