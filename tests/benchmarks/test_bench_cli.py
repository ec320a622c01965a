"""`nasx bench` and related messages, in processes of their own in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_commands import TINY, call, said
from nb101_files import frame, message, record
from nb201_files import PUBLIC

from nasx.benchmarks.nb101 import prune
from nasx.benchmarks.nb101_import import import_nb101

GOLDEN = {  # NAS-Bench-201: CIFAR-10 valid, test; CIFAR-100 valid, test; ImageNet16-120 valid, test
    "all_skip": (39.77, 54.30, 15.03, 15.61, 16.43, 16.32),
    "all_conv3x3": (90.20, 93.76, 70.71, 71.11, 40.78, 41.44),
    "best_found": (91.55, 94.36, 73.49, 73.51, 46.37, 46.34),
}


def accuracies(text: str) -> list[str]:
    """The column of means in what `bench query` prints."""
    lines = [line.split() for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if line[:3] == ["dataset", "split", "mean"])
    return [line[2] for line in lines[start + 1 : start + 7]]


@pytest.mark.slow
def test_import_of_the_published_table_gives_the_published_numbers(tmp_path: Path) -> None:
    if not PUBLIC.is_file():
        pytest.skip(f"no table {PUBLIC.name} beside the repository")
    before = said(tmp_path, "bench", "query", "best_found")
    assert accuracies(before) == ["91.55", "-", "73.49", "-", "46.37", "-"]
    assert "bench get nb201-test" in before
    said(tmp_path, "bench", "import", "nb201", str(PUBLIC))
    for name, numbers in GOLDEN.items():
        assert accuracies(said(tmp_path, "bench", "query", name)) == [f"{x:.2f}" for x in numbers]
    best = said(tmp_path, "bench", "query", "best_cifar10")
    assert accuracies(best)[1::2] == ["94.37", "73.22", "46.71"]
    info = said(tmp_path, "bench", "info")
    assert "nb201.csv.gz" in info
    assert "sha256" in info

    damaged = tmp_path / "damaged.csv"
    damaged.write_text("arch_str,cifar10_valid\n|none~0|,1\n")
    refused = call(tmp_path, "bench", "import", "nb201", str(damaged))
    assert refused.code == 2
    assert "damaged.csv" in refused.err
    assert "Traceback" not in refused.err
    assert said(tmp_path, "bench", "query", "best_cifar10") == best, "the old table is still in place"


@pytest.mark.slow
def test_query_takes_strings_digits_and_names_and_shows_isomorphic_cells(tmp_path: Path) -> None:
    text = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    assert (
        said(tmp_path, "bench", "query", text)
        == said(tmp_path, "bench", "query", "333133")
        == said(tmp_path, "bench", "query", "BEST_found")
    )
    one = "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|"
    facts = dict(line.split(": ", 1) for line in said(tmp_path, "bench", "query", one).splitlines() if ": " in line)
    total = int(facts["cells with this function"])
    others = facts["isomorphic to"].split(" and ")[0].split("  ")
    assert len(others) == min(total - 1, 3) > 0
    for other in others:
        assert other != one
        assert f"function: {facts['function']}\n" in said(tmp_path, "bench", "query", other)
    alone = said(tmp_path, "bench", "query", "333333")
    assert "cells with this function: 1\n" in alone
    assert "isomorphic to" not in alone


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["query", "DARTS_V2"], "which no benchmark covers"),
        (["query", "resnet50"], "not a NAS-Bench-201 cell"),
        (["query"], "is not a valid command"),
        (["query", "{"], "is not a graph"),
        (["fill", "nowhere"], "nowhere: does not exist"),
        (["import", "nb301", "x"], "unknown benchmark"),
        (["import", "nb101", "nowhere"], "nowhere"),
    ],
)
def test_faults_are_reported_in_a_line(words: list[str], fault: str, tmp_path: Path) -> None:
    done = call(tmp_path, "bench", *words)
    assert done.code == 2
    assert fault in done.err
    assert "Traceback" not in done.err


def test_info_without_tables_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    info = said(tmp_path, "bench", "info")
    assert "bench get nb101" in info
    assert "bench get nb201-test" in info


@pytest.mark.slow
def test_a_1shot1_search_ends_well_without_its_table_and_fill_adds_the_look_up_later(tmp_path: Path) -> None:
    shown = said(tmp_path, "search", "space=nb1shot1_1", "method=darts", *TINY, "name=run")
    assert "nasx bench get nb101" in shown
    assert "`nasx bench fill outputs` adds it" in shown
    file = tmp_path / "outputs" / "run" / "result.json"
    result = json.loads(file.read_text())
    assert (result["status"], result["lookup"]) == ("finished", None)
    assert "no entry" in said(tmp_path, "bench", "fill"), "nothing to fill it with yet"

    graph = json.loads(result["genotype"])
    pruned = prune(graph["matrix"], graph["ops"])
    assert pruned is not None
    with (tmp_path / "nb101.tfrecord").open("wb") as stream:
        for valid, test in ((0.90, 0.80), (0.92, 0.81), (0.94, 0.82)):
            stream.write(frame(record(*pruned, message(valid, test))))
    part = call(tmp_path, "bench", "import", "nb101", "nb101.tfrecord")
    assert part.code == 2, "the command takes the whole benchmark only"
    import_nb101(tmp_path / "nb101.tfrecord", tmp_path / "data" / "benchmarks" / "nb101.npz", complete=False)
    assert "1 of 1 run filled" in said(tmp_path, "bench", "fill", "outputs")
    filled = json.loads(file.read_text())
    assert filled["lookup"]["cifar10"]["valid"] == pytest.approx(92.0, abs=1e-4)
    assert filled["lookup"]["cifar10"]["test"] == pytest.approx(81.0, abs=1e-4)
    assert result["reference"] == {}
    assert filled["reference"]["cifar10"]["valid"]["optimum"] == pytest.approx(92.0, abs=1e-4), "of its one graph"
    assert result["among"] is None
    assert filled["among"] == {"cells": 1, "of": 1}
    assert filled["rank"] == {"cifar10": {"valid": 1, "test": 1}}
    new = ("lookup", "missing", "reference", "better_than", "rank", "below_optimum", "among")
    assert {k: v for k, v in filled.items() if k not in new} == {k: v for k, v in result.items() if k not in new}
    assert "0 of 1 run filled" in said(tmp_path, "bench", "fill", "outputs")
    assert "92.00" in said(tmp_path, "bench", "query", result["genotype"])
    again = said(tmp_path, "search", "space=nb1shot1_1", "method=darts", *TINY, "name=run")
    assert "81.00" in again, "the finished run shows it"


@pytest.mark.slow
def test_edges_first_then_operations_on_them(tmp_path: Path) -> None:
    """Amended-DARTS' two stages on its S2: the second takes the first one's run, or the text that it printed."""
    small = [*TINY, "space.auxiliary=false", "search.auxiliary=0", "search.drop_path=0", "search.cutout=0"]
    refused = call(tmp_path, "search", "experiment=amended/s2_searched", *small)
    assert refused.code == 2
    assert "space.keep=MISSING" in refused.err
    assert "first stage" in refused.err
    assert not (tmp_path / "outputs").exists()
    said(tmp_path, "search", "experiment=amended/s2_edges", *small, "name=first")
    first = (tmp_path / "outputs" / "first" / "genotype.txt").read_text().strip()
    said(tmp_path, "search", "experiment=amended/s2_searched", *small, "name=second", "space.keep=first")
    said(tmp_path, "search", "experiment=amended/s2_searched", *small, "name=third", f"space.keep={first}")
    second, third = (
        json.loads((tmp_path / "outputs" / name / "result.json").read_text()) for name in ("second", "third")
    )
    assert second["identity"] == third["identity"]
    assert second["genotype"] == third["genotype"]

    def edges(text: str) -> list[str]:
        return [piece.strip(" )],([") for piece in text.split(",")[1::2]]

    assert edges(second["genotype"]) == edges(first), "operations may differ, edges do not"
    lost = call(tmp_path, "search", "experiment=amended/s2_searched", *small, "space.keep=outputs")
    assert lost.code == 2
    assert "outputs contains no finished search" in lost.err
