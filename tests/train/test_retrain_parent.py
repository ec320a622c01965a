"""The architecture that a retraining takes from a finished search, named by its folder or its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_retrain import CELL, composed, digits

from nasx.errors import UserError
from nasx.jobs import retrain
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import records
from nasx.train.job import architecture, other_space


def parent(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "found"
    folder.mkdir(exist_ok=True)
    record = {
        "kind": "search",
        "status": "finished",
        "name": "found",
        "genotype": CELL,
        "lookup": {"benchmark": "nb201", "cifar10": {"valid": 90.0}},
        "choices": {"space": "nb201"},
        **changes,
    }
    (folder / "result.json").write_text(json.dumps(record))
    space = {
        "_target_": "nasx.spaces.nb201.space.Nb201",
        "operations": ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"choices": {"space": "nb201"}, "space": space}))
    return folder


def asked(tmp_path: Path, name: str | Path | None, genotype: str | None = None) -> dict[str, Any]:
    return {
        "from": None if name is None else str(name),
        "genotype": genotype,
        "out": str(tmp_path),
        "space": {"_target_": "nasx.spaces.nb201.space.Nb201", "operations": ["none", "skip_connect"]},
    }


@pytest.mark.parametrize("name", ["found", "folder"])
def test_a_search_is_named_by_its_folder_or_its_name(tmp_path: Path, name: str) -> None:
    folder = parent(tmp_path)
    genotype, found = architecture(asked(tmp_path, folder if name == "folder" else name), Nb201())
    assert str(genotype) == CELL
    assert found is not None
    assert found["name"] == "found"


def test_the_record_names_its_parent(tmp_path: Path) -> None:
    folder = parent(tmp_path)
    words = [
        w
        for w in digits(tmp_path, "retrain.epochs=1", "retrain.updates_per_epoch=1", "retrain.batch=8")
        if not w.startswith("genotype=")
    ]
    result = retrain.retrain(*composed(*words, f"from={folder}"))
    assert result["parent"] == "found"
    assert result["parent_lookup"]["cifar10"]["valid"] == 90.0
    assert result["lookup"] is None
    assert result["genotype"] == CELL


def test_a_folder_that_holds_a_run_goes_before_one_that_only_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "outputs" / "photos").mkdir(parents=True)
    assert records.locate("photos", "outputs") == Path("photos")
    (tmp_path / "outputs" / "photos" / "config.yaml").touch()
    assert records.locate("photos", "outputs") == Path("outputs/photos")
    assert records.locate("nothing", "outputs") is None


def faults(tmp_path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    yield asked(tmp_path, "nowhere"), r"from=nowhere: run not found"
    yield asked(tmp_path, None), r"retrain: no architecture is given"
    parent(tmp_path, status="running")
    yield asked(tmp_path, "found"), r"from=found: .*contains no finished run.*it will resume"
    parent(tmp_path, kind="retrain", parent="first")
    yield asked(tmp_path, "found"), r"is a run of nasx retrain, not a search; use from=first"
    parent(tmp_path, genotype="|nor_conv_3x3~0|")
    yield asked(tmp_path, "found"), r"is not in the space"


def test_a_parent_that_cannot_be_used(tmp_path: Path) -> None:
    for cfg, message in faults(tmp_path):
        with pytest.raises(UserError, match=message):
            architecture(cfg, Nb201())


def test_a_cell_of_another_space_says_which_settings_differ(tmp_path: Path) -> None:
    parent(tmp_path)
    message = r"the search had .*space\.operations=\[none,skip_connect,nor_conv_1x1,nor_conv_3x3\]: use the same"
    with pytest.raises(UserError, match=message):
        architecture(asked(tmp_path, "found"), Nb201(operations=("none", "skip_connect")))
    assert other_space({"_target_": "a.B"}, {"_target_": "a.C"}) == "use the space of the search"
