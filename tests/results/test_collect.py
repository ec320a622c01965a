"""Collected fields of finished runs, and skipped runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from finished import retrained, writer

from nasx.results.aggregate import summary
from nasx.results.collect import collect


@pytest.fixture
def make(tmp_path):
    return writer(tmp_path)


def test_collect_reads_runs_at_any_depth_and_names_what_it_leaves_out(make):
    make()
    torn, foreign, running, half = (make.root / name for name in ("torn", "foreign", "deep/running", "half"))
    for folder in (torn, foreign, running, half):
        folder.mkdir(parents=True)
    (torn / "result.json").write_text('{"kind": "search", "na')
    (foreign / "result.json").write_text('["not", "ours"]')
    (running / "config.yaml").write_text("seed: 0")
    (half / "result.json").write_text('{"kind": "search", "status": "running", "choices": {}}')
    frame = collect(make.root)
    assert list(frame["run"]) == ["run0"]
    assert frame.attrs["skipped"] == {"not finished": 2, "record unreadable": 1, "not a nasx record": 1}
    notes = " ".join(frame.attrs["notes"])
    assert str(torn) in notes
    assert str(foreign) in notes
    assert "not finished: 2" in notes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "3",
        "{}",
        '{"kind": "search"}',
        "[" * 100_000,
        "\x00\xff",
        '{"kind": "search", "choices": {}, "wall_s": "x"}',
        '{"kind": "search", "choices": {}, "labels": 3, "lookup": []}',
    ],
)
def test_a_bad_record_never_stops_a_table(make, text):
    make()
    bad = make.root / "bad"
    bad.mkdir()
    (bad / "result.json").write_text(text)
    frame = collect(make.root)
    assert len(frame) == 1
    assert sum(frame.attrs["skipped"].values()) == 1


def test_a_copy_of_a_run_counts_once(make):
    make(identity="aa")
    make(identity="aa")
    frame = collect([make.root, make.root / "run0", str(make.root / "run*")])
    assert len(frame) == 1
    assert frame.attrs["skipped"] == {"duplicate copies of a run": 1}


def test_collect_and_the_module_do_without_torch(make):
    make()
    code = f"""import sys; from nasx.cli import table as tables; tables.main({{'runs': {str(make.root)!r}, 'format':
    'csv'}})
assert not {{'torch', 'torchvision', 'matplotlib', 'scipy'}} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_retraining_has_the_method_of_its_search_wherever_that_is(make):
    """Its own `method` is a default that it does not read."""
    default = {"method": "darts", "search": "nb201_v1"}
    kept = {
        "kind": "search",
        "choices": {"method": "random", "space": "nb201", "dataset": "cifar10"},
        "protocol": "nb201-v1",
        "changed": {"search.epochs": [50, 2]},
    }
    lone = make(kind="retrain", lookup=None, test_accuracy=0.9, parent="gone", choices=default, searched=kept)
    named = make(kind="retrain", lookup=None, test_accuracy=0.9, parent=None, choices=default)
    rows = {row["folder"]: row for row in collect(make.root).to_dict("records")}
    assert [rows[str(lone)][key] for key in ("method", "searched_on", "reduced")] == ["random", "cifar10", True]
    assert [rows[str(named)][key] for key in ("method", "search")] == ["", ""]


def test_of_two_searches_of_one_name_a_retraining_belongs_to_that_next_to_it(make, tmp_path):
    for method in ("darts", "random"):
        for folder in (make(method, name="mine"), retrained(make, "mine", 0.9, identity="same", started=method)):
            (tmp_path / "runs" / method).mkdir(exist_ok=True)
            folder.rename(tmp_path / "runs" / method / ("mine" if "mine" in folder.name else "again"))
    found = collect(make.root)
    assert sorted(found[found["kind"] == "retrain"]["method"]) == ["darts", "random"]


def test_a_copy_counts_once_and_a_run_that_was_done_again_twice(make):
    for seed, more in (
        (0, {"commit": "old"}),
        (0, {"commit": "old"}),
        (0, {"commit": "new"}),
        (0, {"commit": "old", "finished": "later"}),
    ):
        make(seed=seed, identity="same", **more)
    found = collect(make.root)
    assert len(found) == 3
    assert found.attrs["skipped"] == {"duplicate copies of a run": 1}
    assert "occurs more than once" in " ".join(summary(found).attrs["notes"])


@pytest.mark.parametrize(
    ("changed", "reduced"),
    [
        ({"stages.search.epochs": [[25, 25, 25], [25, 1, 25]]}, True),
        ({"dataset.fraction": [0.5, 0.02]}, True),
        ({"dataset.fraction_a": [None, 0.02]}, True),
        ({"dataset.size": [32, 16]}, True),
        ({"stages.search.epochs": [[25, 25], [50, 50]]}, False),
        ({"dataset.fraction": [0.5, 0.9]}, False),
        ({"dataset.size": [None, 16]}, True),
        ({"search.lr": [0.1, 0.01]}, False),
    ],
)
def test_what_makes_a_run_smaller_is_marked(make, changed, reduced):
    make(changed=changed, reduced=None)
    assert list(collect(make.root)["reduced"]) == [reduced]


def test_a_size_of_ones_own_images_is_not_a_reduction(make):
    """null is their own size there, which may be smaller."""
    make(changed={"dataset.size": [None, 32]}, choices={"dataset": "folder"}, reduced=None)
    assert list(collect(make.root)["reduced"]) == [False]


def test_cost_counts_every_device_and_a_share_of_what_runs_together_take(make):
    make(processes=4, wall_s=10.0)
    make(seed=1, together=5, wall_s=10.0)
    assert list(collect(make.root)["cost_s"]) == [40.0, 2.0]


def test_of_a_key_given_twice_the_last_one_is_reported(make):
    make(overrides=["search.epochs=2", "seed=0", "search.epochs=1"])
    assert list(collect(make.root)["overrides"]) == [("search.epochs=1",)]
