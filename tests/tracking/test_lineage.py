"""Lineage of runs: settings that a retraining inherits, and printed commands that work."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nasx.cli import arguments, evaluate, info, preflight
from nasx.cli import arguments as cli_arguments
from nasx.config import identity, instantiate
from nasx.config.job_info import JobInfo
from nasx.errors import UserError
from nasx.jobs import run
from nasx.jobs import search as jobs_search
from nasx.tracking import lineage

CELL = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|"
EDGES = [pair for i in range(4) for pair in (("skip_connect", 0), ("sep_conv_3x3", i + 1))]
UNTIED = f"Genotype(cells={[EDGES] * 3}, concat=range(2, 6))"
FOLDER = {
    "_target_": "nasx.data.images.Folder",
    "path": "my phötos, all",
    "pad": 4,
    "flip": False,
    "mean": [0.5, 0.4, 0.25],
    "std": [0.2, 1e-05, 0.3],
    "split": "seeded",
    "fraction": 0.5,
    "fraction_a": None,
    "split_file": None,
    "size": 24,
    "test_fraction": 0.2,
}
"""The dataset block of a search on own images, as config.yaml holds it."""
Make = Callable[..., Path]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write the folder of a finished search on own images; keywords change its configuration."""
    monkeypatch.chdir(tmp_path)

    def write(name: str = "found", genotype: str = CELL, choice: str = "nb201", **changes: Any) -> Path:
        cfg = composed("search", f"space={choice}", "dataset=folder", "dataset.path=x")
        held: dict[str, Any] = {**cfg, "dataset": FOLDER} | changes
        choices = {"space": choice, "dataset": "folder", "method": "darts"}
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump({**held, "choices": choices, "kind": "search"}))
        (folder / "result.json").write_text(
            json.dumps(
                {
                    "kind": "search",
                    "status": "finished",
                    "name": name,
                    "genotype": genotype,
                    "choices": choices,
                    "command": "nasx search",
                    "images": {"classes": ["a", "b", "c"], "shape": [3, 24, 24]},
                }
            )
        )
        return folder

    return write


def composed(command: str, *words: str) -> dict[str, Any]:
    """The configuration that a line gives, from= taken into account as the command does."""
    line = preflight.normalize(command, cli_arguments.split_options(list(words)))
    loader = preflight.make_loader()
    return preflight.resolved(loader.load_configuration(command, list(line.overrides), RunMode.RUN))[0]


# ------------------------------------------------------------------------------------------------- inheriting
@pytest.mark.slow
def test_a_retraining_inherits_the_whole_data_set_and_space(search: Make) -> None:
    space = {**composed("search", "space=nb201")["space"], "operations": ["none", "nor_conv_3x3"], "layers": 2}
    search(space=space)
    cfg = composed("retrain", "from=found")
    assert (cfg["dataset"], cfg["space"]) == (FOLDER, space)
    assert cfg["retrain"] == composed("retrain", "space=nb201", "genotype=all_skip")["retrain"], "the space's recipe"
    study = composed("study", "study=transfer", "from=found")
    assert (study["dataset"], study["space"]) == (FOLDER, space)


@pytest.mark.slow
def test_the_command_line_goes_before_what_is_inherited(search: Make) -> None:
    search()
    cfg = composed("retrain", "from=found", "dataset.path=elsewhere", "dataset.mean=null", "dataset.std=null")
    assert cfg["dataset"] == {**FOLDER, "path": "elsewhere", "mean": None, "std": None}
    same = composed("retrain", "from=found", "dataset=folder", "dataset.path=elsewhere")
    assert same["dataset"] == {**FOLDER, "path": "elsewhere"}
    other = composed("retrain", "from=found", "dataset=digits")["dataset"]
    assert other == composed("search", "dataset=digits")["dataset"]
    assert composed("retrain", "genotype=all_skip", "space=nb201")["dataset"]["_target_"].endswith("Cifar10")


@pytest.mark.slow
def test_what_a_parent_does_not_know_stays_as_the_files_have_it(search: Make) -> None:
    search(dataset={"_target_": FOLDER["_target_"], "size": 40, "path": "x", "of_another_version": 1})
    cfg = composed("retrain", "from=found")
    assert cfg["dataset"] == {**composed("search", "dataset=folder")["dataset"], "size": 40, "path": "x"}
    search("renamed", dataset={"_target_": "nasx.data.images.Other", "size": 40})
    assert composed("retrain", "from=renamed")["dataset"] == composed("search", "dataset=folder")["dataset"]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_text("dataset: ["), "is damaged or cannot be read"),
        (lambda path: path.write_text(path.read_text().partition("space:")[0]), "is damaged or cannot be read"),
        (lambda path: path.write_text("seed: 0"), "is damaged or cannot be read"),
    ],
    ids=["missing", "torn", "cut", "other"],
)
def test_defaults_never_stand_in_for_a_parents_settings(
    damage: Callable[[Path], object], fault: str, search: Make
) -> None:
    path = search() / "config.yaml"
    held = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({"kind": held.pop("kind"), "choices": held.pop("choices")}) + yaml.safe_dump(held))
    told = rf"^outputs/found/config\.yaml: {fault}; .*copy it again .* or replace from= with genotype="
    damage(path)
    for command in ("retrain", "study"):
        with pytest.raises(UserError, match=told):
            preflight.normalize(command, cli_arguments.split_options(["from=found"]))
    for reader, line in ((info.main, ["from=found"]), (evaluate.main, ["found", "device=cpu"])):
        with pytest.raises(UserError, match=told):
            reader(line)


def test_a_folder_of_something_else_is_not_a_parent(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"from={tmp_path}: .* is not a run folder; name a folder created by nasx"):
        lineage.parent(str(tmp_path), "outputs")


@pytest.mark.parametrize(
    ("given", "target", "remedy"),
    [
        (
            "nasx search --config-dir mine/conf allow=[mine] space=own",
            "mine.Own",
            "--config-dir mine/conf 'allow=[mine]'",
        ),
        ("nasx search space=own", "mine.Own", "--config-dir FOLDER 'allow=[mine]'"),
        ("nasx search space=own", "nasx.spaces.nb201.space.Nb201", "--config-dir FOLDER"),
    ],
)
@pytest.mark.parametrize("command", ["retrain", "study"])
def test_a_file_in_a_folder_of_the_user_is_asked_for(
    command: str, given: str, target: str, remedy: str, search: Make
) -> None:
    folder = search(space={"_target_": target})
    for file, old, new in (
        ("config.yaml", "space: nb201", "space: own"),
        ("result.json", '"nasx search"', json.dumps(given)),
    ):
        (folder / file).write_text((folder / file).read_text().replace(old, new))
    with pytest.raises(UserError) as error:
        preflight.normalize(command, cli_arguments.split_options(["from=found"]))
    assert str(error.value) == (
        "from=outputs/found: was run with space=own, whose file is in one of your own folders; give that folder as the "
        f"original command did: add {remedy}"
    )


def test_text_of_a_parent_is_never_looked_up(search: Make) -> None:
    search(dataset={**FOLDER, "path": "a ${oc.env:HOME} \\${seed} $(true) 'q\" \\"})
    assert composed("retrain", "from=found")["dataset"]["path"] == "a ${oc.env:HOME} \\${seed} $(true) 'q\" \\"


def test_a_genotype_of_one_cell_for_each_layer_fixes_the_layers(search: Make) -> None:
    space = {**composed("search", "space=amended_s2")["space"], "layers": 3}
    search(genotype=UNTIED, choice="amended_s2", space=space)
    cfg = composed("retrain", "from=found")
    assert (cfg["space"]["layers"], cfg["retrain"]["layers"]) == (3, 3)
    assert composed("retrain", "from=found", "retrain.layers=5")["retrain"]["layers"] == 5
    assert len(instantiate.build(cfg["space"]).parse(UNTIED).layers(cfg["retrain"]["layers"])) == 3


def test_runs_of_different_settings_are_not_retrained_in_one_sweep(search: Make) -> None:
    for name, size in (("a", 24), ("b", 24), ("c", 32)):
        search(name, dataset={**FOLDER, "size": size})
    line = ["from=a,b", "--multirun"]
    assert "dataset.size=24" in preflight.normalize("retrain", cli_arguments.split_options(line)).overrides
    with pytest.raises(
        UserError, match=r"different values of dataset\.size: 24, 32; retrain the runs with one value of dataset\."
    ):
        preflight.normalize("retrain", cli_arguments.split_options(["from=a,b,c", "--multirun"]))
    search("d", dataset={**FOLDER, "size": None})
    with pytest.raises(UserError, match=r"dataset\.size: \(default\), 24"):
        preflight.normalize("retrain", cli_arguments.split_options(["from=a,d", "--multirun"]))
    assert composed("retrain", "from=d", "dataset.size=8")["dataset"]["size"] == 8


# ---------------------------------------------------------------------------------------------------- writing
@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**6), 10**6)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    )
)
@example("a,b")
@example("-1e5")
@example("on")
@example("x\\")
@example('\\"${a}\\\\${b}')
@example("null")
def test_what_is_written_is_read_back(value: Any) -> None:
    read = OverridesParser.create().parse_override(lineage.override("key", value)).value()
    assert OmegaConf.to_container(OmegaConf.create({"key": read}), resolve=True) == {"key": value}


@pytest.mark.parametrize(
    ("out", "name"), [("outputs", "x"), ("runs", "x"), ("my runs", "a, b"), ("7", "null"), ("ö", "it's"), ("a=b", 'q"')]
)
def test_printed_commands_name_the_run_whatever_it_is_called(out: str, name: str) -> None:
    folder = Path(out) / name
    table, retrain = lineage.next_commands({"kind": "search", "command": "nasx search seed=1"}, folder)
    line = shlex.split(retrain)
    assert line[:2] == ["nasx", "retrain"]
    parsed = {
        o.key_or_group: o.value()
        for o in OverridesParser.create().parse_overrides(list(cli_arguments.split_options(line[2:]).overrides))
    }
    assert parsed == {"from": f"{out}/{name}"} | ({"out": out} if out != "outputs" else {})
    assert shlex.split(table)[:3] == ["next:", "nasx", "table"]
    done = {"kind": "retrain", "command": "nasx retrain", "test_accuracy": 0.5}
    _, evaluate, export = map(shlex.split, lineage.next_commands(done, folder))
    read = arguments.parse("evaluate", evaluate[2:], {}, positional="MODEL")
    assert (evaluate[:2], [Path(word) for word in read.positional]) == (["nasx", "evaluate"], [folder])
    assert arguments.parse("export", export[2:], {"from": None}).options == {"from": f"{out}/{name}"}


def test_the_next_command_names_the_users_own_files() -> None:
    command = "nasx search --config-dir 'my conf' 'allow=[mine]' method=signed out=runs"
    assert lineage.next_commands({"kind": "search", "command": command}, Path("runs/x")) == [
        "next: nasx table out=runs",
        "      nasx retrain from=runs/x out=runs --config-dir 'my conf' 'allow=[mine]'",
    ]
    assert lineage.next_commands({"kind": "search", "command": "a 'b"}, Path("outputs/x"))[1:] == [
        "      nasx retrain from=outputs/x"
    ]
    done = {"kind": "retrain", "command": command, "test_accuracy": 0.5}
    assert lineage.next_commands(done, Path("outputs/x"))[1:] == [
        "      nasx evaluate outputs/x 'allow=[mine]'",
        "      nasx export from=outputs/x 'allow=[mine]'",
    ]
    assert len(lineage.next_commands({**done, "test_accuracy": None, "valid_accuracy": 0.5}, Path("outputs/x"))) == 1
    assert len(lineage.next_commands({**done, "kind": "study"}, Path("outputs/x"))) == 1
    info = JobInfo(choices={}, overrides=["seed=3", "device=cpu"], options=["--config-dir", "mine"])
    assert jobs_search.info_of_seed(info, 4).command == "nasx search --config-dir mine device=cpu seed=4"


def test_settings_of_a_line_are_checked_by_name_and_type() -> None:
    ours, rest = lineage.split_dataset_overrides(["path=my photos, all", "--dataset.size=16", "x", "dataset=folder"])
    assert rest == ["x", "dataset=folder"]
    assert lineage.with_settings(FOLDER, ours) == {**FOLDER, "path": "my photos, all", "size": 16}
    with pytest.raises(UserError, match=r"dataset\.sise=3: Folder has no such setting.*did you mean size"):
        lineage.with_settings(FOLDER, ["dataset.sise=3"])
    with pytest.raises(UserError, match=r"dataset\.size=big: must be"):
        lineage.with_settings(FOLDER, ["dataset.size=big"])
    with pytest.raises(UserError, match="cannot be read"):
        lineage.with_settings(FOLDER, ["dataset.size=["])
    with pytest.raises(UserError, match="no such setting"):
        lineage.with_settings(FOLDER, ["dataset._target_=os.system"])


# ------------------------------------------------------------------------------------------------- nasx run
def test_what_nasx_run_retrains_is_what_a_retraining_of_its_search_would_be(search: Make) -> None:
    both = composed(
        "run",
        "space=nb201",
        "space.layers=2",
        "space.channels=4",
        "dataset=folder",
        "dataset.path=my photos",
        "dataset.size=16",
    )
    search(space=both["space"], dataset=both["dataset"])
    again = {**both, "from": "outputs/found", "genotype": None, "name": None}
    assert identity.identity(again, "retrain") == identity.identity(composed("retrain", "from=found"), "retrain")


@pytest.mark.parametrize(
    ("then", "dataset", "lookup", "trained"),
    [
        ("auto", "cifar10", {"cifar10": {}}, False),
        ("auto", "cifar100", {"cifar10": {}}, False),
        ("auto", "folder", {"cifar10": {}}, True),
        ("auto", "digits", {"cifar10": {}}, True),
        ("auto", "svhn", {"cifar10": {}}, True),
        ("auto", "cifar10", None, True),
        ("lookup", "folder", {}, False),
        ("retrain", "cifar10", {"cifar10": {}}, True),
    ],
)
def test_run_retrains_unless_the_benchmark_knows_the_cell_on_these_images(
    then: str, dataset: str, lookup: Any, trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(
        run, "search_in_process", lambda cfg, info: steps.append("search") or {"lookup": lookup, "name": "x"}
    )
    monkeypatch.setattr(run, "retrain", lambda cfg, info: steps.append("retrain") or {"from": cfg["from"]})
    cfg = composed("run", "space=nb201", f"dataset={dataset}", f"then={then}")
    assert run.run(cfg, {}) == ({"from": "outputs/x"} if trained else {"lookup": lookup, "name": "x"})
    assert steps == ["search", *["retrain"] * trained]
