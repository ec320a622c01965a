"""Loggers: the values they receive, no import before use, and the rows of runs."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import jobs
import pytest
import yaml

from nasx.config import identity, instantiate
from nasx.errors import UserError
from nasx.tracking import loggers, records, run_folder

ROW = {
    "epoch": 3,
    "train_loss": 1.5,
    "genotype": "x",
    "mix": {"cell": [[0.5, 0.5]]},
    "flag": True,
    "bad": math.nan,
    "lookup": {"source": "s", "cifar10": {"valid": 90, "test": None}},
}
CONF = Path(__file__).resolve().parents[2] / "conf" / "logger"


def test_a_row_becomes_its_finite_numbers():
    assert dict(loggers.scalars(ROW)) == {"train_loss": 1.5, "lookup/cifar10/valid": 90.0}


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_each_choice_builds(name):
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert instantiate.build(node).open(Path("."), {}) is not None


@pytest.mark.parametrize(
    ("made", "package"),
    [(loggers.TensorBoard(), "tensorboard"), (loggers.Wandb(), "wandb"), (loggers.Mlflow(), "mlflow")],
)
def test_a_missing_package_is_named_with_its_extra(made, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{package} is not installed; .* `uv sync --extra {package}` or"):
        made.check()


def test_a_run_shows_each_row_it_has_written(tmp_path):
    with run_folder.Run(tmp_path / "a", {}, {}) as run:
        seen = []
        run.on_row = lambda row: seen.append((row, len(run.rows())))
        run.append({"epoch": 1})
    assert seen == [({"epoch": 1}, 1)]


class Fake(SimpleNamespace):
    """A wandb that remembers."""

    def init(self, **words):
        self.asked, self.logged, self.ended = words, [], False
        return SimpleNamespace(log=lambda values, step: self.logged.append((step, values)), finish=self.end)

    def end(self):
        self.ended = True


def test_wandb_starts_offline_and_under_the_runs_name(tmp_path, monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sink = loggers.Wandb().open(tmp_path / "run-s0", {"seed": 0})
    assert not hasattr(fake, "asked"), "nothing is opened before the first row"
    sink.write(ROW)
    sink.close()
    assert {"mode": "offline", "id": "run-s0", "project": "nasx", "resume": "allow"}.items() <= fake.asked.items()
    assert fake.logged == [(3, {"train_loss": 1.5, "lookup/cifar10/valid": 90.0})]
    assert fake.ended


@pytest.mark.parametrize("made", [loggers.NoLogger(), loggers.TensorBoard(), loggers.Wandb(), loggers.Mlflow()])
def test_without_rows_nothing_is_written(made, tmp_path):
    made.open(tmp_path, {}).close()
    assert not list(tmp_path.iterdir())


def test_the_logger_is_not_a_part_of_a_runs_identity():
    assert identity.identity({"seed": 0, "logger": {"_target_": "a"}}) == identity.identity({"seed": 0})


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_a_missing_package_stops_a_search_before_any_work(tmp_path):
    done = jobs.nasx(tmp_path, *jobs.TINY_NB201, "logger=tensorboard")
    assert (done.code, "uv sync --extra tensorboard" in done.err) == (2, True), done
    assert not (tmp_path / "runs").exists()


def test_a_search_writes_event_files(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = jobs.nasx(tmp_path, *jobs.TINY_NB201, "logger=tensorboard")
    assert done.code == 0, done
    folder = jobs.folder(tmp_path)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    rows = records.read_rows(folder)
    assert [event.step for event in events.Scalars("train_loss")] == [row["epoch"] for row in rows]
    assert [event.value for event in events.Scalars("train_loss")] == pytest.approx([row["train_loss"] for row in rows])


def test_mlflow_continues_the_run_of_the_same_name(tmp_path):
    """With MLflow itself, in a database below `tmp_path`: uv sync --extra mlflow."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    for epoch in (1, 2):
        sink = loggers.Mlflow().open(tmp_path / "run-s0", {"seed": 0, "search": {"lr": 0.1, "betas": [0.5, 0.9]}})
        sink.write({**ROW, "epoch": epoch})
        sink.close()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("nasx").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run-s0", "FINISHED")
    assert run.data.params == {"seed": "0", "search.lr": "0.1", "search.betas": "[0.5, 0.9]"}
    history = client.get_metric_history(run.info.run_id, "lookup/cifar10/valid")
    assert [(entry.step, entry.value) for entry in history] == [(1, 90.0), (2, 90.0)]


def test_mlflow_is_asked_for_what_it_documents(tmp_path, monkeypatch):
    """Without the package: the calls that a run makes, telemetry off, one run, its rows as metrics."""
    calls = []

    class Client:
        def __init__(self, uri):
            calls.append(uri)

        def __getattr__(self, name):
            def call(*words, **named):
                calls.append((name, *words, *named.values()))
                answers = {"create_experiment": "7", "search_runs": []}
                return answers.get(
                    name,
                    None if name == "get_experiment_by_name" else SimpleNamespace(info=SimpleNamespace(run_id="r")),
                )

            return call

    entities = SimpleNamespace(Metric=lambda *values: values, Param=lambda *values: values)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Client, entities=entities))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    sink = loggers.Mlflow().open(tmp_path / "run-s0", {"seed": 0})
    assert not calls, "nothing is opened before the first row"
    sink.write(ROW)
    sink.close()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert calls[0] == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert ("create_experiment", "nasx", str(tmp_path / "mlartifacts")) in calls
    assert ("log_batch", "r", [("seed", "0")]) in calls
    [logged] = [call[2] for call in calls if call[0] == "log_batch" and len(call[2][0]) == 4]
    assert [(name, value, step) for name, value, _, step in logged] == [
        ("train_loss", 1.5, 3),
        ("lookup/cifar10/valid", 90.0, 3),
    ]
    assert calls[-1] == ("set_terminated", "r")
