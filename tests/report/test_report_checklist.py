"""The checklist of the report page: which items the runs answer, partly answer or leave open."""

from __future__ import annotations

import json

import pytest
from report_page import writer

from nasx.report import checklist
from nasx.results.aggregate import summary
from nasx.results.collect import collect


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return writer(tmp_path)


def states(root: str, *, anytime: bool = True) -> dict[int, str]:
    frame = collect(root)
    rows = [summary(frame, reference=False), frame]
    groups, runs = ([{str(k): v for k, v in r.items()} for r in rows_.to_dict("records")] for rows_ in rows)
    found = checklist.items(runs, groups, anytime=anytime)
    assert [item.number for item in found] == list(range(1, 15))
    assert {item.state for item in found} <= set(checklist.STATES)
    return {item.number: item.state for item in found}


def test_a_clean_study_has_its_list_filled(make):
    for seed in (0, 1, 2):
        make("darts", seed)
        make("darts", seed, family="other", overrides=["method.order=2"])
        make("random", seed)
    found = states("outputs")
    assert [number for number, state in found.items() if state != "yes"] == [3, 12]
    assert found[3] == found[12] == "yours"


def test_random_runs_that_were_tested_next_to_nothing_are_no_baseline(make):
    make("darts")
    make("random", 1)
    assert states("outputs")[8] == "partly"


@pytest.mark.parametrize(
    "other",
    [
        {"choices": {"dataset": "cifar100"}},
        {"choices": {"space": "other"}},
        {"protocol": "nats"},
        {"reduced": True},
        {"kind": "retrain", "test_accuracy": 0.9, "parent": "run0"},
    ],
)
def test_one_method_in_two_contexts_is_not_an_ablation(make, other):
    for seed in (0, 1):
        make(seed=seed)
        make(seed=seed, **{"family": "another"} | other)
    assert states("outputs")[5] == "missing"


@pytest.mark.parametrize("fields", [{"commit": "abc+"}, {"commit": None}, {"versions": {}}, {"hardware": {}}])
def test_confounders_that_are_not_known_are_not_held_fixed(make, fields):
    for seed in (0, 1):
        make(seed=seed, **fields)
    assert states("outputs")[11] == "partly"


def test_the_set_up_is_looked_for(make, tmp_path):
    make()
    make(versions={})
    assert states("outputs")[14] == "partly"
    (tmp_path / "outputs" / "run0" / "config.yaml").unlink()
    frame = collect("outputs")
    rows, groups = (table.to_dict("records") for table in (frame, summary(frame, reference=False)))
    assert (
        checklist.items(rows, groups, anytime=False)[-1].says
        == "1 of 2 runs have no configuration; 1 of 2 runs have no versions"
    )


def test_what_is_missing_is_called_so(make):
    make("darts", commit="abc+", lookup=None)
    make("gdas", 1, protocol="nats", lookup=None, hardware={"device": "cpu", "name": "Another"}, commit=None)
    found = states("outputs", anytime=False)
    assert {n: s for n, s in found.items() if s == "missing"}.keys() == {5, 6, 7, 8, 9, 10}
    assert {n: s for n, s in found.items() if s == "partly"}.keys() == {1, 2, 4, 11, 13}
    assert json.dumps(found)
