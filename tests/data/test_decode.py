"""Image files of every kind decode to the displayed pixels, in memory and from disk, with PIL and torchcodec."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_images import BAD, KINDS, saved, write
from PIL import Image

from nasx.data import decode
from nasx.data.decode import Odd, UnreadableError
from nasx.data.images import Folder
from nasx.errors import UserError


def pixels(path: Path) -> torch.Tensor:
    from nasx.data import decoded  # imports torchvision, too slow for test collection

    return decoded.pixels(path)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_shows_the_same_pixels_everywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))
    kind = KINDS[name]
    image, _ = decode.decoded(kind.content)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), kind.shown)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        write(tmp_path / "set" / place / name, kind.content)
    wanted = kind.shown.transpose(2, 0, 1).astype(np.uint8)
    assert np.array_equal(pixels(tmp_path / "set" / "train" / "a" / name).numpy(), wanted)
    images = Folder(path=str(tmp_path / "set")).load()
    assert np.array_equal(images.train_x, np.stack([wanted, wanted]))
    assert np.array_equal(images.test_x, images.train_x)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = np.asarray(decode.decoded(saved(Image.fromarray(every), "PNG"))[0])[..., 0].ravel()
    assert np.array_equal(found, (2 * np.arange(65536) + 257) // 514)  # value / 257, rounded
    assert (found[8000], found[50000]) == (31, 195)


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("plain.png", 0),
        ("grey.png", 0),
        ("palette.png", 0),
        ("lossless.webp", 0),
        ("deep.png", Odd.DEEP),
        ("deep.tif", Odd.DEEP),
        ("float.tif", Odd.FLOATING),
        ("print.tiff", Odd.CONVERTED),
        ("logo.png", Odd.TRANSPARENT),
        ("clear.gif", Odd.TRANSPARENT),
        ("turned 6.png", Odd.TURNED),
    ],
)
def test_what_was_done_is_known(name: str, odd: int) -> None:
    assert decode.decoded(KINDS[name].content)[1] == odd
    assert decode.summary([odd, odd, 0]) == (f"2 {decode.DONE[Odd(odd)]}" if odd else "")


def test_colours_of_sixteen_bits_and_several_frames_are_known() -> None:
    first, second = (Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200))
    image, odd = decode.decoded(saved(first, "GIF", save_all=True, append_images=[second]))
    assert odd == Odd.FRAMES
    assert np.asarray(image).max() == 10
    deep = b"P6 2 1 65535\n" + np.array([8000, 50000, 0, 65535, 257, 128], ">u2").tobytes()
    assert np.asarray(decode.decoded(deep)[0]).tolist() == [[[31, 195, 0], [255, 1, 0]]]


def test_a_transparent_grey_value_of_sixteen_bits_is_white() -> None:
    deep = Image.fromarray(np.array([[8000, 50000]], np.uint16))
    found, odd = decode.decoded(saved(deep, "PNG", transparency=8000))
    assert np.asarray(found)[..., 0].tolist() == [[255, 195]]
    assert odd == Odd.DEEP | Odd.TRANSPARENT


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (
            Image.fromarray(np.array([[8000, 50000]], np.int32)),
            "32-bit integers, whose range is unknown; save it as an 8-bit",
        ),
        (Image.fromarray(np.array([[0.5, 1.5]], np.float32)), "floating-point values outside 0..1"),
        (Image.fromarray(np.array([[-0.1, 1]], np.float32)), "floating-point values outside 0..1"),
        (Image.fromarray(np.array([[np.nan, 1]], np.float32)), "floating-point values outside 0..1"),
        (Image.new("LAB", (4, 4)), "LAB colours; save it as RGB"),
    ],
)
def test_values_of_unknown_meaning_are_refused(image: Image.Image, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        decode.decoded(saved(image, "TIFF"))


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_both_ways(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, BAD[name])
    with pytest.raises(UnreadableError):
        decode.rgb(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: cannot be read .*dataset.verify=true finds"):
        pixels(tmp_path / name)


def test_damaged_files_raise_nothing_else(tmp_path: Path) -> None:
    """Random bytes changed or cut off, in files of every kind: an image, or UnreadableError."""
    draw = np.random.RandomState(0)
    refused = 0
    for name, kind in KINDS.items():
        for i in range(60):
            content = bytearray(kind.content)
            for place in draw.randint(0, len(content), 3):
                content[place] = draw.randint(256)
            damaged = bytes(content[: draw.randint(1, len(content))] if i % 3 == 0 else content)
            try:
                assert decode.decoded(damaged)[0].mode == "RGB", name
            except UnreadableError:
                refused += 1
    assert refused > 60 * len(KINDS) // 4


def test_torchcodec_and_pil_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = pytest.importorskip("torchcodec.decoders")
    called = []
    real = codec.decode_jpeg
    monkeypatch.setattr(codec, "decode_jpeg", lambda *words, **how: called.append(1) or real(*words, **how))
    coarse = np.random.RandomState(0).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((61, 47), Image.Resampling.BICUBIC)
    saved_as: list[tuple[Image.Image, dict[str, Any]]] = [(picture, {"exif": turned(i)}) for i in range(1, 9)]
    saved_as += [(picture, {"quality": quality, "subsampling": s}) for quality in (50, 95) for s in (0, 1, 2)]
    saved_as += [
        (picture, {"progressive": True}),
        (picture, {"xmp": b'<x tiff:Orientation="6"/>'}),
        (picture.convert("L"), {}),
        (picture.convert("L"), {"exif": turned(6)}),
        (picture.convert("CMYK"), {}),
        (picture, {"restart_marker_blocks": 2}),
    ]
    contents = [saved(image, "JPEG", **how) for image, how in saved_as]
    whole, draw = contents[0], np.random.RandomState(1)
    for _ in range(150):
        contents.append(whole[: draw.randint(2, len(whole))])
        damaged = bytearray(whole)
        for place in draw.randint(0, len(whole), 3):
            damaged[place] = draw.randint(256)
        contents.append(bytes(damaged))
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.jpg").write_bytes(content)

    def found(i: int) -> torch.Tensor | None:
        try:
            return pixels(tmp_path / f"{i}.jpg")
        except UserError:
            return None

    fast = [found(i) for i in range(len(contents))]
    assert len(called) > 100
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    count = len(called)
    slow = [found(i) for i in range(len(contents))]
    assert len(called) == count
    assert all(x is not None for x in fast[: len(saved_as)])
    assert any(x is None for x in fast)
    assert [x is None for x in fast] == [x is None for x in slow]
    assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True) if a is not None and b is not None)
    assert [tuple(x.shape[1:]) for x in fast[:8] if x is not None] == [(47, 61)] * 4 + [(61, 47)] * 4
    assert fast[15] is not None
    assert fast[15].shape == (3, 61, 47)  # turned by its XMP, which torchcodec does not read


def turned(number: int) -> Image.Exif:
    noted = Image.Exif()
    noted[0x0112] = number
    return noted
