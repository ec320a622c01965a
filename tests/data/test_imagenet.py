"""Images on disk in the layout of ImageNet: the same batches for any number of workers; errors name files."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import equal
from jobs import Job, nasx
from torch import Tensor

from nasx.data import decoded
from nasx.data.batch_stream import Batch
from nasx.data.decoded import Decoded
from nasx.data.imagenet import ImageNet, Photos
from nasx.data.splits import splits
from nasx.errors import UserError
from nasx.tracking import records

Image = pytest.importorskip("PIL.Image")
CLASSES = ("n01440764", "n01443537", "n01484850")
SMALL: dict[str, Any] = {"size": 16, "resize": 20}


def draw(path: Path, width: int = 30, height: int = 24, seed: int = 0) -> np.ndarray:
    """Write an image of smooth colours; its pixels (3, h, w) before any compression."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.RandomState(seed).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    picture.save(path)
    return np.array(picture).transpose(2, 0, 1)


def imagenet(root: Path, train: int = 6, val: int = 2, **size: int) -> Path:
    """A tiny ImageNet in its published layout."""
    seeds = itertools.count()
    for part, count in (("train", train), ("val", val)):
        for name in CLASSES:
            for i in range(count):
                file = f"{name}_{i}.JPEG" if part == "train" else f"ILSVRC2012_val_{i:08d}.JPEG"
                draw(root / part / name / file, seed=next(seeds), **size)
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NASX_DATA", str(tmp_path))
    return imagenet(tmp_path / "imagenet")


def batches(opened: Decoded, count: int, start: int = 0, rows: Tensor | None = None) -> list[Batch]:
    stream = opened.stream("w", batch=5, seed=3, rows=rows)
    stream.load_state_dict({"position": start})
    return list(itertools.islice(stream, count))


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and a.seed == b.seed


# ------------------------------------------------------------------------------------------------------- layout
def test_the_published_layout(here: Path) -> None:
    source = ImageNet(**SMALL)
    source.check()
    opened = source.open("cpu")
    assert opened.classes == CLASSES
    assert opened.train_y.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert opened.described()["shape"] == [3, 16, 16]
    w, a = splits(opened, ImageNet(**SMALL, fraction=0.5, fraction_a=0.17), 0)
    assert [np.bincount(opened.train_y[part]).tolist() for part in (w, a)] == [[3, 3, 3], [1, 1, 1]]
    assert Photos(path=str(here), **SMALL).open("cpu").classes == CLASSES


def test_evaluation_cuts_the_centre(tmp_path: Path) -> None:
    drawn = []
    for part in ("train", "val"):
        for name in "ab":
            drawn.append(draw(tmp_path / part / name / "0.png", 25, 20, seed=len(drawn)))
    opened = Photos(path=str(tmp_path), **SMALL).open("cpu")
    [first, second] = opened.ordered("test", batch=1)
    for batch, pixels_, label in ((first, drawn[2], 0), (second, drawn[3], 1)):
        # the shorter side is 20 = resize already, so nothing is interpolated; 4 or 5 columns go on either side
        wanted = (pixels_[:, 2:18, 4:20] / 255 - np.array(opened.described()["mean"])[:, None, None]) / np.array(
            opened.described()["std"]
        )[:, None, None]
        assert np.allclose(batch.x[0].numpy(), wanted, atol=1e-5)
        assert batch.y.tolist() == [label]
    assert [len(batch.y) for batch in opened.ordered("test", batch=2)] == [2]
    [own] = opened.ordered("test", batch=1, first=1, step=2)
    assert same(own, second)
    [part] = opened.ordered("train", np.array([1]), batch=4)
    assert part.y.tolist() == [1]


# ------------------------------------------------------------------------------------------------------ batches
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(
    workers: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded, "PIECE", 2)
    source = ImageNet(**SMALL)
    alone, many = source.open("cpu"), source.open("cpu", workers=workers)
    before = torch.get_rng_state()
    whole = batches(alone, 8)
    assert all(same(a, b) for a, b in zip(whole, batches(many, 8), strict=True))
    assert all(same(a, b) for a, b in zip(whole[3:], batches(many, 5, start=3), strict=True))  # resumed
    stream = many.stream("w", batch=5, seed=3)
    assert same(stream.at(6), whole[6])
    assert stream.position == 0
    assert same(next(stream), whole[0])
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(alone.ordered("test", batch=4), many.ordered("test", batch=4), strict=True):
        assert same(a, b)


def test_each_pass_holds_every_image_once_and_seeds_differ(here: Path) -> None:
    stream = ImageNet(**SMALL).open("cpu").stream("w", batch=6, seed=3)
    for k in range(2):
        assert sorted(torch.cat([stream.items(3 * k + i) for i in range(3)]).tolist()) == list(range(18))
    assert len({seed for i in range(6) for _, seed in stream.keys(i)}) == 36


def test_processes_share_a_batch(here: Path) -> None:
    opened = ImageNet(**SMALL).open("cpu")
    [whole] = batches(opened, 1)
    parts = [batches(opened, 1, rows=torch.tensor(rows))[0] for rows in ([0, 1, 3], [2, 4])]
    joined = torch.cat([part.x for part in parts])[torch.tensor([0, 1, 3, 2, 4])]
    assert torch.equal(joined, whole.x)
    assert {part.seed for part in parts} == {whole.seed}


def views(path: Path, count: int, **settings: Any) -> Iterator[Tensor]:
    """So many training views of the images in `path`, as bytes."""
    opened = Photos(path=str(path), **SMALL | {"jitter": None, "flip": False} | settings).open("cpu")
    return (opened.parts["train"].view(0, seed) for seed in range(count))


def test_training_crops_and_mirrors(tmp_path: Path) -> None:
    for part, name in itertools.product(("train", "val"), "ab"):
        drawn = draw(tmp_path / part / name / "0.png", 16, 16)
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    assert all(torch.equal(x, torch.from_numpy(drawn)) for x in views(tmp_path, 4, **whole))
    turned = torch.from_numpy(drawn).flip(2)
    mirrored = [torch.equal(x, turned) for x in views(tmp_path, 400, flip=True, **whole)]
    assert sum(mirrored) == pytest.approx(200, abs=60)  # six deviations
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8), (64, 64))
    picture = np.stack([ramp, ramp.T, ramp * 0], 2)
    Image.fromarray(picture).save(tmp_path / "train" / "a" / "0.png")
    shares, ratios = [], []
    for x in views(tmp_path, 300):  # the slope of a ramp tells the size of the window
        width, height = (4 * np.diff(x[i].float().numpy().mean(i)).mean() for i in (0, 1))
        shares.append(width * height / 64**2)
        ratios.append(width / height)
    assert 0.05 < min(shares) < 0.15
    assert 0.85 < max(shares) < 1.05
    assert 0.65 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.5


def test_jitter_moves_colours_only_and_can_be_left_out(tmp_path: Path) -> None:
    for part, name in itertools.product(("train", "val"), "ab"):
        drawn = draw(tmp_path / part / name / "0.png", 16, 16)
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    moved = list(views(tmp_path, 3, jitter=(0.4, 0.4, 0.4, 0.2), **whole))
    assert not torch.equal(moved[0], moved[1])
    assert not any(torch.equal(x, torch.from_numpy(drawn)) for x in moved)
    bright = [x.float().mean() / drawn.mean() for x in views(tmp_path, 200, jitter=(0.4, 0.0, 0.0, 0.0), **whole)]
    assert 0.55 < min(bright) < 0.7
    assert 1.2 < max(bright) < 1.45  # some pixels are clipped


# ------------------------------------------------------------------------------------------------------- faults
def test_missing_parts_and_classes(here: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset=imagenet: no files found; looked in .*nowhere/imagenet.*train/<cl"):
        ImageNet(path=str(tmp_path / "nowhere")).check()
    with pytest.raises(UserError, match="dataset=photos needs a folder"):
        Photos().check()
    with pytest.raises(UserError, match=r"dataset.path=.*nowhere: does not exist"):
        Photos(path=str(tmp_path / "nowhere")).check()
    (here / "val" / CLASSES[1]).rename(tmp_path / "kept")
    (here / "val" / "other").mkdir()
    with pytest.raises(
        UserError,
        match=rf"val: differs from train/ in its class folders: it lacks {CLASSES[1]}/ and "
        r"also has other/; sort its images",
    ):
        ImageNet().check()
    (here / "val" / "other").rmdir()
    (tmp_path / "kept").rename(here / "val" / CLASSES[1])
    for file in (here / "val" / CLASSES[1]).iterdir():
        file.unlink()
    with pytest.raises(UserError, match=rf"val/{CLASSES[1]}: has no images"):
        ImageNet().open("cpu")
    (here / "val").rename(here / "held")
    with pytest.raises(UserError, match=r"imagenet: has train/ but no val/ with class folders; put the val"):
        ImageNet().check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 300}, "dataset.size=300, dataset.resize=256"),
        ({"scale": (0.5, 0.2)}, "are not ranges"),
        ({"jitter": (0.1, 0.1, 0.1, 0.7)}, "is out of range"),
        ({"fraction": 1.5}, "dataset.fraction=1.5"),
        ({"std": (0.0, 1.0, 1.0)}, "dataset.std"),
    ],
)
def test_settings_out_of_range(here: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageNet(**settings).check()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(here: Path, workers: int) -> None:
    file = here / "train" / CLASSES[0] / f"{CLASSES[0]}_3.JPEG"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"<html>not found</html>", whole[:2] + bytes(200)):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{file.name}: cannot be read \(.*\); repair, replace or remove it"):
            batches(ImageNet(**SMALL).open("cpu", workers=workers), 4)
    opened = ImageNet(**SMALL).open("cpu", workers=workers)
    file.unlink()
    with pytest.raises(UserError, match=rf"{file.name}: cannot be read \(No such file"):
        batches(opened, 4)


@pytest.mark.unix
def test_a_worker_that_dies_is_reported(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = multiprocessing.get_context("fork")  # the default since Python 3.14 would not inherit the next line
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", fork)
    monkeypatch.setattr(decoded.Views, "__getitem__", lambda self, keys: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"workers=1: a worker process died .*; lower workers"):
        batches(ImageNet(**SMALL).open("cpu", workers=1), 1)


def test_workers_end_with_what_they_work_for(here: Path) -> None:
    """By reference counting: the collector would close their queues first, and each would be waited for."""
    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        stream = ImageNet(**SMALL).open("cpu", workers=2).stream("w", batch=5, seed=3)
        next(stream)
        assert len(set(multiprocessing.active_children()) - before) == 2
        del stream
        assert set(multiprocessing.active_children()) == before
        (here / "train" / CLASSES[0] / f"{CLASSES[0]}_3.JPEG").write_bytes(b"")
        with contextlib.suppress(UserError):
            batches(ImageNet(**SMALL).open("cpu", workers=2), 4)
        assert set(multiprocessing.active_children()) == before
    finally:
        gc.enable()


def test_errors_travel_between_processes() -> None:
    for fault in (UserError("a", "is wrong", "mend it"), UserError.join([UserError("a", "x"), UserError("b", "y")])):
        came = pickle.loads(pickle.dumps(fault))
        assert (str(came), came.where, came.fault, came.remedy) == (str(fault), fault.where, fault.fault, fault.remedy)


# ------------------------------------------------------------------------------------------------ command line
WORDS = ("dataset=imagenet", "dataset.size=64", "dataset.resize=72", "threads=1", "out=runs", "quiet=true")
NET = (
    "retrain",
    "space=darts",
    "genotype=DARTS_V2",
    "retrain=imagenet_linear",
    *WORDS,
    "retrain.epochs=1",
    "name=net",
    "retrain.warmup_epochs=0",
    "retrain.batch=8",
    "retrain.layers=3",
    "retrain.channels=4",
    "retrain.auxiliary=0",
)

SEARCH = (
    "search",
    "experiment=single/imagenet",
    *WORDS,
    "space.layers=3",
    "space.channels=4",
    "search.batch=4",
    "name=found",
    "checkpoint_s=0.001",
)


@pytest.mark.slow
def test_an_epoch_by_the_command_line(tmp_path: Path) -> None:
    imagenet(tmp_path / "data" / "imagenet", train=8)
    found = nasx(tmp_path, *NET, "workers=1", env={"NASX_DATA": str(tmp_path / "data")})
    assert found.code == 0, found
    assert "test accuracy" in found.out


def real(here: Path, *line: str) -> subprocess.Popen[str]:
    """`nasx LINE` in an interpreter of its own, which ends as one does that a shell has started."""
    env = {**os.environ, "NASX_DATA": str(here / "data"), "PYTHONDONTWRITEBYTECODE": "", "COLUMNS": "160"}
    return subprocess.Popen(
        [sys.executable, "-m", "nasx", *line],
        cwd=here,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_workers_end_without_a_word_when_an_image_is_damaged(tmp_path: Path) -> None:
    root = imagenet(tmp_path / "data" / "imagenet", train=8)
    file = root / "train" / CLASSES[1] / f"{CLASSES[1]}_1.JPEG"
    file.write_bytes(file.read_bytes()[:100])
    process = real(tmp_path, *SEARCH, "workers=2")
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err.count("\n")) == (2, 1), err
    assert f"{file}: cannot be read (" in err


@pytest.mark.slow
def test_workers_end_without_a_word_when_a_signal_ends_the_run(tmp_path: Path) -> None:
    imagenet(tmp_path / "data" / "imagenet", train=8)
    process = real(tmp_path, *SEARCH, "search.epochs=100000", "engine=fused", "workers=2")  # auto measures first: hours
    while process.poll() is None and not list((tmp_path / "runs" / "found").glob("checkpoints/0*.ckpt")):
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143, err
    said = err.strip().splitlines()
    assert [line[:8] for line in said] == ["stopped ", "  nasx s"], err


@pytest.mark.slow
def test_killed_repaired_and_resumed_with_other_workers(tmp_path: Path) -> None:
    """A search ends with a damaged image's name, a retraining by a kill; both end as undisturbed runs do."""
    root, env = imagenet(tmp_path / "data" / "imagenet", train=8), {"NASX_DATA": str(tmp_path / "data")}
    words = (*SEARCH, "search.epochs=2")
    whole = [tmp_path / "whole" / "runs" / name for name in ("found", "net")]
    (tmp_path / "whole").mkdir()
    for line in (words, NET):
        assert nasx(tmp_path / "whole", *line, "workers=0", env=env).code == 0
    file = root / "train" / CLASSES[1] / f"{CLASSES[1]}_1.JPEG"
    kept = file.read_bytes()
    file.write_bytes(kept[:100])
    found = nasx(tmp_path, *words, "workers=1", env=env)
    assert found.code == 2, found
    assert found.err.count("\n") == 1, found
    assert f"{file}: cannot be read (" in found.err
    file.write_bytes(kept)
    assert nasx(tmp_path, *words, "workers=2", env=env).code == 0
    job = Job(tmp_path, *NET, "workers=2", "checkpoint_s=0.001", env=env)
    job.until(lambda: bool(list((tmp_path / "runs" / "net").glob("checkpoints/0*.ckpt"))))
    job.kill()
    done = nasx(tmp_path, *NET, "workers=1", env=env)
    assert done.code == 0, done
    for path in whole:
        equal(path, tmp_path / "runs" / path.name)


@pytest.mark.slow
def test_the_search_protocol_of_pc_darts(tmp_path: Path) -> None:
    imagenet(tmp_path / "data" / "imagenet", train=8)
    found = nasx(
        tmp_path,
        "search",
        "experiment=baselines/pc_darts_imagenet",
        *WORDS,
        "space.layers=3",
        "space.channels=4",
        "search.batch=4",
        "search.epochs=3",
        "search.warmup_epochs=2",
        "search.arch_warmup=2",
        "name=found",
        "dataset.fraction=0.5",
        "dataset.fraction_a=0.25",
        env={"NASX_DATA": str(tmp_path / "data")},
    )
    assert found.code == 0, found
    rows = records.read_rows(tmp_path / "runs" / "found")
    assert [row["updates"] for row in rows] == [3, 6, 9]  # 4 of 8 images of each of 3 classes
    assert [row["lr"] for row in rows] == pytest.approx([0.25, 0.5 * 0.75, 0.5 * 0.25])  # of 1, 3/4, 1/4 first a half
    assert [row["moved"] == 0 for row in rows] == [True, True, False]
