"""The command line in subprocesses, in an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import DARTS, FAKE, call, created, ran

from nasx.cli import arguments, listing, main
from nasx.cli.commands import COMMANDS
from nasx.config import paths
from nasx.errors import UserError
from nasx.tracking import lineage


# ------------------------------------------------------------------------------------------- help and such
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["-h"],
        ["help"],
        ["--version"],
        ["search", "--help"],
        ["run", "-h"],
        ["retrain", "--help"],
        ["table", "--help"],
        ["list", "--help"],
        ["bench", "--help"],
        ["completion", "--help"],
        ["completion", "bash"],
        ["list"],
        ["list", "methods"],
        ["search", "--cfg", "job"],
        ["search", "seed=3", "--info", "defaults"],
        ["search", "--hydra-help"],
        ["info", "--help"],
        ["export", "--help"],
        ["evaluate", "--help"],
        ["status", "--help"],
        ["status"],
        ["doctor", "--help"],
    ],
)
@pytest.mark.sample(12)
def test_answers_without_torch_and_creates_nothing(words: list[str], tmp_path: Path) -> None:
    done = call(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "HEAVY []"
    assert done.stdout.strip()
    assert created(tmp_path) == []


def test_help_shows_every_command_and_its_settings_with_defaults(tmp_path: Path) -> None:
    overview = call(tmp_path, "--help").stdout
    assert all(f"  {command} " in overview for command in COMMANDS)
    text = call(tmp_path, "search", "--help").stdout
    for part in ("space ", "nb201*", "darts", "seed ", "search.epochs", "50", "method.order", "experiment=quickstart"):
        assert part in text
    assert "retrain.epochs" not in text
    other = call(tmp_path, "search", "space=darts", "method=random", "--help").stdout
    assert "settings of space=darts" in other
    assert "settings of search=darts" in other
    assert "settings of method=random" in other
    assert "method.radius" not in other
    assert "retrain.epochs" in call(tmp_path, "retrain", "--help").stdout


def test_cfg_shows_what_a_job_would_get(tmp_path: Path) -> None:
    done = call(tmp_path, "search", "seed=3", "--cfg", "job", "search.lr=0.5", "-p", "search")
    assert "lr: 0.5" in done.stdout
    assert "seed: 3" in call(tmp_path, "search", "--cfg=job", "seed=3").stdout


def test_the_module_runs_too(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "nasx", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("nasx ")


# -------------------------------------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    ("words", "place", "remedy"),
    [
        (["search", "method=idart"], "method=idart: unknown method 'idart'", "did you mean idarts?"),
        (["search", "methd.lr=3"], "methd.lr: nasx search has no such setting", "did you mean method?"),
        (["search", "search.epochs=0"], "search.epochs=0: must be above 0", "the default is search.epochs=50"),
        (["search", "dataset=cifar10", "dataset.download=false"], "dataset=cifar10", "dataset=digits"),
        (["serach"], "nasx serach: unknown command", "did you mean search?"),
        (["search", "--multrun"], "--multrun: unknown option", "did you mean --multirun?"),
        (["search", "--cfg"], "--cfg: needs a value", "--cfg job"),
        (["search", "--multirun", "seed=0,1,x"], "seed=x: must be a whole number", "the default is seed=0"),
        (["search", "--config-dir", "nowhere"], "--config-dir nowhere: does not exist", "name a folder"),
        (["search", "--config-name", "x"], "--config-name: unknown option", "did you mean --config-dir?"),
        (["search", "--method=darts"], "--method=darts: unknown option", "; use method=darts\n"),
        (["search", "--space", "nb201", "seed=1"], "--space: unknown option", "; use space=nb201\n"),
        (["search", "--methd=darts", "seed=1"], "--methd=darts: unknown option", "; use method=darts\n"),
        (["search", "--search.lr=0.1"], "--search.lr=0.1: unknown option", "; use search.lr=0.1\n"),
        (["search", "--dataset"], "--dataset: unknown option", "; use dataset=NAME\n"),
        (["search", "--experimental-rerun", "x"], "--experimental-rerun: unknown option", "options are"),
        (["retrain", "from=nowhere"], "from=nowhere: run not found", "outputs/"),
        (["list", "zzzz"], "nasx list zzzz: no entry matches this word", "choose from methods, spaces, datasets"),
        (["list", "loggers", "zzzz"], "nasx list loggers zzzz: no entry matches this word", "choose from mlflow, none"),
        (["list", "darts", "dartz"], "no entry matches all of these words", "did you mean darts?"),
        (["list", "darts", "wandb"], "no entry matches all of these words", "use fewer words: nasx list darts"),
        (["list", "metods"], "nasx list metods: no entry matches this word", "did you mean methods?"),
        (
            ["status", "out=/x"],
            "has no option out; write FOLDER without out=: nasx status /x",
            "nasx status --help",
        ),
        (["table", "fromat=csv"], "fromat: nasx table has no such setting", "did you mean format?"),
        (["table", "name=x"], "name: nasx table has no such setting", "filter=name=... chooses the rows; it has runs"),
        (["info", "genotype=DARTS_V3"], "no published cell has that name", "did you mean DARTS_V"),
        (["info", "genotype=DARTS_V2", "retrain=darts"], "unknown retrain 'darts'", "did you mean darts_cifar?"),
        (["export", "from=nowhere"], "from=nowhere: run not found", "outputs/"),
        (["evaluate"], "nasx evaluate: needs one model", "nasx evaluate outputs/RUN/export"),
        (["evaluate", "x"], "x: is neither an export nor a finished run of nasx retrain", "outputs/ (it has none yet)"),
        (["completion", "tcsh"], "nasx completion tcsh: is not a supported shell", "bash"),
    ],
)
@pytest.mark.sample(11)
def test_a_fault_names_place_and_remedy_and_leaves_nothing(
    words: list[str], place: str, remedy: str, tmp_path: Path
) -> None:
    done = call(tmp_path, *words)
    assert done.returncode == 2
    assert place in done.stderr
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr
    assert "HEAVY []" in done.stderr
    assert created(tmp_path) == []


def test_debug_shows_the_trace(tmp_path: Path) -> None:
    done = call(tmp_path, "search", "method=idart", NASX_DEBUG="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


# -------------------------------------------------------------------------------------------------- jobs
def test_a_job_gets_plain_values_and_what_was_asked(tmp_path: Path) -> None:
    done = call(tmp_path, "search", "dataset=digits", "--run", "search.epochs=2", "seed=5", code=FAKE)
    assert done.returncode == 0, done.stderr
    [job] = ran(done)
    assert job["cfg"]["search"]["epochs"] == 2
    assert "hydra" not in job["cfg"]
    assert job["info"]["choices"]["dataset"] == "digits"
    assert job["info"]["overrides"] == ["dataset=digits", "search.epochs=2", "seed=5"]
    assert job["info"]["command"] == "nasx search dataset=digits search.epochs=2 seed=5"
    assert job["info"]["published"]["search"]["epochs"] == 50
    assert created(tmp_path) == []


def test_a_users_fault_in_a_job_is_one_message(tmp_path: Path) -> None:
    done = call(tmp_path, "search", "dataset=digits", "seed=13", code=FAKE)
    assert (done.returncode, done.stderr) == (2, "nasx: seed=13: brings bad luck; take another\n")


def test_a_bug_in_a_job_is_a_traceback(tmp_path: Path) -> None:
    done = call(tmp_path, "search", "dataset=digits", "seed=14", code=FAKE)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: a bug" in done.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    done = call(tmp_path, "search", "dataset=digits", "seed=15", code=FAKE)
    assert done.returncode == 130
    assert "the same command resumes it:\n  nasx search dataset=digits seed=15" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_runs_all_jobs(tmp_path: Path) -> None:
    done = call(tmp_path, "search", "dataset=digits", "--multirun", "seed=0,1,2,3", code=FAKE)
    assert done.returncode == 0, done.stderr
    assert [job["seed"] for job in ran(done)] == [0, 1, 2, 3]
    assert ran(done)[2]["info"]["command"] == "nasx search dataset=digits seed=2"
    assert "sweep: 4 of 4 jobs finished" in done.stderr
    assert {path.split("/")[0] for path in created(tmp_path)} == {"outputs"}
    assert {path.split("/")[1] for path in created(tmp_path)[1:]} == {".sweeps"}


def test_a_failed_job_lets_the_others_finish_and_is_listed(tmp_path: Path) -> None:
    done = call(tmp_path, "search", "out=here", "seed=0,13,14,3", "-m", "dataset=digits", code=FAKE)
    assert done.returncode == 1
    assert [job["seed"] for job in ran(done)] == [0, 13, 14, 3]
    summary = done.stderr[done.stderr.index("sweep:") :]
    assert "sweep: 2 of 4 jobs finished" in summary
    assert "failed: out=here seed=13 dataset=digits\n    seed=13: brings bad luck; take another" in summary
    early = done.stderr.partition("sweep:")[0]
    assert "nasx: job 1 failed: seed=13: brings bad luck" in early, "it is told when it happens"
    assert "failed: out=here seed=14 dataset=digits\n    ValueError: a bug" in summary
    assert "Traceback" not in summary


@pytest.mark.slow
def test_a_users_own_folder(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(
        "# @package _global_\n# nasx search experiment=own\n# My own.\n"
        "defaults:\n  - override /dataset: digits\nseed: 9\n"
    )
    done = call(tmp_path, "search", "experiment=own", "--config-dir", "mine", code=FAKE)
    assert [job["seed"] for job in ran(done)] == [9], done.stderr
    assert ran(done)[0]["info"]["command"] == "nasx search --config-dir mine experiment=own"
    words = ("-m", "seed=1", "experiment=own", f"--config-dir={tmp_path}/mine")
    other = call(tmp_path / "mine", "search", *words, code=FAKE)
    assert ran(other)[0]["info"]["command"] == "nasx search --config-dir . seed=1 experiment=own"
    assert "\nown " in call(tmp_path, "list", "experiments", "--config-dir", "mine").stdout
    assert "My own." in call(tmp_path, "list", "experiments", "own", "--config-dir", "mine").stdout


# ------------------------------------------------------------------------------------------------- retrain
@pytest.mark.slow
def test_retrain_takes_space_and_data_set_from_the_run(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "found"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(
        json.dumps({"choices": {"space": "darts", "dataset": "digits", "method": "x"}, "space": {}, "dataset": {}})
    )
    (run / "result.json").write_text(json.dumps({"kind": "search", "status": "finished", "genotype": DARTS}))
    for name in ("found", "outputs/found", str(run)):
        [job] = ran(call(tmp_path, "retrain", f"from={name}", code=FAKE))
        choices = job["info"]["choices"]
        assert (choices["space"], choices["dataset"], choices["retrain"]) == ("darts", "digits", "darts_cifar")
        assert job["cfg"]["from"] == name
    [job] = ran(call(tmp_path, "retrain", "from=found", "space=nb201", code=FAKE))
    assert job["info"]["choices"]["retrain"] == "nb201"
    near = call(tmp_path, "retrain", "from=fuond")
    assert near.returncode == 2
    assert "from=fuond: run not found; did you mean from=found?" in near.stderr


# ---------------------------------------------------------------------------------------------- completion
# ---------------------------------------------------------------------------------------------- the parser
@pytest.mark.parametrize(
    ("words", "options", "overrides"),
    [
        (["a=1", "--multirun", "b=2"], ["--multirun"], ["a=1", "b=2"]),
        (["a=1", "-m", "b=2"], ["--multirun"], ["a=1", "b=2"]),
        (["a=1", "--cfg", "job", "b=2"], ["--cfg=job"], ["a=1", "b=2"]),
        (["-c", "job", "a=1", "-p", "search"], ["--cfg=job", "--package=search"], ["a=1"]),
        (["--info", "a=1"], ["--info=all"], ["a=1"]),
        (["a=1", "--info", "searchpath"], ["--info=searchpath"], ["a=1"]),
        (["-cd", "x", "a=1"], ["--config-dir=x"], ["a=1"]),
        (["~a", "+b=1", "c=-1"], [], ["~a", "+b=1", "c=-1"]),
    ],
)
def test_options_come_before_overrides(words: list[str], options: list[str], overrides: list[str]) -> None:
    line = arguments.split_options(words)
    assert (list(line.options), list(line.overrides)) == (options, overrides)


@pytest.mark.parametrize("words", [["--cfg", "job", "--info"], ["-m", "--cfg=job"], ["--resolve"]])
def test_options_that_do_not_go_together(words: list[str]) -> None:
    with pytest.raises(UserError):
        arguments.split_options(words)


def test_bench_gets_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import nasx.cli.bench

    said: list[list[str]] = []
    monkeypatch.setattr(nasx.cli.bench, "main", lambda words: said.append(words) or 0)
    assert main.dispatch(["bench", "query", "x"]) == 0
    assert said == [["query", "x"]]


# -------------------------------------------------------------------------------------------------- list
def test_list_shows_every_choice_with_a_line(tmp_path: Path) -> None:
    from nasx.config import paths

    for kind, group in listing.KINDS.items():
        entries = list(listing.entries(group, [paths.conf_dir()]))
        names = {file.relative_to(paths.conf_dir() / group) for file in (paths.conf_dir() / group).rglob("*.yaml")}
        assert {Path(f"{entry.name}.yaml") for entry in entries} == names
        assert all(entry.line for entry in entries), kind
    assert all(entry.source for entry in listing.entries("method", [paths.conf_dir()]))
    short, long = (call(tmp_path, "list", *words).stdout for words in ([], ["methods", "amended"]))
    assert "eta=0.1" not in short
    assert "nasx list methods amended" in short
    assert "eta=0.1" in " ".join(long.split())
    with pytest.raises(UserError, match="unknown command"):
        main.dispatch(["lst"])


# -------------------------------------------------------------------------------------------------- other places
@pytest.mark.parametrize("words", [["list"], ["table", "paper=lambda"]])
def test_a_locale_without_our_characters_is_not_an_error(words: list[str], tmp_path: Path) -> None:
    whole = call(tmp_path, *words)
    done = call(tmp_path, *words, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert [len(line) for line in done.stdout.splitlines()] == [len(line) for line in whole.stdout.splitlines()]


def test_only_runs_that_can_be_taken_are_named(tmp_path: Path) -> None:
    for i in range(10):
        for kind in ("retrain", "search"):
            (tmp_path / f"{kind}-{i}").mkdir()
            (tmp_path / f"{kind}-{i}" / "result.json").write_text(json.dumps({"kind": kind, "status": "finished"}))
    (tmp_path / "retrain-begun").mkdir()
    with pytest.raises(UserError) as told:
        lineage.run_folder("nope", str(tmp_path), "retrain")
    assert ": retrain-0, retrain-1, retrain-2, retrain-3, retrain-4, retrain-5, retrain-6, retrain-7, … and 2 more" in (
        f"{told.value}"
    )
    with pytest.raises(UserError, match=r"a finished run of nasx study in .*it has none yet"):
        lineage.run_folder("nope", str(tmp_path), "study")


def test_every_method_has_a_cost() -> None:
    assert [entry.name for entry in listing.entries("method", [paths.conf_dir()]) if not entry.cost] == []
