"""nasx as a library: the functions compute and record what the commands do, and raise the same errors."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import folders
import jobs
import pandas as pd
import pytest
import torch

import nasx
from nasx.cli.main import dispatch
from nasx.tracking import records

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "search.epochs": 2,
    "search.updates_per_epoch": 2,
    "search.batch": 8,
    "search.evaluate_images": 32,
    "dataset.size": 16,
    "space": "nb201",
    "space.layers": 1,
    "space.channels": 4,
    "dataset": "digits",
}
TRAINED = {"retrain.epochs": 1, "retrain.layers": 1, "retrain.channels": 4, "retrain.batch": 256, "dataset.size": 16}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(autouse=True)
def _in_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)


@pytest.fixture(scope="module")
def found(here: Path) -> nasx.SearchRun:
    before = Path.cwd()
    os.chdir(here)
    try:
        return nasx.search(SMALL, seed=1, quiet=True)
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def trained(here: Path, found: nasx.SearchRun) -> nasx.RetrainRun:
    before = Path.cwd()
    os.chdir(here)
    try:
        return nasx.retrain(found, TRAINED, quiet=True)
    finally:
        os.chdir(before)


# --------------------------------------------------------------------------------------------------------- import
@pytest.mark.slow
def test_import_and_errors_come_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, nasx; dir(nasx)\n"
        "try: nasx.search(method='drats')\n"
        "except nasx.UserError as error: print(error)\n"
        "nasx.list_models(), nasx.runs('.')\n"
        "print('torch' if 'torch' in sys.modules else 'no torch')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "unknown method 'drats'" in done.stdout, done
    assert done.stdout.endswith("no torch\n")
    assert not list(tmp_path.iterdir())


def test_every_name_of_the_package_is_there() -> None:
    for name in nasx.__all__:
        assert getattr(nasx, name).__name__ == name
        assert name in dir(nasx)
    with pytest.raises(AttributeError):
        nasx.serach  # noqa: B018
    assert not {path.stem for path in (ROOT / "nasx").iterdir()}.intersection(nasx.__all__), "a submodule would hide it"


# ----------------------------------------------------------------------------------------------------------- jobs
@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["method=drats"], {"method": "drats"}),
        (["sed=2", "search.epoch=3"], {"sed": 2, "search.epoch": 3}),
        (["search.epochs=-1"], {"search": {"epochs": -1}}),
        (
            ["dataset=folder", "dataset.path=no/such place"],
            {"dataset": "folder", "dataset.path": Path("no/such place")},
        ),
    ],
)
def test_errors_are_those_of_the_command_line(words: list[str], given: dict[str, object]) -> None:
    with pytest.raises(nasx.UserError) as told:
        dispatch(["search", *words])
    with pytest.raises(nasx.UserError, match=re.escape(str(told.value))):
        nasx.search(given)


def test_a_call_is_the_run_of_the_same_command(here: Path, found: nasx.SearchRun) -> None:
    record = records.finished(found.folder)
    assert record is not None
    written = (found.folder / "result.json").stat().st_mtime_ns
    words = [f"{key}={value}" for key, value in SMALL.items()]
    done = jobs.nasx(here, "search", *words, "seed=1", "quiet=true")
    assert done.code == 0, done
    assert found.genotype in done.out
    nested = {"search": {"epochs": 2, "updates_per_epoch": 2, "batch": 8}}
    again = nasx.search(*words[3:], nested, seed=1, quiet=True)
    assert again == found
    assert (found.folder / "result.json").stat().st_mtime_ns == written, "it was searched again"
    assert [path.name for path in (here / "outputs").iterdir() if path.name.startswith("darts-")] == [found.name]


@pytest.mark.slow
def test_an_interrupted_call_is_resumed(here: Path, found: nasx.SearchRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second epoch, as a notebook's stop button sends it: the same call then ends with the same rows."""
    from nasx.searcher.loop import Loop

    step, taken = Loop._step, []

    def interrupted(loop: Loop, left: int) -> None:
        step(loop, left)
        taken.append(left)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Loop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nasx.search(SMALL, seed=1, quiet=True, out="again")
    run = nasx.search(SMALL, seed=1, quiet=True, out="again")
    assert len(taken) == 4, "steps were taken twice"
    assert run.folder == Path("again") / found.name
    assert folders.rows(run.folder) == folders.rows(found.folder)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_search_returns_is_in_its_record(found: nasx.SearchRun) -> None:
    record = records.finished(found.folder)
    assert record is not None
    assert found.genotype == record["genotype"]
    assert found.lookup["cifar10.valid"] == record["lookup"]["cifar10"]["valid"] > 50
    assert found.accuracy is None, "the benchmark does not have digits"
    assert found.measures["supernet_valid"] == 100 * record["supernet"]["valid_accuracy"]
    assert found.verdict == record["verdict"]["text"]


def test_a_call_prints_no_summary(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = nasx.search(SMALL, method="random", seed=3, quiet=True)
    nasx.search(SMALL, method="random", seed=3, quiet=True)
    assert capsys.readouterr().out == ""
    run.show()
    assert run.genotype in capsys.readouterr().out


@pytest.mark.slow
def test_a_retraining(found: nasx.SearchRun, trained: nasx.RetrainRun) -> None:
    assert trained.genotype == found.genotype
    assert trained.record.parent == found.name
    assert trained.accuracy == trained.measures["test_accuracy"]
    [row] = trained.epochs().to_dict("records")
    assert row["test_accuracy"] == trained.accuracy
    assert nasx.retrain(str(found.folder), TRAINED, quiet=True) == trained


def test_faults_of_architectures() -> None:
    for call in (nasx.create_model, nasx.retrain):
        with pytest.raises(nasx.UserError, match=r"DARTS_V3: is neither .* did you mean DARTS_V[12]\?"):
            call("DARTS_V3")  # type: ignore[operator]
        for name in ("no/such/run", ".", ""):
            with pytest.raises(
                nasx.UserError, match=r"neither a published cell nor a run; name a published cell \(all_"
            ):
                call(name)  # type: ignore[operator]


# --------------------------------------------------------------------------------------------------------- frames
def test_runs_are_rows_with_units(found: nasx.SearchRun, trained: nasx.RetrainRun) -> None:
    runs = nasx.runs()
    assert isinstance(runs, pd.DataFrame)
    row = runs[runs.run == found.name].iloc[0]
    assert (row.method, row.space, row.dataset, row.seed) == ("darts", "nb201", "digits", 1)
    assert row["cifar10.valid"] == found.lookup["cifar10.valid"]
    assert runs[runs.run == trained.name].iloc[0].test_accuracy == trained.accuracy
    assert runs.attrs["units"]["cifar10.valid"] == runs.attrs["units"]["test_accuracy"] == "%"
    assert runs.attrs["units"]["cost_s"] == "s"
    assert set(runs.attrs["units"]) < set(runs.columns)
    for missing in ("nowhere", ["outputs", "nowhere"]):
        with pytest.raises(nasx.UserError, match="nowhere: does not exist"):
            nasx.runs(missing)


def test_epochs_are_rows_in_the_same_units(found: nasx.SearchRun, trained: nasx.RetrainRun) -> None:
    runs = nasx.runs()
    only = runs[runs.run == found.name]
    assert isinstance(only, nasx.RunFrame)
    epochs = only.epochs()
    rows = records.read_rows(found.folder)
    assert epochs.epoch.tolist() == [1, 2]
    assert epochs.train_accuracy.tolist() == [100 * row["train_accuracy"] for row in rows]
    assert epochs["lookup.cifar10.valid"].tolist() == [row["lookup"]["cifar10"]["valid"] for row in rows]
    assert epochs.genotype.tolist() == [row["genotype"] for row in rows]
    assert epochs.attrs["units"]["train_accuracy"] == "%"
    assert epochs.attrs["units"]["train_loss"] == "nats"
    assert len(runs[runs.kind == "retrain"].epochs()) == 1
    assert list(runs[["run", "folder"]].epochs().columns[:2]) == ["run", "epoch"]
    with pytest.raises(nasx.UserError, match="needs the column `folder`"):
        runs[["run", "seed"]].epochs()
    assert list(runs[runs.run == "none"].epochs().columns[:2]) == ["run", "kind"]
    assert found.epochs().train_accuracy.tolist() == epochs.train_accuracy.tolist()


# --------------------------------------------------------------------------------------------------------- models
def count(model: torch.nn.Module) -> int:
    return sum(x.numel() for x in model.parameters())


def test_a_published_cell_has_its_published_size() -> None:
    """Parameters: nasx/spaces/darts/network.py."""
    assert count(nasx.create_model("darts_v2")) == 3_349_342
    assert count(nasx.create_model("DARTS_V2", num_classes=100, auxiliary=True)) == 3_946_908


def test_scores_are_plain_tensors() -> None:
    x = torch.randn(2, 3, 32, 32)
    model = nasx.create_model("DARTS_V2", channels=4, layers=5, num_classes=7, auxiliary=True, drop_path=0.2)
    main, auxiliary = model(x)
    assert main.shape == auxiliary.shape == (2, 7)
    assert model.eval()(x).shape == (2, 7)
    assert nasx.create_model("all_conv3x3", channels=4, num_classes=0)(x).shape == (2, 16)


@pytest.mark.parametrize(
    ("name", "channels", "reductions"),
    [("DARTS_V2", (16, 32, 64), (1, 2, 4)), ("all_conv3x3", (4, 8, 16), (1, 2, 4))],
)
def test_feature_maps(name: str, channels: tuple[int, ...], reductions: tuple[int, ...]) -> None:
    model, x = nasx.create_model(name, channels=4, layers=6, features_only=True).eval(), torch.randn(2, 3, 32, 32)
    maps = model(x)
    assert [found.shape for found in maps] == [(2, c, 32 // r, 32 // r) for c, r in zip(channels, reductions)]
    assert model.feature_info() == list(zip(channels, reductions))
    model.features_only = False
    assert torch.equal(model(x), model.network.classifier(maps[-1].mean((2, 3))))  # type: ignore[operator]
    assert torch.equal(maps[-1], model.forward_features(x))


def test_a_retraining_gives_its_weights(trained: nasx.RetrainRun) -> None:
    from nasx.cli import export

    network, _ = export.trained_network(trained.folder, export.finished_retraining(trained.folder), ())
    x = torch.randn(2, 3, 16, 16)
    model = nasx.create_model(trained, pretrained=True)
    assert torch.equal(model.eval()(x), network(x).main)
    assert model.num_classes == 10
    fresh = nasx.create_model(trained)
    assert [(k, v.shape) for k, v in fresh.state_dict().items()] == [
        (k, v.shape) for k, v in model.state_dict().items()
    ]
    assert not torch.equal(fresh.eval()(x), model(x))
    other = nasx.create_model(str(trained.folder), pretrained=True, num_classes=3).eval()
    assert other(x).shape == (2, 3)
    assert torch.equal(other.forward_features(x), model.forward_features(x))


def test_a_search_gives_its_cell(found: nasx.SearchRun) -> None:
    model = nasx.create_model(found, channels=4, layers=1)
    assert str(model.genotype) == found.genotype
    assert count(model) == count(nasx.create_model(found.genotype, channels=4, layers=1))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"channels": 0}, "channels=0: must be above 0 and at most 65536, or null; change channels"),
        ({"layers": "five"}, "above 0 and at most 1000, or null; change layers"),
        ({"drop_path": 1.5}, "must be at least 0 and below 1; the default is drop_path=0.0"),
        ({"num_classes": -1}, "num_classes=-1: is negative"),
        ({"pretrained": True}, "no weights are published"),
        ({"recipe": "imagenet_drats"}, "unknown retrain 'imagenet_drats'"),
        ({"space": "nb201"}, "is a cell of the space darts, not of nb201"),
    ],
)
def test_wrong_options_of_a_model(options: dict[str, object], fault: str) -> None:
    with pytest.raises(nasx.UserError, match=re.escape(fault)):
        nasx.create_model("DARTS_V2", **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_other_wrong_models(found: nasx.SearchRun, trained: nasx.RetrainRun) -> None:
    with pytest.raises(nasx.UserError, match="recurrent cell"):
        nasx.create_model("DARTS_RNN_V1")
    with pytest.raises(nasx.UserError, match="does not belong to any search space"):
        nasx.create_model("|foo~0|")
    with pytest.raises(nasx.UserError, match="it has no trained network"):
        nasx.create_model(found, pretrained=True)
    with pytest.raises(nasx.UserError, match="already determines the network"):
        nasx.create_model(trained, pretrained=True, channels=8)


def test_names_of_models() -> None:
    assert nasx.list_models("LAMBDA*s4") == ["Lambda_DARTS_c10_s4"]
    assert "DARTS_V2" in nasx.list_models()
    assert "DARTS_RNN_V1" not in nasx.list_models()
    assert nasx.list_models("nothing") == []


# --------------------------------------------------------------------------------------------------- own loops
def blocks() -> list[str]:
    """The Python files of docs/howto/own-loop.md."""
    page = (ROOT / "docs" / "howto" / "own-loop.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)


def test_a_method_searches_in_a_loop_of_ones_own() -> None:
    """Only a hidden layer solves XOR, so the search is right or wrong."""
    scope: dict[str, Any] = {"__name__": "own"}
    exec(compile(blocks()[0], "own_supernet.py", "exec"), scope)
    assert scope["chosen"] == "relu"
    assert scope["mix"].max() > 0.9
    assert scope["logs"]["val_accuracy"] > 0.8


@pytest.mark.slow
def test_a_space_is_searched_on_data_of_ones_own() -> None:
    scope: dict[str, Any] = {"__name__": "own"}
    exec(compile(blocks()[1], "own_data.py", "exec"), scope)
    assert scope["model"](torch.zeros(3, 3, 8, 8)).shape == (3, 2)
    start = scope["space"].init(torch.Generator().manual_seed(0))
    assert all(not torch.equal(x, start[name]) for name, x in scope["search"].a.items()), (
        "the architecture has not moved"
    )
