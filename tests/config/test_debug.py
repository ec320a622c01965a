"""The group `debug`: trials compose for every space and method, and the profiler records a run without changing it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import jobs
import pytest
from composing import composed, faults

from nasx.config import identity, paths
from nasx.tracking import profiler, records

TEXT = "darts_rnn"
SPACES = sorted(path.stem for path in (paths.conf_dir() / "space").glob("*.yaml"))
METHODS = sorted(path.stem for path in (paths.conf_dir() / "method").glob("*.yaml"))
DIGITS = ("dataset=digits", "dataset.size=16", "threads=1", "out=runs", "name=run")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.sample(5)
def test_a_tiny_trial_fits_every_space(space: str) -> None:
    words = ["debug=tiny_text", "dataset.path=tests"] if space == TEXT else ["debug=tiny", "dataset=digits"]
    for command in ("search", "retrain"):
        given = [f"space={space}", *words, *(["genotype=x"] if command == "retrain" else [])]
        found = [line for line in faults(*given, command=command) if "genotype" not in line and "tests" not in line]
        assert not found
    for name in ("fast", "overfit"):
        assert space == TEXT or not faults(f"space={space}", f"debug={name}", "dataset=digits", command="run")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.sample(5)
def test_a_tiny_trial_fits_every_method(method: str) -> None:
    assert not faults(f"method={method}", "debug=tiny", "dataset=digits", "space=darts", command="run")


def test_debug_counts_after_the_experiment_and_before_the_line() -> None:
    cfg, choices = composed("search", "experiment=quickstart", "debug=tiny", "search.batch=5")
    assert (cfg["search"]["epochs"], cfg["search"]["batch"], cfg["dataset"]["size"]) == (2, 5, 16)
    assert choices["debug"] == "tiny"


def test_a_trial_of_the_wrong_kind_and_a_typo_are_named() -> None:
    [wrong] = faults("space=darts_rnn", "debug=tiny", "dataset.path=tests")[:1]
    assert "debug=tiny: sets " in wrong
    assert "did you mean fast?" in faults("debug=fas", "dataset=digits")[0]
    assert "cannot be profiled" in faults("debug=profiler", "seeds_per_job=2", "dataset=digits")[0]


def test_profiling_is_not_a_part_of_a_runs_identity() -> None:
    plain, profiled = (composed("search", "dataset=digits", *more)[0] for more in ([], ["debug=profiler"]))
    assert (plain["profile"], profiled["profile"]) == (0, 3)
    assert identity.identity(plain) == identity.identity(profiled)


@pytest.mark.slow
def test_a_profiled_run_has_a_trace_and_the_same_numbers(tmp_path: Path) -> None:
    """One run with three updates recorded of twelve, one without: rows, weights and cell are equal bit for bit."""
    folders = []
    for name, words in (("plain", []), ("profiled", ["debug=profiler"])):
        done = jobs.nasx(tmp_path, *jobs.TINY_NB201, f"name={name}", *words, pictures=name == "plain")
        assert done.code == 0, done
        folders.append(tmp_path / "runs" / name)
    plain, profiled = (
        [{k: v for k, v in row.items() if k != "wall_s"} for row in records.read_rows(f)] for f in folders
    )
    assert plain == profiled
    assert (folders[0] / "genotype.txt").read_text() == (folders[1] / "genotype.txt").read_text()
    assert not (folders[0] / "profile").exists()
    with gzip.open(folders[1] / "profile" / "trace.json.gz", "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    steps = {event["name"] for event in events if str(event.get("name")).startswith("ProfilerStep#")}
    assert len(steps) == 3
    assert min(int(step.partition("#")[2]) for step in steps) == profiler.FIRST + profiler.WARM_UP
    assert "convolution" in (folders[1] / "profile" / "operations.txt").read_text()
    done = jobs.nasx(tmp_path, *jobs.TINY_NB201, "name=plain", "debug=profiler")
    assert "this run had finished; add name=plain-profile" in done.out


def test_too_few_updates_to_profile_are_said(tmp_path: Path) -> None:
    done = jobs.nasx(
        tmp_path,
        "search",
        "space=nb201",
        *DIGITS,
        "debug=[tiny,profiler]",
        "search.epochs=1",
        "search.updates_per_epoch=2",
    )
    assert done.code == 0, done
    assert "nothing was recorded, because recording begins after 3 steps" in done.err
    assert not (tmp_path / "runs" / "run" / "profile").exists()


def test_a_tiny_search_and_its_retraining_end(tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, "search", "space=darts", *DIGITS, "debug=tiny")
    assert done.code == 0, done
    done = jobs.nasx(
        tmp_path,
        "retrain",
        "from=run",
        "threads=1",
        "out=runs",
        "name=again",
        "debug=[tiny,profiler]",
        "retrain.updates_per_epoch=6",
    )
    assert done.code == 0, done
    assert records.finished(tmp_path / "runs" / "again")["updates"] == 6
    assert (tmp_path / "runs" / "again" / "profile" / "trace.json.gz").is_file()
