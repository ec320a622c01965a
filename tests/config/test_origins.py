"""Provenance of values: the default in help and errors is the value that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra.types import RunMode
from omegaconf import OmegaConf

from nasx.cli import arguments, preflight
from nasx.cli import help as help_
from nasx.config import paths, provenance
from nasx.errors import UserError


def shown(command: str, *words: str) -> dict[str, str]:
    """Key -> what help says of it."""
    lines = [line.split(maxsplit=1) for line in help_.command(command, arguments.split_options(words)).splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is wrapped."""
    monkeypatch.setenv("COLUMNS", "400")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("search", ["method=pc_darts", "space=darts"]),
        ("search", ["method=gdas", "space=nb201"]),
        ("search", ["method=darts", "space=s1"]),
        ("search", ["method=lambda_sdarts", "space=s2"]),
        ("search", ["experiment=quickstart", "method=idarts"]),
        ("run", ["experiment=baselines/p_darts_c10"]),
        ("retrain", ["experiment=baselines/pc_darts_c10"]),
        ("study", ["study=tse", "method=tse", "stages=tse_pdarts"]),
        ("search", ["space=darts_rnn", "method=amended"]),
        ("search", ["method=gdas", "~pair"]),
    ],
)
@pytest.mark.sample(4)
def test_the_last_line_is_the_value_that_runs(command: str, words: list[str]) -> None:
    cfg = preflight.make_loader().load_configuration(command, words, RunMode.RUN)
    found = provenance.trace(command, [*words, "search.lr=77"])
    assert len(found.lines) > 50
    for key, lines in found.lines.items():
        if key != "pair" and "${" not in lines[-1].value:
            value = OmegaConf.create(f"x: {lines[-1].value}")["x"]  # as Hydra reads YAML: 3e-4 is a number
            assert OmegaConf.select(cfg, key) == value, key
    chosen = {k: str(v) for k, v in cfg.hydra.runtime.choices.items() if not k.startswith("hydra/") and v is not None}
    assert found.chosen | {"pair": chosen.get("pair")} == chosen | {"pair": chosen.get("pair")}


@pytest.mark.slow
def test_help_shows_what_runs_and_why() -> None:
    found = shown("search", "method=pc_darts", "space=darts")
    assert found["search.batch"] == "256  (method=pc_darts: section 4.2; search=darts: 64)"
    assert found["search.momentum"] == "0.9  (DARTS section 3.1)"
    found = shown("search", "experiment=quickstart", "seed=3", "search.epochs=5", "name=7")
    assert found["name"].startswith("7  (given on this line; name of this run's folder")
    assert found["search.epochs"].startswith("5  (given on this line; experiment=quickstart: 12; search=nb201_v1: 50)")
    assert found["seed"].startswith("3  (given on this line; seed of the weights")
    assert found["threads"].startswith("1  (CPU threads; ")
    assert "experiment=quickstart: nasx: a net so small" in found["threads"]
    assert "digits*" in found["dataset"]
    assert shown("search", "method=gdas")["search.epochs"].startswith("250  (pair=nb201_gdas: AutoDL")


def test_help_marks_what_is_chosen() -> None:
    text = help_.command("search", arguments.split_options(["method=pc_darts,darts", "space=darts", "--multirun"]))
    assert "* marks the selected one" in text
    assert "pc_darts*" in text
    assert " darts*, darts_no_none" in text
    assert "nb201*" not in text


def test_help_for_a_line_with_a_fault_shows_it() -> None:
    text = help_.command("search", arguments.split_options(["method=idart", "search.epoch=3"]))
    assert "did you mean idarts?" in text
    assert "did you mean epochs?" in text
    assert "search.epochs" in text


@pytest.mark.slow
def test_an_error_names_the_default_of_these_choices(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the default is search\.epochs=250"):
        preflight.check_line("search", arguments.split_options(["method=gdas", "dataset=digits", "search.epochs=-1"]))
    with pytest.raises(UserError, match="the default is threads=1"):
        preflight.check_line("search", arguments.split_options(["experiment=quickstart", "threads=-1"]))
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        (paths.conf_dir() / "method" / "darts.yaml").read_text().replace("radius: 0.01", "radius: 0.07")
    )
    words = [f"--config-dir={tmp_path}", "method=mine", "dataset=digits", "method.radius=x"]
    with pytest.raises(UserError, match=r"the default is method.radius=0\.07"):
        preflight.check_line("search", arguments.split_options(words))


def test_values_are_read_with_their_comments() -> None:
    text = (
        "# head\ndefaults: [a]\na: 1 # one\nb:\n  _target_: x\n  c: [1,\n    2] # two\n  d: 'a # b'\n"
        "e:\nf:\n- [x]\n- y # of y\n"
    )
    assert list(provenance.values(text)) == [
        ("a", "1", "one"),
        ("b.c", "[1, 2]", "two"),
        ("b.d", "'a # b'", ""),
        ("e", "null", ""),
        ("f", "[[x], y]", ""),
    ]
    assert yaml.safe_load(text)["e"] is None
