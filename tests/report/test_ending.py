"""The printed benchmark results of a finished search: exact ranks, and the dataset of the accuracies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jobs
import pytest

from nasx.benchmarks.isomorphism import CELLS, cell_text
from nasx.benchmarks.nb201 import EMBEDDED, Nb201
from nasx.report import run_summary

TABLE = Nb201(path=str(EMBEDDED))


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100 %"),
        (15624 / 15625, "99.99 %"),
        (15619 / 15625, "99.96 %"),
        (0.995, "99.50 %"),
        (0.9899, "98 %"),
        (0.99, "99.00 %"),
        (0.61, "61 %"),
        (0.29, "29 %"),
        (0.57, "57 %"),
        (0.019, "1 %"),
        (0.0099, "0.99 %"),
        (1 / 15625, "< 0.01 %"),
        (0.0001, "0.01 %"),
        (0.0, "0 %"),
    ],
)
def test_a_share_is_rounded_down_and_only_all_is_a_hundred(share: float, text: str) -> None:
    assert run_summary.percent(share) == text


def test_every_rank_of_the_benchmark_is_a_bound_from_below() -> None:
    for worse in range(0, CELLS + 1, 7):
        text = run_summary.percent(worse / CELLS)
        value = float(text.removesuffix(" %").removeprefix("< "))
        if text.startswith("<"):
            assert 0 < worse * 10_000 < CELLS
            continue
        assert value * CELLS <= 100 * worse, text
        assert (value == 100) == (worse == CELLS)
        assert (value == 0) == (worse == 0)


def record(code: int, edges: Any = (), **fields: Any) -> dict[str, Any]:
    """The record of a finished search that has found a cell of the table."""
    score = TABLE.query(cell_text(code))
    assert score is not None
    return {
        "name": "run",
        "kind": "search",
        "finished": "now",
        "genotype": cell_text(code),
        "wall_s": 1.0,
        "updates": 1,
        "passes": 1,
        "peak_mb": 1,
        "hardware": {"device": "cpu", "name": "a CPU", "threads": 1},
        "choices": {"dataset": "cifar10"},
        "command": "nasx search",
        "lookup": score.as_record(),
        **TABLE.ranked(score, edges),
        "benchmark_data": "cifar10",
        **fields,
    }


def shown(capsys: pytest.CaptureFixture[str], found: dict[str, Any]) -> str:
    run_summary.show(found, Path("outputs/run"))
    run_summary.show_next(found, Path("outputs/run"))
    return " ".join(capsys.readouterr().out.split())


def test_the_second_best_cell_is_not_better_than_all(capsys: pytest.CaptureFixture[str]) -> None:
    column = TABLE.table().statistics("cifar10", "valid")[:, 0]
    second, worst = shown(capsys, record(int(column.argsort()[-2]))), shown(capsys, record(int(column.argmin())))
    assert "validation 91.55 3 seeds 99.98 % 2 91.61 0.05 " in second, "share, rank, optimum, distance"
    assert "100 %" not in second
    assert "not on" not in second
    assert f"{column.min():.2f} 3 seeds 0 % " in worst


def test_a_cell_of_other_images_is_said_to_be_of_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    said = "of the cell trained on CIFAR-10, CIFAR-100, ImageNet16-120, not on folder: retrain it"
    assert said in shown(capsys, record(5, benchmark_data=None, choices={"dataset": "folder"}))
    old = record(5, choices={"dataset": "folder"})
    del old["benchmark_data"]  # a record of an earlier version
    assert said in shown(capsys, old)


def test_a_restricted_space_states_how_many_cells_it_is_ranked_among(capsys: pytest.CaptureFixture[str]) -> None:
    edges = (("skip_connect", "nor_conv_1x1", "nor_conv_3x3"),) * 6
    worst = 5**5 + 5**4 + 5**3 + 5**2 + 5 + 1
    text = shown(capsys, record(worst, edges))
    assert "this mean better rank of below random in % cell over than 729 optimum it mean median" in text
    assert "39.77 3 seeds 0 % 729 91.61 51.84" in text
    assert "are over the 729 cells of this space" in text


def test_only_test_accuracies_are_called_missing(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(5)
    for name in ("cifar10", "cifar100", "imagenet16"):
        found["lookup"][name]["test"] = 50.0
    assert "test accuracies are" not in shown(capsys, found)
    found["lookup"]["cifar10"]["valid"] = None
    assert "test accuracies are" not in shown(capsys, found)
    found["lookup"]["cifar100"]["test"] = None
    text = shown(capsys, found)
    assert (
        "test accuracies are missing; `nasx bench fill outputs` adds them to finished runs after this command:" in text
    )
    assert text.endswith("command: nasx bench get nb201-test"), "the last line is the command"


@pytest.mark.parametrize("seeds", [("--multirun", "seed=0,1"), ("seed=0", "seeds_per_job=2")], ids=["sweep", "one job"])
def test_several_runs_end_with_the_next_commands_once(seeds: tuple[str, ...], tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, "search", "experiment=quickstart", "method=random", "method.samples=1", *seeds)
    assert done.code == 0, done
    last = done.out.splitlines()
    assert done.out.count("look-up: ") == 2, "each run has its own summary"
    assert [line for line in last if "nasx table" in line] == ["next: nasx table"]
    assert len([line for line in last if "nasx retrain from=" in line]) == 1
    assert last[-1] == "nasx bench get nb201-test"
    assert done.out.count("nasx bench") == 2, "the sentence and the command"


def test_the_search_of_a_run_that_goes_on_is_not_followed_by_commands(tmp_path: Path) -> None:
    tiny = ("experiment=quickstart", "method=random", "method.samples=1", "then=retrain", "debug=tiny")
    done = jobs.nasx(tmp_path, "run", *tiny, "retrain.layers=1", "retrain.channels=2")
    assert done.code == 0, done
    assert done.out.count("next: nasx table") == 1
    assert "nasx retrain from=" not in done.out


def test_every_number_says_which_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(int(TABLE.table().statistics("cifar10", "valid")[:, 0].argsort()[-2]))
    found["lookup"]["cifar10"] |= {"test": 94.36, "valid_seeds": 1}
    found["lookup"]["latency"] = {"raspi4": 10.482, "toaster": None}
    text = shown(capsys, found)
    assert "accuracy this mean better rank of below random in % cell over than 15,625 optimum it mean median" in text
    assert "CIFAR-10 validation 91.55 1 seed" in text
    assert "test 94.36 n/a" in text
    assert "CIFAR-100 validation 73.49 3 seeds 99.99 % 1 73.49 0.00" in text
    assert "184.73 M multiply-adds; 1.29 M parameters; latency raspi4 10.48 ms, toaster n/a" in text


def test_a_look_up_fits_a_terminal_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(5)
    for name in ("cifar10", "cifar100", "imagenet16"):
        found["lookup"][name]["test"] = 50.0
        found["better_than"][name] = {"valid": 0.9999, "test": 1 / CELLS}
    run_summary.show(found, Path("outputs/run"))
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith(("accuracy", "in %", "  "))]
    assert len([line for line in rows if "seeds" in line or "n/a" in line]) == 6
    assert max(map(len, rows)) <= 80
    assert not [line for line in rows if "\N{HORIZONTAL ELLIPSIS}" in line]


@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_gets_whole_words_and_a_pipe_whole_lines(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines were as long as their sentences: the terminal broke words of them."""
    folder = Path("outputs/" + "a-long-name-of-a-run-" * 5)
    missing = "NAS-Bench-101 is missing: `nasx bench get nb101` downloads it (499 MB), and another sentence follows"
    found = record(5, lookup=None, missing=missing, verdict={"text": "a verdict of many words " * 8})
    found["hardware"] = {"device": "cpu", "name": "a CPU with a long name of 40 characters", "threads": 1}
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    printed = []
    for _ in ("pipe", "terminal"):
        run_summary.show(found, folder)
        run_summary.show_next({**found, "lookup": record(5)["lookup"]}, folder)
        printed.append(re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out))
        monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    plain, wrapped = printed
    assert plain.split() == wrapped.split()
    copied = [line for line in plain.splitlines() if line.startswith(("|", "files: ", "next: ", "  ", "nasx bench"))]
    assert len(copied) == 5
    assert set(copied) <= set(wrapped.splitlines())
    assert max(len(line) for line in wrapped.splitlines() if line not in copied) <= width
    assert all(command in wrapped for command in ("`nasx bench get nb101`", "`nasx bench fill outputs`"))
    assert any(len(line) > 150 for line in plain.splitlines()), "a line for grep"
