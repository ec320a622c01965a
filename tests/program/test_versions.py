"""Runs, exports and an unfinished sweep of version 0.1.0, kept in tests/versions, are read, continued and tabulated."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import jobs
import pytest
import yaml

from nasx.config import identity
from nasx.core import versions
from nasx.errors import UserError
from nasx.results.collect import collect
from nasx.tracking import records, run_folder

KEPT = Path(__file__).parents[1] / "versions" / "0.1.0"
SETTINGS: dict[str, list[str]] = json.loads((KEPT / "settings.json").read_text(encoding="utf-8"))
DONE, HALF, TRAINED = (
    "darts-nb201-digits-s0-1a1ce3e4",
    "darts-nb201-digits-s1-2d7e0072",
    "retrain-nb201-digits-s0-676784e9",
)
APART = {"nasx.benchmarks.nb201.Nb201": {"devices"}}
"""Settings that change nothing that a run computes."""
CHANGES = {"nasx.data.imagenet.ImageNet": {"verify"}, "nasx.data.imagenet.Photos": {"verify", "test_fraction"}}
"""Settings that a component has got together with another way to read images: its runs have new identities."""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A copy of the folder of runs, as `outputs`."""
    shutil.copytree(KEPT, tmp_path / "outputs")
    return tmp_path


@pytest.mark.parametrize("target", SETTINGS)
def test_every_added_setting_is_listed_with_the_value_of_before(target: str) -> None:
    target, first = versions.present(target), target
    module, _, name = target.rpartition(".")
    fields = {field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name))}
    listed = versions.INTRODUCED.get(target, {}).keys() | CHANGES.get(target, set()) | APART.get(target, set())
    assert fields - set(SETTINGS[first]) == listed


def test_a_half_done_sweep_goes_on_under_its_names_with_the_rows_that_it_would_have_had(here: Path) -> None:
    command = json.loads(next((here / "outputs").glob(".sweeps/*/sweep.json")).read_text())["command"]
    before = (here / "outputs" / DONE / "result.json").read_bytes()
    done = jobs.nasx(here, *command)
    assert done.code == 0, done
    assert "3 of 3 jobs finished" in done.out + done.err
    assert (here / "outputs" / DONE / "result.json").read_bytes() == before
    names = sorted(path.name for path in (here / "outputs").glob("darts-*"))
    assert len(names) == 3
    assert names[:2] == [DONE, HALF]
    rows, whole = (
        records.parsed(path.read_text())
        for path in (here / "outputs" / HALF / "metrics.jsonl", KEPT / "whole-s1.jsonl")
    )
    assert [row["genotype"] for row in rows] == [row["genotype"] for row in whole]
    for row, expected in zip(rows, whole, strict=True):
        assert {key: row[key] for key in expected if "loss" in key} == pytest.approx(
            {key: expected[key] for key in expected if "loss" in key}, rel=1e-3
        )


@pytest.mark.slow
def test_its_runs_are_tabulated_next_to_those_of_today(here: Path) -> None:
    command = json.loads(next((here / "outputs").glob(".sweeps/*/sweep.json")).read_text())["command"]
    words = [word.replace("seed=0,1,2", "seed=7") for word in command if word != "--multirun"]
    assert jobs.nasx(here, *words).code == 0
    frame = collect(here / "outputs")
    searches = frame[frame["kind"] == "search"]
    assert sorted(searches["seed"]) == [0, 7]
    assert searches["family"].nunique() == 1
    assert frame[frame["kind"] == "retrain"]["parent"].tolist() == [DONE]
    assert "not finished: 1" in frame.attrs["notes"][0]


@pytest.mark.slow
def test_its_exports_and_records_are_followed(here: Path) -> None:
    for words in (
        ["evaluate", f"outputs/{TRAINED}/export", "dataset=digits"],
        ["info", f"from={DONE}"],
        ["export", f"from={TRAINED}"],
        ["table"],
        ["status"],
        ["report", "outputs"],
    ):
        done = jobs.nasx(here, *words)
        assert done.code == 0, (words, done)


def test_the_files_of_today_hold_their_format(tmp_path: Path) -> None:
    assert jobs.nasx(tmp_path, *jobs.TINY_NB201, "name=x").code == 0
    folder = tmp_path / "runs" / "x"
    assert yaml.safe_load((folder / "config.yaml").read_text())["format"] == versions.FORMAT
    assert json.loads((folder / "result.json").read_text())["format"] == versions.FORMAT


@pytest.mark.parametrize("file", ["config.yaml", "result.json"])
def test_a_later_format_is_refused_and_left_out(here: Path, file: str) -> None:
    path = here / "outputs" / DONE / file
    held = yaml.safe_load(path.read_text())
    path.write_text(json.dumps({"format": versions.FORMAT + 1, **held}))
    cfg = {key: value for key, value in held.items() if key not in identity.METADATA_KEYS}
    extra = {key: held[key] for key in identity.METADATA_KEYS if key in held}
    with pytest.raises(UserError, match=f"has format {versions.FORMAT + 1}; this version of nasx reads formats up to"):
        records.finished(path.parent) if file == "result.json" else run_folder.Run(path.parent, cfg, extra)
    if file == "result.json":
        assert "written by a later version of nasx" in " ".join(collect(here / "outputs").attrs["notes"])


NODE: dict[str, Any] = {
    "_target_": "nasx.methods.sdarts.Sdarts",
    "perturbation": "adversarial",
    "random_start": False,
    "ascent": "train",
    "inner": {"_target_": "nasx.methods.gdas.Gdas", "gradient": "released"},
}


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, {"perturbation", "inner"}),
        ({"random_start": True}, {"perturbation", "inner", "random_start"}),
        ({"random_start": True, "ascent": "eval", "perturbation": "random"}, {"perturbation", "inner"}),
        ({"other": 1}, {"perturbation", "inner", "other"}),
    ],
)
def test_only_values_that_compute_what_was_computed_are_left_out(changes: dict[str, Any], kept: set[str]) -> None:
    found = versions.stable({"method": [{**NODE, **changes}]})["method"][0]
    assert found.keys() == kept | {"_target_"}
    assert found["inner"] == NODE["inner"]


def test_a_component_that_computes_otherwise_gets_a_new_identity_and_takes_no_folder_of_before(tmp_path: Path) -> None:
    settings = {"dataset": {"_target_": "nasx.data.images.Folder", "path": "x"}, "seed": 0}
    assert versions.stable(settings)["dataset"]["revised"] == 1
    assert versions.stable(settings, 0) == settings
    moved = {"_target_": "nasx.spaces.nb201.space.Nb201", "layers": 5}
    assert versions.stable(moved) == {**moved, "_target_": "nasx.spaces.nb201.Nb201"}
    assert versions.completed(versions.stable(moved)) == {**moved, "edge_norm": False, "derive_none": True}
    (tmp_path / "config.yaml").write_text(json.dumps({"kind": "search", "identity": "x", **settings}))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="a version of nasx that gives different results for the same configuration"):
        run_folder.Run(tmp_path, settings, {"kind": "search", "identity": "x"})
    (tmp_path / "config.yaml").write_text(json.dumps({"format": 1, "kind": "search", "identity": "x", **settings}))
    run_folder.Run(tmp_path, settings, {"kind": "search", "identity": "x"}).close()


def test_a_configuration_of_before_is_completed_with_what_it_was_computed_with() -> None:
    old = {
        "_target_": "nasx.methods.sdarts.Sdarts",
        "perturbation": "adversarial",
        "inner": {"_target_": "nasx.methods.gdas.Gdas"},
    }
    new = versions.completed({"method": old})["method"]
    assert (new["random_start"], new["ascent"], new["inner"]["gradient"]) == (False, "train", "straight_through")
    assert versions.stable(new) == old
