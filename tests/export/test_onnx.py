"""model.onnx in onnxruntime: accuracy, probabilities and metadata of the network; damaged files are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from exports import WORDS, printed, record

import nasx
from nasx.cli import evaluate, export
from nasx.core import timing
from nasx.data.imagenet import Photos
from nasx.data.images import Cifar10, Digits, Folder
from nasx.errors import UserError
from nasx.export import quantize, runtime

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retraining, exported to ONNX and safetensors."""
    folder = tmp_path_factory.mktemp("trained")
    done = jobs.nasx(
        folder, *WORDS, "name=plain", "retrain.auxiliary=0", "retrain.epochs=3", "retrain.updates_per_epoch=40"
    )
    assert done.code == 0, done
    for format_ in ("onnx", "safetensors"):
        export.main([f"from={folder / 'runs' / 'plain'}", f"format={format_}"])
    return folder / "runs" / "plain"


def changed(run: Path, to: Path, **facts: Any) -> str:
    """The path of the same graph with other metadata (None: without)."""
    proto = onnx.load(str(run / "export" / "model.onnx"))
    held = {item.key: item.value for item in proto.metadata_props} | {k: json.dumps(v) for k, v in facts.items()}
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {k: v for k, v in held.items() if v != "null"})
    onnx.save(proto, str(to))
    return str(to)


def test_a_fresh_process_finds_the_accuracy_of_the_network(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "export" / "model.onnx", tmp_path)  # nothing else of the run is there
    trained = record(run)
    assert trained["test_accuracy"] > 0.2, "not by chance"
    for name in ("model.onnx", "."):
        done = subprocess.run(
            [sys.executable, "-m", "nasx", "evaluate", name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = printed(done.stdout)
        assert found["accuracy"] == f"{100 * trained['test_accuracy']:.2f} %"
        assert int(found["correct"]) / int(found["images"]) == trained["test_accuracy"]
        assert float(found["loss"]) == pytest.approx(trained["test_loss"], abs=2e-3)


@pytest.mark.slow
def test_export_prints_a_command_that_evaluates_the_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export.main([f"from={run}", "format=onnx"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "nasx evaluate" in line]
    assert line.split() == ["next:", "nasx", "evaluate", str(run / "export" / "model.onnx")]


def test_probabilities_are_those_of_the_network(run: Path) -> None:
    images = Digits().load().test_x[:30]
    model, network = runtime.load(run / "export" / "model.onnx"), nasx.load(run / "export")
    assert model.classes == network.classes
    with torch.no_grad():
        wanted = torch.softmax(network(network.normalize(torch.from_numpy(images))), 1).numpy()
    assert np.abs(model.normalize(images) - network.normalize(torch.from_numpy(images)).numpy()).max() < 1e-6
    assert np.abs(model.predict(images).probabilities - wanted).max() < 1e-4


def test_latency_is_that_of_the_whole_network(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    called = runtime.OnnxModel.__call__
    monkeypatch.setattr(runtime.OnnxModel, "__call__", lambda self, x: shapes.append(x.shape) or called(self, x))
    found = runtime.measure_latency(run / "export", threads=1, batch=3, repeats=7, warm=2)
    assert shapes == [(3, 3, 32, 32)] * 9
    assert found.n == 7
    assert 0 < found.low_ms <= found.median_ms <= found.high_ms


def test_timings_are_interleaved_and_those_of_warm_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    now = [0]
    spent = {0: iter([90e6, 1e6, 2e6, 3e6]), 1: iter([90e6, 5e6, 5e6, 8e6])}
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: now[0])

    def call(i: int) -> None:
        order.append(i)
        now[0] += int(next(spent[i]))

    found = timing.rounds([lambda: call(0), lambda: call(1)], 3, 1)
    assert found.tolist() == [[1, 5], [2, 5], [3, 8]]
    assert all(set(order[i : i + 2]) == {0, 1} for i in range(0, 8, 2)), "each in each round"
    first = timing.summary(found[:, 0])
    assert (first.median_ms, first.n) == (2.0, 3)
    assert (first.low_ms, first.high_ms) == (pytest.approx(1.2), pytest.approx(2.8))


def test_the_file_says_how_images_are_prepared(run: Path) -> None:
    facts = runtime.load(run / "export").facts
    assert facts["preprocessing"] == record(run)["images"]["preprocessing"] == [["square"], ["resize", 32, "nearest"]]
    assert Cifar10().preprocessing((3, 32, 32)) == [["square"], ["resize", 32, "area"]]
    assert Folder(size=24).preprocessing((3, 24, 24)) == [["square"], ["resize", 24, "bilinear"]]
    assert Folder().preprocessing((3, 24, 20)) == [], "images of this shape only"
    assert Photos(size=48, resize=64).preprocessing((3, 48, 48)) == [["resize", 64, "bilinear"], ["center_crop", 48]]
    card = (run / "export" / "README.md").read_text()
    assert "1. Crop the image to its centred square." in card
    assert "2. Resize it so that the shorter side has 32 pixels (nearest)." in card


@pytest.mark.slow
def test_a_run_that_has_not_recorded_the_preparation_is_exported_with_it(run: Path, tmp_path: Path) -> None:
    old = shutil.copytree(run, tmp_path / "old")
    held = record(old)
    del held["images"]["preprocessing"]
    (old / "result.json").write_text(json.dumps(held))
    export.main([f"from={old}", "format=onnx"])
    assert runtime.load(old / "export").facts["preprocessing"] == [["square"], ["resize", 32, "nearest"]]


@pytest.mark.slow
def test_int8_has_a_fourth_of_the_weights_and_is_compared_in_a_table(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export.main([f"from={run}", "format=onnx", "quantize=int8", "calibration=64", f"out={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [str(tmp_path / name) for name in ("model.onnx", "model-int8.onnx", "README.md")]
    rows = {line.split()[0]: line.split() for line in lines if line.startswith("model")}
    assert (tmp_path / "model.onnx").read_bytes() == (run / "export" / "model.onnx").read_bytes()
    assert rows["model.onnx"][1] == f"{100 * record(run)['test_accuracy']:.2f}"
    small, whole = (onnx.load(str(tmp_path / name)) for name in ("model-int8.onnx", "model.onnx"))
    convolutions = [node for node in whole.graph.node if node.op_type == "Conv"]
    kept = {x.name: x for x in small.graph.initializer if x.data_type == onnx.TensorProto.INT8}
    assert len([x for x in kept.values() if len(x.dims) == 4]) == len(convolutions) > 5
    model = runtime.load(tmp_path / "model-int8.onnx")
    assert model.facts["quantization"] == {"weights": "int8", "activations": "int8", "images": 64}
    assert f"{100 * model.facts['accuracy']:.2f}" == rows["model-int8.onnx"][1]
    evaluate.main([str(tmp_path / "model-int8.onnx")])
    assert printed(capsys.readouterr().out)["accuracy"] == f"{rows['model-int8.onnx'][1]} %"
    images = Digits().load().test_x
    near = np.abs(model.predict(images).probabilities - runtime.load(tmp_path).predict(images).probabilities)
    assert 0 < near.mean() < 0.1, "another network, and close"
    assert "model-int8.onnx" in (tmp_path / "README.md").read_text()


def test_the_calibration_reads_training_images_only(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Digits().open("cpu")
    found = np.concatenate(list(quantize.calibration_batches(images, 30, 8)))
    every = np.concatenate([each.x.numpy() for each in images.ordered("train", batch=100)])
    assert found.shape == (30, 3, 32, 32)
    assert len(np.unique([int(np.abs(every - x).sum((1, 2, 3)).argmin()) for x in found])) > 25
    assert all((every == x).all((1, 2, 3)).any() for x in found)


def test_faults(run: Path, tmp_path: Path) -> None:
    whole = run / "export" / "model.onnx"
    with pytest.raises(UserError, match="is not a torch network; open it with nasx"):
        nasx.load(whole)
    (tmp_path / "torn.onnx").write_bytes(whole.read_bytes()[:5000])
    for words, message in (
        ([str(tmp_path / "none.onnx")], "does not exist"),
        ([str(tmp_path / "torn.onnx")], "cannot be read as ONNX"),
        ([changed(run, tmp_path / "other.onnx", format=None)], "is not an export of this version"),
        ([changed(run, tmp_path / "fewer.onnx", classes=["a", "b"])], r"the graph maps .* the metadata says"),
        ([changed(run, tmp_path / "larger.onnx", image=[3, 64, 64])], r"the graph maps .* the metadata says"),
        ([changed(run, tmp_path / "kept.onnx", test=None)], "metadata is damaged .it lacks test."),
        ([changed(run, tmp_path / "odd.onnx", classes=3)], "metadata is damaged"),
        ([changed(run, tmp_path / "bare.onnx", normalization={})], "metadata is damaged"),
        ([str(whole), "device=cuda"], "device=cuda: nasx runs ONNX files only on the CPU"),
        ([str(whole), "batch=0"], "batch=0: is not positive"),
        ([str(whole), "dataset=cifar100"], "has 100 classes, but the network has 10"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate.main(words)


def test_faults_of_quantization(run: Path, tmp_path: Path) -> None:
    for words, message in (
        (["quantize=int4", "format=onnx"], "quantize=int4: unknown precision; use quantize=int8"),
        (["quantize=int8"], "is not available for format=safetensors; add format=onnx"),
        (["quantize=int8", "format=onnx", "calibration=0"], "calibration=0: is less than 1"),
        (["quantize=int8", "format=onnx", "path=3", "size=4"], "has no option size"),
    ):
        with pytest.raises(UserError, match=message):
            export.main([f"from={run}", f"out={tmp_path / 'out'}", *words])
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07" * 40)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nasx", "evaluate", "model.onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot be read as ONNX" in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.endswith("| torch")]
