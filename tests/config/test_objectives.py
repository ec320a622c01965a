"""`objective=` is a number in the record: the table of recorded numbers against real records."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import texts
from composing import faults
from hydra.types import RunMode

from nasx.cli import preflight
from nasx.config import instantiate, objectives, sweeps
from nasx.config.job_info import JobInfo
from nasx.core import quantities, spelling
from nasx.jobs import search
from nasx.tracking import records

IMAGES = ("dataset=digits", "dataset.size=16", "threads=1", "quiet=true", "name=run")
SEARCH = (
    *IMAGES,
    "space=nb201",
    "space.layers=1",
    "space.channels=4",
    "search.batch=8",
    "search.epochs=1",
    "search.updates_per_epoch=2",
    "search.evaluate_images=16",
)
CELL = "|none~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|"
RETRAIN = (
    *IMAGES,
    "space=nb201",
    f'genotype="{CELL}"',
    "retrain.epochs=1",
    "retrain.layers=1",
    "retrain.channels=4",
    "retrain.batch=256",
)
TEXT = ("space=darts_rnn", "space.nodes=3", "space.channels=16", "threads=1", "quiet=true", "name=run")
TEXT_SEARCH = (*TEXT, "search.batch=16", "search.bptt=8", "search.epochs=1", "search.updates_per_epoch=2")
TEXT_CELL = "Genotype(recurrent=[('relu', 0), ('tanh', 1), ('relu', 1)], concat=range(1, 4))"
TEXT_RETRAIN = (
    *TEXT,
    f'genotype="{TEXT_CELL}"',
    "retrain.channels=16",
    "retrain.batch=16",
    "retrain.bptt=8",
    "retrain.epochs=1",
    "retrain.valid_batch=4",
)
SET = (
    "format",
    "seed",
    "layers",
    "channels",
    "processes",
    "together",
    "reference",
    "operations",
    "images",
    "changed",
    "hardware",
    "lookup",
    "stages",
    "diagnostics",
    "warm_up_s",
    "best_epoch",
    "parent_lookup",
    "verdict",
    "among",
)
"""Keys of settings, of statistics of a table and of costs within others: no number by which jobs are compared."""


def numbers(node: Any, prefix: str = "") -> set[str]:
    """The dotted places of all numbers in a record."""
    if isinstance(node, dict):
        return {name for key, value in node.items() for name in numbers(value, f"{prefix}{key}.")}
    is_number = isinstance(node, int | float) and not isinstance(node, bool)
    return {prefix.rstrip(".")} if is_number else set()


@pytest.mark.parametrize(
    ("command", "words", "there", "absent"),
    [
        (
            "search",
            (*SEARCH, "method=darts"),
            "supernet.valid_accuracy lookup.cifar10.valid better_than.cifar100.valid",
            "lookup.cifar10.test test_accuracy images_per_s supernet.valid_perplexity",
        ),
        ("search", (*SEARCH, "method=random"), "lookup.imagenet16.valid params wall_s", "supernet.valid_accuracy"),
        (
            "search",
            (*SEARCH, "method=darts", "benchmark=none"),
            "supernet.valid_loss supernet.params",
            "lookup.cifar10.valid params",
        ),
        ("retrain", RETRAIN, "test_accuracy best_test_accuracy items_per_s macs", "images_per_s valid_accuracy"),
        (
            "retrain",
            (*RETRAIN, "retrain.held_out=true"),
            "valid_accuracy best_valid_accuracy valid_loss items_per_s",
            "test_accuracy best_test_accuracy test_loss",
        ),
        ("search", TEXT_SEARCH, "supernet.valid_perplexity", "supernet.valid_accuracy lookup.cifar10.valid"),
        ("retrain", TEXT_RETRAIN, "valid_perplexity test_perplexity test_loss", "test_accuracy valid_accuracy"),
    ],
)
@pytest.mark.sample(1)
def test_what_may_be_an_objective_is_what_a_record_holds(
    command: str, words: tuple[str, ...], there: str, absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "pictures", lambda folder: None)
    if "darts_rnn" in words[0]:
        words = (*words, f"dataset.path={texts.write(tmp_path / 'text', train=120)}")
    cfg, choices = preflight.resolved(preflight.make_loader().load_configuration(command, list(words), RunMode.RUN))
    known = {quantity.name for quantity in objectives.recorded(cfg, command, instantiate.build(cfg["benchmark"]))}
    assert known >= set(there.split())
    assert not known & set(absent.split())
    getattr(importlib.import_module(f"nasx.jobs.{command}"), command)(
        cfg, JobInfo(choices=choices, overrides=list(words), command=f"nasx {command}")
    )
    record = records.finished(tmp_path / "outputs" / "run")
    assert record is not None
    for name in known:
        assert math.isfinite(sweeps.objective(record, name)), "raises where there is none"
    measured = {name for name in numbers(record) if name.partition(".")[0] not in SET}
    assert measured - known == set(), "a number that a record holds and the table does not"
    for name in there.split():
        assert not faults(*words, f"objective={name}", command=command)
    for name in absent.split():
        [fault] = faults(*words, f"objective={name}", command=command)
        assert f"objective={name}: is not a value that nasx {command} records here; " in fault
        assert fault.endswith("?") is (spelling.nearest(name, known) is not None), "a similar name, or all of them"


@pytest.mark.parametrize(
    ("then", "there", "absent"),
    [
        ("lookup", "lookup.cifar10.valid", "test_accuracy"),
        ("retrain", "test_accuracy", "lookup.cifar10.valid"),
        ("auto", "test_accuracy lookup.cifar10.valid", "images_per_s"),
    ],
)
def test_of_run_it_depends_on_what_follows(then: str, there: str, absent: str) -> None:
    for names, many in ((there, 0), (absent, 1)):
        for name in names.split():
            assert len(faults("dataset=digits", f"then={then}", f"objective={name}", command="run")) == many


def test_of_a_study_it_is_the_mean() -> None:
    assert faults("dataset=digits", "study=darts", "objective=test_accuracy", command="study") == []
    [fault] = faults("dataset=digits", "study=darts", "objective=supernet.valid_accuracy", command="study")
    assert fault.endswith("it records test_accuracy, wall_s")


def test_a_near_name_is_suggested() -> None:
    [fault] = faults("dataset=digits", "objective=supernet.valid_acuracy")
    assert "did you mean supernet.valid_accuracy?" in fault


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("lookup.cifar10.valid", 1),
        ("supernet.valid_accuracy", 1),
        ("test_perplexity", -1),
        ("wall_s", -1),
        ("macs", 0),
        ("nothing", 0),
    ],
)
def test_which_is_better(name: str, better: int) -> None:
    assert quantities.better(name) == better
