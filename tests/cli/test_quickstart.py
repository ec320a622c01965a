"""`nasx quickstart`: three ordinary runs, one screen of at most 80 columns, one picture."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nasx.benchmarks.nb201 import Nb201
from nasx.cli import quickstart
from nasx.errors import UserError
from nasx.report import histogram
from nasx.tracking import records

SMALL = ["search.epochs=1", "search.updates_per_epoch=2", "search.batch=8", "search.evaluate_images=8"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a quickstart with a tiny search and four candidates."""
    out = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        words = {name: [w.replace("=100", "=4") for w in given] for name, given in quickstart.STEPS.items()}
        patch.setattr(quickstart, "STEPS", words | {"synflow": [*words["synflow"][:3], "space.channels=2"]})
        yield out, lambda *more: quickstart.main([f"out={out}", "open=false", *SMALL, *more])


def test_its_screen_holds_the_accuracies_of_its_runs(done, capsys, monkeypatch):
    out, start = done
    monkeypatch.setenv("COLUMNS", "80")
    start()
    screen = capsys.readouterr().out
    table = Nb201()
    for name in ("random", "synflow", "search"):
        record = records.finished(out / f"quickstart-{name}-s0")
        assert record is not None
        accuracy = table.query(record["genotype"]).datasets["cifar10"]["valid"]
        assert f"{accuracy:.2f} %" in screen
    long = ("cell found", "picture: ", "      nasx table out=")
    assert all(len(line) <= 80 for line in screen.splitlines() if not line.startswith(long))
    heading, *rows = screen[screen.index("cell   ") : screen.index("Accuracy:")].splitlines()
    assert heading.split() == ["cell", "accuracy", "better", "than", "cost", "of", "choosing"]
    assert [row[:7].strip() != "" for row in rows] == [True] * 5, "each choice stands on one line"
    assert " ".join(rows[0].split()) == "best of all cells 91.61 % 99.99 % 15,625 runs, 7,934 GPU-h"
    assert rows[-1].split()[-5:] == ["87.31", "%", "49", "%", "none"]
    [line] = [line for line in screen.splitlines() if line.startswith("next: nasx ")]
    quickstart.invoke.composed("search", line.split("   ")[0].split()[3:])


def test_the_best_cell_is_not_better_than_all_cells(done, capsys, monkeypatch):
    _, start = done
    best = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
    table = Nb201()
    assert table.query(best).datasets["cifar10"]["valid"] == table.accuracies("cifar10", "valid").max()
    call = quickstart.invoke.call
    monkeypatch.setattr(
        quickstart.invoke, "call", lambda *a: SimpleNamespace(record=call(*a).record | {"genotype": best})
    )
    start()
    rows = [row for row in capsys.readouterr().out.splitlines() if " 91.61 %" in row]
    assert [row.split()[row.split().index("91.61") + 2] for row in rows] == ["99.99"] * 4


@pytest.mark.slow
def test_changed_settings_ask_for_another_folder(done):
    _, start = done
    start()
    with pytest.raises(
        UserError, match=r"belongs to a run with a different configuration .*; choose another folder with out="
    ):
        start("search.batch=9")


def test_its_picture_is_drawn(done):
    out, start = done
    start()
    assert (out / "quickstart-s0.png").stat().st_size > 10_000
    assert (out / "quickstart-s0.svg").read_text().rstrip().endswith("</svg>")


@pytest.mark.slow
def test_a_second_call_searches_nothing_and_shows_the_same(done, capsys):
    out, start = done
    start()
    first, before = capsys.readouterr().out, sorted(out.glob("*/result.json"))
    times = [path.stat().st_mtime_ns for path in before]
    start()
    assert capsys.readouterr().out == first
    assert [path.stat().st_mtime_ns for path in before] == times


@pytest.mark.parametrize("word", ["sed=1", "seed=one", "open=maybe", "extra"])
def test_a_wrong_word_is_an_error_before_any_run(tmp_path, word):
    with pytest.raises(UserError):
        quickstart.main([f"out={tmp_path / 'out'}", word])
    assert not (tmp_path / "out").exists()


def test_the_histogram_counts_every_cell_and_marks_what_was_found():
    accuracies = np.concatenate([np.full(100, 10.0), np.linspace(80, 91, 1900)])
    made = histogram.draw(accuracies, {"a": [90.5], "b": [85.25]}, "title", "accuracy")
    axes = made.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert "a: 90.50" in texts
    assert "b: 85.25" in texts
    (bars,) = axes.patches
    shown, hidden = int(np.sum(bars.get_data().values)), int(texts[-1].split()[0])
    assert shown + hidden == 2000
    assert hidden == 100
