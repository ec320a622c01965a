"""A hostile configuration makes nasx and Hydra neither run nor write nor read anything beyond the list."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jobs
import pytest
import yaml
from composing import faults
from hydra._internal.utils import _locate

from nasx.cli import arguments, preflight
from nasx.cli.arguments import parse
from nasx.config import commands, instantiate, paths, trust
from nasx.errors import UserError
from nasx.tracking.loggers import TensorBoard

WORDS = ("space=nb201", "dataset=digits")
LIST = {name for names in trust.CALLABLES.values() for name in names}
PLACES = {
    r"callbacks\.\w+\._target_": "callbacks.x._target_",
    r"launcher\._target_": "launcher._target_",
    r"sweeper\._target_": "sweeper._target_",
    r"sweeper\.sampler\._target_": "sweeper.sampler._target_",
    r"(job|hydra)_logging\.handlers\.\w+\.class": "job_logging.handlers.x.class",
    r"(job|hydra)_logging\.formatters\.\w+\.\(\)": "hydra_logging.formatters.x.()",
}


def own(folder: Path, text: str, group: str = "experiment", *words: str) -> list[str]:
    """The faults of a line that chooses a file with this text in the user's own folder."""
    (folder / "conf" / group).mkdir(parents=True, exist_ok=True)
    (folder / "conf" / group / "own.yaml").write_text(text)
    chosen = [word for word in WORDS if not word.startswith(f"{group}=")]
    return faults("--multirun", f"{group}=own", *chosen, *words, config_dir=folder / "conf")


# ------------------------------------------------------------------------------------------- a walk of what there is
def reachable(name: str, depth: int = 3) -> Iterator[tuple[str, Any]]:
    """(dotted name, object) of everything callable that Hydra reaches from a module or class, `depth` names deep."""
    seen: set[int] = set()
    queue = [(name, _locate(name), depth)]
    while queue:
        path, found, left = queue.pop()
        if callable(found):
            yield path, found
        if not left or id(found) in seen or not isinstance(found, (ModuleType, type)):
            continue
        seen.add(id(found))
        for inner in dir(found):
            try:
                queue.append((f"{path}.{inner}", getattr(found, inner), left - 1))
            except Exception:  # noqa: BLE001 (what has no such attribute after all reaches nothing)
                continue


def prefixes() -> list[str]:
    """Every module above a name of the list that can be imported here."""
    names = {name.rpartition(".")[0] for name in LIST}
    names |= {".".join(name.split(".")[:i]) for name in names for i in range(1, name.count(".") + 1)}
    return sorted(name for name in names if importable(name))


def importable(name: str) -> bool:
    try:
        return importlib.import_module(name) is not None
    except ImportError:
        return False


def test_nothing_reachable_is_called_outside_the_list() -> None:
    """From each allowed name's modules and from the class itself, to three names deep: only the names themselves."""
    assert PLACES.keys() == trust.CALLABLES.keys()
    walked, called = 0, set()
    for start in [*prefixes(), *(name for name in LIST if importable(name.rpartition(".")[0]))]:
        for name, _ in reachable(start, 3 if start.count(".") else 2):
            walked += 1
            for pattern, key in PLACES.items():
                refused = list(trust._called({tuple(key.split(".")): name}))
                assert bool(refused) == (name not in trust.CALLABLES[pattern]), (key, name)
                called |= {name} if not refused else set()
    assert walked > 5000
    assert called == {name for name in LIST if importable(name.rpartition(".")[0])}
    assert all(isinstance(_locate(name), type) for name in called)


@pytest.mark.slow
def test_every_class_of_nasx_that_may_be_named_is_one_that_its_configurations_name() -> None:
    """Everything callable below the homes of components, by every name that reaches it: refused, but for the list."""
    known, walked = trust.components(paths.conf_dir()), 0
    assert len(known) > 40
    for name in known:
        assert instantiate.target_fault("x", name, commands.HOMES) is None
        module, _, own = name.rpartition(".")
        assert trust.is_class(getattr(importlib.import_module(module), own), own, [module])
    for home in sorted(
        {name.rpartition(".")[0] for name in known} | {"nasx.data", "nasx.spaces", "nasx.config.settings"}
    ):
        for name, _ in reachable(home, 2):
            walked += 1
            assert (instantiate.target_fault("x", name, commands.HOMES) is None) == (name in known), name
    assert walked > 1000


def test_a_name_that_is_shadowed_is_not_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("hydra.experimental.callbacks")
    key = {("callbacks", "x", "_target_"): "hydra.experimental.callbacks.LogJobReturnCallback"}
    assert list(trust._called(key)) == []
    monkeypatch.setattr(module, "LogJobReturnCallback", os.system)
    trust._genuine.cache_clear()
    assert list(trust._called(key)) != []
    trust._genuine.cache_clear()
    assert not trust.is_class(os.system, "system", ["posix"])
    assert not trust.is_class(Path, "Path", ["nasx"])
    assert trust.is_class(Path, "Path", ["pathlib"])


@pytest.mark.slow
def test_what_an_allowed_package_imports_is_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_trust.py").write_text(
        "from subprocess import Popen\nfrom tempfile import TemporaryDirectory\nclass Own: pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("Popen", "TemporaryDirectory"):
        node = {"_target_": f"mine_for_trust.{name}", "args": "touch here"}
        assert faults("method._target_=mine_for_trust." + name, "allow=[mine_for_trust]", *WORDS)
        with pytest.raises(UserError, match="which is not allowed"):
            instantiate.build(node, ["mine_for_trust"])
    assert type(instantiate.build({"_target_": "mine_for_trust.Own"}, ["mine_for_trust"])).__name__ == "Own"
    (tmp_path / "mine_for_trust2.py").write_text("class Own: pass\nimport subprocess\nOwn = subprocess.Popen\n")
    with pytest.raises(UserError, match=r"is imported into .*, not defined there"):
        instantiate.build({"_target_": "mine_for_trust2.Own", "args": "touch here"}, ["mine_for_trust2"])
    assert not (tmp_path / "here").exists()


# --------------------------------------------------------------------------------------------- hostile files (B1)
MOVES = "hydra.experimental.callbacks.Path.replace"
HOSTILE = [
    f"hydra: {{callbacks: {{x: {{_target_: {MOVES}, self: victim, target: stolen}}}}}}",
    f"hydra:\n  callbacks:\n    x:\n      ? _target_\n      : {MOVES}\n      _args_: [victim, stolen]",
    f'"hydra": {{"callbacks": {{"x": {{"_target_": "{MOVES}", "_args_": [victim, stolen]}}}}}}',
    "hydra: {callbacks: {x: {_target_: hydra.experimental.callbacks.Path.unlink, self: victim}}}",
    "hydra: {callbacks: {x: {_target_: 'hydra.experimental.callbacks.logging.os.system', command: 'rm victim'}}}",
    "hydra: {callbacks: {x: {_target_: hydra.experimental.callbacks.PickleJobInfoCallback}}}",
    "hydra: {callbacks: {x: {_target_: hydra._internal.core_plugins.basic_launcher.Path.unlink, self: victim}}}",
    "hydra: {callbacks: {x: {_target_: hydra.experimental.callbacks.LogJobReturnCallback, y: [{_target_: os.abort}]}}}",
    f"base: &b {{_target_: {MOVES}, _args_: [victim, stolen]}}\nhydra: {{callbacks: {{x: {{<<: *b}}}}}}",
    f"hydra: {{callbacks: {{x: {{_target_: '${{at}}'}}}}}}\nat: {MOVES}",
    f"hydra: {{callbacks: {{x: {{_target_: '${{oc.decode:{MOVES}}}'}}}}}}",
    "hydra: {launcher: {_target_: hydra._internal.core_plugins.basic_launcher.Path.unlink, self: victim}}",
    "hydra: {launcher: {_target_: hydra_plugins.hydra_joblib_launcher.joblib_launcher.os.remove, path: victim}}",
    "hydra: {sweeper: {_target_: hydra._internal.core_plugins.basic_sweeper.Path.unlink, self: victim}}",
    "hydra: {sweeper: {sampler: {_target_: optuna.samplers.os.remove, path: victim}}}",
    "hydra: {sweeper: {custom_search_space: os.remove}}",
    "defaults: [{override /hydra/sweeper: optuna}]\nhydra: {sweeper: {sampler: {x: '${space}'}}}\nobjective: params",
    "defaults: [{override /hydra/sweeper: optuna}]\nhydra: {sweeper: {n_trials: '${space}'}}\nobjective: params",
    "hydra: {callbacks: {x: '${space}'}}",
    "hydra: {launcher: '${space}'}",
    "hydra: {sweeper: {params: {hydra.callbacks: '{x:{_target_:os.remove,path:victim}}'}}}",
    "hydra: {sweeper: {params: {'+hydra.run.dir': victim}}}",
    "hydra: {sweeper: {params: {allow: '[evil]'}}}",
    "hydra: {sweeper: {storage: 'sqlite:///victim'}}",
    "hydra: {job_logging: {handlers: {x: {class: logging.handlers.SocketHandler, host: a, port: 1}}}}",
    "hydra: {job_logging: {formatters: {x: {(): os.remove, path: victim}}}}",
    "hydra: {run: {dir: /tmp/nasx-was-here}}",
    "hydra: {output_subdir: .}",
    "hydra: {output_subdir: /tmp/nasx-was-here}",
    "hydra: {sweep: {dir: /tmp/nasx-was-here}}",
    "hydra: {sweep: {subdir: ../../x}}",
    "hydra: {job: {chdir: true}}",
    "hydra: {job: {env_set: {NASX_ALLOW: evil}}}",
    "hydra: {job: {env_set: {XDG_CACHE_HOME: /tmp/nasx-was-here}}}",
    "hydra: {overrides: {task: ['allow=[evil]']}}",
    "hydra: {mode: MULTIRUN}",
    "defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {launcher: {setup: ['touch /tmp/nasx-was-here']}}",
    "defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {launcher: {additional_parameters: {wrap: id}}}",
    'defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {launcher: {comment: "x\\ntouch /tmp/y"}}',
    "defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {launcher: {submitit_folder: /tmp/nasx-was-here}}",
    "out_file: victim",
    "out: /tmp/nasx-was-here",
    "out: ../elsewhere",
    "out: ~/elsewhere",
    "out: '${name}'",
    "allow: [evil]",
    "allow: evil",
    "allow: '${at}'\nat: [evil]",
    "allow: {0: evil}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.sample(12)
def test_a_strangers_file_is_refused_with_nothing_written(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").write_text("mine")
    assert own(tmp_path, f"# @package _global_\n{text}\n"), "not refused"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf", "victim"]
    assert (tmp_path / "victim").read_text() == "mine"
    assert not Path("/tmp/nasx-was-here").exists()


@pytest.mark.slow
def test_the_command_ends_with_the_refusal(tmp_path: Path) -> None:
    """The same by whole commands, single and as a sweep."""
    for i, text in enumerate((HOSTILE[0], HOSTILE[3], "allow: [mine]", "hydra: {output_subdir: .}")):
        here = tmp_path / str(i)
        (here / "conf" / "experiment").mkdir(parents=True)
        (here / "victim").write_text("mine")
        (here / "conf" / "experiment" / "own.yaml").write_text(f"# @package _global_\n{text}\n")
        for more in ((), ("--multirun", "seed=0,1")):
            done = jobs.nasx(here, *jobs.TINY_NB201, "--config-dir", "conf", "experiment=own", *more)
            assert done.code == 2, done
        assert sorted(path.name for path in here.iterdir()) == ["conf", "victim"]


@pytest.mark.slow
def test_plain_settings_of_a_launcher_may_stand_in_a_file(tmp_path: Path) -> None:
    text = (
        "# @package _global_\ndefaults: [{override /hydra/launcher: submitit_slurm}]\n"
        "hydra: {launcher: {partition: gpu, timeout_min: 60, mem_gb: 8, gpus_per_node: 0, comment: two words}}\n"
    )
    assert own(tmp_path, text, "launch", "device=cpu") == []
    assert own(tmp_path, text.replace("two words", "two words, setup: [id]"), "launch", "device=cpu") == [
        "hydra.launcher.setup.0=id: is set in a configuration file, but is only accepted on the command line; "
        "remove it there; if you want it, give it on the command line"
    ]
    assert own(tmp_path, text, "launch", "device=cpu", "hydra.launcher.setup=[id]") == []
    for launch in ("slurm", "joblib", "local"):
        assert (
            own(
                tmp_path,
                "# @package _global_\nseed: 1\n",
                "experiment",
                f"launch={launch}",
                "hydra.launcher.gpus_per_node=0" if launch != "joblib" else "seed=2",
            )
            == []
        )


# ------------------------------------------------------------------------------------------------- allow (B2)
EVIL = "from pathlib import Path\nPath('imported').touch()\nclass Log:\n    def __init__(self): Path('built').touch()\n"


@pytest.mark.parametrize(
    "text",
    [
        "allow: [evil]",
        "allow: [evil]\nlogger: {_target_: evil.Log}",
        "defaults: [{override /logger: own}]\nallow: [evil]",
    ],
)
def test_a_file_does_not_allow_what_it_names(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "conf" / "logger").mkdir(parents=True)
    (tmp_path / "conf" / "logger" / "own.yaml").write_text("_target_: evil.Log\n")
    found = own(tmp_path, f"# @package _global_\n{text}\n")
    assert (
        "allow=['evil']: is set in a configuration file, but is only accepted on the command line or in NASX_ALLOW; "
        "if you trust that file, add allow=... to the command"
    ) in found
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("group", ["logger", "dataset", "benchmark"])
def test_nothing_of_the_users_is_built_while_a_line_is_checked(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    words = ["allow=[evil]", *(["objective=supernet.valid_accuracy"] if group == "benchmark" else [])]
    assert own(tmp_path, "_target_: evil.Log\n", group, *words) == []
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "built").exists()
    assert "evil" not in sys.modules


def test_the_environment_allows_as_the_command_line_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.py").write_text(EVIL)
    text = "_target_: good.Log\n"
    assert any("to allow your own package, add allow='[good]'" in line for line in own(tmp_path, text, "logger"))
    monkeypatch.setenv("NASX_ALLOW", "other, good")
    assert own(tmp_path, text, "logger") == []
    line = preflight.normalize("search", arguments.split_options(["seed=1"]))
    assert line.overrides == ("seed=1", "allow=[other,good]")
    assert preflight.normalize("search", arguments.split_options(["allow=[x]"])).overrides == ("allow=[x]",)
    assert preflight.normalize("table", arguments.split_options(["sort=n"])).overrides == ("sort=n",)
    assert parse("x", ["allow=[mine]"], {"allow": ""}).allowed == ("mine", "other", "good")
    monkeypatch.delenv("NASX_ALLOW")
    assert parse("x", [], {"allow": ""}).allowed == ()


# ------------------------------------------------------------------------------------------------ resolvers (B7)
RESOLVERS = [
    "${oc.env:SECRET}",
    "${ oc.env : SECRET }",
    "${oc.env:SECRET,x}",
    "a${oc.env:SECRET}b",
    "${oc.decode:'1'}",
    "${${at}:SECRET}",
    "${oc.create:{a:b}}",
    "${now:%Y}",
    "${hydra:runtime.cwd}",
    "${oc.select:seed}",
    "${python_version:}",
    "${oc.dict.values:space}",
    "\\${oc.env:SECRET}",
]


@pytest.mark.parametrize("value", RESOLVERS)
@pytest.mark.sample(4)
def test_a_resolver_is_refused_in_files_and_on_the_line(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    quoted = json.dumps(value)
    for found in (
        own(tmp_path, f"# @package _global_\nname: {quoted}\n"),
        own(tmp_path, f"# @package _global_\nspace: {{operations: [none, {quoted}]}}\n"),
        faults(f"name={value}", *WORDS),
    ):
        assert any("uses an OmegaConf resolver, whose result would be stored in the run" in line for line in found), (
            found
        )
        assert "hunter2" not in str(found)


def test_a_reference_to_another_value_is_none(tmp_path: Path) -> None:
    assert own(tmp_path, "# @package _global_\nname: run-${seed}-${search.batch}\n") == []
    assert not any(map(trust.calls_resolver, ["${seed}", "a ${..b.c[0]} ${x-y}", "$x", 3, None, "{}"]))


def test_no_run_holds_what_the_environment_says(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text("# @package _global_\nname: ${oc.env:SECRET}\n")
    done = jobs.nasx(tmp_path, *jobs.TINY_NB201, "--config-dir", "conf", "experiment=own", env={"SECRET": "hunter2"})
    assert done.code == 2, done
    assert "hunter2" not in done.out + done.err
    assert not (tmp_path / "runs").exists()


def test_nasxs_own_files_call_resolvers_in_hydras_section_alone() -> None:
    for path in sorted(paths.conf_dir().rglob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        rest = {key: value for key, value in node.items() if key not in ("hydra", "defaults")}
        assert not [value for _, value in trust._leaves(rest) if trust.calls_resolver(value)], path
        assert not set(trust.COMMAND_LINE_KEYS) & {key for key in rest if rest[key] not in (None, [])}, path


def test_no_address_is_plain_http() -> None:
    root = paths.conf_dir().parent
    for path in [*root.glob("nasx/**/*.py"), *root.glob("conf/**/*.yaml")]:
        found = re.findall(r"http://[^\s\"')]+", path.read_text(encoding="utf-8"))
        assert not [address for address in found if "www.w3.org" not in address], path


@pytest.mark.parametrize("folder", ["..", "", "../x", "/tmp/x", "a/b"])
def test_a_logger_writes_within_the_run_alone(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a plain folder name"):
        TensorBoard(folder=folder).open(tmp_path, {})
    (tmp_path / "tensorboard").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a symbolic link"):
        TensorBoard().open(tmp_path, {})


def test_the_oldest_hydra_is_one_that_has_no_hole() -> None:
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'"hydra-core>=1\.3\.(8|9|\d\d)', text)
