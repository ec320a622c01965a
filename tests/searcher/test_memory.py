"""Predicted memory and time of a run; tests/fakecuda/memory.py compares predictions with torch's CUDA allocator."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from fakecuda.searches import composed

from nasx.cli import main
from nasx.errors import UserError
from nasx.methods.darts import Darts
from nasx.searcher import job as searcher_job
from nasx.searcher import memory as memory_module
from nasx.searcher.memory import Memory, Storages
from nasx.tracking import checkpoints, environment, job

SMALL = ("space=nb201", "space.layers=1", "space.channels=8", "search.batch=16")


def step(*words: str, **other: Any) -> Memory:
    space, method, settings, engine = composed(*SMALL, *words, groups=("space", "method", "search", "engine"))
    return replace(Memory(space, method, settings, engine, 10, (3, 32, 32)), **other)


def test_storages_are_counted_once_and_until_they_are_freed() -> None:
    with Storages() as storages:
        x = torch.zeros(256)
        y = x.view(16, 16)[1:] + 0  # 960 bytes, in blocks of 512
        assert storages.bytes == storages.peak == 2048
        del x, y
        assert storages.bytes == 0
        torch.zeros(1)
        assert (storages.bytes, storages.peak) == (0, 2048)


@pytest.mark.slow
def test_a_prediction_moves_no_random_numbers() -> None:
    before = torch.get_rng_state()
    peak = step().peak()
    assert torch.equal(torch.get_rng_state(), before)
    assert peak.total > peak.weights + peak.states > peak.weights > 0


def test_memory_before_the_step_is_that_of_weights_momentum_and_adam() -> None:
    memory = step("method=darts")
    peak, supernet = memory.peak(), memory.space.supernet(10)
    tensors = [*supernet.parameters(), *memory.space.init(torch.Generator()).values(), *supernet.buffers()]
    assert peak.weights == sum(-(-x.numel() * x.element_size() // 512) * 512 for x in tensors)
    weights = sum(-(-x.numel() * x.element_size() // 512) * 512 for x in supernet.parameters())
    assert weights < peak.states <= weights + 3 * 512  # one momentum; two means of Adam and its count


@pytest.mark.slow
def test_settings_that_need_less_are_named_with_what_they_need() -> None:
    memory = step("method=darts")
    peak = memory.peak()
    found = dict(memory.lighter(peak))
    assert set(found) == {"engine.checkpoint=true", "engine.precision=bf16", "search.batch=8", "space.partial=4"}
    assert all(lower.total < 0.9 * peak.total for lower in found.values())
    assert found["search.batch=8"] == replace(memory, settings=replace(memory.settings, batch=8)).peak()


def test_a_peak_is_computed_once_for_engines_that_need_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_kept", lru_cache(memory_module._kept.__wrapped__))
    count, whole = [0], Memory.computed

    def computed(self: Memory) -> Any:
        count[0] += 1
        return whole(self)

    monkeypatch.setattr(Memory, "computed", computed)
    same = ["engine.precision=tf32", "engine.channels_last=true", "engine=auto"]
    assert {step(words).peak() for words in ["engine=fused", *same]} == {whole(step("engine=fused"))}
    assert count == [1]
    assert len({step(words).peak() for words in ["engine=fused", "engine.precision=bf16", "search.batch=8"]}) == 3
    assert count == [3]


@pytest.mark.parametrize(
    "words",
    ["method=random_ws", "method=sdarts"],
)
def test_steps_that_draw_are_predicted(words: str) -> None:
    assert step(words).peak().total > 0


# ------------------------------------------------------------------------------------------------- first lines
@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any run is long enough for a prediction, and its rest for a line."""
    memory_module._kept.cache_clear()
    monkeypatch.setattr(searcher_job, "LONG", 1)
    monkeypatch.setattr(job, "LONG_S", 0.0)


def lines(folder: Path, *words: str) -> str:
    main.dispatch([*jobs.TINY_NB201, "device=cpu", f"out={folder}", *words])
    return (jobs.folder(folder, ".") / "log.txt").read_text(encoding="utf-8")


@pytest.mark.usefixtures("long")
def test_the_first_lines_of_a_run_say_memory_and_time(tmp_path: Path) -> None:
    text = lines(tmp_path)
    assert len(re.findall(r"predicted peak memory of the tensors of a step: \d+ MB\n", text)) == 1
    left = r"about \ds for the 2 updates that are left, \S+ s each; peak memory of the process"
    assert len(re.findall(left, text)) == 1


@pytest.mark.usefixtures("long")
def test_a_resumed_run_predicts_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, *args: Any) -> None:
        raise UserError("here", "breaks", "go on")

    with monkeypatch.context() as broke:
        broke.setattr(searcher_job.SearchJob, "begin_epoch", lambda self, epoch: epoch < 1 or broken(self))
        with pytest.raises((SystemExit, UserError)):
            lines(tmp_path)
    text = lines(tmp_path)
    assert "resuming at update" in text
    assert len(re.findall("predicted peak memory", text)) == 1


@pytest.mark.usefixtures("long")
@pytest.mark.slow
def test_a_method_that_cannot_be_predicted_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Darts.step

    def asking(self: Any, *args: Any) -> Any:
        values = whole(self, *args)
        assert float(values["train_loss"]) > 0
        return values

    monkeypatch.setattr(Darts, "step", asking)
    text = lines(tmp_path)
    assert "predicted" not in text
    assert "epoch 2/2" in text


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher_job, "LONG", 1)
    monkeypatch.setattr(environment, "available", lambda device: 2**20)
    monkeypatch.setattr(Memory, "lighter", lambda self, peak: iter([("engine.checkpoint=true", peak)]))
    text = lines(tmp_path)
    assert re.search(r"predicted peak memory of the tensors of a step: \d+ MB; 1 MB are free for this process\n", text)
    assert re.search(r"a step does not fit into the free memory: set engine\.checkpoint=true \(\d+ MB\)\n", text)


@pytest.mark.slow
def test_short_runs_say_nothing(tmp_path: Path) -> None:
    assert not re.search("predicted|about", lines(tmp_path))


@pytest.mark.slow
def test_a_prediction_changes_nothing_in_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, updates in (("plain", 1000), ("predicted", 1)):
        monkeypatch.setattr(searcher_job, "LONG", updates)
        lines(tmp_path / name)
        found.append(checkpoints.last(jobs.folder(tmp_path / name, ".")))
    assert found[0] is not None
    assert all(torch.equal(x, found[1]["w"][k]) for k, x in found[0]["w"].items())
