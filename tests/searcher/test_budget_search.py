"""Whole searches under a budget: they follow the target, resume bit for bit, and leave searches without one alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from composing import composed
from search_jobs import NB201, TINY, recorded

from nasx.config import identity
from nasx.errors import UserError
from nasx.jobs import search as jobs_search
from nasx.report import run_summary
from nasx.results.collect import collect
from nasx.tracking import run_folder


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_search, "pictures", lambda folder: None)


def rows(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in found]


@pytest.mark.slow
def test_the_cost_that_is_found_follows_the_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = []
    for target in ("0.3", "0.7"):
        done = recorded(tmp_path, "budget=params", f"budget.target={target}", "budget.enforce=true", name=f"t{target}")
        budget = done["budget"]
        expected.append(budget["expected"])
        assert budget["expected"] < 1.2 * budget["target"]
        assert budget["met"]
        assert budget["cost"] == done["lookup"]["params"] <= budget["target"]
        if budget["found"]["cost"] > budget["target"]:
            assert done["genotype"] == budget["nearest"]["genotype"] != budget["found"]["genotype"]
    assert expected[0] < expected[1]
    free = recorded(tmp_path, "budget=params", "budget.target=2M", name="free")["budget"]
    assert free["expected"] > expected[0], "no force below the target"
    frame = collect(tmp_path).set_index("run")
    assert frame["budget.ratio"]["free"] == pytest.approx(free["cost"] / 2e6)
    assert (frame["budget.ratio"] <= 1).all()


@pytest.mark.parametrize(
    "words",
    [
        ["space=darts", "space.layers=3", "method=single", "budget=params", "budget.form=logarithmic"],
        ["space=nb1shot1_1", "space.layers=3", "method=drnas", "budget=macs", "budget.form=linear"],
        ["space=s2", "space.layers=3", "method=gdas", "budget=macs", "budget.form=multiplicative"],
    ],
)
@pytest.mark.slow
def test_other_spaces_and_methods(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    small = ["budget.layers=3", "budget.channels=4", "search.epochs=1", "search.updates_per_epoch=2"]
    done = recorded(tmp_path, *words, *small, "budget.target=0.9", base=TINY)
    budget = done["budget"]
    assert budget["ratio"] == pytest.approx(budget["cost"] / budget["target"])
    assert budget["met"] == (budget["nearest"] is None) or budget["nearest"] is None
    assert ("budget: " in capsys.readouterr().out) is True


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["budget=macs", "budget.form=multiplicative", "budget.target=0.5", "method=gdas"]
    whole = recorded(tmp_path / "whole", *words)
    appended, count = run_folder.Run.append, [0]

    class Killed(Exception):
        """Stands for the end of the process."""

    def append(self: run_folder.Run, row: Any) -> None:
        count[0] += 1
        if count[0] in (2, 4):
            raise Killed
        appended(self, row)

    monkeypatch.setattr(run_folder.Run, "append", append)
    for _ in range(2):
        with pytest.raises(Killed):
            recorded(tmp_path / "broken", *words)
    again = recorded(tmp_path / "broken", *words)
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    assert {key: again[key] for key in ("genotype", "budget")} == {key: whole[key] for key in ("genotype", "budget")}


@pytest.mark.slow
def test_without_a_budget_nothing_is_changed(tmp_path: Path) -> None:
    cfg, _ = composed("search", *NB201)
    before = {key: value for key, value in cfg.items() if key != "budget"}
    assert identity.identity(cfg, "search") == identity.identity(before, "search")
    assert identity.identifying(cfg, "search") == identity.identifying(before, "search")
    limited, _ = composed("search", *NB201, "budget=macs")
    assert identity.identity(limited, "search") != identity.identity(cfg, "search")
    plain = recorded(tmp_path / "plain")
    loose = recorded(tmp_path / "loose", "budget=macs", "budget.target=1000G")  # never a force
    assert "budget" not in plain
    first, other = rows(tmp_path / "plain"), rows(tmp_path / "loose")
    assert [{key: row[key] for key in own} for own, row in zip(first, other, strict=True)] == first
    assert plain["genotype"] == loose["genotype"]


def test_a_target_below_every_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no network in this space costs less than 73.31 k parameters"):
        recorded(tmp_path, "budget=params", "budget.target=50k")


def test_the_last_screen_says_what_the_nearest_network_is(capsys: pytest.CaptureFixture[str]) -> None:
    near = {"genotype": "near", "cost": 9e5, "lookup": {"cifar10": {"valid": 80.0}}}
    found = {"genotype": "far", "cost": 2e6, "lookup": {"cifar10": {"valid": 90.0}}}
    budget = {"quantity": "macs", "target": 1e6, "found": found, "nearest": near, "enforced": False}
    run_summary._budget(run_summary.Screen(), budget)
    assert capsys.readouterr().out.splitlines() == [
        "budget: far costs 2.00 M multiply-adds, 100.0 % over 1.00 M multiply-adds",
        "nearest within the budget (0.90 M multiply-adds, 80.00 % CIFAR-10 validation instead of 90.00 %):",
        "near",
        "budget.enforce=true makes it the result of the search",
    ]


def test_the_size_of_the_counted_network_does_not_make_a_run_reduced(tmp_path: Path) -> None:
    content = {"kind": "search", "choices": {}, "changed": {"budget.layers": [None, 3], "budget.channels": [None, 8]}}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text(json.dumps(content))
    assert collect(tmp_path)["reduced"].tolist() == [False]
