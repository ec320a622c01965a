"""Folders of configurations besides nasx's own, and installed packages that declare themselves as plugins."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jobs
import pytest
from command_line import call
from composing import composed, faults

from nasx.cli import main as cli_main
from nasx.config import components, experiments, instantiate, plugins, provenance
from nasx.errors import UserError

METHOD = """
from dataclasses import dataclass
from nasx.methods.darts import Darts

@dataclass(frozen=True, kw_only=True)
class Mine(Darts):
    '''DARTS under another name.'''
"""
YAML = "_target_: plugin_for_test.method.Mine\norder: 1\nradius: 0.01\nfirst: architecture\nclip: false\n"


def see(folder: str) -> None:
    """Make packages in `folder` importable."""
    sys.path.insert(0, folder)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages with one that is a plugin of nasx."""
    package, info = tmp_path / "site" / "plugin_for_test", tmp_path / "site" / "plugin_for_test-1.0.dist-info"
    (package / "conf" / "method").mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text(METHOD)
    (package / "conf" / "method" / "mine.yaml").write_text(YAML)
    (package / "longer.py").write_text(METHOD + "    extra: float = 1.0\n")
    (package / "conf" / "method" / "longer.yaml").write_text(YAML.replace("method.Mine", "longer.Mine"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-for-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nasx.plugins]\nmine = plugin_for_test\n")
    return package.parent


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(site))
    plugins.packages.cache_clear()
    yield site
    plugins.packages.cache_clear()


def test_a_plugin_needs_neither_config_dir_nor_allow(installed: Path) -> None:
    assert not faults("method=mine", "dataset=digits")
    assert composed("search", "method=mine")[1]["method"] == "mine"
    assert "plugin_for_test" in components.allowed_packages({"allow": ["other"]})
    node = composed("search", "method=mine")[0]["method"]
    assert type(instantiate.build(node)).__name__ == "Mine"
    assert provenance.trace("search", ["method=mine"]).default_value("method.radius") == "0.01"
    wrong = faults("method=mine", "method.radius=x", "dataset=digits")
    assert wrong == ["method.radius=x: must be a number above 0; the default is method.radius=0.01"]


def test_a_setting_without_a_line_in_the_yaml_file_is_named(installed: Path) -> None:
    found = faults("method=longer", "method.extra=0.1", "dataset=digits")
    assert (
        found[0] == "method.extra: Mine has this setting, but its YAML file does not; add the line `extra: VALUE` to it"
    )


def test_nothing_of_a_plugin_is_imported_by_checks(installed: Path) -> None:
    """An import would end the test."""
    (installed / "plugin_for_test" / "__init__.py").write_text("raise SystemExit('imported')")
    assert not faults("method=mine", "dataset=digits")


def test_a_package_without_the_entry_point_is_still_refused(installed: Path) -> None:
    (installed / "plugin_for_test-1.0.dist-info" / "entry_points.txt").write_text("[console_scripts]\n")
    plugins.packages.cache_clear()
    words = ("method=mine", "dataset=digits")
    assert "add allow='[plugin_for_test]'" in faults(*words, config_dir=installed / "plugin_for_test" / "conf")[0]
    assert "unknown method 'mine'" in faults(*words)[0]


def test_a_plugin_that_is_gone_is_named(installed: Path) -> None:
    (installed / "plugin_for_test-1.0.dist-info" / "entry_points.txt").write_text("[nasx.plugins]\nmine = gone_one\n")
    plugins.packages.cache_clear()
    with pytest.raises(UserError, match="plugin gone_one: is declared as an entry point, but not found"):
        plugins.folders()


@pytest.mark.slow
def test_a_search_by_a_plugin_runs(site: Path, tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, *jobs.TINY_NB201, "method=mine", prepare=partial(see, str(site)))
    assert done.code == 0, done
    assert "allow" not in jobs.result(tmp_path)["command"]


# ----------------------------------------------------------------------------------------------- folders
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(
        "# @package _global_\n# nasx search experiment=own\n# My own.\nseed: 9\n"
    )
    return tmp_path / "mine"


@pytest.mark.slow
def test_the_variable_names_folders_for_every_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASX_CONFIG_DIR", str(folder))
    assert composed("search", "experiment=own")[0]["seed"] == 9
    assert provenance.trace("search", ["experiment=own"]).default_value("seed") == "9"
    assert experiments.find("own") is not None
    shown = call(folder.parent, "list", "experiments", NASX_CONFIG_DIR="mine")
    assert "own" in shown.stdout, shown.stderr


@pytest.mark.slow
def test_an_experiment_may_be_in_a_subfolder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASX_CONFIG_DIR", str(folder))
    (folder / "experiment" / "team" / "b").mkdir(parents=True)
    (folder / "experiment" / "team" / "b" / "own.yaml").write_text("# @package _global_\n# Ours.\nseed: 7\n")
    assert composed("search", "experiment=team/b/own")[0]["seed"] == 7
    found = provenance.trace("search", ["experiment=team/b/own"])
    assert found.default_value("seed") == "7"
    assert (found.chosen["experiment"], found.lines["seed"][-1].file) == ("team/b/own", "experiment=team/b/own")
    assert "did you mean team/b/own?" in faults("experiment=team/b/owm")[0]
    assert "Ours." in call(folder.parent, "list", "experiments", "team/b/own", NASX_CONFIG_DIR="mine").stdout
    (folder / "experiment" / "idarts").mkdir()
    (folder / "experiment" / "idarts" / "nb201.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=r"nb201\.yaml: has the same name as a file in"):
        composed("search", "experiment=team/b/own")


@pytest.mark.parametrize("words", [("info", "space=lean"), ("info", "--config-dir=mine", "space=lean")])
def test_plain_commands_take_a_folder_too(
    words: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (plugins.paths.conf_dir() / "space" / "nb201.yaml").read_text(encoding="utf-8")
    (folder / "space").mkdir()
    (folder / "space" / "lean.yaml").write_text(text)
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("NASX_CONFIG_DIR", "" if "--config-dir=mine" in words else "mine")
    assert not cli_main.dispatch(list(words))
    assert "space                    lean" in capsys.readouterr().out


def test_a_file_that_two_folders_have_is_an_error(folder: Path) -> None:
    """Before, Hydra read nasx's own file, and help showed the other's values."""
    (folder / "method").mkdir()
    (folder / "method" / "darts.yaml").write_text("_target_: nasx.methods.darts.Darts\nradius: 0.07\n")
    [found] = faults("method=darts", "dataset=digits", config_dir=folder)
    assert found.endswith("rename it")
    assert "has the same name as a file in" in found


def test_a_folder_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--config-dir nowhere: does not exist"):
        cli_main.dispatch(["info", "--config-dir", "nowhere", "space=s1"])
    monkeypatch.setenv("NASX_CONFIG_DIR", os.pathsep.join([str(tmp_path), "nowhere"]))
    assert faults("dataset=digits") == ["NASX_CONFIG_DIR=nowhere: does not exist; name a folder of configurations"]
