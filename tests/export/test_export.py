"""An export, loaded without a run folder, gives the outputs and the accuracy of the trained network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
from exports import WORDS, printed, record

import nasx
from nasx.cli import evaluate, export
from nasx.data.images import Digits
from nasx.errors import UserError
from nasx.export import model as export_model
from nasx.tracking import checkpoints


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plain retraining, and one with averaged weights and an auxiliary head."""
    folder = tmp_path_factory.mktemp("trained")
    for extra in (("name=plain", "retrain.auxiliary=0"), ("name=averaged", "retrain.ema=0.3", "dataset.size=32")):
        done = jobs.nasx(folder, *WORDS, *extra)
        assert done.code == 0, done
    return folder


@pytest.mark.parametrize("name", ["plain", "averaged"])
@pytest.mark.slow
def test_a_fresh_process_finds_the_same_accuracy(here: Path, name: str, tmp_path: Path) -> None:
    run, out = here / "runs" / name, tmp_path / "out"
    assert export.main([f"from={run}", f"out={out}"]) == 0
    shutil.copy(out / "model.safetensors", tmp_path / "alone.safetensors")  # nothing else of the run is there
    done = subprocess.run(
        [sys.executable, "-m", "nasx", "evaluate", "alone.safetensors", "device=cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, trained = printed(done.stdout), record(run)
    assert found["accuracy"] == f"{100 * trained['test_accuracy']:.2f} %"
    assert found["loss"] == f"{trained['test_loss']:.3f}"
    assert int(found["correct"]) / int(found["images"]) == trained["test_accuracy"]


def test_the_weights_are_the_last_ones_without_the_head(here: Path, tmp_path: Path) -> None:
    run = here / "runs" / "averaged"
    export.main([f"from={run}", f"out={tmp_path}"])
    network, state = nasx.load(tmp_path), checkpoints.last(run)
    assert state is not None
    assert state["updates"] == 12
    held = network.network.state_dict()
    assert not any(name.startswith("auxiliary") for name in held)
    assert any(name.startswith("auxiliary") for name in state["network"])
    assert all(torch.equal(x, state["average"][f"module.{name}"]) for name, x in held.items())


def test_a_loaded_network_reads_bytes_and_knows_its_origin(here: Path, tmp_path: Path) -> None:
    run = here / "runs" / "plain"
    export.main([f"from={run}", f"out={tmp_path}"])
    network, images = nasx.load(str(tmp_path / "model.safetensors")), Digits().load()
    x = network.normalize(torch.from_numpy(images.test_x[:40]))
    wanted = (images.test_x[:40] / 255 - np.array(images.mean)[:, None, None]) / np.array(images.std)[:, None, None]
    assert np.allclose(x.numpy(), wanted, atol=1e-6)
    with torch.no_grad():
        scores = network(x)
    assert scores.shape == (40, 10)
    assert not network.training
    facts, trained = network.facts, record(run)
    assert network.classes == tuple("0123456789")
    assert facts["genotype"] == trained["genotype"]
    assert facts["accuracy"] == trained["test_accuracy"]
    assert facts["recipe"] == trained["protocol"] == "darts-cifar"
    assert facts["space"]["_target_"] == "nasx.spaces.darts.space.Darts"
    assert facts["commit"] == (trained["commit"] or "unknown")
    assert facts["normalization"]["mean"] == pytest.approx(images.mean, abs=1e-6)  # the dataset's file rounds them
    assert facts["normalization"]["std"] == pytest.approx(images.std, abs=1e-6)
    assert facts["dataset"]["path"] is None
    card = (tmp_path / "README.md").read_text()
    assert f"{100 * trained['test_accuracy']:.2f} %" in card
    assert trained["command"] in card
    assert trained["genotype"] in card
    assert "model.onnx" not in card


def test_package_import_is_light() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, nasx; dir(nasx); print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_other_images_and_splits(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export.main([f"from={here / 'runs' / 'plain'}", f"out={tmp_path / 'out'}"])
    model, images = str(tmp_path / "out"), Digits().load()
    np.savez(
        tmp_path / "few.npz",
        train_x=images.train_x[:90],
        train_y=images.train_y[:90],
        test_x=images.test_x[:50],
        test_y=images.test_y[:50],
    )
    capsys.readouterr()
    assert evaluate.main([model, "split=train", "device=cpu"]) == 0
    assert printed(capsys.readouterr().out)["images"] == "1437"
    network = nasx.load(model)
    with torch.no_grad():
        best = network(network.normalize(torch.from_numpy(images.test_x[:50]))).argmax(1).numpy()
    for key in ("path", "dataset.path"):
        assert evaluate.main([model, "dataset=folder", f"{key}={tmp_path / 'few.npz'}", "batch=7", "device=cpu"]) == 0
        found = printed(capsys.readouterr().out)
        assert found["images"] == "50"
        assert int(found["correct"]) == int((best == images.test_y[:50]).sum())


@pytest.mark.slow
def test_onnx_and_torch_export_give_equal_outputs(here: Path, tmp_path: Path) -> None:
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    for format_ in ("safetensors", "onnx", "torch"):
        export.main([f"from={here / 'runs' / 'plain'}", f"out={tmp_path}", f"format={format_}"])
    network, x = nasx.load(tmp_path), torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = network(x)
    [found] = runtime.InferenceSession(str(tmp_path / "model.onnx")).run(["scores"], {"images": x.numpy()})
    assert np.abs(found - scores.numpy()).max() < 1e-4
    program = torch.export.load(str(tmp_path / "model.pt2")).module()
    assert (program(x) - scores).abs().max() < 1e-4
    held = {item.key: item.value for item in onnx.load(str(tmp_path / "model.onnx")).metadata_props}
    assert held == export_model.text(network.facts)
    card = (tmp_path / "README.md").read_text()
    assert all(name in card for name in ("model.safetensors", "model.onnx", "model.pt2"))


@pytest.mark.slow
def test_two_exports_have_the_same_bytes_and_no_path_of_this_machine(here: Path, tmp_path: Path) -> None:
    """Also in another process, where hashes have another order."""
    formats = ("safetensors", "onnx", "torch")
    code = (
        "import sys\nfrom nasx.cli import export\n"
        "for name in sys.argv[2:]: export.main([*sys.argv[1].split(), f'format={name}'])"
    )
    words = f"from={here / 'runs' / 'plain'} out={tmp_path / 'one'}"
    subprocess.run([sys.executable, "-c", code, words, *formats], check=True, capture_output=True)
    for name in reversed(formats):
        export.main([f"from={here / 'runs' / 'plain'}", f"out={tmp_path / 'two'}", f"format={name}"])
    for name in ("README.md", "model.safetensors", "model.onnx", "model.pt2"):
        one, two = ((tmp_path / out / name).read_bytes() for out in ("one", "two"))
        assert one == two, name
        assert str(Path(nasx.__file__).parent).encode() not in one, name


def test_a_failed_export_leaves_nothing(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bytes:
        raise UserError("export", "fails")

    monkeypatch.setitem(export.WRITERS, "safetensors", ("model.safetensors", fails))
    with pytest.raises(UserError, match="fails"):
        export.main([f"from={here / 'runs' / 'plain'}", f"out={tmp_path / 'out' / 'deep'}"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "elsewhere").mkdir()
    (here / "runs" / "plain" / "export").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a symbolic link"):
        export.main([f"from={here / 'runs' / 'plain'}"])
    (here / "runs" / "plain" / "export").unlink()


def test_faults_of_export(here: Path, tmp_path: Path) -> None:
    run = here / "runs" / "plain"
    unfinished, searched = tmp_path / "unfinished", tmp_path / "searched"
    unfinished.mkdir()
    searched.mkdir()
    (searched / "result.json").write_text('{"status": "finished", "kind": "search"}')
    for words, message in (
        (["format=tflite", f"from={run}"], "unknown format"),
        ([], "needs from="),
        ([f"from={unfinished}"], "contains no finished run"),
        ([f"from={searched}"], "has no trained network; train one: nasx retrain"),
        (["from=nowhere"], "run not found"),
    ):
        with pytest.raises(UserError, match=message):
            export.main(words)


def test_faults_of_evaluate_and_load(here: Path, tmp_path: Path) -> None:
    export.main([f"from={here / 'runs' / 'plain'}", f"out={tmp_path}"])
    file = tmp_path / "model.safetensors"
    (tmp_path / "torn.safetensors").write_bytes(file.read_bytes()[:2000])
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    network = nasx.load(file)
    for name, changed in (
        ("wider", {"settings": {**network.facts["settings"], "channels": 6}}),
        ("foreign", {"space": {**network.facts["space"], "_target_": "os.system"}}),
    ):
        export_model.save(tmp_path / f"{name}.safetensors", network.network, {**network.facts, **changed})
    np.savez(tmp_path / "two.npz", x=np.zeros((8, 32, 32), np.uint8), y=np.arange(8) % 2)
    for words, message in (
        ([], "needs one model"),
        ([str(tmp_path / "none")], "is neither an export nor a finished run of nasx retrain; name a file"),
        ([str(tmp_path / "torn.safetensors")], "cannot be read as safetensors"),
        ([str(tmp_path / "other.safetensors")], "is not an export of this version"),
        ([str(tmp_path / "wider.safetensors")], "do not match its genotype"),
        ([str(tmp_path / "foreign.safetensors")], "_target_=os.system"),
        ([str(file), "split=valid"], "unknown split"),
        ([str(file), "batch=0"], "batch=0: is not positive"),
        ([str(file), "dataset=cifar100", f"path={tmp_path}"], "has 100 classes, but the network has 10"),
        ([str(file), "dataset=folder", f"path={tmp_path / 'two.npz'}"], "has 2 classes"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate.main(words)
