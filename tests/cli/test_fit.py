"""`nasx fit`: a folder of images to a tested ONNX file, resumed after every kill; widths, lengths and faults."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from own_images import BAD, CLASSES, own_images, write
from PIL import Image

from nasx.cli import fit, fit_report, fit_width
from nasx.config import instantiate
from nasx.core import files
from nasx.core.timing import Latency
from nasx.data.base import Images
from nasx.errors import UserError
from nasx.export import runtime
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import records

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
FOLDER = "my phötos, 3 kinds"
SHORT = (
    "search.epochs=3",
    "search.updates_per_epoch=2",
    "retrain.epochs=4",
    "retrain.updates_per_epoch=3",
    "search.batch=8",
    "retrain.batch=8",
    "threads=1",
)
LINE = ("fit", FOLDER, "macs=400k", "out=made/model.onnx", *SHORT)


def colourful(root: Path, each: int = 20) -> None:
    """Images of three classes that differ in their colour."""
    random = np.random.RandomState(0)
    for k, name in enumerate(CLASSES):
        for i in range(each):
            pixels = random.randint(0, 120, (13 + i % 3, 14, 3)).astype(np.uint8)
            pixels[..., k] += 100
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, jobs.Done]:
    """A folder in which a fit has ended, and what it has printed."""
    here = tmp_path_factory.mktemp("fit")
    colourful(here / FOLDER)
    done = jobs.nasx(here, *LINE)
    assert done.code == 0, done
    return here, done


def plan_of(here: Path, runs: str = "outputs") -> tuple[Path, dict[str, Any]]:
    [path] = (here / runs).glob("fit-*.json")
    found = files.read_json(path)
    assert found is not None
    return path, found


# ----------------------------------------------------------------------------------------------------- the whole way
def test_screen_card_and_metadata_agree_with_a_fresh_evaluation(made: tuple[Path, jobs.Done]) -> None:
    here, done = made
    said = " ".join(done.out.split())
    for text in (
        "3 classes, 48 + 12 images, test set cut from each class",
        "cat 16, großer hund 16, zebra 16",
        "shorter side 13 to 14 pixels, median 14; centred square at 14 x 14",
        "24 images train the supernet, 24 validate it",
        "trained on all 48, tested once on 12 others",
        "[1/3] search, 6 updates of 8 images",
        "12 updates of 8 images",
    ):
        assert text in said
    result = plan_of(here)[1]["result"]
    fresh = jobs.nasx(here, "evaluate", "made/model.onnx", f"path={FOLDER}")
    assert f"correct {result['correct']} images {result['images']}" in " ".join(fresh.out.split()), fresh
    facts = runtime.load(here / "made" / "model.onnx").facts
    assert facts["classes"] == list(CLASSES)
    assert facts["preprocessing"] == [["square"], ["resize", 14, "bilinear"]]
    assert facts["image"] == [3, 14, 14]
    card = (here / "made" / "model.md").read_text(encoding="utf-8")
    for text in (
        f"{100 * result['accuracy']:.2f} % ({result['correct']} of 12)",
        f"{result['latency']['median_ms']:.2f} ms",
        "Crop the image to its centred square",
        "the shorter side has 14 pixels (bilinear)",
        ", ".join(map(str, facts["normalization"]["mean"])),
        "großer hund",
    ):
        assert text in card
    assert f"{result['correct']} of {result['images']}" in said
    record = records.finished(here / result["run"])
    assert record is not None
    assert (record["macs"], record["params"]) == (result["macs"], result["params"])
    assert result["macs"] <= 400_000
    share = f"{result['macs'] / 1e6:.2f} M of 0.40 M multiply-adds"
    assert f"budget met: {share}" in said
    assert f"| budget | met: {share} |" in card
    assert "proxy" not in said


def test_a_finished_fit_says_so_without_torch(made: tuple[Path, jobs.Done]) -> None:
    here, done = made
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}
    code = (
        f"import sys; from nasx.cli.main import run_command; print(run_command({list(LINE)}), 'torch' in sys.modules)"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert " is finished" in again.stdout.splitlines()[0]
    assert again.stdout.splitlines()[-1] == "0 False"
    assert done.out[done.out.index("test accuracy") :].strip() in again.stdout
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_another_file_of_a_finished_fit_trains_nothing(made: tuple[Path, jobs.Done], tmp_path: Path) -> None:
    here, _ = made
    [record] = (here / "outputs").glob("*-retrain/result.json")
    before = record.stat().st_mtime_ns
    done = jobs.nasx(here, *(word for word in LINE if not word.startswith("out=")), f"out={tmp_path}/other.onnx")
    assert done.code == 0, done
    assert (tmp_path / "other.onnx").read_bytes() == (here / "made" / "model.onnx").read_bytes()
    assert record.stat().st_mtime_ns == before


@pytest.mark.slow
def test_five_kills_change_no_bit(made: tuple[Path, jobs.Done], tmp_path: Path) -> None:
    here, _ = made
    shutil.copytree(here / FOLDER, tmp_path / FOLDER)  # with the times, from which the name follows
    name = plan_of(here)[0].stem
    out = tmp_path / "outputs"

    def rows(step: str, least: int) -> Callable[[], bool]:
        return lambda: len(records.read_rows(out / f"{name}-{step}")) >= least

    moments = [
        rows("search", 1),
        rows("search", 3),
        (out / f"{name}-search" / "result.json").exists,
        rows("retrain", 2),
        (tmp_path / "made" / "model.onnx").exists,
    ]
    killed = 0
    for ready in moments:
        job = jobs.Job(tmp_path, *LINE)
        job.until(ready)
        killed += job.process.is_alive()
        job.kill()
    assert killed == 5
    done = jobs.nasx(tmp_path, *LINE)
    assert done.code == 0, done
    assert (tmp_path / "made" / "model.onnx").read_bytes() == (here / "made" / "model.onnx").read_bytes()
    here_result, result = plan_of(here)[1]["result"], plan_of(tmp_path)[1]["result"]
    for key in ("correct", "confusions", "interval", "macs", "params", "sha256"):
        assert result[key] == here_result[key]


@pytest.mark.slow
def test_minutes_choose_lengths_by_measured_speed_once(tmp_path: Path) -> None:
    colourful(tmp_path / FOLDER)
    line = ("fit", FOLDER, "minutes=3", "threads=1", "search.batch=4", "retrain.batch=24", "dataset.size=8")
    job = jobs.Job(tmp_path, *line)
    job.until(lambda: any((tmp_path / "outputs").glob("fit-*-speed-retrain/result.json")), 600)
    job.kill()
    done = jobs.nasx(tmp_path, *line)
    assert done.code == 0, done
    path, plan = plan_of(tmp_path)
    runs = {step: path.with_name(f"{path.stem}-{step}") for step in (*fit.STEPS, "retrain")}
    wall = {step: (records.finished(folder) or {})["wall_s"] for step, folder in runs.items()}
    for kind, most, own in (("search", 576, 1), ("retrain", 60 * 48 / 24, 3)):
        first, second, third = (row["wall_s"] for row in records.read_rows(runs[f"speed-{kind}"]))
        timed = plan[f"speed of {kind}"]
        assert timed["update_s"] == pytest.approx((second - first) / fit.TIMED)
        assert timed["evaluation_s"] == pytest.approx(max(0, third - second - (second - first)))
        assert timed["spent_s"] >= sum(wall[step] for step in fit.STEPS[:own])
        updates = fit.affordable(kind, most, 180, *timed.values())
        words = fit.length(kind, updates, ())
        assert [word for word in plan[kind] if word.partition(".")[2].startswith(("epochs=", "updates_"))] == words
        assert (records.finished(runs[kind]) or {})["updates"] >= updates


# ------------------------------------------------------------------------------------------------- parts of the plan
@pytest.mark.parametrize("updates", [10, 47, 48, 49, 576, 576.4, 5000])
def test_a_length_is_reached_in_epochs_of_at_most_one_update_more(updates: float) -> None:
    words = dict(word.split("=") for word in fit.length("search", updates, ()))
    epochs, each = int(words["search.epochs"]), int(words["search.updates_per_epoch"])
    assert epochs <= 48
    assert updates <= epochs * each < updates + epochs
    assert fit.length("search", updates, {"search.epochs"}) == []


def test_updates_are_bounded_by_the_seconds_that_are_left() -> None:
    assert fit.affordable("retrain", 500, 600, 0.1, 20, 100) == 500
    assert fit.affordable("retrain", 9000, 600, 0.1, 20, 100) == 3700  # 600 less 90, 100 and twice 20
    assert fit.affordable("retrain", 9000, 300, 0.1, 20, 100) == 1000  # 300 less 60, 100 and twice 20
    assert fit.affordable("search", 9000, 600, 0.1, 20, 100) == 825  # a quarter of 600 less 90 and 100; 20
    with pytest.raises(UserError, match=r"minutes=10: leaves 370 s, but one update takes 38 s on this machine"):
        fit.affordable("retrain", 9000, 600, 38, 20, 100)


CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"


def networks() -> fit_width.Networks:
    x, y = np.zeros((40, 3, 16, 16), np.uint8), np.arange(40, dtype=np.int64) % 4
    mean = (0.5, 0.5, 0.5)
    images = Images(train_x=x, train_y=y, test_x=x, test_y=y, classes=tuple("abcd"), mean=mean, std=mean, name="folder")
    return fit_width.Networks(Nb201(), images, 1, "cifar")


@pytest.mark.parametrize(("quantity", "target"), [("macs", 1e6), ("macs", 3e5), ("params", 2e5)])
def test_the_width_is_the_largest_within_the_budget(quantity: str, target: float) -> None:
    own = networks()
    found = own.widest(CELL, quantity, target, (8, math.inf))
    costs = [getattr(own.cost(CELL, channels), quantity) for channels in (found, found + 2)]
    assert costs[0] <= target < costs[1]


@pytest.mark.slow
def test_the_width_without_a_budget_and_by_the_work() -> None:
    own = networks()
    assert own.widest(CELL, "", math.inf, (8, math.inf)) == fit_width.WIDEST
    most = own.cost(CELL, 12).macs
    assert own.widest(CELL, "", math.inf, (8, most)) == 12
    assert own.widest(CELL, "", math.inf, (8, 1)) == 8
    with pytest.raises(UserError, match="macs=1000: no network in this space costs less than"):
        own.feasible("macs", 1000)
    with pytest.raises(UserError, match="macs=1000: is too low even for two channels, which cost"):
        own.widest(CELL, "macs", 1000, (8, math.inf))


@pytest.mark.slow
def test_a_latency_is_that_of_the_exported_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime whose time is one microsecond for each weight of the file."""

    def timed(path: Path) -> Latency:
        model = runtime.load(path)
        assert model(np.zeros((1, 3, 16, 16), np.float32)).shape == (1, 4)
        return Latency(path.stat().st_size / 4e3, 0, 0, 1)

    monkeypatch.setattr(runtime, "measure_latency", timed)
    own = networks()
    target = own.latency(CELL, 4) / fit_width.NOISE + 1e-6
    assert own.widest(CELL, "latency", target, (8, math.inf)) == 4


@pytest.mark.parametrize(("correct", "n"), [(0, 12), (5, 12), (12, 12), (893, 1000)])
def test_the_interval_is_that_of_wilson(correct: int, n: int) -> None:
    z, p = 1.959963984540054, correct / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    assert fit_report.wilson(correct, n) == pytest.approx(expected, abs=1e-12)


def test_the_plan_of_a_training_follows_images_work_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    colourful(tmp_path / "images", 30)

    def planned(macs: int, *words: str) -> dict[str, str]:
        found = fit.opened(fit.request(["images", *words]))
        found.size, found.batch = fit.SIZES["cpu"], 9
        return dict(word.split("=") for word in found.planned_retrain([], 1, 12, macs, 72))

    own = planned(10**6)  # 60 passes over 72 images; NAS-Bench-201 has the rate 0.1 at batch 256
    assert (own["retrain.epochs"], own["retrain.updates_per_epoch"]) == ("20", "24")
    assert (own["retrain.batch"], own["retrain.lr"]) == ("9", f"{round(0.1 * 9 / 256, 6)}")
    short = planned(10**9)  # 1e12 multiply-adds are 112 updates of 9 images
    assert (short["retrain.epochs"], short["retrain.updates_per_epoch"]) == ("20", "6")
    given = planned(10**6, "retrain.batch=24")
    assert (given["retrain.updates_per_epoch"], given["retrain.lr"]) == ("9", "0.1")
    assert not {"retrain.epochs", "retrain.updates_per_epoch"} & planned(10**6, "retrain.epochs=3").keys()


def test_confusions_are_counted_by_pairs() -> None:
    y, answers = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2]), np.array([0, 1, 1, 1, 2, 0, 1, 1, 2])
    assert fit_report.confusions(y, answers, ("a", "b", "c")) == [
        ["a", "b", 2, 3],
        ["c", "b", 2, 4],
        ["b", "c", 1, 2],
        ["c", "a", 1, 4],
    ]


@pytest.mark.slow
def test_the_size_follows_the_images_and_the_name_follows_files_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    colourful(tmp_path / "a.b c", 5)

    def opened(*words: str) -> fit.Fit:
        return fit.opened(fit.request(["a.b c", *words]))

    first = opened("macs=1M", "threads=1")
    assert (first.source.size, first.name[:10]) == (14, "fit-a.b_c-")
    assert opened("macs=1M", "threads=2", "out=other.onnx", "quiet=true").name == first.name
    others = {opened("macs=2M").name, opened("macs=1M", "seed=1").name, opened("params=1M").name}
    assert first.name not in others
    assert len(others) == 3
    assert opened("dataset.size=20").source.size == 20
    (tmp_path / "a.b c" / "cat" / "0.png").write_bytes((tmp_path / "a.b c" / "cat" / "1.png").read_bytes())
    assert opened("macs=1M").name != first.name


# ------------------------------------------------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "needs one folder of images"),
        (["images", "others"], "needs one folder of images"),
        (["images", "macs=20M", "params=1M"], "macs=20M params=1M: cannot be combined"),
        (["images", "macs=20X"], "macs=20X: has the unknown unit 'X'"),
        (["images", "latency=0.5"], "latency=0.5: is a fraction"),
        (["images", "minutes=2"], "minutes=2: is less than 3; give at least 3, for example minutes=30"),
        (["images", "minutes=soon"], "minutes=soon: is not a number; give at least 3, for example minutes=30"),
        (["images", "proxy=7"], "proxy=7: is not an integer of at least 8"),
        (["images", "proxy=half"], "proxy=half: is not an integer"),
        (
            ["images", "minutes=9", "retrain.epochs=3"],
            "retrain.epochs=3: cannot be combined with minutes=, which sets it automatically",
        ),
        (["images", "out=model.pt"], "out=model.pt: is not the name of an ONNX file"),
        (["images", "out=notes.onnx"], "would replace notes.md, which is not a model card written by nasx"),
        (["images", "out=notes.md/model.onnx"], "is not a writable folder"),
        (["images", "dataset=cifar10"], "cannot be set: nasx fit always uses the given folder"),
        (["images", "minute=3"], "did you mean minutes?"),
        (["nowhere"], "nowhere: is not a folder"),
        (["images", "search.epoch=3"], "search.epoch: SearchSettings has no such setting"),
        (["images", "method=dart"], "did you mean"),
        (["images", "retrain.lr=-1"], "retrain.lr=-1"),
        (["empty"], "has 0 class folders"),
    ],
)
def test_faults_of_the_line(words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    colourful(tmp_path / "images", 4)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("my notes")
    with pytest.raises(UserError) as error:
        fit.opened(fit.request(words))
    assert told in str(error.value)
    assert not (tmp_path / "outputs").exists()


def test_unreadable_images_are_named_before_torch_is_imported(tmp_path: Path) -> None:
    own_images(tmp_path / "images", "flat")
    for name, content in BAD.items():
        write(tmp_path / "images" / CLASSES[0] / name, content)
    call = "print(run_command(['fit', 'images']), 'torch' in sys.modules)"
    code = f"import sys; from nasx.cli.main import run_command; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "2 False", done
    assert all(name in done.stderr for name in BAD)
    assert not (tmp_path / "outputs").exists()


def test_a_damaged_plan_is_decided_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    colourful(tmp_path / "images", 4)
    found = fit.opened(fit.request(["images"]))
    found.decide("channels", lambda: 8)
    assert fit.opened(fit.request(["images"])).decide("channels", lambda: 10) == 8
    found.path.write_text(json.dumps(["x"]))
    assert fit.opened(fit.request(["images"])).decide("channels", lambda: 10) == 10
    assert instantiate.build(found.cfg["dataset"]).path == "images"
