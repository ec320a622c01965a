"""Searches and trainings on a synthetic text: they learn, and resume bit for bit."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import texts
import torch
from hydra.types import RunMode

from nasx.cli import arguments, preflight
from nasx.config import check
from nasx.config.job_info import JobInfo
from nasx.errors import UserError
from nasx.jobs import retrain as jobs_retrain
from nasx.jobs import search as jobs_search
from nasx.jobs.study import study
from nasx.tracking import checkpoints, run_folder

MODEL = ("space=darts_rnn", "space.nodes=3", "quiet=true", "device=cpu", "threads=1", "name=run")
TINY = (
    *MODEL,
    "space.channels=16",
    "search.batch=16",
    "search.bptt=8",
    "search.lr_min=5",
    "search.dropout_x=0.1",
    "search.dropout_hidden=0.1",
    "search.dropout_output=0.1",
    "search.dropout_input=0.1",
    "search.epochs=4",
)
CELL = "Genotype(recurrent=[('relu', 0), ('tanh', 1), ('relu', 1)], concat=range(1, 4))"
RETRAIN = (
    *MODEL,
    f'genotype="{CELL}"',
    "retrain.channels=16",
    "retrain.batch=16",
    "retrain.bptt=8",
    "retrain.lr=20",
    "retrain.epochs=6",
    "retrain.valid_batch=4",
    "retrain.dropout_x=0.1",
    "retrain.dropout_hidden=0.1",
    "retrain.dropout_output=0.1",
)
METHODS = {
    "darts 1": ("method=darts",),
    "darts 2": ("method=darts", "method.order=2"),
    "amended": ("method=amended",),
    "tse": ("method=tse", "method.T=2", "search.clip=0.25"),
}
Started = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_search, "pictures", lambda folder: None)


def start(command: str, *words: str) -> dict[str, Any]:
    cfg, choices = preflight.resolved(preflight.make_loader().load_configuration(command, list(words), RunMode.RUN))
    check.check(cfg, choices, list(words), command)
    info = JobInfo(choices=choices, overrides=list(words), command=f"nasx {command}")
    found: dict[str, Any] = getattr(importlib.import_module(f"nasx.jobs.{command}"), command)(cfg, info)
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts.write(tmp_path_factory.mktemp("text"), train=240)


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("wall_s", "diagnostics")} for line in lines]


def checkpoint(folder: Path) -> dict[str, Any]:
    state = checkpoints.last(folder / "run")
    assert state is not None
    return state


def equal(one: Any, other: Any) -> bool:
    """Trees of tensors and values, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


class Killed(Exception):
    """Stands for the end of the process."""


def resumed(
    command: str, words: tuple[str, ...], out: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> dict[str, Any]:
    """The record of a run that saves at every update, is killed after so many checkpoints and started again."""
    left, save = [saves], run_folder.Run.save

    def dying(self: run_folder.Run, *given: Any) -> None:
        save(self, *given)
        left[0] -= 1
        if not left[0]:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(run_folder.Run, "save", dying)
        with pytest.raises(Killed):
            start(command, *words, "checkpoint_s=1e-9", f"out={out}")
    return start(command, *words, f"out={out}")


STATE = ("w", "a", "w_opt", "a_opt", "train", "val", "updates")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ("darts 1", "amended") else name for name in METHODS]
)
@pytest.mark.sample(1)
def test_a_search_lowers_perplexity_and_resumes_bit_for_bit(
    name: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*TINY, *METHODS[name], f"dataset.path={text}")
    whole = start("search", *words, f"out={tmp_path / 'whole'}")
    found = rows(tmp_path / "whole")
    perplexities = [row["valid_perplexity"] for row in found]
    assert len(found) == 4
    assert perplexities[-1] < perplexities[0] / 3
    if name != "darts 1":  # which needs more than these updates for it
        assert perplexities[-1] < texts.WORDS, "better than guessing"
    assert all(row["valid_perplexity"] == pytest.approx(math.exp(row["valid_loss"]), rel=1e-12) for row in found)
    assert whole["supernet"]["valid_perplexity"] == perplexities[-1]
    assert not [key for row in found for key in row if "accuracy" in key]

    again = resumed("search", words, tmp_path / "broken", monkeypatch, saves=13 if name != "tse" else 5)
    assert rows(tmp_path / "broken") == found
    assert again["genotype"] == whole["genotype"]
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "broken")
    assert one["train"]["carried"] is not None
    assert all(equal(one[key], other[key]) for key in STATE)


@pytest.mark.slow
def test_diagnostics_leave_the_path_of_a_search_as_it_is(text: Path, tmp_path: Path) -> None:
    """Looks evaluate the batches that come; states are handed on as without them."""
    words = (
        *TINY,
        "space.nodes=2",
        "method=darts",
        "method.order=2",
        "search.epochs=2",
        "search.updates_per_epoch=4",
        f"dataset.path={text}",
    )
    for name, more in (("plain", ()), ("watched", ("search.diagnose_every=1", "search.diagnose_steps=1"))):
        start("search", *words, *more, f"out={tmp_path / name}")
    one, other = (checkpoint(tmp_path / name) for name in ("plain", "watched"))
    assert all(equal(one[key], other[key]) for key in STATE)
    assert rows(tmp_path / "watched")[0]["eigenvalue"] is not None


@pytest.mark.slow
def test_a_training_lowers_perplexity_and_resumes_bit_for_bit(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*RETRAIN, "retrain.accumulate=2", "retrain.patience=0", f"dataset.path={text}")
    whole = start("retrain", *words, f"out={tmp_path / 'whole'}")
    found = rows(tmp_path / "whole")
    perplexities = [row["valid_perplexity"] for row in found]
    best = min(range(6), key=perplexities.__getitem__)
    assert perplexities[best] < min(perplexities[0], texts.WORDS)
    assert (whole["best_epoch"], whole["valid_perplexity"]) == (best + 1, perplexities[best])
    assert whole["test_perplexity"] == pytest.approx(math.exp(whole["test_loss"]), rel=1e-12)
    assert found[-1]["test_perplexity"] == whole["test_perplexity"]
    assert [row for row in found if "test_perplexity" in row] == [found[-1]], "tested once"

    again = resumed("retrain", words, tmp_path / "broken", monkeypatch, saves=40)
    assert rows(tmp_path / "broken") == found
    assert again["test_loss"] == whole["test_loss"]
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "broken")
    assert one["average"] is not None, "the validation has stalled, so that averages are resumed too"
    keys = ("network", "average", "kept", "best", "losses", "optimizer", "stream", "tested")
    assert all(equal(one[key], other[key]) for key in keys)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            ("space=darts_rnn", "dataset=digits"),
            "dataset=Digits: is for images, but the networks in this space take text",
        ),
        (("space=nb201", "dataset=ptb"), "dataset=Ptb: is for text, but the networks in this space take images"),
        (("space=darts_rnn", "search=darts"), "search=SearchSettings: is for images"),
        (("space=darts", "search=ptb", "dataset=digits"), "search=TextSearchSettings: is for text"),
        (("space=darts_rnn", "method=lambda"), "method=Lambda: compares the cells of a supernet"),
        (("space=darts_rnn", "method=pc_darts"), "Recurrent has no such setting"),
        (
            ("space=darts_rnn", "search.evaluate_words=100"),
            "is fewer than two words for each of the search.batch=256 rows",
        ),
        (("space=darts_rnn", "search.cutout=16"), "search.cutout"),
        (
            ("retrain", "space=darts_rnn", "genotype=DARTS_RNN_V1", "devices=2"),
            "devices=2: jobs with text data run in only one process",
        ),
        (("space=darts_rnn", "benchmark=nb201"), "has no architectures of Recurrent"),
    ],
)
@pytest.mark.sample(5)
def test_what_does_not_fit_is_reported_before_any_work(words: tuple[str, ...], fault: str, text: Path) -> None:
    path = (f"dataset.path={text}",) if "dataset=digits" not in words else ()
    command, words = ("retrain", words[1:]) if words[0] == "retrain" else ("search", words)
    with pytest.raises(UserError) as told:
        preflight.check_line(command, arguments.split_options([*words, *path]))
    assert fault in str(told.value)


def test_a_missing_text_is_reported_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASX_DATA", str(tmp_path))
    for command, more in (("search", ()), ("retrain", ("genotype=DARTS_RNN_V2",))):
        with pytest.raises(UserError, match=r"dataset=ptb: no files found"):
            preflight.check_line(command, arguments.split_options(["space=darts_rnn", *more]))


@pytest.mark.parametrize(
    ("words", "fault"),
    [(("search.batch=64",), "batch=64: splits"), (("search.batch=1",), "is too small for batch norm")],
)
def test_batches_that_do_not_fit_the_text_are_reported(
    words: tuple[str, ...], fault: str, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=fault):
        start("search", *TINY, *words, f"dataset.path={texts.write(tmp_path / 'short', 60, 8)}", f"out={tmp_path}")


def test_a_study_keeps_the_cell_that_validates_best(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By validation perplexity, where lower is better; nothing of the training text is held out."""
    validated, recipes = {0: 60.0, 1: 58.0, 2: 59.0, 3: 61.0}, []

    def search(cfg: Mapping[str, Any], info: Any) -> dict[str, Any]:
        return {"name": f"s{cfg['seed']}", "wall_s": 1.0}

    def retrain(cfg: Mapping[str, Any], info: Any) -> dict[str, Any]:
        number = int(cfg["from"][-1])
        recipes.append(cfg["retrain"])
        return {
            "name": f"r{number}-{cfg['retrain']['epochs']}",
            "wall_s": 1.0,
            "valid_perplexity": validated[number],
            "test_perplexity": validated[number] - 2,
        }

    monkeypatch.setattr(jobs_search, "search_in_process", search)
    monkeypatch.setattr(jobs_retrain, "retrain", retrain)
    words = ["space=darts_rnn", "study=best_of_four", "quiet=true", f"dataset.path={text}", f"out={tmp_path}"]
    cfg, choices = preflight.resolved(preflight.make_loader().load_configuration("study", words, RunMode.RUN))
    check.check(cfg, choices, words, "study")
    found = study(cfg, JobInfo(choices=choices, overrides=words, command="nasx study"))
    assert found["kept"] == ["s1"]
    assert [rank["perplexity"] for rank in found["ranking"]] == list(validated.values())
    assert found["test_perplexity"] == 56.0
    assert [recipe["epochs"] for recipe in recipes] == [100] * 4 + [8000]
    assert not any("held_out" in recipe for recipe in recipes)
    assert "search s1  58.00 on the validation text  kept" in capsys.readouterr().out
