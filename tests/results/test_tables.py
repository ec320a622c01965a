"""Tables of runs: aggregation, numbers, notes, formats."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import statistics

import pytest
import yaml
from finished import only, retrained, writer

from nasx.cli import table as cli_table
from nasx.config import identity
from nasx.errors import UserError
from nasx.results import aggregate as numbers
from nasx.results import conditions, table_columns, table_formats
from nasx.results.aggregate import benchmark_reference, summary
from nasx.results.collect import collect, rows_of


@pytest.fixture
def make(tmp_path):
    return writer(tmp_path)


# ------------------------------------------------------------------------------------------------------ summary
def test_mean_and_sample_deviation_over_seeds(make):
    values = [90.1, 91.3, 89.7, 90.6]
    for seed, valid in enumerate(values):
        make(seed=seed, valid=valid)
    row = only(summary(collect(make.root)), method="darts")
    assert row["n"] == row["cifar10.valid_n"] == 4
    assert row["cifar10.valid_mean"] == pytest.approx(statistics.mean(values), abs=1e-12)
    assert row["cifar10.valid_std"] == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert row["std_over"] == "searches"
    assert row["params_mean"] == 1288506


def test_one_run_has_no_deviation(make):
    make(valid=90.123)
    table = summary(collect(make.root), reference=False)
    assert math.isnan(table["cifar10.valid_std"][0])
    text = table_formats.markdown(table_columns.sheets(table))
    assert "90.12 |" in text
    assert "Single runs (n = 1)" in text
    assert "±" not in text.replace("so no ±", "")


@pytest.mark.parametrize(
    "second",
    [
        {"method": "tse"},
        {"protocol": "nats"},
        {"labels": ["release_leak"]},
        {"reduced": True},
        {"overrides": ["search.epochs=5", "seed=1"]},
        {"family": "ffffffff"},
        {"labels": ["best_of_4"]},
        {"choices": {"dataset": "digits"}},
        {"choices": {"space": "darts"}},
    ],
)
def test_runs_that_differ_in_more_than_the_seed_never_share_a_row(make, second):
    make(seed=0)
    make(**{"seed": 1} | second)
    assert list(summary(collect(make.root), reference=False)["n"]) == [1, 1]


def test_place_and_seed_do_not_split_rows(make):
    make(seed=0, overrides=["seed=0", "out=a", "device=cpu", "search.epochs=2"])
    make(seed=1, overrides=["search.epochs=2", "seed=1", "threads=2", "+launch=slurm"])
    table = summary(collect(make.root), reference=False)
    assert list(table["n"]) == [2]
    assert list(table["setting"]) == ["search.epochs=2"]


def test_the_hash_distinguishes_rows_that_overrides_do_not(make):
    make(family="aaaaaaaa")
    make(family="bbbbbbbb", seed=1)
    assert set(summary(collect(make.root), reference=False)["setting"]) == {"[aaaaaaaa]", "[bbbbbbbb]"}


COLLIDE = (0.057749, 0.106066)
"""Two rates whose configurations have the same first eight digits of their hash."""


def families(digits):
    found = [identity.family({"search": {"arch_lr": rate}}, "search") for rate in COLLIDE]
    assert found[0][:8] == found[1][:8]
    return [family[:digits] for family in found]


@pytest.mark.parametrize("digits", [32, 8])
def test_settings_whose_short_hashes_collide_never_share_a_row(make, digits):
    for seed in (0, 1):
        for rate, family in zip(COLLIDE, families(digits), strict=True):
            folder = make(seed=seed, family=family)
            held = {"kind": "search", "choices": {}, "identity": "x", "search": {"arch_lr": rate}, "seed": seed}
            (folder / "config.yaml").write_text(yaml.safe_dump(held))
    table = summary(collect(make.root), reference=False)
    assert list(table["n"]) == [2, 2]
    assert set(table["setting"]) == {f"[{family}]" for family in families(16)}


def test_runs_of_an_older_version_share_the_row_of_their_setting(make):
    for seed, family in enumerate([families(8)[0], families(32)[0]]):
        folder = make(seed=seed, family=family)
        (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "search": {"arch_lr": COLLIDE[0]}}))
    make(seed=2, family=families(8)[0])  # its configuration is gone: the record is all there is
    assert sorted(summary(collect(make.root), reference=False)["n"]) == [1, 2]


def test_rows_of_a_frame_are_pandas_own(make):
    make(seed=0)
    make(method="random", seed=1, params=7, labels=["x"])
    make(seed=2, lookup=None)
    frame = collect(make.root)
    for table in (frame, summary(frame), frame[frame["run"] == "nothing"]):
        assert repr(rows_of(table)) == repr(table.to_dict("records"))


def test_a_table_without_its_references_is_the_one_that_never_had_any(make):
    for seed in (0, 1):
        make(seed=seed)
    whole, bare = (summary(collect(make.root), reference=reference) for reference in (True, False))
    assert len(whole) > len(bare)
    without = whole[whole["reference"] == ""].reset_index(drop=True)
    assert repr(rows_of(without)) == repr(rows_of(bare))


def test_columns_that_split_rows_are_shown(make):
    for seed in (3, 4):
        make(seed=seed)
    for group, header in ((["seed"], "seed"), (["device", "seed"], "seed"), (["commit"], None), ([], None)):
        (sheet,) = table_columns.sheets(summary(collect(make.root), group), group=group)
        assert ("seed" in sheet.header) == (header == "seed")
        if header:
            assert {row[sheet.header.index("seed")] for row in sheet.rows} >= {"3", "4"}


def test_protocols_in_one_sheet_are_said(make):
    make()
    make(protocol="nats", seed=1)
    (sheet,) = table_columns.sheets(summary(collect(make.root)))
    assert "protocol" in sheet.header
    assert "rows differ in protocol (nats, nb201-v1): compare within one protocol only" in sheet.notes


def test_missing_test_accuracies_are_said(make):
    make()
    (sheet,) = table_columns.sheets(summary(collect(make.root), reference=False))
    assert sheet.rows[0][sheet.header.index("CIFAR-10 test")] == "n/a"
    [note] = [note for note in sheet.notes if note.startswith("n/a: `nasx bench get nb201-test` downloads test")]
    assert note.endswith(f"accuracies, `nasx bench fill {make.root}` then adds them to finished runs")


def test_reference_rows_are_the_benchmark_and_carry_no_n(make, monkeypatch):
    make()
    values = {"random": {"valid": 83.5, "test": 87.0}, "optimum": {"valid": 91.61, "test": 94.37}}
    monkeypatch.setattr(numbers, "benchmark_reference", lambda benchmark, dataset, edges=(): values)
    (sheet,) = table_columns.sheets(summary(collect(make.root)))
    valid, n = sheet.header.index("CIFAR-10 valid"), sheet.header.index("n")
    assert [(row[0], row[valid], row[n]) for row in sheet.rows[1:]] == [
        ("optimum (of each column)", "91.61", ""),
        ("random cell (benchmark mean)", "83.50", ""),
    ]
    assert sheet.rules == {1}


def test_reference_of_the_real_table(make):
    pytest.importorskip("nasx.benchmarks.nb201")
    values = benchmark_reference("nb201", "cifar10")
    assert round(values["optimum"]["valid"], 2) == 91.61
    assert benchmark_reference("no_such_benchmark", "cifar10") == {}


def test_reference_rows_are_of_the_cells_that_a_space_allows(make):
    two, other = (("none", "skip_connect"),) * 6, (("none", "nor_conv_3x3"),) * 6
    for seed, edges in enumerate((two, two, (), other, (("none",),) * 6)):
        among = {"cells": 1, "of": 15625, **({"edges": edges} if edges else {})}
        family = ("a" if edges == two else str(seed)) * 32
        make(seed=seed, family=family, among=among, overrides=[f"seed={seed}", f"x={edges}"])
    table = summary(collect(make.root))
    assert sorted(table[table["reference"] == ""]["n"]) == [1, 1, 1, 2]
    made = {table_columns.name(row): row["cifar10.valid_mean"] for row in rows_of(table) if row["reference"]}
    assert {name: round(value, 2) for name, value in made.items() if "3x3" not in name} == {
        "optimum (of each column)": 91.61,
        "random cell (benchmark mean)": 83.69,
        "optimum of 64 cells of none, skip_connect (of each column)": 84.66,
        "random cell of 64 cells of none, skip_connect": 62.43,
        "optimum of 1 cell (of each column)": 9.71,
        "random cell of 1 cell": 9.71,
    }
    assert made["optimum of 64 cells of none, nor_conv_3x3 (of each column)"] > 90
    assert "edges" not in cli_table.to_csv(table).partition("\n")[0].split(",")


@pytest.mark.parametrize(
    ("cells", "over"),
    [
        (["a", "b"], "searches, each retrained once"),
        (["a", "a"], "retrainings of one cell"),
        (["a", "a", "b"], "retrainings of 2 cells"),
    ],
)
def test_what_the_deviation_of_a_retraining_is_over(make, cells, over):
    for name in sorted(set(cells)):
        make("idarts", name=name, lookup=None, choices={"space": "darts"}, protocol="darts")
    for seed, name in enumerate(cells):
        retrained(make, name, 0.97 + seed / 1000, seed)
    table = summary(collect(make.root))
    row = only(table, kind="retrain")
    assert (row["method"], row["space"], row["n"], row["std_over"]) == ("idarts", "darts", len(cells), over)
    assert row["test_accuracy_mean"] == pytest.approx(97 + (len(cells) - 1) / 20, abs=1e-9)
    accuracy, error = (table_formats.markdown(table_columns.sheets(table, error=flag)) for flag in (False, True))
    assert "test accuracy" in accuracy
    assert over in accuracy
    assert "test error" in error
    assert f"{100 - row['test_accuracy_mean']:.2f} ± " in error


def test_reduced_is_read_from_what_was_changed(make):
    folder = make()
    record = json.loads((folder / "result.json").read_text())
    del record["reduced"]
    for changed, reduced in (
        ({"search.epochs": [50, 5]}, True),
        ({"search.epochs": [50, 100]}, False),
        ({"search.updates_per_epoch": [None, 3]}, True),
        ({"search.lr": [0.1, 0.01]}, False),
    ):
        (folder / "result.json").write_text(json.dumps(record | {"changed": changed}))
        assert bool(collect(make.root)["reduced"][0]) is reduced


@pytest.mark.parametrize(
    ("seconds", "device", "text"),
    [
        (30, "cpu", "30.0 s on CPU"),
        (90, "cuda:0", "1.5 GPU-min"),
        (5400, "cuda:0", "1.50 GPU-hours"),
        (129600, "cuda:0", "1.50 GPU-days"),
    ],
)
def test_cost_names_its_unit(make, seconds, device, text):
    make(wall_s=seconds, hardware={"device": device, "name": "X"})
    row = summary(collect(make.root), reference=False).to_dict("records")[0]
    assert table_columns.cost(row) == text


# -------------------------------------------------------------------------------------------------------- forms
def test_csv_has_every_digit_and_a_column_for_each_number(make):
    for seed, valid in enumerate((90.1, 90.2, 90.4)):
        make(seed=seed, valid=valid, labels=["b", "a"])
    text = cli_table.main({"runs": str(make.root), "format": "csv", "filter": ["method:darts"]})
    row = next(row for row in csv.DictReader(io.StringIO(text)) if row["method"] == "darts")
    assert float(row["cifar10.valid_mean"]) == math.fsum((90.1, 90.2, 90.4)) / 3
    assert float(row["cifar10.valid_std"]) == pytest.approx(statistics.stdev((90.1, 90.2, 90.4)), rel=1e-14)
    assert (row["n"], row["cifar10.valid_n"], row["labels"], row["cifar10.test_mean"]) == ("3", "3", "a|b", "")


def test_forms_are_deterministic_and_say_the_same(make, capsys):
    for seed in range(3):
        make(seed=seed, valid=90 + seed, overrides=["method.x=a|b_c"])
    for form in ("markdown", "latex", "csv", "console"):
        first = cli_table.main({"runs": [str(make.root)], "format": form})
        assert capsys.readouterr().out == first
        assert cli_table.main({"runs": [str(make.root)], "format": form}) == first
        capsys.readouterr()
        assert "91.00" in first or form == "csv"


def test_latex_is_escaped_and_markdown_keeps_its_columns():
    sheet = table_formats.Sheet(
        "50 % of a_b & c", ("a_b", "n"), (("x|y", "1.0 ± 0.1"),), notes=("under_score",), left=frozenset({0})
    )
    latex = table_formats.latex([sheet])
    assert r"a\_b & n \\" in latex
    assert r"x\textbar{}y & 1.0 $\pm$ 0.1 \\" in latex
    assert r"50 \% of a\_b \& c." in latex
    assert latex.index(r"\toprule") < latex.index(r"\midrule") < latex.index(r"\bottomrule")
    assert r"{lr}" in latex
    assert r"Under\_score" not in latex
    assert r"under\_score." in latex
    assert latex.index(r"\caption{50 \% of a\_b \& c.}") < latex.index(r"\label{tab:50-of-a-b-c}")
    assert latex.index(r"\end{tabular}") < latex.index(r"\footnotesize under\_score.")
    lines = table_formats.markdown([sheet]).splitlines()
    assert lines[2:5] == ["| a_b  |         n |", "| ---- | --------: |", "| x\\|y | 1.0 ± 0.1 |"]


def test_a_narrow_terminal_gets_the_columns_that_fit_and_the_number_of_others():
    cells = [f"{i}.{i}{i} ± 0.{i}" for i in range(9)]
    sheet = table_formats.Sheet("t", ("name", *(f"c{i}" for i in range(9))), (("row", *cells),), left=frozenset({0}))
    text = table_formats.console([sheet], width=50)
    assert all(len(line) <= 50 for line in text.splitlines())
    assert [cell for cell in cells if cell in text] == cells[:3]
    assert "6 more columns: widen the terminal" in " ".join(text.split())
    whole = table_formats.console([sheet])
    assert all(cell in whole for cell in cells)
    assert "more column" not in whole


def test_a_terminal_of_80_columns_gets_one_table_that_tells_rows_apart():
    """One table for each sheet, where there were up to five; settings are wrapped between words."""
    settings = [f"search.arch_lr=0.00{i} space.layers={i} search.updates_per_epoch=100" for i in range(1, 4)]
    rows = [("darts", "nb201-v1", text, "n/a", "91.55 ± 0.12", f"{i}0.00 ± 1.00", "3", "1.20 GPU-days")
            for i, text in enumerate(settings)]  # fmt: skip
    rows.append(("random cell (benchmark mean)", "", "", "n/a", "83.69", "61.30", "", "–"))
    header = ("method", "protocol", "setting", "CIFAR-10 test", "CIFAR-10 valid", "CIFAR-100 valid", "n", "cost")
    sheet = table_formats.Sheet("t", header, tuple(rows), left=frozenset({0, 1, 2}))
    text = table_formats.console([sheet], width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("─\n") == text.count("method") == 1
    for setting in settings:
        for word in setting.split()[:2]:
            assert text.count(word) == 1
    assert [text.count(cell) for cell in ("91.55 ± 0.12", "83.69", "1.20 GPU-days", "1.00", "n/a")] == [3, 1, 3, 0, 0]
    assert "3 more columns: widen the terminal, or add format=markdown\n" in text
    bare = dataclasses.replace(sheet, rows=tuple((*row[:2], "", *row[3:]) for row in rows))
    assert "00 ± 1.00" in table_formats.console([bare], width=80), "room that nothing more important needs"


# ---------------------------------------------------------------------------------------------------------- ask
def test_filter_sort_and_group(make):
    for seed, method in enumerate(("darts", "idarts", "tse")):
        make(method, seed=seed, valid=90 + seed)
    ask = {"runs": str(make.root), "format": "csv"}
    rows = list(
        csv.DictReader(
            io.StringIO(cli_table.main(ask | {"filter": {"method": ["tse", "darts"]}, "sort": "-cifar10.valid"}))
        )
    )
    assert [row["method"] for row in rows if row["method"]] == ["tse", "darts"]
    rows = list(csv.DictReader(io.StringIO(cli_table.main(ask | {"filter": ["method:tse", "method=darts"]}))))
    assert {row["method"] for row in rows} - {""} == {"darts", "tse"}
    make("tse", seed=9, overrides=["seed=9"])
    rows = list(csv.DictReader(io.StringIO(cli_table.main(ask | {"filter": "method:tse", "group": "seed"}))))
    assert sorted(row["seed"] for row in rows if row["method"]) == ["2", "9"]


def test_truth_is_filtered_by_as_it_is_written(make):
    make(verdict={"collapsed": True})
    make("tse", reduced=True, verdict={"collapsed": False})
    make("gdas")
    frame = collect(make.root)
    for text, methods in (
        ("reduced:false", ["darts", "gdas"]),
        ("reduced=True", ["tse"]),
        ("collapsed=true", ["darts"]),
        ("collapsed=false", ["tse"]),
        ("collapsed=null", ["gdas"]),
    ):
        assert list(conditions.pick(frame, text)["method"]) == methods, text


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        ({"format": "html"}, "format=html: unknown format"),
        ({"filter": {"methd": "x"}}, "did you mean method"),
        ({"filter": ["method"]}, "not of the form column=value"),
        ({"filter": {"method": "x"}}, "matches no run (1 run in total); choose method from darts"),
        ({"filter": ["name:x"]}, "filter=[name=x]: matches no run (1 run in total); choose run from run0"),
        ({"sort": "cifar10.vald"}, "did you mean cifar10.valid?"),
        ({"group": ["devise"]}, "did you mean device"),
        ({"paper": "nas"}, "is not a paper; choose from idarts"),
        ({"runs": "/nowhere/at/all"}, "runs=/nowhere/at/all: contains no finished run"),
        (
            {"runs": [], "out": "/nowhere"},
            "out=/nowhere: contains no finished run; name the folder that contains the runs",
        ),
        ({"runs": [], "out": "outputs"}, "out=outputs: contains no finished run; search first"),
        ({"sort": "-cost"}, "sort=-cost: is not a column; did you mean -budget.cost or -cost_s?"),
        ({"sort": "cfar10.valid"}, "sort=cfar10.valid: is not a column; did you mean cifar10.valid"),
        (
            {"filter": ["method:dart"]},
            "filter=[method=dart]: matches no run (1 run in total); did you mean method=darts?",
        ),
    ],
)
def test_faults_name_place_and_remedy(make, ask, words):
    make()
    with pytest.raises(UserError) as fault:
        cli_table.main({"runs": str(make.root), "format": "csv"} | ask)
    assert words in str(fault.value)


def test_a_table_goes_to_a_file(make, tmp_path, capsys):
    make()
    target = tmp_path / "new" / "table.md"
    text = cli_table.main({"runs": str(make.root), "format": "markdown", "out_file": str(target)})
    assert target.read_text() == text
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="cannot be written"):
        cli_table.main({"runs": str(make.root), "format": "markdown", "out_file": str(target / "below")})
