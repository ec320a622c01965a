"""Loggers: what of a row they take, that they open nothing unasked, and that runs tell them their rows."""

from __future__ import annotations

import importlib.util
import math
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
CONF = Path(__file__).resolve().parents[1] / "conf" / "logger"


def test_a_row_becomes_its_finite_numbers():
    assert dict(loggers.scalars(ROW)) == {"train_loss": 1.5, "lookup/cifar10/valid": 90.0}


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_each_choice_builds(name):
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert instantiate.build(node).open(Path("."), {}) is not None


@pytest.mark.parametrize(("made", "package"), [(loggers.TensorBoard(), "tensorboard"), (loggers.Wandb(), "wandb")])
def test_a_missing_package_is_named_with_its_extra(made, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{package} is not installed; .* `uv sync --extra {package}` or"):
        made.check()


def test_a_run_tells_each_row_it_has_written(tmp_path):
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


def test_wandb_is_told_offline_and_under_the_runs_name(tmp_path, monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sink = loggers.Wandb().open(tmp_path / "run-s0", {"seed": 0})
    assert not hasattr(fake, "asked"), "nothing is opened before the first row"
    sink.write(ROW)
    sink.close()
    assert {"mode": "offline", "id": "run-s0", "project": "nasx", "resume": "allow"}.items() <= fake.asked.items()
    assert fake.logged == [(3, {"train_loss": 1.5, "lookup/cifar10/valid": 90.0})]
    assert fake.ended


@pytest.mark.parametrize("made", [loggers.NoLogger(), loggers.TensorBoard(), loggers.Wandb()])
def test_without_rows_nothing_is_written(made, tmp_path):
    made.open(tmp_path, {}).close()
    assert not list(tmp_path.iterdir())


def test_the_logger_is_no_part_of_a_runs_identity():
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
