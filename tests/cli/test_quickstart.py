"""`nasx quickstart`: three ordinary runs, one screen of at most 80 columns, one picture."""

from __future__ import annotations

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
    rows = screen[screen.index("choice ") : screen.index("Accuracy:")].splitlines()
    assert [row[:7].strip() != "" for row in rows] == [True] * 6, "each choice stands on one line"
    assert (out / "quickstart-s0.png").stat().st_size > 10_000
    assert (out / "quickstart-s0.svg").read_text().rstrip().endswith("</svg>")


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
