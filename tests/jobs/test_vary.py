"""Studies whose searches differ in a setting (R-DARTS), and the linear schedule of a search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import folders
import jobs
import pytest

from nasx.config import search_rules
from nasx.core import schedules

STUDY = (
    "study",
    "study=r_darts",
    "study.rank_epochs=1",
    "study.retrains=1",
    "space=s2",
    "dataset=digits",
    "dataset.size=16",
    "debug=tiny",
    "threads=1",
    "out=runs",
)


@pytest.mark.slow
def test_each_search_has_its_own_value_and_the_best_is_retrained(tmp_path: Path) -> None:
    """R-DARTS with two strengths, end to end; the same command again does nothing."""
    words = (*STUDY, "study.searches=2", "study.vary.weight_decay=[3e-4,9e-4]")
    done = jobs.nasx(tmp_path, *words)
    assert done.code == 0, done
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/result.json")]
    searches = sorted((one for one in records if one["kind"] == "search"), key=lambda one: one["seed"])
    (study,) = [one for one in records if one["kind"] == "study"]
    assert [one["name"] for one in searches] == study["searches"]
    held = [(tmp_path / "runs" / one["name"] / "config.yaml").read_text() for one in searches]
    assert ["weight_decay: 0.0003" in text for text in held] == [True, False]
    assert ["weight_decay: 0.0009" in text for text in held] == [False, True]
    assert searches[0]["family"] != searches[1]["family"]
    assert len(study["ranking"]) == 2
    best = max(range(2), key=lambda i: study["ranking"][i]["accuracy"])
    (trained,) = [one for one in records if one["name"] == study["retrains"][0]]
    assert trained["parent"] == searches[best]["name"]
    alone = jobs.nasx(tmp_path, "search", *STUDY[4:], "search.weight_decay=9e-4", "seed=1")
    assert alone.code == 0, alone
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == len(records), "a step is an ordinary run"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("study.searches=3",), "is not a list of length 3"),
        (("+study.vary.weight_dekay=[1,2,3,4]",), "study.vary has no such setting"),
        (("study.vary.weight_decay=[1e-4,2e-4,3e-4,-1]",), "study.vary.weight_decay: search.weight_decay=-1"),
    ],
)
def test_what_cannot_vary_is_refused_at_once(words: Sequence[str], said: str, tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, *STUDY, *words)
    assert done.code == 2, done
    assert said in " ".join(done.err.split()), done
    assert not (tmp_path / "runs").exists()


def test_a_file_of_ones_own_with_an_unknown_setting_is_refused() -> None:
    cfg = {"search": {"_target_": "x", "weight_decay": 1}, "study": {"searches": 1, "vary": {"weight_dekay": [1]}}}
    assert "did you mean weight_decay?" in str(next(search_rules.varied(cfg)))


def test_the_linear_schedule_falls_by_equal_steps(tmp_path: Path) -> None:
    """low + (base - low) (E - e) / E, in the function and in the rows of a search."""
    rates = [schedules.rate(0.5, 0.1, e, 4, 0, "linear") for e in range(5)]
    assert rates == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1], rel=1e-15)
    assert schedules.rate(0.5, 0.0, 0, 4, 2, "linear") == 0.25  # warm-up halves the first of two epochs
    words = (*jobs.TINY_NB201, "search.epochs=4", "search.lr=0.5", "search.lr_min=0", "search.schedule=linear")
    done = jobs.nasx(tmp_path, *words)
    assert done.code == 0, done
    rows = folders.rows(jobs.folder(tmp_path))
    assert [row["lr"] for row in rows] == pytest.approx([0.5, 0.375, 0.25, 0.125], rel=1e-15)
