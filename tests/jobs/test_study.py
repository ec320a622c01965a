"""Studies: their steps, their choices, no repeated step, and their rows in tables."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from folders import equal
from hydra.types import RunMode
from jobs import Job, folder, nasx, result

from nasx.cli import arguments, preflight
from nasx.cli import table as cli_table
from nasx.config import identity
from nasx.config.job_info import JobInfo
from nasx.errors import UserError
from nasx.jobs import retrain, search
from nasx.jobs import study as studies
from nasx.results.aggregate import summary
from nasx.results.collect import collect
from nasx.tracking import records

CELL = "|nor_conv_3x3~0|+|none~0|{}~1|+|none~0|none~1|nor_conv_3x3~2|"
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")
ACCURACY = {0: 0.90, 1: 0.93, 2: 0.93, 3: 0.91}
"""Of the cells that searches of these seeds find; a retraining adds a thousandth of its seed."""


def composed(*words: str, command: str = "study") -> tuple[dict[str, Any], JobInfo]:
    """(configuration, what the command line knows) of `nasx COMMAND WORDS`."""
    line = preflight.normalize(command, arguments.Line((), words))
    preflight.check_line(command, line)
    made = preflight.make_loader().load_configuration(command, list(line.overrides), RunMode.RUN)
    cfg, choices = preflight.resolved(made)
    return cfg, JobInfo(choices=choices, overrides=words, command=f"nasx {command} {' '.join(words)}")


class Steps:
    """Searches and retrainings that take no time, and are counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[str, int, dict[str, Any]]] = []
        self.stop_at, self.alone = -1, False
        """The step that is killed, and whether each is held against the command that would take it alone."""
        monkeypatch.setattr(search, "search_in_process", lambda cfg, info: self.take("search", cfg, info))
        monkeypatch.setattr(retrain, "retrain", lambda cfg, info: self.take("retrain", cfg, info))

    def take(self, kind: str, cfg: dict[str, Any], info: JobInfo) -> dict[str, Any]:
        if len(self.taken) == self.stop_at:
            raise KeyboardInterrupt
        self.taken.append((kind, cfg["seed"], cfg))
        where = Path(cfg["out"]) / identity.run_name(cfg, info.choices, kind)
        if self.alone:
            own, said = composed(*info.overrides, command=kind)
            assert where.name == identity.run_name(own, said.choices, kind)
        record: dict[str, Any] = {
            "kind": kind,
            "name": where.name,
            "status": "finished",
            "choices": info.choices,
            "seed": cfg["seed"],
            "overrides": info.overrides,
            "identity": identity.identity(cfg, kind),
            "protocol": "p",
            "wall_s": 2.0,
            "family": identity.identity({**cfg, "seed": None, "from": None}, kind),
            "parent": None,
            "genotype": CELL.format(OPERATIONS[cfg["seed"]]),
            "hardware": {"device": "cpu", "name": "x"},
        }
        if kind == "retrain":
            source = Path(str(cfg["from"])) / "result.json"
            found = json.loads(source.read_text())["seed"] if cfg["from"] else 0
            record |= {
                "parent": Path(cfg["from"]).name if cfg["from"] else None,
                "test_accuracy": None,
                "genotype": CELL.format(OPERATIONS[found]),
            }
            held = cfg["retrain"]["held_out"]
            record["valid_accuracy" if held else "test_accuracy"] = ACCURACY[found] + 1e-3 * cfg["seed"]
        where.mkdir(parents=True)
        (where / "result.json").write_text(json.dumps(record))
        (where / "config.yaml").write_text(json.dumps({"kind": kind, "choices": info.choices, **cfg}))
        return record


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    monkeypatch.chdir(tmp_path)
    return Steps(monkeypatch)


BASE = ("space=nb201", "dataset=digits", "method=darts", "quiet=true", "retrain.epochs=200")


def test_the_best_by_a_short_retraining(steps: Steps, capsys: pytest.CaptureFixture[str]) -> None:
    steps.alone = True
    found = studies.study(*composed("study=darts", *BASE, "study.rank_epochs=7", "study.retrains=3", "seed=0"))
    assert [(kind, seed) for kind, seed, _ in steps.taken] == [
        *[("search", seed) for seed in range(4)],
        *[("retrain", 0)] * 4,
        *[("retrain", seed) for seed in range(3)],
    ]
    ranked, reported = steps.taken[4:8], steps.taken[8:]
    assert {(cfg["retrain"]["epochs"], cfg["retrain"]["held_out"]) for _, _, cfg in ranked} == {(7, True)}
    assert {(cfg["retrain"]["epochs"], cfg["retrain"]["held_out"]) for _, _, cfg in reported} == {(200, False)}
    assert found["kept"] == [found["searches"][1]]  # as good as that of seed 2, which came later
    assert {Path(cfg["from"]).name for _, _, cfg in reported} == {found["searches"][1]}
    assert found["test_accuracy"] == pytest.approx(0.931)
    assert found["test_std"] == pytest.approx(1e-3)
    assert (found["n"], found["std_over"], found["wall_s"]) == (3, "retrainings of the best of 4 cells", 22.0)
    assert "test accuracy 93.10 ± 0.10 % (n = 3, retrainings of the best of 4 cells)" in capsys.readouterr().out


def test_each_retrained_once_and_the_best_with_more_seeds(steps: Steps) -> None:
    found = studies.study(*composed("study=tse", *BASE, "seed=0"))
    assert [(kind, seed) for kind, seed, _ in steps.taken[4:]] == [("retrain", seed) for seed in (0, 0, 0, 0, 1, 2, 3)]
    assert not any(cfg["retrain"]["held_out"] for _, _, cfg in steps.taken)
    assert found["test_accuracy"] == pytest.approx(0.932)  # of seeds 1 to 3: that which chose is left out
    assert found["std_over"] == "retrainings of the best of 4 cells by test accuracy"


@pytest.mark.slow
def test_independent_searches_and_a_transfer(steps: Steps) -> None:
    found = studies.study(*composed("study=independent", *BASE))
    assert found["test_accuracy"] == pytest.approx(sum(ACCURACY.values()) / 4)
    assert (found["n"], found["std_over"], len(found["kept"])) == (4, "searches, each retrained once", 4)
    before = len(steps.taken)
    found = studies.study(
        *composed(
            "study=transfer", f"from=outputs/{found['searches'][1]}", "dataset=digits", "dataset.size=16", "quiet=true"
        )
    )
    assert [(kind, seed) for kind, seed, _ in steps.taken[before:]] == [("retrain", seed) for seed in range(3)]
    assert (found["n"], found["std_over"]) == (3, "retrainings of one cell")
    found = studies.study(*composed("study=transfer", "genotype=all_conv3x3", *BASE))
    assert found["test_accuracy"] == pytest.approx(0.901)
    found = studies.study(*composed("study=best_of_four", *BASE))
    assert (found["n"], found["test_std"]) == (1, None)


@pytest.mark.parametrize("study", ["darts", "tse", "independent"])
def test_stopped_at_any_step_it_goes_on_and_repeats_none(study: str, steps: Steps) -> None:
    cfg, info = composed(f"study={study}", *BASE, "study.searches=3", "study.retrains=2")
    whole = studies.study({**cfg, "out": "whole"}, info)
    plan = [(kind, seed) for kind, seed, _ in steps.taken]
    for step in range(len(plan)):
        torn = {**cfg, "out": f"torn{step}"}
        steps.taken, steps.stop_at = [], step
        with pytest.raises(KeyboardInterrupt):
            studies.study(torn, info)
        assert not (list(Path(f"torn{step}").glob(f"{study}_*/result.json")))
        steps.stop_at = -1
        found = studies.study(torn, info)
        assert [(kind, seed) for kind, seed, _ in steps.taken] == plan
        assert [found[key] for key in ("ranking", "kept", "test_accuracy", "retrains")] == [
            whole[key] for key in ("ranking", "kept", "test_accuracy", "retrains")
        ]
        assert studies.study(torn, info) == found
        assert len(steps.taken) == len(plan)


def test_tables_say_what_a_study_reports(steps: Steps) -> None:
    studies.study(*composed("study=darts", *BASE, "study.retrains=3"))
    studies.study(*composed("study=tse", *BASE))
    frame = collect("outputs")
    assert "left out, retrainings on part of the images, used to rank cells: 4" in frame.attrs["notes"][0]
    table = summary(frame, reference=False)
    rows = {row["study"]: row for row in table[table["kind"] == "retrain"].to_dict("records")}
    assert set(rows) == {"darts", "tse", ""}
    for name, over, mean, n in (
        ("darts", "retrainings of the best of 4 cells", 93.1, 3),
        ("tse", "retrainings of the best of 4 cells by test accuracy", 93.2, 3),
    ):
        assert (rows[name]["std_over"], rows[name]["n"], rows[name]["best_of"]) == (over, n, 4)
        assert rows[name]["test_accuracy_mean"] == pytest.approx(mean)
        assert rows[name]["test_accuracy_std"] == pytest.approx(0.1)
    assert (rows[""]["std_over"], rows[""]["n"]) == ("searches, each retrained once", 4)  # by which tse has chosen
    text = cli_table.main({"runs": "outputs", "format": "markdown"})
    assert "darts (best of 4)" in text
    assert "he ± has a different meaning in some rows" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("study=darts", "genotype=all_conv3x3", "space=nb201"), "is not used when the study includes searches"),
        (("study=transfer",), "study.searches=0: trains a given cell, but none is given"),
        (("study=darts", "study.searches=0", "genotype=all_conv3x3"), "study.rank=short: has nothing to choose from"),
        (("study=darts", "dataset.split=full"), "study.rank=short: needs held-out images"),
        (
            ("study=darts", "retrain.warmup_epochs=100", "study.rank_epochs=50"),
            "study.rank_epochs=50: does not exceed retrain.warmup_epochs",
        ),
        (("study=dart",), "unknown study 'dart'"),
        (("study.searchs=3",), "study.searchs"),
        (("study.retrains=0",), "study.retrains=0"),
    ],
)
def test_faults_are_reported_before_anything_runs(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed("dataset=digits", *words)


def test_a_ranking_leaves_the_test_set_alone(tmp_path: Path) -> None:
    """It trains on the split that trains weights (359 of 1,437 images), and tests on the other (1,078)."""
    done = nasx(
        tmp_path,
        "retrain",
        "space=nb201",
        f"genotype={CELL.format('none')}",
        "dataset=digits",
        "out=runs",
        "dataset.size=16",
        "dataset.fraction=0.25",
        "retrain.layers=1",
        "retrain.channels=4",
        "threads=1",
        "retrain.batch=60",
        "retrain.epochs=2",
        "retrain.held_out=true",
        "quiet=true",
    )
    assert done.code == 0, done
    assert "on held-out training images" in done.out
    found = result(tmp_path)
    assert (found["updates"], found["test_accuracy"]) == (12, None)
    assert found["valid_accuracy"] * 1078 == pytest.approx(round(found["valid_accuracy"] * 1078), abs=1e-9)
    assert found["valid_accuracy"] > 0
    [row, _] = records.read_rows(folder(tmp_path))
    assert not any(name.startswith("test") for name in row)
    done = nasx(tmp_path, "export", f"from={folder(tmp_path)}")
    assert done.code == 2
    assert "was trained on only part of the images, to rank its cell" in done.err


TINY = (
    "study",
    "space=darts",
    "dataset=digits",
    "dataset.size=16",
    "space.layers=3",
    "space.channels=4",
    "search.batch=8",
    "search.epochs=1",
    "search.updates_per_epoch=3",
    "search.evaluate_images=32",
    "retrain.layers=3",
    "retrain.channels=4",
    "retrain.batch=32",
    "retrain.epochs=2",
    "retrain.updates_per_epoch=4",
    "retrain.auxiliary=0",
    "threads=1",
    "out=runs",
    "quiet=true",
    "study.searches=2",
    "study.rank_epochs=1",
    "study.retrains=2",
    "checkpoint_s=0.001",
)


@pytest.mark.slow
@pytest.mark.parametrize("study", ["darts", "tse"])
def test_killed_at_random_moments_it_ends_as_one_that_nobody_killed(study: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    began = time.monotonic()
    assert nasx(tmp_path / "whole", *TINY, f"study={study}").code == 0
    whole_s = time.monotonic() - began
    chance, kills = random.Random(0), 0
    for _ in range(12):
        job, end = Job(tmp_path, *TINY, f"study={study}"), time.monotonic() + chance.uniform(0.1, 0.4) * whole_s
        while job.process.is_alive() and time.monotonic() < end:
            time.sleep(0.05)
        if not job.process.is_alive():
            break
        job.kill()
        kills += 1
    done = nasx(tmp_path, *TINY, f"study={study}")
    assert done.code == 0, done
    assert kills > 1
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "whole" / "runs").iterdir())
    for name in names:
        if not name.startswith(f"{study}_"):
            equal(tmp_path / "whole" / "runs" / name, tmp_path / "runs" / name)
    done = nasx(tmp_path, "table", "out=runs", "format=markdown")
    assert "darts (best of 2" in done.out  # of tse: chosen on the test set
