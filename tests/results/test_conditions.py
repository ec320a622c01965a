"""Conditions that no run meets, and those on what is neither a column nor a setting: what the error suggests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nasx.cli import compare
from nasx.errors import UserError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two finished searches below outputs/."""
    monkeypatch.chdir(tmp_path)
    for seed, method in enumerate(("darts", "random")):
        choices = {"method": method, "space": "nb201", "dataset": "cifar10"}
        record = {"kind": "search", "name": method, "status": "finished", "choices": choices, "protocol": "nb201-v1"}
        folder = Path("outputs", method)
        folder.mkdir(parents=True)
        folder.joinpath("result.json").write_text(json.dumps({**record, "seed": seed, "overrides": []}))
        folder.joinpath("config.yaml").write_text(
            f"seed: {seed}\nsearch: {{lr: 0.1}}\nchoices: {json.dumps(choices)}\n"
        )


NONE = "matches no finished run (2 runs below outputs)"


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("methd=darts", "methd: is not a column; did you mean method?"),
        ("method=darts,sed=0", "sed: is not a column; did you mean seed?"),
        ("lr=0.1", "lr: is not a column; did you mean search.lr?"),
        ("search.lrr=0.1", "search.lrr: is not a setting of these runs; did you mean search.lr?"),
        ("metrc=params", "has no option metrc; did you mean metric?"),
        ("method=dart", f"method=dart: {NONE}; did you mean method=darts?"),
        ("search.lr=7", f"search.lr=7: {NONE}; choose search.lr from 0.1"),
        ("name=x", f"name=x: {NONE}; choose run from darts, random"),
        ("method=darts,seed=1", f"method=darts,seed=1: {NONE}; use fewer conditions"),
    ],
)
def test_a_condition_that_selects_nothing_is_answered_with_what_there_is(word: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        compare.main([word, "method=random"])
    assert said in str(error.value)
