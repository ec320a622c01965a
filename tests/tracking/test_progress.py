"""The lines of a log: one meaning per word, percent, 80 columns, missing values."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

import nasx
from nasx.tracking import progress

ROW = {
    "epoch": 1,
    "train_loss": 2.2664,
    "train_accuracy": 0.1875,
    "val_loss": 2.4151,
    "val_accuracy": 0.0,
    "valid_loss": 2.3904,
    "valid_accuracy": 0.125,
}
LOOKUP = {
    "benchmark": "nb201",
    "cifar10": {"valid": 84.6027, "test": None},
    "cifar100": {"valid": 60.8133},
    "imagenet16": {"valid": 34.8556},
    "params": 559386,
}


def test_a_searchs_words_have_one_meaning_each() -> None:
    assert progress.metric_texts("search", ROW) == ["train 2.266 18.8 %", "arch 2.415 0.0 %", "supernet 2.390 12.5 %"]
    assert progress.metric_texts(
        "retrain", {"train_loss": 1.0, "valid_accuracy": 0.5, "test_accuracy": 0.25, "test_loss": 2.0}
    ) == ["train 1.000", "valid 50.0 %", "test 2.000 25.0 %"]
    assert progress.metric_texts("search", {"train_loss": 5.0, "train_perplexity": 148.41}) == [
        "train 5.000 perplexity 148.4"
    ]
    assert progress.looked_up(LOOKUP) == ["cell in table: cifar10 84.60 %, cifar100 60.81 %, imagenet16 34.86 %"]
    assert progress.looked_up(None) == progress.looked_up({"cifar10": {"valid": None}}) == []


@pytest.mark.parametrize("value", [None, 0.25])
def test_an_eigenvalue_that_did_not_converge_is_left_out(value: float | None) -> None:
    """The diagnostics record None where the power iteration found none: this ended a run with a TypeError."""
    told = progress.metric_texts("search", {"eigenvalue": value, "alignment": value})
    assert told == ([] if value is None else ["alignment 0.250", "eigenvalue 0.250"])


def test_the_speed_is_that_after_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of a compiled run takes minutes: two steps after it said that days were left."""
    clock = iter([0.0, 300.0, 300.0, 310.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.log_to_folder(tmp_path, quiet=False):
        display = progress.Display("search", total=105, done=0, peak=lambda: 100.0)
        display.measure_from(1)
        display.show(1, "1/2", {"train_loss": 2.0})
        display.show(5, "1/2", {"train_loss": 2.0})
    first, second = (line[9:] for line in (tmp_path / "log.txt").read_text().splitlines())
    assert first == "epoch 1/2  1/105  train 2.000  peak 100 MB"
    assert second == "epoch 1/2  5/105  train 2.000  0.4 updates/s, peak 100 MB, 4m 10s left"


@pytest.mark.parametrize("more", [{}, {"alignment": -0.123, "eigenvalue": 12345.678}])
def test_an_epochs_lines_fit_80_columns(more: dict[str, float], tmp_path: Path) -> None:
    large = {key: value * 40 if "loss" in key else 1.0 for key, value in ROW.items()}
    with progress.log_to_folder(tmp_path, quiet=False):
        progress.log_epoch(
            "600/600", [*progress.metric_texts("search", {**large, **more}), *progress.looked_up(LOOKUP)]
        )
        progress.Display("search", total=234600, done=0).show(123456, "600/600", {**large, **more})
    told = (tmp_path / "log.txt").read_text().splitlines()
    assert max(map(len, told)) <= 80
    assert re.match(r"\d\d:\d\d:\d\d epoch 600/600  train ", told[0])
    assert "arch" in " ".join(told)
    assert all(re.match(r"\d\d:\d\d:\d\d (epoch|  \w)", line) for line in told)


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_shows_the_bar_and_cuts_no_text(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line of 150 signs, the bar had no room and most values ended in an ellipsis."""
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(progress, "CONSOLE", screen)
    display = progress.Display("search", total=234600, done=0, unit="image", amount=256, peak=lambda: 12345.0)
    display.measure_from(123200)
    display._began -= 1.0
    display.show(123456, "312/600", ROW)
    with screen.capture() as captured:
        screen.print(display.bar.get_renderable())
    shown = captured.get()
    assert max(map(len, shown.splitlines())) <= width
    assert shown.count("━") >= 8
    for text in ("epoch 312/600", "123456/234600", *progress.metric_texts("search", ROW), "images/s", "peak 12,345 MB"):
        assert text in shown, text


@pytest.mark.slow
def test_the_bar_moves_if_each_epoch_is_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The running means are empty after the last step of an epoch, so the bar of TSE-DARTS stayed at 0."""
    monkeypatch.setattr(progress, "CONSOLE", Console(file=io.StringIO(), force_terminal=True))
    monkeypatch.setattr(progress.Display, "due", lambda self: True)
    shown: list[tuple[int, str]] = []
    show = progress.Display.show

    def recorded(self: progress.Display, done: int, epoch: str, means: Mapping[str, float]) -> None:
        shown.append((done, epoch))
        show(self, done, epoch, means)

    monkeypatch.setattr(progress.Display, "show", recorded)
    words = {"dataset.size": 8, "search.epochs": 2, "space.channels": 2, "space.layers": 5}
    nasx.search(words, experiment="quickstart_search", out=str(tmp_path))
    assert shown == [(12, "1/2"), (24, "2/2")]
