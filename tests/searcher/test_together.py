"""Several seeds in one process: each search equals the one run alone with its seed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import jobs
import pytest
from folders import equal

from nasx.tracking.lock import Lock

WORDS = (*jobs.TINY_NB201, "method=darts", "checkpoint_s=0.001")


def folders(root: Path) -> list[Path]:
    """Run folders by seed."""
    found = [path for path in (root / "runs").iterdir() if (path / "config.yaml").exists()]
    return sorted(found, key=lambda path: json.loads((path / "result.json").read_text())["seed"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds 3 and 4, one after the other."""
    root = tmp_path_factory.mktemp("alone")
    for seed in (3, 4):
        done = jobs.nasx(root, *WORDS, f"seed={seed}")
        assert done.code == 0, done
    return root


@pytest.mark.slow
def test_each_is_the_search_of_its_seed_alone(alone: Path, tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, *WORDS, "seed=3", "seeds_per_job=2")
    assert done.code == 0, done
    one, two = folders(alone), folders(tmp_path)
    assert [path.name for path in one] == [path.name for path in two]
    for got, expected in zip(two, one, strict=True):
        equal(got, expected)
        mine, theirs = (json.loads((path / "result.json").read_text()) for path in (got, expected))
        assert mine["command"] == theirs["command"]
        log = (got / "log.txt").read_text()
        assert log.count("epoch 1/2") == 1, log  # each log is about its own run


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.sample(1)
def test_stopped_or_killed_all_go_on_with_the_same_bits(how: signal.Signals, alone: Path, tmp_path: Path) -> None:
    job = jobs.Job(tmp_path, *WORDS, "seed=3", "seeds_per_job=2")
    job.until(lambda: len(list((tmp_path / "runs").glob("*/checkpoints/*.ckpt"))) >= 3)
    os.kill(job.pid, how)
    assert job.wait().code != 0
    if how == signal.SIGTERM:
        assert len({path.parent for path in (tmp_path / "runs").glob("*/checkpoints/*.ckpt")}) == 2
    done = jobs.nasx(tmp_path, *WORDS, "seed=3", "seeds_per_job=2")
    assert done.code == 0, done
    for got, expected in zip(folders(tmp_path), folders(alone), strict=True):
        equal(got, expected)


@pytest.mark.slow
def test_a_seed_that_cannot_begin_does_not_stop_the_others(alone: Path, tmp_path: Path) -> None:
    one, two = folders(alone)
    (tmp_path / "runs" / one.name).mkdir(parents=True)
    with contextlib.closing(Lock(tmp_path / "runs" / one.name)):
        done = jobs.nasx(tmp_path, *WORDS, "seed=3", "seeds_per_job=2")
    assert done.code == 2, done
    assert f"{one.name}: is in use by process {os.getpid()}" in done.err
    equal(tmp_path / "runs" / two.name, two)


@pytest.mark.slow
def test_a_finished_seed_is_not_searched_again(tmp_path: Path) -> None:
    assert jobs.nasx(tmp_path, *WORDS, "seed=4").code == 0
    before = [path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/result.json")]
    done = jobs.nasx(tmp_path, *WORDS, "seed=3", "seeds_per_job=2")
    assert done.code == 0, done
    assert len(folders(tmp_path)) == 2
    assert folders(tmp_path)[1].joinpath("result.json").stat().st_mtime_ns == before[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("search", "name=one", "seeds_per_job=2"), "leave the name out"),
        (("run", "seeds_per_job=2"), "one seed at a time"),
        (("retrain", "seeds_per_job=2"), "no architecture"),
        (("search", "seeds_per_job=0"), "seeds_per_job"),
        (("search", "engine.graphs=on"), "engine.graphs=auto"),
    ],
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, words[0], *WORDS[1:], *words[1:])
    assert done.code == 2, done
    assert said in done.err
