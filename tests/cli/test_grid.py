"""A sweep is checked as a whole: the jobs equal Hydra's, choices are composed once, no two jobs share a folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import faked
import pytest
import yaml
from command_line import FAKE, call, ran
from composing import faults
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from nasx.cli import grid
from nasx.config import identity as config_identity
from nasx.config.compose import make_loader, resolved
from nasx.tracking import run_folder

DIGITS = ("--multirun", "dataset=digits")
OWN = """# @package _global_
defaults:
  - override /dataset: digits
search: {batch: 48, evaluate_images: "${search.batch}"}
"""


# ---------------------------------------------------------------------------------- equal to Hydra's own
@pytest.mark.parametrize(
    "words",
    [
        ["seed=range(0,5)", "search.lr=0.1,1e-3,5", "deterministic=true,false"],
        ["method=darts,pc_darts", "space=darts,s1", "seed=0,1", "search.arch_betas=[0.5,0.9],[0.1,0.2]"],
        ["method=glob([d*],exclude=[darts_*])", "search.clip=null,3", "name='a b',\"1\",plain"],
        ["search.arch_betas.0=0.5,0.25", "search.lr=range(0.1,0.4,0.1)", "seed=sort(3,1,2)"],
        ["~pair", "search.epochs=3,2", "seed=7", "seed=8,9"],
        ["experiment=quickstart", "++search.batch=8,16", "space.operations=[none,skip_connect],[nor_conv_1x1,none]"],
        ["experiment=own", "search.batch=8,16", "out=a,'${name}b'"],
    ],
)
@pytest.mark.sample(3)
def test_each_job_is_what_hydra_composes(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(OWN)
    loader = make_loader(str(tmp_path))
    parsed = OverridesParser.create(loader).parse_overrides(words)
    axes = grid.axes(parsed, {"method", "space", "experiment"}, every=True)
    composed = 0
    listed = {o.get_key_element(): len(list(o.sweep_iterator())) if o.is_sweep_override() else 1 for o in parsed}
    for at in grid.combinations(axes):
        cfg = loader.load_configuration("search", list(grid.texts(axes, at)), RunMode.RUN)
        for job in grid.jobs(axes, at, cfg, every=True):
            whole = resolved(loader.load_configuration("search", job.overrides, RunMode.RUN))
            assert (job.values, job.choices) == whole
            composed += 1
    assert composed == math.prod(listed.values())


def test_jobs_share_what_they_do_not_change() -> None:
    loader = make_loader()
    axes = grid.axes(OverridesParser.create(loader).parse_overrides(["search.lr=1,2"]), (), every=True)
    cfg = loader.load_configuration("search", ["search.lr=1"], RunMode.RUN)
    one, other = grid.jobs(axes, [0], cfg, every=True)
    assert (one.values["search"]["lr"], other.values["search"]["lr"]) == (1, 2)
    assert one.values["space"] is other.values["space"]


# ------------------------------------------------------------------------------------ how often it composes
@pytest.fixture
def compositions(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of each configuration that Hydra composes."""
    seen: list[list[str]] = []
    whole = ConfigLoaderImpl.load_configuration

    def counted(self: Any, config_name: str, overrides: list[str], *args: Any, **kwargs: Any) -> Any:
        seen.append(list(overrides))
        return whole(self, config_name, overrides, *args, **kwargs)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    return seen


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["seed=range(0,3000)"], 1),
        (["seed=0,1", "search.lr=0.1,0.2,0.3"], 1),
        (["method=darts,random", "seed=0,1,2"], 2),
        (["method=darts,random", "space=nb201,darts", "seed=range(0,50)"], 4),
    ],
)
def test_a_combination_of_choices_is_composed_once(words: list[str], count: int, compositions: list[list[str]]) -> None:
    assert faults(*DIGITS, *words) == []
    assert len(compositions) == count


COUNTED = (
    """
from hydra._internal.config_loader_impl import ConfigLoaderImpl
whole, composed = ConfigLoaderImpl.load_configuration, []
def counted(self, *args, **kwargs):
    composed.append(args)
    return whole(self, *args, **kwargs)
ConfigLoaderImpl.load_configuration = counted
import os, sys, types
import nasx
def search(cfg, info):
    print('COMPOSED', len(composed), flush=True)
    os._exit(0)
"""
    + faked.JOBS
)


@pytest.mark.slow
def test_a_long_sweep_composes_no_more_than_a_short_one_before_its_first_job(tmp_path: Path) -> None:
    short, long = (
        call(tmp_path, "search", *DIGITS, f"seed=range(0,{n})", code=COUNTED).stdout.splitlines()[-1] for n in (2, 3000)
    )
    assert short.startswith("COMPOSED ")
    assert long == short


# -------------------------------------------------------------------------------------- refused before job 0
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["method=darts,pc_darts", "space=darts,nb1shot1_1"],
            ["method=pc_darts: sets space.partial", "method=pc_darts: sets space.edge_norm"],
        ),
        (["search.lr=0.1,0.01", "search.lr_min=0.001,0.05"], ["search.lr_min=0.05: is above search.lr=0.01"]),
        (["search.epochs=2,1,-1", "seed=0,x"], ["search.epochs=-1: must be", "seed=x: must be a whole number"]),
        (["method=glob(q*)"], ["method=glob(q*): lists no values"]),
        (["seed=glob(*)"], ["seed=glob(*): lists no values"]),
        (["seed=range(5,0)"], ["seed=range(5,0): lists no values"]),
        (["seed=range(0,1000000000000)"], ["--multirun: would start more than 100,000 jobs"]),
        (["seed=range(0,inf)"], ["--multirun: would start more than 100,000 jobs"]),
        (["seed=range(0,1000)", "search.lr=range(1,2,0.001)"], ["--multirun: would start more than 100,000 jobs"]),
        (["name=same", "seed=3,4"], ["seed=4: would share the run folder outputs/same with seed=3; leave name out"]),
        (["seed=3,3"], ["seed=3: is the same run as seed=3"]),
        (["quiet=true,false"], ["quiet=False: is the same run as quiet=True"]),
        (["seeds_per_job=2", "name=x"], ["would put all runs of seeds_per_job=2 into one folder"]),
        (["seeds_per_job=2", "seed=0,1"], ["seed=1: is the same run as seed=0"]),
    ],
)
@pytest.mark.sample(4)
def test_a_sweep_that_cannot_go_to_its_end_is_refused(
    words: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = faults(*DIGITS, *words)
    assert len(found) == len(parts), found
    for part in parts:
        assert any(part in line for line in found), found


def test_a_refused_sweep_starts_no_job(tmp_path: Path) -> None:
    done = call(
        tmp_path, "search", "--multirun", "dataset=digits", "method=darts,pc_darts", "space=darts,nb1shot1_1", code=FAKE
    )
    assert (done.returncode, ran(done), list(tmp_path.iterdir())) == (2, [], [])
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_glob_is_a_sweep_over_its_choices(tmp_path: Path) -> None:
    done = call(tmp_path, "search", *DIGITS, "method=glob(da*)", code=FAKE)
    assert done.returncode == 0, done.stderr
    assert [job["info"]["choices"]["method"] for job in ran(done)] == ["darts", "darts_minus", "darts_pt"]


def test_jobs_of_run_may_share_a_search_and_not_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = (*DIGITS, "space=darts", "retrain.epochs=1,2")
    assert faults(*words, command="run") == []
    found = faults(*words, "then=lookup", command="run")
    assert any("is the same run as retrain.epochs=1" in line for line in found), found
    found = faults(*words, "name=x", command="run")
    assert any("would share the run folder outputs/x-retrain" in line for line in found), found


def test_a_folder_of_another_configuration_is_reported_before_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg, choices = resolved(make_loader().load_configuration("search", ["dataset=digits", "seed=1"], RunMode.RUN))
    folder = Path("outputs") / config_identity.run_name(cfg, choices, "search")
    extra = {"kind": "search", "choices": choices, "identity": config_identity.identity(cfg, "search")}
    for identity in (extra["identity"], extra["identity"][:8]):  # as older versions wrote it
        with run_folder.Run(folder, config_identity.identifying(cfg, "search"), {**extra, "identity": identity}) as run:
            run.append({"epoch": 1})
        assert faults(*DIGITS, "seed=0,1,2") == []
    held = yaml.safe_load((folder / "config.yaml").read_text())
    held["search"]["lr"], held["identity"] = 0.5, "0" * 32
    (folder / "config.yaml").write_text(yaml.safe_dump(held, sort_keys=False))
    [found] = faults(*DIGITS, "seed=0,1,2")
    assert "belongs to a run with a different configuration (search.lr: 0.5 in the folder" in found


def test_jobs_of_one_short_name_never_share_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_identity, "SHORT", 1)  # of seventeen settings two have one digit
    found = faults(*DIGITS, "search.lr=range(1,18)")
    assert found
    assert all("would share the run folder outputs/darts-nb201-digits-s0-" in line for line in found)
    assert all("run one of them in a separate command" in line for line in found)


@pytest.mark.slow
def test_a_sweeper_that_chooses_is_asked_for_no_combination(compositions: list[list[str]]) -> None:
    words = ["experiment=tune_arch_lr", "seed=range(0,1000000)", "search.lr=interval(0.1,-1)"]
    found = faults(*DIGITS, *words)
    assert found == ["search.lr=-1.0: must be above 0; the default is search.lr=0.025"]
    assert len(compositions) < 6
