"""Tables of runs: what is collected, what shares a row, the numbers, the notes, and the forms."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import subprocess
import sys

import pytest

from nasx import tables
from nasx.errors import UserError
from nasx.results import published, typeset, wording
from nasx.results import summary as numbers
from nasx.results.collect import collect
from nasx.results.summary import benchmark_reference, summary

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


@pytest.fixture
def make(tmp_path):
    """Write the record of one finished run; keywords replace its fields."""
    count = iter(range(10_000))

    def write(method="darts", seed=0, valid=90.0, **fields):
        number = next(count)
        choices = {"method": method, "space": "nb201", "dataset": "cifar10", "search": "nb201_v1"}
        record = {
            "kind": "search", "name": f"run{number}", "status": "finished",
            "choices": choices | fields.pop("choices", {}),
            "protocol": "nb201-v1", "seed": seed, "identity": f"{number:08x}", "overrides": [f"seed={seed}"],
            "labels": [], "genotype": CELL, "supernet": {"valid_accuracy": 0.5}, "test_accuracy": None,
            "lookup": {"benchmark": "nb201", "source": "built-in", "params": 1288506,
                       "cifar10": {"valid": valid, "test": None}},
            "params": None, "wall_s": 7200.0, "peak_mb": 100, "reduced": False,
            "hardware": {"device": "cuda:0", "name": "A GPU"}, "versions": {"nasx": "0"}, "commit": None, **fields}
        folder = tmp_path / "runs" / record["name"]
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(record))
        return folder

    write.root = tmp_path / "runs"
    write.root.mkdir()
    return write


def retrained(make, parent, accuracy, seed=0, **fields):
    return make(choices={"method": None, "space": None, "search": None}, kind="retrain", protocol="darts-cifar",
                parent=parent, lookup=None, test_accuracy=accuracy, params=3_300_000, seed=seed,
                overrides=[f"from=outputs/{parent}"], genotype=f"cell of {parent}", **fields)


def only(table, **wanted):
    rows = [row for row in table.to_dict("records") if all(row[k] == v for k, v in wanted.items())]
    assert len(rows) == 1, rows
    return rows[0]


# ------------------------------------------------------------------------------------------------------ collect
def test_collect_reads_runs_at_any_depth_and_names_what_it_leaves_out(make):
    make()
    torn, foreign, running, half = (make.root / name for name in ("torn", "foreign", "deep/running", "half"))
    for folder in (torn, foreign, running, half):
        folder.mkdir(parents=True)
    (torn / "result.json").write_text('{"kind": "search", "na')
    (foreign / "result.json").write_text('["not", "ours"]')
    (running / "config.yaml").write_text("seed: 0")
    (half / "result.json").write_text('{"kind": "search", "status": "running", "choices": {}}')
    frame = collect(make.root)
    assert list(frame["run"]) == ["run0"]
    assert frame.attrs["skipped"] == {"not finished": 2, "record unreadable": 1, "not a record of nasx": 1}
    notes = " ".join(frame.attrs["notes"])
    assert str(torn) in notes
    assert str(foreign) in notes
    assert "not finished: 2" in notes


@pytest.mark.parametrize("text", ["", "null", "3", "{}", '{"kind": "search"}', "[" * 100_000, "\x00\xff",
                                  '{"kind": "search", "choices": {}, "wall_s": "x"}',
                                  '{"kind": "search", "choices": {}, "labels": 3, "lookup": []}'])
def test_a_bad_record_never_stops_a_table(make, text):
    make()
    bad = make.root / "bad"
    bad.mkdir()
    (bad / "result.json").write_text(text)
    frame = collect(make.root)
    assert len(frame) == 1
    assert sum(frame.attrs["skipped"].values()) == 1


def test_a_copy_of_a_run_counts_once(make):
    make(identity="aa")
    make(identity="aa")
    frame = collect([make.root, make.root / "run0", str(make.root / "run*")])
    assert len(frame) == 1
    assert frame.attrs["skipped"] == {"second copies of a run": 1}


def test_collect_and_the_module_do_without_torch(make):
    make()
    code = f"""import sys; from nasx import tables; tables.main({{'runs': {str(make.root)!r}, 'format': 'csv'}})
assert not {{'torch', 'torchvision', 'matplotlib', 'scipy'}} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


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
    text = typeset.markdown(wording.sheets(table))
    assert "90.12 |" in text
    assert "Single runs (n = 1)" in text
    assert "±" not in text.replace("so no ±", "")


@pytest.mark.parametrize("second", [
    {"method": "tse"}, {"protocol": "nats"}, {"labels": ["release_leak"]}, {"reduced": True},
    {"overrides": ["search.epochs=5", "seed=1"]}, {"family": "ffffffff"}, {"labels": ["best_of_4"]},
    {"choices": {"dataset": "digits"}}, {"choices": {"space": "darts"}}])
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


def test_the_hash_tells_rows_apart_where_words_do_not(make):
    make(family="aaaaaaaa")
    make(family="bbbbbbbb", seed=1)
    assert set(summary(collect(make.root), reference=False)["setting"]) == {"[aaaaaaaa]", "[bbbbbbbb]"}


def test_a_retraining_has_the_method_of_its_search_wherever_that_is(make):
    """Its own `method` is a default that it does not read."""
    default = {"method": "darts", "search": "nb201_v1"}
    kept = {"kind": "search", "choices": {"method": "random", "space": "nb201", "dataset": "cifar10"},
            "protocol": "nb201-v1", "changed": {"search.epochs": [50, 2]}}
    lone = make(kind="retrain", lookup=None, test_accuracy=0.9, parent="gone", choices=default, searched=kept)
    named = make(kind="retrain", lookup=None, test_accuracy=0.9, parent=None, choices=default)
    rows = {row["folder"]: row for row in collect(make.root).to_dict("records")}
    assert [rows[str(lone)][key] for key in ("method", "searched_on", "reduced")] == ["random", "cifar10", True]
    assert [rows[str(named)][key] for key in ("method", "search")] == ["", ""]


def test_of_two_searches_of_one_name_a_retraining_belongs_to_that_beside_it(make, tmp_path):
    for method in ("darts", "random"):
        for folder in (make(method, name="mine"), retrained(make, "mine", 0.9, identity="same", started=method)):
            (tmp_path / "runs" / method).mkdir(exist_ok=True)
            folder.rename(tmp_path / "runs" / method / ("mine" if "mine" in folder.name else "again"))
    found = collect(make.root)
    assert sorted(found[found["kind"] == "retrain"]["method"]) == ["darts", "random"]


def test_a_copy_counts_once_and_a_run_that_was_done_again_twice(make):
    for seed, more in ((0, {"commit": "old"}), (0, {"commit": "old"}), (0, {"commit": "new"}),
                       (0, {"commit": "old", "finished": "later"})):
        make(seed=seed, identity="same", **more)
    found = collect(make.root)
    assert len(found) == 3
    assert found.attrs["skipped"] == {"second copies of a run": 1}
    assert "occurs more than once" in " ".join(summary(found).attrs["notes"])


@pytest.mark.parametrize(("changed", "reduced"), [
    ({"stages.search.epochs": [[25, 25, 25], [25, 1, 25]]}, True), ({"dataset.fraction": [0.5, 0.02]}, True),
    ({"dataset.fraction_a": [None, 0.02]}, True), ({"dataset.size": [32, 16]}, True),
    ({"stages.search.epochs": [[25, 25], [50, 50]]}, False), ({"dataset.fraction": [0.5, 0.9]}, False),
    ({"dataset.size": [None, 32]}, False), ({"search.lr": [0.1, 0.01]}, False)])
def test_what_makes_a_run_smaller_is_marked(make, changed, reduced):
    make(changed=changed, reduced=None)
    assert list(collect(make.root)["reduced"]) == [reduced]


def test_cost_counts_every_device_and_a_share_of_what_runs_together_take(make):
    make(processes=4, wall_s=10.0)
    make(seed=1, together=5, wall_s=10.0)
    assert list(collect(make.root)["cost_s"]) == [40.0, 2.0]


def test_of_a_key_given_twice_the_last_one_is_told(make):
    make(overrides=["search.epochs=2", "seed=0", "search.epochs=1"])
    assert list(collect(make.root)["overrides"]) == [("search.epochs=1",)]


def test_columns_that_split_rows_are_shown(make):
    for seed in (3, 4):
        make(seed=seed)
    for group, header in ((["seed"], "seed"), (["device", "seed"], "seed"), (["commit"], None), ([], None)):
        sheet, = wording.sheets(summary(collect(make.root), group), group=group)
        assert ("seed" in sheet.header) == (header == "seed")
        if header:
            assert {row[sheet.header.index("seed")] for row in sheet.rows} >= {"3", "4"}


def test_protocols_in_one_sheet_are_said(make):
    make()
    make(protocol="nats", seed=1)
    sheet, = wording.sheets(summary(collect(make.root)))
    assert "protocol" in sheet.header
    assert "rows differ in protocol (nats, nb201-v1): compare within one protocol only" in sheet.notes


def test_missing_test_accuracies_are_said(make):
    make()
    sheet, = wording.sheets(summary(collect(make.root), reference=False))
    assert sheet.rows[0][sheet.header.index("CIFAR-10 test")] == "n/a"
    assert any(note.startswith("n/a: import the full table") for note in sheet.notes)


def test_reference_rows_are_the_benchmark_and_carry_no_n(make, monkeypatch):
    make()
    values = {"random": {"valid": 83.5, "test": 87.0}, "optimum": {"valid": 91.61, "test": 94.37}}
    monkeypatch.setattr(numbers, "benchmark_reference", lambda benchmark, dataset: values)
    sheet, = wording.sheets(summary(collect(make.root)))
    valid, n = sheet.header.index("CIFAR-10 valid"), sheet.header.index("n")
    assert [(row[0], row[valid], row[n]) for row in sheet.rows[1:]] == [
        ("optimum (of each column)", "91.61", ""), ("random cell (benchmark mean)", "83.50", "")]
    assert sheet.rules == {1}


def test_reference_of_the_real_table(make):
    pytest.importorskip("nasx.benchmarks.nb201")
    values = benchmark_reference("nb201", "cifar10")
    assert round(values["optimum"]["valid"], 2) == 91.61
    assert benchmark_reference("no_such_benchmark", "cifar10") == {}


@pytest.mark.parametrize(("cells", "over"), [
    (["a", "b"], "searches, each retrained once"), (["a", "a"], "retrainings of one cell"),
    (["a", "a", "b"], "retrainings of 2 cells")])
def test_what_the_deviation_of_a_retraining_is_over(make, cells, over):
    for name in sorted(set(cells)):
        make("idarts", name=name, lookup=None, choices={"space": "darts"}, protocol="darts")
    for seed, name in enumerate(cells):
        retrained(make, name, 0.97 + seed / 1000, seed)
    table = summary(collect(make.root))
    row = only(table, kind="retrain")
    assert (row["method"], row["space"], row["n"], row["std_over"]) == ("idarts", "darts", len(cells), over)
    assert row["test_accuracy_mean"] == pytest.approx(97 + (len(cells) - 1) / 20, abs=1e-9)
    accuracy, error = (typeset.markdown(wording.sheets(table, error=flag)) for flag in (False, True))
    assert "test accuracy" in accuracy
    assert over in accuracy
    assert "test error" in error
    assert f"{100 - row['test_accuracy_mean']:.2f} ± " in error


def test_reduced_is_read_from_what_was_changed(make):
    folder = make()
    record = json.loads((folder / "result.json").read_text())
    del record["reduced"]
    for changed, reduced in (({"search.epochs": [50, 5]}, True), ({"search.epochs": [50, 100]}, False),
                             ({"search.updates_per_epoch": [None, 3]}, True), ({"search.lr": [0.1, 0.01]}, False)):
        (folder / "result.json").write_text(json.dumps(record | {"changed": changed}))
        assert bool(collect(make.root)["reduced"][0]) is reduced


@pytest.mark.parametrize(("seconds", "device", "text"), [
    (30, "cpu", "30.0 CPU-s"), (90, "cuda:0", "1.5 GPU-min"), (5400, "cuda:0", "1.50 GPU-hours"),
    (129600, "cuda:0", "1.50 GPU-days")])
def test_cost_names_its_unit(make, seconds, device, text):
    make(wall_s=seconds, hardware={"device": device, "name": "X"})
    row = summary(collect(make.root), reference=False).to_dict("records")[0]
    assert wording.cost(row) == text


# -------------------------------------------------------------------------------------------------------- forms
def test_csv_has_every_digit_and_a_column_for_each_number(make):
    for seed, valid in enumerate((90.1, 90.2, 90.4)):
        make(seed=seed, valid=valid, labels=["b", "a"])
    text = tables.main({"runs": str(make.root), "format": "csv", "filter": ["method:darts"]})
    row = next(row for row in csv.DictReader(io.StringIO(text)) if row["method"] == "darts")
    assert float(row["cifar10.valid_mean"]) == math.fsum((90.1, 90.2, 90.4)) / 3
    assert float(row["cifar10.valid_std"]) == pytest.approx(statistics.stdev((90.1, 90.2, 90.4)), rel=1e-14)
    assert (row["n"], row["cifar10.valid_n"], row["labels"], row["cifar10.test_mean"]) == ("3", "3", "a|b", "")


def test_forms_are_deterministic_and_say_the_same(make, capsys):
    for seed in range(3):
        make(seed=seed, valid=90 + seed, overrides=["method.x=a|b_c"])
    for form in ("markdown", "latex", "csv", "console"):
        first = tables.main({"runs": [str(make.root)], "format": form})
        assert capsys.readouterr().out == first
        assert tables.main({"runs": [str(make.root)], "format": form}) == first
        capsys.readouterr()
        assert "91.00" in first or form == "csv"


def test_latex_is_escaped_and_markdown_keeps_its_columns():
    sheet = typeset.Sheet("50 % of a_b & c", ("a_b", "n"), (("x|y", "1.0 ± 0.1"),), notes=("under_score",),
                          left=frozenset({0}))
    latex = typeset.latex([sheet])
    assert r"a\_b & n \\" in latex
    assert r"x\textbar{}y & 1.0 $\pm$ 0.1 \\" in latex
    assert r"50 \% of a\_b \& c." in latex
    assert latex.index(r"\toprule") < latex.index(r"\midrule") < latex.index(r"\bottomrule")
    assert r"{lr}" in latex
    assert r"Under\_score" not in latex
    assert r"under\_score." in latex
    lines = typeset.markdown([sheet]).splitlines()
    assert lines[2:5] == ["| a_b  |         n |", "| ---- | --------: |", "| x\\|y | 1.0 ± 0.1 |"]


def test_a_narrow_terminal_gets_parts_that_lose_nothing():
    cells = [f"{i}.{i}{i} ± 0.{i}" for i in range(9)]
    sheet = typeset.Sheet("t", ("name", *(f"c{i}" for i in range(9))), (("row", *cells),), left=frozenset({0}))
    text = typeset.console([sheet], width=50)
    assert all(len(line) <= 50 for line in text.splitlines())
    assert all(cell in text for cell in cells)


# ---------------------------------------------------------------------------------------------------------- ask
def test_filter_sort_and_group(make):
    for seed, method in enumerate(("darts", "idarts", "tse")):
        make(method, seed=seed, valid=90 + seed)
    ask = {"runs": str(make.root), "format": "csv"}
    rows = list(csv.DictReader(io.StringIO(tables.main(ask | {"filter": {"method": ["tse", "darts"]},
                                                              "sort": "-cifar10.valid"}))))
    assert [row["method"] for row in rows if row["method"]] == ["tse", "darts"]
    rows = list(csv.DictReader(io.StringIO(tables.main(ask | {"filter": ["method:tse", "method=darts"]}))))
    assert {row["method"] for row in rows} - {""} == {"darts", "tse"}
    make("tse", seed=9, overrides=["seed=9"])
    rows = list(csv.DictReader(io.StringIO(tables.main(ask | {"filter": "method:tse", "group": "seed"}))))
    assert sorted(row["seed"] for row in rows if row["method"]) == ["2", "9"]


def test_truth_is_filtered_by_as_it_is_written(make):
    make(verdict={"collapsed": True})
    make("tse", reduced=True, verdict={"collapsed": False})
    make("gdas")
    frame = collect(make.root)
    for text, methods in (("reduced:false", ["darts", "gdas"]), ("reduced=True", ["tse"]),
                          ("collapsed=true", ["darts"]), ("collapsed=false", ["tse"]), ("collapsed=null", ["gdas"])):
        assert list(tables.pick(frame, text)["method"]) == methods, text


@pytest.mark.parametrize(("ask", "words"), [
    ({"format": "html"}, "format=html: no such format"), ({"filter": {"methd": "x"}}, "did you mean method"),
    ({"filter": ["method"]}, "not of the form column=value"), ({"filter": {"method": "x"}}, "none of 1 runs is left"),
    ({"sort": "cifar10.vald"}, "did you mean cifar10.valid or cifar10.test?"),
    ({"group": ["devise"]}, "did you mean device"),
    ({"paper": "nas"}, "no such paper; there are idarts"),
    ({"runs": "/nowhere/at/all"}, "runs=/nowhere/at/all: no finished run there"),
    ({"runs": [], "out": "/nowhere"}, "out=/nowhere: no finished run there; name the folder of the runs"),
    ({"runs": [], "out": "outputs"}, "out=outputs: no finished run there; search first"),
    ({"sort": "-cost"}, "sort=-cost: no such column; did you mean -cost_s?"),
    ({"sort": "cfar10.valid"}, "sort=cfar10.valid: no such column; did you mean cifar10.valid"),
    ({"filter": ["method:dart"]}, "filter=[method=dart]: none of 1 runs is left")])
def test_faults_name_place_and_remedy(make, ask, words):
    make()
    with pytest.raises(UserError) as fault:
        tables.main({"runs": str(make.root), "format": "csv"} | ask)
    assert words in str(fault.value)


def test_a_table_goes_to_a_file(make, tmp_path, capsys):
    make()
    target = tmp_path / "new" / "table.md"
    text = tables.main({"runs": str(make.root), "format": "markdown", "out_file": str(target)})
    assert target.read_text() == text
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="cannot be written"):
        tables.main({"runs": str(make.root), "format": "markdown", "out_file": str(target / "below")})


# -------------------------------------------------------------------------------------------------------- papers
def test_the_carried_numbers_are_those_of_the_papers():
    table = published.load()
    assert len(table) == 988
    assert set(table["paper"]) == set(published.PAPERS)
    for paper, label, space, dataset, metric, mean, std in [
            ("idarts", "iDARTS", "nb201", "cifar10", "test_accuracy", 93.58, 0.32),
            ("idarts", "iDARTS", "darts", "cifar10", "test_error", 2.37, 0.03),
            ("single", "Single-DARTS", "nb201", "imagenet16", "test_accuracy", 46.34, 0.0),
            ("lambda", "Lambda-DARTS Λ± (avg)", "darts", "cifar100", "test_accuracy", 83.85, 0.38),
            ("amended", "Amended S2 searched", "amended_s2", "cifar10", "test_error", 2.63, 0.09),
            ("tse", "TSE-DARTS", "nb1shot1_3", "cifar10", "test_accuracy", 87.87, 0.0)]:
        rows = table[(table["paper"] == paper) & (table["label"] == label) & (table["space"] == space)
                     & (table["dataset"] == dataset) & (table["metric"] == metric) & (table["recipe"] == "")]
        assert (mean, std) in set(zip(rows["mean"], rows["std"], strict=True)), (paper, label)
    assert set(table[(table["space"] == "nb201") & (table["paper"] == "tse")]["protocol"]) == {"nats"}
    assert set(table["std_over"]) == {"", "searches", "retrainings", "not stated"}
    assert all(table["place"])


def test_ours_stand_below_the_printed_row_with_n_and_what_the_deviation_is_over(make):
    for seed, valid in enumerate((89.0, 90.0)):
        make("idarts", seed=seed, valid=valid)
    sheets, numbers = published.compare(summary(collect(make.root), reference=False), "idarts")
    sheet, = sheets
    assert sheet.title == "iDARTS (ICML 2021), Table 1: nb201"
    at = next(i for i, row in enumerate(sheet.rows) if row[0] == "iDARTS")
    column = {head: i for i, head in enumerate(sheet.header)}
    assert sheet.rows[at][column["CIFAR-10 valid %"]] == "89.86 ± 0.60"
    ours = sheet.rows[at + 1]
    assert ours[0] == "↳ nasx idarts"
    assert ours[column["n"]] == "2"
    assert ours[column["± over"]] == "searches"
    assert ours[column["CIFAR-10 valid %"]] == "89.50 ± 0.71"
    assert ours[column["CIFAR-10 test %"]] == "n/a"
    mine = numbers[(numbers["source"] == "nasx") & (numbers["metric"] == "valid_accuracy")]
    assert list(mine["mean"]) == [89.5]
    assert list(mine["n"]) == [2]


def test_an_error_has_the_sign_of_an_error(make):
    for method, first in (("random", 0.96), ("darts", 0.97)):
        for seed in range(3):
            make(method, name=f"{method}{seed}", lookup=None, seed=seed)
            retrained(make, f"{method}{seed}", first + seed / 1000, seed)
    ask = {"runs": str(make.root), "filter": "kind=retrain", "format": "console"}
    assert "better: +1.00 (p < 0.001)" in tables.main(ask)
    told = tables.main({**ask, "error": True})
    assert "better: −1.00 (p < 0.001)" in told
    assert "(test_error, lower is better)" in told
    ask["format"] = "csv"
    rows = list(csv.DictReader(io.StringIO(tables.main({**ask, "error": True, "sort": "-test_error"}))))
    assert [row["method"] for row in rows] == ["random", "darts"]
    assert float(rows[1]["test_error_mean"]) == pytest.approx(2.9)
    assert float(rows[1]["test_error_std"]) == pytest.approx(0.1)
    assert rows[1]["versus"].startswith("better: −1.00")
    assert "test_accuracy_mean" not in rows[0]
    rows = list(csv.DictReader(io.StringIO(tables.main({**ask, "sort": "test_error"}))))
    assert [row["method"] for row in rows] == ["darts", "random"]
    assert "test_error_mean" not in rows[0]


@pytest.mark.parametrize("paper", sorted(published.PAPERS))
def test_without_runs_a_paper_is_shown_as_printed(paper, tmp_path):
    for form in ("markdown", "latex", "csv", "console"):
        text = tables.main({"runs": str(tmp_path), "paper": paper, "format": form, "out_file": str(tmp_path / "t")})
        assert len(text) > 1000
        assert "↳ nasx" not in text


def test_a_paper_table_refuses_to_mix_protocols(make):
    make("idarts")
    make("idarts", seed=1, protocol="nats")
    with pytest.raises(UserError, match=r"searched under nb201-v1, your runs under nats, nb201-v1; keep one with "
                                        r"filter=protocol=nb201-v1,"):
        tables.main({"runs": str(make.root), "paper": "idarts", "format": "csv"})
    text = tables.main({"runs": str(make.root), "paper": "idarts", "format": "markdown",
                        "filter": ["protocol:nb201-v1"]})
    assert "↳ nasx idarts" in text
    make("tse", seed=1)
    with pytest.raises(UserError, match="searched under nats, your runs under nb201-v1"):
        tables.main({"runs": str(make.root), "paper": "tse", "format": "csv"})


def test_the_order_of_darts_decides_its_printed_row(make):
    folder = make(protocol="nats", lookup={"benchmark": "nb201", "cifar10": {"valid": 1.0, "test": 60.0}})
    (folder / "config.yaml").write_text("method: {order: 1}\n")
    make(seed=1, protocol="nats", overrides=["method.order=2"],
         lookup={"benchmark": "nb201", "cifar10": {"valid": 1.0, "test": 65.0}})
    sheets, _ = published.compare(summary(collect(make.root), reference=False), "tse")
    rows = [row for sheet in sheets if "Table 3" in sheet.title for row in sheet.rows]
    below = {rows[i][0]: rows[i + 1] for i in range(len(rows) - 1) if rows[i + 1][1] == "nasx"}
    assert set(below) == {"DARTS (1st)", "DARTS (2nd)"}
    assert "60.00" in below["DARTS (1st)"]
    assert "65.00" in below["DARTS (2nd)"]


def test_errors_and_best_of_four_stand_beside_their_like_only(make):
    make("lambda", name="p", lookup=None, choices={"space": "s2"}, protocol="robust",
         overrides=["method.alignment=cosine"])
    folder = retrained(make, "p", 0.975)
    (folder / "config.yaml").write_text("method: {alignment: cosine}\n")
    ours = summary(collect(make.root), reference=False)
    assert not any("↳" in row[0] for sheet in published.compare(ours, "lambda")[0] for row in sheet.rows)
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | {"labels": ["best_of_4"]}))
    ours = summary(collect(make.root), reference=False)
    sheet, = published.compare(ours, "lambda")[0]
    row = next(row for row in sheet.rows if row[1] == "nasx")
    assert row[sheet.header.index("CIFAR-10 test error %")] == "2.50"


def test_a_chosen_cell_stands_beside_no_mean_over_searches_and_is_marked(make):
    setting = {"choices": {"space": "darts_no_none", "experiment": "lambda_darts_c10", "retrain": "darts_cifar"},
               "overrides": ["experiment=lambda_darts_c10"]}
    for seed in range(4):
        make("lambda", seed, lookup=None, name=f"s{seed}", **setting)
    trained = make("lambda", lookup=None, name="r0", kind="retrain", parent="s2", test_accuracy=0.979, params=3_300_000,
                   **setting)

    def beside():
        sheets, numbers = published.compare(summary(collect(make.root), reference=False), "lambda")
        ours = numbers[(numbers["source"] == "nasx") & (numbers["metric"] == "test_accuracy")]
        return {row[0] for sheet in sheets for row in sheet.rows if "↳" in row[0]}, ours.set_index("label")["selection"]

    assert beside()[1]["Lambda-DARTS Λ (avg)"] == "mean"
    study = make("lambda", kind="study", name="st", study="best", rank="full", std_over="retrainings of the best of 4 "
                 "cells by test accuracy", searches=["s0", "s1", "s2", "s3"], ranking=[], retrains=[trained.name])
    assert not len(beside()[1])
    row = {**summary(collect(make.root), reference=False).set_index("kind").loc["retrain"]}
    assert wording.name(row) == "lambda (best of 4, chosen on the test set)"
    line = {"selection": "", "row": "a row that does not say how its cell was chosen"}
    assert published._chosen_alike(line, row)
    assert not published._chosen_alike({**line, "selection": "best of 2"}, row)
    record = json.loads((study / "result.json").read_text())
    (study / "result.json").write_text(json.dumps(record | {"rank": "none"}))
    assert beside()[1]["Lambda-DARTS Λ (avg)"] == "mean"
