"""Hostile keys and values of records in all outputs: terminal, Markdown, CSV, LaTeX, HTML."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from finished import CELL, retrained, writer
from rich.console import Console

from nasx.cli import bench, compare, doctor, export, info, report, status, table
from nasx.data import listing
from nasx.errors import cleaned
from nasx.report import run_summary
from nasx.results import table_formats
from nasx.tracking import lineage, progress, sweep_log

STEER, MARKUP, FORMULA, LINK = (
    "\x1b]0;owned\x07\x1b[2J\u202e",
    "<script>alert(1)</script>",
    '=HYPERLINK("http://x")',
    "[click](http://x)",
)
EVIL = (STEER, MARKUP, FORMULA, LINK, "+1|x", "@x", "-x`y")


def evil(key: str) -> dict[str, Any]:
    """The fields of a record with `key` wherever a record has keys or texts."""
    return {
        "lookup": {
            "benchmark": "nb201",
            "source": key,
            key: {"valid": 1.0, "test": 2.0},
            "cifar10": {"valid": 90.0, "test": None, key: 3},
            "params": 3,
        },
        "versions": {key: key},
        "changed": {key: [1, 2], f"search.{key}": [key, key]},
        "commit": key,
        "hardware": {"device": "cpu", "name": key, key: key, "threads": 1},
        "supernet": {"valid_accuracy": 0.5, key: 1},
        "choices": {"method": key, "search": key, key: key},
        "labels": [key],
        "protocol": key,
        "genotype": CELL,
        "overrides": [f"search.lr={key}", key],
        "starts": [{key: 1}, {key: 2}],
        "seal": {key: key},
        "verdict": {"text": key, key: True},
        "stages": [{"name": key, "wall_s": 1.0, "updates": 1}],
        key: key,
    }


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make = writer(tmp_path)
    for i, key in enumerate(EVIL):
        folder = make(seed=i, **evil(key))
        (folder / "config.yaml").write_text(json.dumps({"kind": "search", "choices": {key: key}, "search": {key: key}}))
        (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, key: 1.0, "cells": {key: {"depth": 1}}}) + "\n")
        own = {name: value for name, value in evil(key).items() if name in ("versions", "changed", "starts")}
        retrained(make, folder.name, 0.9, **own)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def clean(text: str) -> None:
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_a_terminal_is_not_steered(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.main({"out": "runs"})
    status.main(["runs"])
    for path in sorted((runs / "runs").iterdir()):
        record = json.loads((path / "result.json").read_text())
        run_summary.show(
            {
                **record,
                "finished": STEER,
                "updates": 1,
                "passes": 2,
                "verdict": {"text": STEER},
                "command": f"nasx {STEER}",
            },
            path,
        )
    clean(capsys.readouterr().out)


def test_what_is_read_of_a_stranger_s_files_does_not_steer_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make = writer(tmp_path)
    folder, *others = [make(method=f"m{seed % 2}", seed=seed, command=f"nasx {STEER}") for seed in range(4)]
    for run in (folder, *others):
        held = {"space": {}, "search": {"a": STEER}} if run.name in ("run0", "run2") else {STEER: 1}
        (run / "config.yaml").write_text(json.dumps({"choices": {"space": "nb201"}, **held}))
    assert info.main([f"from={folder}"]) == 0
    assert "owned" in capsys.readouterr().out
    compare.main(["method=m0", "method=m1", "runs=runs"])
    bench._show({"source": STEER, STEER: {STEER: 1}})
    bench._grid([{STEER: STEER}])
    print(doctor.tilde(STEER), *lineage.next_commands({"kind": "search", "command": STEER}, Path(STEER)))
    record = json.loads((folder / "result.json").read_text())
    run_summary.show({**record, "finished": "", "updates": 1, "passes": 2}, Path(STEER))
    run_summary.show_next(record, Path(STEER))
    sweep_log.record_job(tmp_path / "job-0.json", [STEER], ended=True, fault=STEER)
    assert sweep_log.summary(tmp_path, ValueError(f"{STEER} ")) == 1
    said = capsys.readouterr()
    assert "owned" in said.out
    assert "owned" in said.err
    clean(said.out + said.err)


@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_of_the_log_steers_a_terminal(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png", f"b/x.{STEER}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    said = listing.listed(listing.layout(tmp_path), 0.5).said
    clean(said)
    assert "owned" in said
    shown = io.StringIO()
    monkeypatch.setattr(logging.getLogger("nasx"), "handlers", [])  # those of the test's own capture
    monkeypatch.setattr(progress, "CONSOLE", Console(file=shown, force_terminal=terminal, color_system=None, width=200))
    with progress.log_to_folder(tmp_path, quiet=False):
        logging.getLogger("nasx").info("%s: %s", STEER, said)
    for text in (shown.getvalue() if terminal else capsys.readouterr().err, (tmp_path / "log.txt").read_text()):
        assert "owned" in text
        clean(text)


def test_markdown_holds_it_as_text(runs: Path) -> None:
    text = table.main({"out": "runs", "format": "markdown"})
    clean(text)
    assert "alert(1)" in text, "the text is shown"
    assert "<script" not in text
    assert "](http" not in text


def test_a_spreadsheet_calculates_nothing(runs: Path) -> None:
    for ask in ({}, {"paper": "idarts"}):
        text = table.main({"out": "runs", "format": "csv", **ask})
        clean(text)
        for row in csv.reader(io.StringIO(text)):
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
                assert not cell.startswith("-") or cell == "-" or float(cell) < 0, cell
    assert FORMULA in text or "HYPERLINK" in table.main({"out": "runs", "format": "csv"})


def test_latex_and_html_hold_it_as_text(runs: Path) -> None:
    clean(table.main({"out": "runs", "format": "latex"}))
    assert report.main(["runs"]) == 0
    page = (runs / "report.html").read_text(encoding="utf-8")
    clean(page)
    assert "<script>alert" not in page


def test_numbers_stay_numbers_in_a_spreadsheet() -> None:
    import pandas as pd

    frame = pd.DataFrame({"=x": [-1.5, 2.0], "text": ["-x", "plain"], "n": [-3, 4], "none": [None, "=1"]})
    assert table_formats.spreadsheet(frame) == "'=x,text,n,none\n-1.5,'-x,-3,\n2.0,plain,4,'=1\n"


def test_a_model_card_holds_it_as_text() -> None:
    key = f"{MARKUP}`|{LINK}```\n# {STEER}"
    facts = {
        "run": key,
        "recipe": key,
        "accuracy": 0.5,
        "settings": {"epochs": key},
        "seed": key,
        "image": [key, 1, 2],
        "preprocessing": [key],
        "classes": [key],
        "normalization": {"mean": [key], "std": [key]},
        "nasx": key,
        "commit": key,
        "genotype": key,
    }
    card = export.card(
        facts,
        {
            "choices": {"dataset": key, "space": key},
            "params": key,
            "macs": key,
            "command": key,
            "best_test_accuracy": 0.5,
            "changed": {key: [key, key]},
        },
        ["model.safetensors"],
    )
    clean(card)
    outside = "".join(card.split("```")[::2])
    assert card.count("```") == 6
    assert "<script" not in outside
    assert "](http" not in outside


def test_cleaned_leaves_what_is_plain() -> None:
    value = {"a": [1, None, {"b": 1.5}], "c": True}
    assert cleaned(value) == value
    assert cleaned({STEER: (STEER,)}) == {"?]0;owned??[2J?": ["?]0;owned??[2J?"]}
