"""Early stopping by the eigenvalue: the rule on synthetic series, and a small search that stops and resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composing import faults
from hydra.types import RunMode

from nasx.cli import preflight
from nasx.config.job_info import JobInfo
from nasx.diagnostics import stop
from nasx.jobs import search as jobs_search
from nasx.tracking import run_folder


def rows(values: list[float], every: int = 2) -> list[dict[str, Any]]:
    """Metrics rows from epoch 1 on, an eigenvalue each `every` epochs; the genotype names its epoch."""
    count = every * (len(values) - 1) + 1
    return [
        {
            "epoch": e,
            "genotype": f"cell of epoch {e}",
            "lookup": {"epoch": e},
            **({"eigenvalue": values[(e - 1) // every]} if (e - 1) % every == 0 else {}),
        }
        for e in range(1, count + 1)
    ]


def released(values: list[float], epochs: int, every: int = 2) -> tuple[int, int] | None:
    """RobustDARTS' rule, evaluation by evaluation, with its own bookkeeping; epochs from 0: (returned, decided)."""
    seen: list[float] = []
    averages: list[float] = []
    for k, value in enumerate(values):
        epoch = every * k
        if epoch >= epochs - 1:
            return None
        seen.append(value)
        if len(seen) < 3:
            continue
        averages.append(float(np.mean(seen if len(seen) < 5 else seen[-5:])))
        centre = epoch - 2 * every
        if centre - 4 * every >= 10 and averages[-1] / averages[-5] > 1.3:
            return centre - 4 * every, epoch
    return None


# ----------------------------------------------------------------------------------------------------------- rule
@pytest.mark.parametrize("seed", range(40))
def test_the_rule_is_that_of_the_released_code(seed: int) -> None:
    gen = np.random.default_rng(seed)
    values = list(np.exp(np.cumsum(gen.normal(0.02, 0.08, 25))))
    expected = released(values, 50)
    found = stop.EigenvalueStop().found(rows(values), 50)
    assert (None if found is None else (found["epoch"] - 1, found["at"] - 1)) == expected


def test_both_outcomes_occur_among_those_series() -> None:
    outcomes = {
        released(list(np.exp(np.cumsum(np.random.default_rng(s).normal(0.02, 0.08, 25)))), 50) is None
        for s in range(40)
    }
    assert outcomes == {True, False}


def test_growth_is_seen_six_evaluations_later_and_gives_the_earlier_cell() -> None:
    values = [1.0] * 8 + [4.0] * 10
    found = stop.EigenvalueStop().found(rows(values), 50)
    # evaluation 5 (row 11, epoch 10 from 0) is the first that may be returned; it is compared with evaluation 9, whose
    # mean over evaluations 7 to 11 is known after evaluation 11
    assert found == {
        "epoch": 11,
        "at": 23,
        "ratio": 3.4,
        "genotype": "cell of epoch 11",
        "lookup": {"epoch": 11},
        "simulated": False,
    }


@pytest.mark.parametrize(
    ("values", "epochs"),
    [
        ([1.0] * 25, 50),
        ([1.29 ** (k / 4) for k in range(25)], 50),
        ([2.0] * 8 + [1.0] * 17, 50),
        ([1.0] * 5 + [9.0] * 6, 50),
        ([-1.0] * 8 + [-4.0] * 17, 50),
        ([1.0] * 8 + [4.0] * 4, 23),
        ([], 50),
    ],
)
def test_no_stop(values: list[float], epochs: int) -> None:
    # flat; below the factor; falling; too few evaluations; negative; decided in the last epoch only; none
    assert stop.EigenvalueStop().found(rows(values) if values else [], epochs) is None


@pytest.mark.parametrize("mode", ["stop", "simulate"])
@pytest.mark.parametrize(
    ("least", "rule"),
    [(24, {}), (3, {"every": 1, "window": 1, "lag": 1, "start": 0}), (30, {"every": 4, "window": 4, "start": 1})],
)
def test_a_search_that_is_too_short_for_a_decision_is_refused(least: int, rule: dict[str, int], mode: str) -> None:
    values = [4.0**k for k in range(60)]
    own = stop.EigenvalueStop(**rule)
    assert [epochs for epochs in range(60) if own.found(rows(values, own.every), epochs)] == list(range(least, 60))
    name = {"stop": "eigenvalue"}.get(mode, mode)
    words = [f"stop={name}", "dataset=digits", *(f"stop.{key}={value}" for key, value in rule.items())]
    assert not faults(*words, f"search.epochs={least}")
    assert faults(*words, f"search.epochs={least - 1}") == [
        f"search.epochs={least - 1}: is too few for stop={name}, which needs {least} epochs to detect growth of the "
        f"eigenvalue; set search.epochs to {least} or more, or stop=off"
    ]


def test_only_its_own_evaluations_count() -> None:
    every = rows([1.0] * 16 + [4.0] * 20, every=1)  # diagnostics after each epoch beside a rule of every second
    thinned = [{k: v for k, v in row.items() if k != "eigenvalue" or row["epoch"] % 2 == 1} for row in every]
    assert stop.EigenvalueStop().found(every, 50) == stop.EigenvalueStop().found(thinned, 50) is not None


def test_off_and_simulate() -> None:
    values = [1.0] * 8 + [4.0] * 10
    simulated = stop.EigenvalueStop(mode="simulate")
    assert not simulated.acts
    assert simulated.found(rows(values), 50)["simulated"] is True
    off = stop.NoStop()
    assert (off.acts, off.due(1), off.found(rows(values), 50)) == (False, False, None)
    assert [epoch for epoch in range(1, 8) if stop.EigenvalueStop(every=3).due(epoch)] == [1, 4, 7]


# --------------------------------------------------------------------------------------------------------- search
TINY = [
    "space=nb201",
    "dataset=digits",
    "space.layers=1",
    "space.channels=2",
    "search.batch=4",
    "search.epochs=5",
    "search.updates_per_epoch=2",
    "search.evaluate_every=0",
    "quiet=true",
    "device=cpu",
]
EAGER = ["stop.every=1", "stop.window=1", "stop.lag=1", "stop.factor=1e-6", "stop.start=1"]
"""Stops at the second comparison: after epoch 3, with the cell of epoch 2."""


def search(out: Path, *overrides: str) -> dict[str, Any]:
    words = [*TINY, *overrides, f"out={out}", "name=run"]
    cfg, choices = preflight.resolved(preflight.make_loader().load_configuration("search", words, RunMode.RUN))
    jobs_search.search(cfg, JobInfo(choices=choices, overrides=words, command="nasx search"))
    return json.loads((out / "run" / "result.json").read_text())


def kept(out: Path) -> list[dict[str, Any]]:
    """Metrics rows without what depends on the clock."""
    found = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    for row in found:
        row.pop("wall_s")
        row.get("diagnostics", {}).pop("seconds", None)
    return found


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_search, "pictures", lambda folder: None)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.slow
def test_a_search_stops_with_the_earlier_cell_and_resumes_at_any_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(tmp_path / "whole", "stop=eigenvalue", *EAGER)
    found = kept(tmp_path / "whole")
    assert [row["epoch"] for row in found] == [1, 2, 3]
    assert (whole["stopped"]["epoch"], whole["stopped"]["at"], whole["updates"]) == (2, 3, 6)
    assert whole["genotype"] == whole["stopped"]["genotype"] == found[1]["genotype"]
    assert whole["lookup"] == found[1]["lookup"]
    assert whole["diagnostics"]["forward"] == 3
    assert not any("eigenvalue grew" in reason for reason in whole["verdict"]["reasons"])

    appended, finish, count = run_folder.Run.append, run_folder.Run.finish, [0]

    def append(self: run_folder.Run, row: Any) -> None:
        count[0] += 1
        if count[0] == 2:
            raise Killed
        appended(self, row)

    def finishing(self: run_folder.Run, result: Any) -> None:
        raise Killed

    monkeypatch.setattr(run_folder.Run, "append", append)
    with pytest.raises(Killed):  # before the second row is written
        search(tmp_path / "broken", "stop=eigenvalue", *EAGER)
    monkeypatch.setattr(run_folder.Run, "finish", finishing)
    with pytest.raises(Killed):  # after the decision, before the record
        search(tmp_path / "broken", "stop=eigenvalue", *EAGER)
    monkeypatch.setattr(run_folder.Run, "finish", finish)
    again = search(tmp_path / "broken", "stop=eigenvalue", *EAGER)
    assert kept(tmp_path / "broken") == found
    same = ("genotype", "stopped", "updates", "supernet", "verdict", "lookup")
    assert {key: again[key] for key in same} == {key: whole[key] for key in same}


@pytest.mark.slow
def test_diagnostics_and_a_simulated_stop_leave_the_search_as_it_is(tmp_path: Path) -> None:
    plain = search(tmp_path / "plain")
    watched = search(tmp_path / "watched", "stop=simulate", *EAGER, "search.diagnose_every=2")
    assert watched["stopped"]["simulated"]
    assert (watched["stopped"]["epoch"], watched["updates"]) == (2, 10)
    one, other = kept(tmp_path / "plain"), kept(tmp_path / "watched")
    assert [{k: row[k] for k in first} for first, row in zip(one, other, strict=True)] == one
    assert watched["genotype"] == plain["genotype"]
    assert plain["diagnostics"] is None
    assert watched["passes"] - plain["passes"] == watched["diagnostics"]["forward"] == 3 * 3 + 2
    assert watched["identity"] != plain["identity"]
