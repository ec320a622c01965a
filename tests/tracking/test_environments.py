"""The environment of a run in checkpoint and record, and no side effects on the next job."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from folders import reached
from search_jobs import configured

from nasx.cli import table
from nasx.results import collect
from nasx.tracking import checkpoints, environment, records
from nasx.tracking.session import session

WORDS = (
    "search",
    "space=nb201",
    "space.layers=1",
    *(word for word in jobs.TINY if word != "threads=1"),
    "method=darts",
    "method.order=1",
    "search.epochs=4",
    "checkpoint_s=0.001",
    "name=run",
)


def settings() -> tuple[Any, ...]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.benchmark,
        cudnn.allow_tf32,
        matmul.allow_tf32,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.parametrize("before", [(1, False, False), (2, True, True)])
def test_a_job_puts_the_settings_of_its_process_back(before: tuple[int, bool, bool]) -> None:
    whole = settings()
    try:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = before[1]
        there = settings()
        with (
            contextlib.suppress(ZeroDivisionError),
            environment.prepared(torch.device("cpu"), threads=3, deterministic=True, seed=0, precision="fp32"),
        ):
            assert settings() == (3, True, False, torch.backends.cudnn.benchmark, False, False, ":4096:8")
            raise ZeroDivisionError
        assert settings() == there
    finally:
        torch.set_num_threads(whole[0])
        torch.use_deterministic_algorithms(whole[1], warn_only=whole[2])
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = whole[4:6]


def test_a_session_leaves_nothing_for_the_next_one(tmp_path: Path) -> None:
    whole = settings()
    for words, deterministic in ((("deterministic=true", "threads=2"), True), ((), False)):
        cfg, info = configured("dataset=digits", f"out={tmp_path}", f"name=run-{deterministic}", "quiet=true", *words)
        with session(cfg, info):
            assert torch.are_deterministic_algorithms_enabled() == deterministic
            assert torch.get_num_threads() == (2 if deterministic else whole[0])
        assert settings() == whole


@pytest.mark.slow
def test_a_resume_in_another_environment_is_reported_recorded_and_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.Job(tmp_path, *WORDS, "threads=1")
    job.until(lambda: reached(tmp_path, 8))
    job.kill()
    again = jobs.Job(tmp_path, *WORDS, "threads=1")  # the same environment: no word, no entry
    again.until(lambda: reached(tmp_path, 13))
    again.kill()
    assert "environment" not in Path(again.notes, f"{again.number}.err").read_text()
    done = jobs.nasx(tmp_path, *WORDS, "threads=2")
    assert done.code == 0, done
    assert "continues in a different environment (threads 1, now 2): its results will not be bit-identical" in done.err
    record, folder = jobs.result(tmp_path), jobs.folder(tmp_path)
    state = checkpoints.last(folder)
    assert state is not None
    assert [start["threads"] for start in record["starts"]] == [1, 2]
    assert record["starts"] == state["starts"]
    assert record["starts"][0]["update"] == 0
    assert record["starts"][1]["update"] >= 13
    assert {"host", "device", "threads", "torch", "nasx", "commit"} <= record["starts"][0].keys()
    monkeypatch.chdir(tmp_path)
    told = table.main({"out": "runs"})
    assert "several environments" in told
    assert "computed in environments that differ in threads: 1 (runs/run)" in told
    record["starts"] = record["starts"][:1]
    (folder / "result.json").write_text(json.dumps(record))
    assert "environments" not in table.main({"out": "runs"})


def test_hosts_differ_without_a_word() -> None:
    here = {"update": 0, "host": "a", "threads": 1, "torch": "2"}
    assert records.environments([here, {**here, "host": "b", "update": 5}]) == []
    assert records.environments([here, {**here, "threads": 2}, {**here, "torch": "3"}]) == ["threads", "torch"]
    assert records.environments([]) == []


@pytest.mark.parametrize("starts", [None, 3, "x", [3], [{"\x1b[2J": 1}, {}]])
def test_starts_of_a_foreign_record_are_borne(starts: Any, tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "result.json").write_text(
        json.dumps({"kind": "search", "choices": {}, "status": "finished", "starts": starts})
    )
    frame = collect.collect(tmp_path / "runs")
    assert len(frame) == 1
    assert "\x1b" not in str(frame["environments"][0]) + str(frame.attrs["notes"])


FAULTS = """
import resource, sys, torch
from nasx.tracking import environment
torch.set_num_threads(1)

def work():
    first = [torch.ones(1 << 20) for _ in range(20)]
    return [x * 2 for x in first]

with environment.prepared(torch.device("cpu"), threads=1, deterministic=False, seed=0):
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        work()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the system's allocator is not glibc's")
@pytest.mark.parametrize(("chosen", "least", "most"), [({}, 0, 2000), ({"MALLOC_MMAP_MAX_": "65536"}, 50_000, 10**9)])
@pytest.mark.slow
def test_freed_memory_is_used_again_unless_the_user_set_the_allocator(
    chosen: dict[str, str], least: int, most: int
) -> None:
    """Three rounds make and free 480 MB of tensors: 123,000 pages of 4 KiB that the system would clear again."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRE"))}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=kept | chosen, capture_output=True, text=True, check=True)
    assert least <= int(done.stdout) <= most
