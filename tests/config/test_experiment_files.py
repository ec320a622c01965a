"""Files of experiments: how the block `meta` is read, that no configuration contains it, and the names of 0.1.0."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiment_runs import HEADS, record
from hydra.types import RunMode

from nasx.cli import arguments, listing, preflight
from nasx.config import experiments
from nasx.errors import UserError
from nasx.results import published
from nasx.results.aggregate import summary
from nasx.results.collect import collect

OLD = {name.removeprefix("baselines/").replace("/", "_"): name for name in HEADS if "/" in name}
"""Name in 0.1.0 -> current name, of the experiments in folders."""


@pytest.mark.parametrize("text", ["seed: 1\n", "", "- 1\n", "a: [\n", "meta:\n", "defaults: 1\n"])
def test_a_file_without_description_has_an_empty_one(text: str) -> None:
    head = experiments.read(text)
    assert head == experiments.Experiment()
    assert experiments.command("mine", head) == "nasx search experiment=mine"


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ("3", "meta"),
        ("{about: What.}", "meta.about"),
        ("{commands: nasx}", "meta.commands"),
        ("{published: [{row: a}]}", "meta.published.0.numbers"),
    ],
)
def test_a_description_of_another_form_is_refused_with_its_file(tmp_path: Path, meta: str, fault: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(f"# @package _global_\nmeta: {meta}\n")
    with pytest.raises(UserError, match=rf"own\.yaml, {fault}: .*; correct the file"):
        listing.main({"what": "experiments"}, [str(tmp_path)])


def test_the_description_enters_no_configuration(tmp_path: Path) -> None:
    """Only that of an experiment: a component of the user may have a setting of this name."""
    texts = {"experiment": "# @package _global_\nmeta: {cost: little}\nseed: 3\n", "method": "meta: {x: 1}\n"}
    for group, text in texts.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "own.yaml").write_text(text)
    loader = preflight.make_loader(str(tmp_path))
    cfg, _ = preflight.resolved(loader.load_configuration("search", ["experiment=own", "method=own"], RunMode.RUN))
    assert "meta" not in cfg
    assert (cfg["seed"], cfg["method"]) == (3, {"meta": {"x": 1}})
    assert experiments.find("own", tmp_path) == experiments.Experiment(cost="little")


def test_the_command_of_a_row() -> None:
    text = """# @package _global_
meta:
  commands:
    - nasx run --multirun experiment=e space=s1,s2
      space.keep=RUN seed=0,1
  summary: What.
  published:
    - row: 'A, B, c: d'
      numbers: {d: {X: 1.20, Y: 2}}
      spread: over 3 z
      overrides: [method.K=2, seed=1]
    - row: A, B, e
      numbers: {d: {X: 1}, f: {X: as a range}}
      overrides: [from=RUN, dataset=x]
  cost: little.
defaults:
  - override /space: s1
"""
    head = experiments.read(text)
    assert [(printed.row, printed.text) for printed in head.published] == [
        ("A, B, c: d", "d 1.20 on X, 2 on Y (over 3 z)"),
        ("A, B, e", "d 1 on X, f as a range on X"),
    ]
    assert head.published[0].datasets == {"X", "Y"}
    assert experiments.command("e", head) == "nasx run experiment=e space.keep=RUN"
    assert [experiments.command("e", head, printed) for printed in head.published] == [
        "nasx run experiment=e space.keep=RUN method.K=2 seed=1",
        "nasx retrain experiment=e from=RUN dataset=x",
    ]
    assert (head.summary, head.cost, head.choices) == ("What.", "little.", {"space": "s1"})


# ---------------------------------------------------------------------------------------------- names of 0.1.0
def test_an_old_name_is_answered_by_the_current_one() -> None:
    assert len(OLD) == len([name for name in HEADS if "/" in name]) > 80, "no two have the same old name"
    for old, name in OLD.items():
        fault = preflight.unknown_choice(f"experiment={old}", "experiment", old, [*HEADS])
        assert f"did you mean {name}?" in str(fault)
    with pytest.raises(UserError, match=r"unknown experiment 'gdas_nb201'.* did you mean baselines/gdas_nb201\?"):
        preflight.check_line("search", arguments.split_options(["experiment=gdas_nb201"]))


def test_a_run_that_recorded_an_old_name_stands_beside_its_row_with_one_that_recorded_the_current(
    tmp_path: Path,
) -> None:
    found = {"benchmark": "nb201", "source": "x", "params": 1, "cifar10": {"valid": 90.0, "test": 90.0}}
    choices = {**HEADS["lambda/nb201"].choices, "search": "nb201_v1", "benchmark": "nb201"}
    for seed, name in enumerate(("lambda_nb201", "lambda/nb201")):
        own = {**choices, "experiment": name}
        words = [f"experiment={name}"]
        record(tmp_path / f"s{seed}", 0, own, {}, seed=seed, family="f", lookup=found, overrides=words)
    runs = collect(tmp_path)
    assert set(runs["experiment"]) == {"lambda/nb201"}
    assert set(runs["overrides"]) == {("experiment=lambda/nb201",)}
    _, numbers = published.compare(summary(runs, reference=False), "lambda")
    mine = numbers[numbers["source"] == "nasx"]
    assert set(zip(mine["row"], mine["n"])) == {("Lambda-DARTS, Table 1, Lambda-DARTS Λ", 2)}
