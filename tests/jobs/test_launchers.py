"""Launchers and sweepers: refused settings, the environment of launched processes, sweeps through real launchers."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import faked
import jobs
import pytest
import yaml
from composing import composed, faults
from finished import writer
from hydra.types import RunMode

from nasx.cli import main
from nasx.config import compose, identity, sweeps
from nasx.errors import UserError
from nasx.tracking import environment, records, sweep_log

SWEEP = ("--multirun", "dataset=digits")
WITHOUT_PLUGINS = """
import sys, types
sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins", "none is installed")
sys.modules["hydra_plugins"].__path__ = []
from nasx.cli.main import main
main(sys.argv[1:])
"""
TRIALS = (
    """
import sys, types
import nasx
def search(cfg, info):
    return {'name': 'x', 'supernet': {'valid_accuracy': -abs(cfg['search']['arch_lr'] - 0.01)}}
"""
    + faked.JOBS
)


def call(folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "160"},
        check=False,
    )


# ----------------------------------------------------------------------------------------- refused at once
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["dataset=digits", "launch=joblib"], ["launch=joblib", "add --multirun"]),
        (["dataset=digits", "hydra/launcher=joblib"], ["hydra/launcher", "add --multirun"]),
        (["dataset=digits", "experiment=tune_arch_lr"], ["hydra/sweeper", "add --multirun"]),
        ([*SWEEP, "launch=joblib,slurm"], ["one launcher starts all jobs"]),
        ([*SWEEP, "launch=slrum"], ["unknown launch 'slrum'", "did you mean slurm?"]),
        ([*SWEEP, "launch=slurm", "device=cpu"], ["device=cpu", "add hydra.launcher.gpus_per_node=0"]),
        ([*SWEEP, "launch=slurm", "hydra.launcher.partion=x"], ["partion"]),
        ([*SWEEP, "search.lr=interval(0.01,0.1)"], ["an interval needs a sweeper", "hydra/sweeper=optuna"]),
        ([*SWEEP, "hydra/sweeper=optuna", "seed=0,1"], ["objective=null", "supernet.valid_accuracy"]),
        (["dataset=digits", "hydra.job.chdir=true"], ["hydra.job.chdir=true", "leave it out"]),
        ([*SWEEP, "hydra.job.chdir=true"], ["hydra.job.chdir=true", "leave it out"]),
        (
            [*SWEEP, "objective=supernet.accuracy"],
            ["objective=supernet.accuracy", "not a value that nasx search"],
        ),
        (
            [*SWEEP, "hydra/sweeper=optuna", "objective=supernet.valid_accuracy"],
            ["would optimize supernet.valid_accuracy in the wrong direction", "set hydra.sweeper.direction=maximize"],
        ),
    ],
)
def test_fault(words: list[str], parts: list[str]) -> None:
    found = faults(*words)
    assert len(found) == 1, found
    assert all(part in found[0] for part in parts), found


def test_a_sweepers_own_settings_are_examined_like_the_line(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - tune_arch_lr\n"
        "hydra: {sweeper: {params: {search.arch_lrr: 'interval(1e-4, 1)', search.batch: '16,0'}}}\n"
    )
    found = faults(*SWEEP, "experiment=mine", config_dir=tmp_path)
    assert any(line.startswith("search.arch_lrr: SearchSettings has no such setting") for line in found), found


@pytest.mark.parametrize("launcher", ["slurm", "ray", "joblib", "local"])
def test_a_launcher_that_is_not_installed_is_reported_with_the_command(launcher: str, tmp_path: Path) -> None:
    done = call(tmp_path, WITHOUT_PLUGINS, "search", *SWEEP, f"launch={launcher}")
    extra = "slurm" if launcher == "local" else launcher
    assert done.returncode == 2
    assert "its package is not installed" in done.stderr
    assert f"in a clone of nasx, run `uv sync --extra {extra}` or `pip install '.[{extra}]'`" in done.stderr
    assert not list(tmp_path.iterdir())


def test_every_extra_that_an_error_names_is_there() -> None:
    root = Path(__file__).resolve().parents[2]
    known = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {
        extra
        for path in (root / "nasx").rglob("*.py")
        for extra in re.findall(r'extras\.install\("(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert {"onnx", *sweeps.EXTRAS.values(), "tensorboard", "wandb"} | asked <= known.keys()
    wrong = [
        str(path)
        for folder in ("nasx", "conf")
        for path in (root / folder).rglob("*.*")
        if path.suffix in (".py", ".yaml") and re.search(r"nasx\[\w", path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "nasx is on no package index: its extras are installed from a clone"


def test_a_launcher_nobody_knows() -> None:
    assert "unknown launcher" in str(sweeps.missing_plugin("Could not find 'hydra/launcher/nope'"))
    assert "'.[optuna]'" in str(sweeps.missing_plugin("In 'hydra/config': Could not find 'hydra/sweeper/optuna'\n"))
    assert sweeps.missing_plugin("Could not find 'space/nope'") is None


def test_how_a_sweep_runs_is_not_a_part_of_a_run() -> None:
    plain, choices = composed("search", "dataset=digits")
    for words in (["launch=slurm"], ["launch=joblib", "objective=wall_s"], ["experiment=tune_arch_lr"]):
        other, chosen = composed("search", "dataset=digits", *words)
        assert identity.run_name(other, chosen) == identity.run_name(plain, choices)


# ------------------------------------------------------------------------------- what a launcher's job needs
def test_errors_travel_between_processes() -> None:
    faults = [UserError("a", "b", "c"), UserError.join([UserError("a", "b"), UserError("d", "e")])]
    for error in faults:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.where) == (UserError, str(error), "a")
    again = pickle.loads(pickle.dumps(environment.StopRequested(signal.SIGTERM)))
    assert (again.exit_code, str(again)) == (143, "stopped by SIGTERM")


def stopped(told: list[str]) -> None:
    """A job that is warned, saves and stops."""
    with environment.Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert signals.asked == signal.SIGUSR2
        told.append("saved")
        raise environment.StopRequested(signals.asked)


def test_a_launchers_handler_is_called_when_the_work_is_saved() -> None:
    told: list[str] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: told.append("queued again"))
    try:
        with pytest.raises(environment.StopRequested):
            stopped(told)
        assert told == ["saved", "queued again"]
        with environment.Signals():
            os.kill(os.getpid(), signal.SIGUSR2)
        assert told == ["saved", "queued again"]  # the work was done: nothing is to be queued
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_job_works_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweeps.enter_folder("/")
    assert Path.cwd() == Path("/")
    with pytest.raises(UserError, match="in a folder that they share"):
        sweeps.enter_folder(str(tmp_path / "nowhere"))


def test_an_objective_is_a_number_of_the_record() -> None:
    record: dict[str, Any] = {"name": "x", "supernet": {"valid_accuracy": 0.5}, "lookup": None, "reduced": True}
    assert sweeps.objective(record, "supernet.valid_accuracy") == 0.5
    for path in ("supernet", "supernet.nothing", "lookup.cifar10.valid", "reduced", "name.x"):
        with pytest.raises(UserError, match="is not a number in this job's record"):
            sweeps.objective(record, path)


def test_a_summary_shows_jobs_that_died_without_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep_log.record_job(tmp_path / "job-0.json", ["seed=0"], ended=True)
    sweep_log.record_job(tmp_path / "job-1.json", ["seed=1"], ended=True, fault="seed=1: brings bad luck")
    assert sweep_log.summary(tmp_path, UserError("seed=1", "brings bad luck")) == 1
    told = capsys.readouterr().err
    assert "sweep: 1 of 2 jobs finished\n" in told
    assert "failed: seed=1" in told
    assert sweep_log.summary(tmp_path, RuntimeError("job 7 has not produced any output")) == 1
    told = capsys.readouterr().err
    assert "sweep: 1 of 2 jobs finished, then the sweep stopped:\n  RuntimeError: job 7 has not" in told
    assert "nasx status" in told


# ---------------------------------------------------------------------------------------------- whole sweeps
@pytest.mark.slow
def test_optuna_finds_the_best_trial_and_asks_the_same_again(tmp_path: Path) -> None:
    asked = []
    for _ in range(2):
        done = call(tmp_path, TRIALS, "search", *SWEEP, "experiment=tune_arch_lr", "hydra.sweeper.n_trials=4")
        assert done.returncode == 0, done.stderr
        assert "sweep: 4 of 4 jobs finished" in done.stderr
        [newest] = sorted((tmp_path / "outputs" / ".sweeps").iterdir())[-1:]
        notes = [json.loads((newest / f"job-{n}.json").read_text())["overrides"][0] for n in range(4)]
        rates = [float(text.partition("=")[2]) for text in notes]
        best = (newest / "optimization_results.yaml").read_text()
        assert f"search.arch_lr: {min(rates, key=lambda rate: abs(rate - 0.01))}" in best
        asked.append(rates)
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == 4


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "nsgaii", "motpe"])
def test_a_sampler_has_a_seed_unless_the_line_says_otherwise(sampler: str) -> None:
    """With Optuna's null, a repeated sweep proposed other trials."""
    words = ["dataset=digits", "hydra/sweeper=optuna", f"hydra/sweeper/sampler={sampler}"]
    for more, seed in (([], 0), (["hydra.sweeper.sampler.seed=7"], 7), (["hydra.sweeper.sampler.seed=null"], None)):
        cfg = compose.make_loader().load_configuration("search", [*words, *more], RunMode.MULTIRUN)
        assert cfg.hydra.sweeper.sampler.seed == seed


@pytest.mark.parametrize(("best", "run"), [({"search.arch_lr": 0.01, "method": "tse"}, "run1"), (None, "run2")])
def test_a_sweep_ends_with_the_commands_for_its_best_trial(
    best: object, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were those of the last trial."""
    make, notes = writer(tmp_path), tmp_path / "runs" / ".sweeps" / "now"
    notes.mkdir(parents=True)
    for number, rate in enumerate((0.1, 0.01, 0.001)):
        folder = make(seed=number)
        words = [f"search.arch_lr={rate}", "method=tse", "seed=0"]
        sweep_log.record_job(notes / f"job-{number}.json", words, [folder], ended=True)
    if best:
        (notes / "optimization_results.yaml").write_text(yaml.safe_dump({"name": "optuna", "best_params": best}))
    main._after_sweep("search", notes)
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "nasx retrain" in line).split()[-2].endswith(f"/{run}")
    assert ("best trial: search.arch_lr=0.01 method=tse seed=0" in lines) == bool(best)


def runs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Metrics rows of all runs, without what a clock says."""
    return {
        Path(path).name: [
            {key: value for key, value in row.items() if not key.endswith("_s")}
            for row in records.read_rows(Path(path))
        ]
        for path in records.run_folders(folder)
    }


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "local"])
def test_a_sweep_through_a_launcher_equals_the_plain_one(launcher: str, tmp_path: Path) -> None:
    words = [word for word in jobs.TINY_NB201 if not word.startswith("out=")]
    plain = jobs.nasx(tmp_path, *words, "--multirun", "seed=0,1,2", "out=plain")
    assert plain.code == 0, plain
    done = jobs.nasx(tmp_path, *words, "--multirun", "seed=0,1,2", "out=there", f"launch={launcher}")
    assert done.code == 0, done
    assert "sweep: 3 of 3 jobs finished" in done.err
    assert runs(tmp_path / "there") == runs(tmp_path / "plain")
    assert len(runs(tmp_path / "plain")) == 3


@pytest.mark.slow
def test_a_warned_job_is_queued_again_and_resumes(tmp_path: Path) -> None:
    words = [word for word in jobs.TINY_NB201 if not word.startswith(("out=", "search.updates"))]
    words += ["search.updates_per_epoch=150", "search.evaluate_every=0", "--multirun", "seed=0"]
    job = jobs.Job(tmp_path, *words, "out=there", "launch=local", "checkpoint_s=1")
    job.until(lambda: bool(list((tmp_path / "there").glob("*/checkpoints/*.ckpt"))))
    [folder] = [Path(path) for path in records.run_folders(tmp_path / "there")]
    os.kill(int((folder / "lock").read_text().split()[1]), signal.SIGUSR2)
    done = job.wait()
    assert done.code == 0, done
    assert "resuming at update" in (folder / "log.txt").read_text()
    assert jobs.nasx(tmp_path, *words, "out=plain").code == 0
    assert runs(tmp_path / "there") == runs(tmp_path / "plain")
