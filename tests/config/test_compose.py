"""Composing: each file is parsed once and a line is composed once, with the result that Hydra's own loader gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from composing import faults
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import OmegaConf

from nasx.cli import hydra_app, main
from nasx.config import compose, paths

LINES = (
    ("search", "method=gdas", "space=nb201", "search.epochs=3", "dataset=digits"),
    ("search", "experiment=single/nb201", "seed=4"),
    ("retrain", "space=darts", "genotype=DARTS_V2"),
    ("study", "space=nb201", "method=darts"),
    ("table", "out=elsewhere"),
)


def container(cfg: Any) -> Any:
    return OmegaConf.to_container(cfg)


@pytest.mark.parametrize("line", LINES)
def test_a_configuration_is_the_one_that_hydra_composes(line: tuple[str, ...]) -> None:
    command, *overrides = line
    loader = compose.make_loader()
    expected = container(ConfigLoaderImpl.load_configuration(loader, command, overrides, RunMode.RUN))
    for _ in range(3):  # composed, returned again, composed from parsed files
        assert container(loader.load_configuration(command, overrides, RunMode.RUN)) == expected


def test_a_result_is_returned_twice_at_most() -> None:
    loader, overrides = compose.make_loader(), ["space=nb201"]
    first = loader.load_configuration("search", overrides, RunMode.RUN)
    assert loader.load_configuration("search", overrides, RunMode.RUN) is first
    first.seed = 77
    assert loader.load_configuration("search", overrides, RunMode.RUN).seed == 0
    loader.load_configuration("search", ["space=darts"], RunMode.RUN)
    assert loader.load_configuration("search", overrides, RunMode.RUN).space._target_.startswith("nasx.spaces.nb201")


def test_a_changed_file_is_read_again_and_a_composed_one_changes_no_other(tmp_path: Path) -> None:
    own = tmp_path / "search" / "own.yaml"
    own.parent.mkdir()
    text = "defaults: [nb201_v1, _self_]\nepochs: 7\nbatch: 8\n"
    own.write_text(text, encoding="utf-8")
    loader = compose.make_loader(str(tmp_path))
    first = loader.load_configuration("search", ["search=own"], RunMode.RUN)
    first.search.batch = 1
    assert first.search.epochs == 7
    assert loader.load_configuration("search", ["search=own", "seed=2"], RunMode.RUN).search.batch == 8
    own.write_text(text.replace("7", "11"), encoding="utf-8")
    assert loader.load_configuration("search", ["search=own", "seed=3"], RunMode.RUN).search.epochs == 11


def test_a_line_is_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed, run = [], []
    whole = ConfigLoaderImpl.load_configuration

    def counted(self: Any, config_name: str, overrides: list[str], *a: Any, **k: Any) -> Any:
        composed.append(overrides)
        return whole(self, config_name, overrides, *a, **k)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    monkeypatch.setattr(main, "task", run.append)
    assert main.application("search", ["space=nb201", "dataset=digits", "seed=3"]) is None
    assert [cfg.seed for cfg in run] == [3]
    assert composed == [["space=nb201", "dataset=digits", "seed=3"]]


@pytest.mark.slow
def test_hydra_s_own_word_for_a_sweep_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run: list[Any] = []
    monkeypatch.setattr(main, "task", lambda cfg: run.append(cfg.seed))
    main.application("search", ["space=nb201", "dataset=digits", "seed=3,4", "hydra.mode=MULTIRUN"])
    assert run == [3, 4]


def test_errors_of_hydra_are_those_of_nasx() -> None:
    from hydra.errors import HydraException

    with pytest.raises(compose.UserError, match="too much"), hydra_app.application(compose.make_loader()):
        raise HydraException("too much")


def test_a_retraining_does_not_read_the_benchmark_of_its_space(tmp_path: Path) -> None:
    own = (paths.conf_dir() / "space" / "darts.yaml").read_text().replace("benchmark: none", "benchmark: nb201")
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "own.yaml").write_text(own)
    words = ("space=own", "dataset=digits")
    assert "has no architectures of Darts" in faults(*words, config_dir=tmp_path)[0]
    assert not faults(*words, "genotype=DARTS_V2", command="retrain", config_dir=tmp_path)
