"""The configuration: schema read from source, all faults in one error, precedence, identity."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from composing import composed, faults

from nasx.cli import arguments, preflight
from nasx.config import commands, components, instantiate, paths, schema
from nasx.errors import UserError

ANY_CONF = sorted(p for group in commands.GROUPS for p in (paths.conf_dir() / group).glob("*.yaml"))


# -------------------------------------------------------------------------------------------------- schema
@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's package whose import would be noticed."""
    folder = tmp_path / "mine_for_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    (folder / "base.py").write_text(
        "from dataclasses import dataclass, field\nfrom typing import ClassVar\n"
        "class Root:\n    trains: bool = True\n"
        "@dataclass(frozen=True)\nclass Base(Root):\n    first: int\n    count: ClassVar[int] = 3\n"
        "    hidden: int = field(default=1, init=False)\n"
    )
    (folder / "method.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass, field\n"
        "from typing import TYPE_CHECKING, Literal\nfrom .base import Base\n"
        "if TYPE_CHECKING:\n    from nasx.core.constraints import PositiveFloat, Fraction\n"
        "Kind = Literal['a', 'b']\n"
        '@dataclass(frozen=True, kw_only=True)\nclass Mine(Base):\n    """My method.\n\n    More."""\n'
        "    order: Literal[1, 2] = 1\n    radius: PositiveFloat = 0.01\n    part: Fraction | None = None\n"
        "    kind: Kind = 'a'\n    betas: tuple[float, float] = (0.5, 0.9)\n"
        "    names: list[str] = field(default_factory=list)\n"
        "    table: dict[str, int] = field(default_factory=dict)\n    odd: 'Strange[int]' = None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "mine_for_test.method.Mine"
    for cached in (schema.tree, schema.definition, schema.component):
        cached.cache_clear()


def test_fields_come_from_source_without_import_and_include_inherited_ones(package: str) -> None:
    component = schema.component(package)
    assert component is not None
    assert list(component.fields) == ["first", "order", "radius", "part", "kind", "betas", "names", "table", "odd"]
    assert component.summary == "My method."
    assert component.fields["first"].default is None
    assert component.fields["order"].annotation == Literal[1, 2]
    assert component.fields["kind"].annotation == Literal["a", "b"]
    assert component.fields["names"].annotation == tuple[str, ...]
    assert component.fields["odd"].annotation is object
    assert "mine_for_test" not in sys.modules


@pytest.mark.parametrize(
    ("key", "value", "must"),
    [
        ("order", 3, "must be one of 1, 2"),
        ("order", "1", "must be one of 1, 2"),
        ("radius", 0, "must be above 0"),
        ("radius", -1.5, "must be above 0"),
        ("radius", "big", "must be a number above 0"),
        ("radius", float("nan"), "must be a number above 0"),
        ("radius", float("inf"), "must be a number above 0"),
        ("radius", True, "must be a number above 0"),
        ("part", 1.5, "must be at least 0 and at most 1, or null"),
        ("part", "x", "must be a number that is at least 0 and at most 1, or null"),
        ("kind", "c", "must be one of a, b"),
        ("betas", [0.5], "must be a list of 2 entries: a number; a number"),
        ("names", [1], "must be a list in which each entry is text"),
        ("table", [1], "must be a mapping"),
        ("first", 1.5, "must be a whole number"),
        ("first", True, "must be a whole number"),
        ("first", None, "must be a whole number"),
    ],
)
def test_values_that_do_not_fit(package: str, key: str, value: Any, must: str) -> None:
    component = schema.component(package)
    assert component is not None
    assert schema.faults(component.fields, {key: value}) == {key: must}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("order", 2),
        ("radius", 1),
        ("radius", 1e-9),
        ("part", None),
        ("part", 0),
        ("part", 1.0),
        ("kind", "b"),
        ("betas", [0, 1]),
        ("names", []),
        ("names", ["x"]),
        ("table", {"x": 1}),
        ("odd", object()),
        ("first", -3),
    ],
)
def test_values_that_fit(package: str, key: str, value: Any) -> None:
    component = schema.component(package)
    assert component is not None
    assert schema.faults(component.fields, {key: value}) == {}


def test_settings_that_need_a_value_are_listed_in_their_order() -> None:
    names = [f"setting{i}" for i in range(20)]
    found = components.value_faults("", {}, dict.fromkeys(names, "???"), components.no_default)
    assert [fault.where for fault in found] == names


# ---------------------------------------------------------------------------------------------- every file
@pytest.mark.parametrize("file", ANY_CONF, ids=lambda p: f"{p.parent.name}/{p.stem}")
@pytest.mark.sample(20)
def test_every_file_gives_exactly_the_fields_of_its_component(file: Path) -> None:
    cfg, _ = composed("search", f"{file.parent.name}={file.stem}")
    node = cfg[file.parent.name]
    component = schema.component(node["_target_"])
    assert component is not None
    assert list(components.component_faults(file.parent.name, node)) == []
    assert set(node) - {"_target_"} == set(component.fields), "a file lists all fields"


@pytest.mark.parametrize("file", ANY_CONF, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_value_says_where_it_comes_from(file: Path) -> None:
    above = ""
    for line in file.read_text().splitlines():
        bare = line.strip().endswith(":") or line.lstrip().startswith("-") or "_target_" in line or not line
        assert bare or "#" in line or above.lstrip().startswith("#"), line
        above = line


@pytest.mark.slow
def test_no_annotation_of_a_component_is_beyond_the_schema() -> None:
    for file in ANY_CONF:
        target = composed("search", f"{file.parent.name}={file.stem}")[0][file.parent.name]["_target_"]
        component = schema.component(target)
        assert component is not None
        assert [field.name for field in component.fields.values() if field.annotation is object] == [], target


@pytest.mark.parametrize("name", [p.stem for p in sorted((paths.conf_dir() / "pair").glob("*.yaml"))])
@pytest.mark.sample(10)
def test_every_pair_belongs_to_a_space_and_a_method_and_composes(name: str) -> None:
    spaces = [p.stem for p in (paths.conf_dir() / "space").glob("*.yaml") if name.startswith(f"{p.stem}_")]
    methods = {p.stem for p in (paths.conf_dir() / "method").glob("*.yaml")}
    [(space, method)] = [(s, name.removeprefix(f"{s}_")) for s in spaces if name.removeprefix(f"{s}_") in methods]
    assert composed("search", f"space={space}", f"method={method}")[1]["pair"] == name
    own = "dataset=ptb" if space == "darts_rnn" else "dataset=digits"
    found = faults(f"space={space}", f"method={method}", own)
    assert [fault for fault in found if not fault.startswith("dataset=ptb: no files found")] == []


# ---------------------------------------------------------------------------------------------- precedence
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder: a pair, an experiment and a space of his own."""
    files = {
        "space/other.yaml": "defaults:\n  - override /search@_global_.search: darts\n"
        "  - override /retrain@_global_.retrain: tse_8layer\n"
        "  - override /benchmark@_global_.benchmark: none\n"
        "_target_: nasx.spaces.darts.space.Darts\n",
        "pair/other_random.yaml": "# @package _global_\nseed: 7\nsearch: {lr: 0.5, batch: 7, epochs: 7}\n",
        "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /method: random\n"
        "  - override /space: other\n"
        "  - override /dataset: digits\nseed: 8\nsearch: {lr: 0.25, batch: 8}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_space_chooses_protocol_recipe_and_benchmark(folder: Path) -> None:
    cfg, choices = composed("search", "space=other", config_dir=folder)
    assert (choices["search"], choices["retrain"], choices["benchmark"]) == ("darts", "tse_8layer", "none")
    assert cfg["search"]["protocol"] == "darts"
    assert composed("search", "space=other", "search=nats", config_dir=folder)[0]["search"]["protocol"] == "nats"


def test_precedence_is_group_pair_experiment_command_line(folder: Path) -> None:
    alone = composed("search", "space=other", config_dir=folder)[0]
    assert (alone["seed"], alone["search"]["lr"], alone["search"]["epochs"]) == (0, 0.025, 50)
    pair = composed("search", "space=other", "method=random", config_dir=folder)[0]
    assert (pair["seed"], pair["search"]["lr"], pair["search"]["epochs"]) == (7, 0.5, 7)
    cfg, choices = composed("search", "experiment=mine", "search.batch=9", config_dir=folder)
    assert (choices["space"], choices["method"], choices["pair"]) == ("other", "random", "other_random")
    assert (cfg["seed"], cfg["search"]["lr"], cfg["search"]["batch"], cfg["search"]["epochs"]) == (8, 0.25, 9, 7)
    assert cfg["search"]["weight_decay"] == 3e-4, "the protocol of the space that the experiment chooses"
    cfg, choices = composed("search", "experiment=mine", "space=nb201", "method=darts", "seed=1", config_dir=folder)
    assert (choices["space"], choices["method"], choices["search"]) == ("nb201", "darts", "nb201_v1")
    assert (cfg["seed"], cfg["search"]["lr"], cfg["search"]["weight_decay"]) == (1, 0.25, 5e-4)


@pytest.mark.parametrize("command", ["run", "retrain"])
def test_the_other_commands_compose_alike(command: str, folder: Path) -> None:
    cfg, choices = composed(command, "experiment=mine", config_dir=folder)
    assert choices["pair"] == "other_random"
    assert (cfg["seed"], cfg["search"]["lr"], cfg["retrain"]["recipe"]) == (8, 0.25, "tse-8layer")


@pytest.mark.parametrize("word", ["out=~/x", "out='~/x'", 'out="~/x"'])
def test_runs_are_written_to_the_home_folder_that_other_commands_read(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    line = preflight.normalize("search", arguments.split_options([word, "seed=1"]))
    assert composed("search", *line.overrides)[0]["out"] == str(tmp_path / "x")


@pytest.mark.parametrize("word", ["out=", "out=''"])
def test_an_empty_folder_of_runs_is_refused(word: str) -> None:
    assert faults(word) == [f"{word}: is empty; name a folder, for example out=outputs"]


def test_a_pair_can_be_left_out(folder: Path) -> None:
    line = preflight.normalize("search", arguments.split_options(["space=other", "method=random", "pair=null"]))
    assert composed("search", *line.overrides, config_dir=folder)[0]["seed"] == 0


# -------------------------------------------------------------------------------------------------- faults
def test_all_faults_are_reported_at_once() -> None:
    found = faults(
        "method.ordr=2", "search.epochs=-1", "methd.lr=3", "dataset=digit", "+search.lrr=1", "epochs=3", "lr"
    )
    text = "\n".join(found)
    assert len(found) == 7
    assert "method.ordr: Darts has no such setting; did you mean order?" in text
    assert "did you mean order?" in text
    assert "search.epochs=-1: must be above 0; the default is search.epochs=50" in text
    assert "methd.lr: nasx search has no such setting" in text
    assert "did you mean method?" in text
    assert "dataset=digit: unknown dataset 'digit'; did you mean digits?" in text
    assert "search.lrr: SearchSettings has no such setting" in text
    assert "epochs: nasx search has no such setting; did you mean search.epochs?" in text


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["+foo=1"], ["foo: nasx search has no such setting"]),
        (["++search.foo=1"], ["search.foo: SearchSettings has no such setting"]),
        (["+method.order=2"], ["is already defined; remove the +"]),
        (["+method=darts"], ["method is already defined; remove the +"]),
        (["search.lr=fast"], ["search.lr=fast: must be a number above 0; the default is search.lr=0.025"]),
        (["search.arch_betas=[0.5]"], ["must be a list of 2"]),
        (["search.nesterov=1"], ["must be true or false"]),
        (["search.clip=0"], ["must be above 0, or null"]),
        (["search.clip=null", "dataset=digits"], []),
        (["seed=0,1"], ["seed=0,1: lists several values; add --multirun"]),
        (["darts"], ["darts: is not a setting; did you mean space=darts or method=darts or search=darts?"]),
        (["darts_cifar"], ["darts_cifar: is not a setting; settings are written key=value"]),
        (["label_smoothing=0.1"], ["nasx search has no such setting; it has "]),
        (["experiment=quikstart"], ["unknown experiment 'quikstart'", "did you mean quickstart?"]),
        (["~method"], ["~method: method cannot be removed"]),
        (["method="], ["method=: needs a name"]),
        (["device=gpu"], ["device=gpu: unknown device; use auto, cpu"]),
        (["name=../x"], ["is not a plain folder name"]),
        (["search.auxiliary=0.4"], ["the networks of nb201 have no auxiliary head"]),
        (["search.lr_min=1"], ["is above search.lr=0.025"]),
        (["search.nesterov=true", "search.momentum=0"], ["needs momentum"]),
        (["search.arch_momentum=0.9"], ["search.arch_momentum=0.9: is only used by search.arch_optimizer=sgd"]),
        (["search.arch_momentum=0.9", "search.arch_optimizer=sgd"], []),
        (["search.diagnose_order=2"], ["search.diagnose_order=2: has no effect with search.diagnose_steps=0"]),
        (["search.diagnose_order=2", "search.diagnose_steps=1"], []),
        (["benchmark=nb101"], ["has no architectures of Nb201; use space=nb1shot1_1, or benchmark=none"]),
        (["method=pc_darts", "space=darts", "dataset=digits"], []),
        (["method=pc_darts", "dataset=digits"], []),
        (
            ["method=sdarts", "method.perturbation=adversarial"],
            [
                "method.ascent=eval: needs batch norm's running statistics, but this supernet keeps none; "
                "set space.batch_norm=tracked"
            ],
        ),
        (["method=sdarts", "method.perturbation=adversarial", "space.batch_norm=tracked"], []),
        (["method=sdarts", "method.perturbation=adversarial", "method.ascent=train"], []),
        (["retrain.epochs=3"], ["nasx search does not use the settings of retrain"]),
        (["method._target_=os.system"], ["is not a component of nasx"]),
        (["method._target_=os.system", "allow=[os]"], ["is not a component of nasx"]),
        (["method._target_=pathlib.Path.unlink"], ["is not a component of nasx"]),
        (["method._target_=nasx.tracking.run_folder.Run"], ["is not a component of nasx"]),
        (["method._target_=nasx.methods.darts.Dart"], ["has no class Dart", "did you mean Darts?"]),
        (["method._target_=nope.Nope", "allow=[nope]"], ["module nope not found"]),
        (["method._target_=nope.Nope"], ["add allow='[nope]'"]),
        (["space.layers=${nope}"], ["nope"]),
        (["seed='"], ["cannot be read"]),
        (["+hydra.callbacks.x._target_=os.system"], ["is not an allowed callable"]),
    ],
)
@pytest.mark.sample(20)
def test_fault(words: list[str], parts: list[str]) -> None:
    found = faults(*words, *([] if any("dataset" in word for word in words) else ["dataset=digits"]))
    text = "\n".join(found)
    assert len(found) == bool(parts), text
    for part in parts:
        assert part in text
    assert "use +" not in text.lower()


def test_a_method_that_sets_what_a_space_lacks_names_the_spaces_that_have_it() -> None:
    found = faults("method=pc_darts", "space=nb1shot1_1", "dataset=digits")
    assert [line.partition(", but")[0] for line in found] == [
        f"method=pc_darts: sets space.{key}" for key in ("partial", "edge_norm")
    ]
    assert all(
        "Nb1Shot1 has no such setting; use another space" in line
        and line.endswith("space=amended_s2, amended_s3, darts, darts_no_none, nb201, s1, s2, s3, s4")
        for line in found
    )


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "no architecture is given"),
        (["from=a", "genotype=b"], "run not found"),
        (["genotype=best_found", "method=darts"], "nasx retrain does not use the settings of method"),
        (["genotype=best_found", "retrain.warmup_epochs=200"], "is not less than retrain.epochs=200"),
        (["genotype=best_found", "epochs=3"], "did you mean retrain.epochs?"),
        (["genotype=best_found", "tse"], "tse: is not a setting; settings are written"),
        (["genotype=best_found", "retrain.accumulate=3"], "does not divide retrain.batch=256"),
    ],
)
@pytest.mark.sample(4)
def test_fault_of_retrain(words: list[str], part: str) -> None:
    found = faults("dataset=digits", *words, command="retrain")
    assert len(found) == 1
    assert part in found[0]


def test_a_sweep_is_examined_as_a_whole() -> None:
    found = faults("--multirun", "method=darts,idart", "seed=0,x", "search.lr=choice(0.1,-1)", "dataset=digits")
    assert len(found) == 3
    assert sorted(line.partition(":")[0] for line in found) == ["method=idart", "search.lr=-1", "seed=x"]
    assert (
        faults(
            "--multirun",
            "seed=range(0,4)",
            "search.lr=interval(0.01,0.1)",
            "dataset=digits",
            "hydra/sweeper=optuna",
            "hydra.sweeper.direction=maximize",
            "objective=supernet.valid_accuracy",
        )
        == []
    )


def test_a_users_component_is_checked_like_ours(package: str, tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(f"_target_: {package}\nfirst: 1\nordr: 2\n")
    found = faults("method=mine", "allow=[mine_for_test]", "dataset=digits", config_dir=tmp_path)
    assert len(found) == 2
    assert found[0].startswith(
        f"method._target_={package}: Mine is not a subclass of nasx.core.bilevel.Method; "
        "declare it as class Mine(Method)"
    )
    assert found[1].startswith("method.ordr: Mine has no such setting; did you mean order?")
    assert "add allow='[mine_for_test]'" in faults("method=mine", "dataset=digits", config_dir=tmp_path)[0]


def test_another_class_on_the_line_needs_a_file(package: str) -> None:
    found = faults(f"method._target_={package}", "allow=[mine_for_test]", "dataset=digits")
    [told] = [line for line in found if "keeps settings" in line]
    assert told.startswith(f"method._target_={package}: keeps settings of method=darts that this class does not have (")
    assert told.endswith(
        f"write a file CONF/method/NAME.yaml with _target_: {package} and its settings, and pass "
        "--config-dir CONF method=NAME"
    )
    assert not [line for line in found if "has no such setting" in line]


def test_build_gives_tuples_and_refuses_what_check_refuses() -> None:
    cfg, _ = composed("search")
    made = instantiate.build(cfg["search"])
    assert made.arch_betas == (0.5, 0.999)
    with pytest.raises(UserError, match="is not a component of nasx"):
        instantiate.build({"_target_": "os.system", "command": "true"})


# ------------------------------------------------------------------------------------------------ identity
def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from nasx.cli import arguments, completion, help, listing, main, preflight\n"
        "preflight.check_line('search', arguments.split_options(['dataset=digits']))\n"
        "print([m for m in ('torch', 'torchvision', 'scipy', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
