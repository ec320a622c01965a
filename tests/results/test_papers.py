"""Our numbers compared with the printed ones."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import pytest
from finished import retrained, writer

from nasx.cli import table as cli_table
from nasx.errors import UserError
from nasx.results import published, table_columns, targets
from nasx.results.aggregate import summary
from nasx.results.collect import collect


@pytest.fixture
def make(tmp_path):
    return writer(tmp_path)


def test_the_carried_numbers_are_those_of_the_papers():
    table = targets.load()
    assert len(table) == 988
    assert set(table["paper"]) == set(targets.PAPERS)
    for paper, label, space, dataset, metric, mean, std in [
        ("idarts", "iDARTS", "nb201", "cifar10", "test_accuracy", 93.58, 0.32),
        ("idarts", "iDARTS", "darts", "cifar10", "test_error", 2.37, 0.03),
        ("single", "Single-DARTS", "nb201", "imagenet16", "test_accuracy", 46.34, 0.0),
        ("lambda", "Lambda-DARTS Λ± (avg)", "darts", "cifar100", "test_accuracy", 83.85, 0.38),
        ("amended", "Amended S2 searched", "amended_s2", "cifar10", "test_error", 2.63, 0.09),
        ("tse", "TSE-DARTS", "nb1shot1_3", "cifar10", "test_accuracy", 87.87, 0.0),
    ]:
        rows = table[
            (table["paper"] == paper)
            & (table["label"] == label)
            & (table["space"] == space)
            & (table["dataset"] == dataset)
            & (table["metric"] == metric)
            & (table["recipe"] == "")
        ]
        assert (mean, std) in set(zip(rows["mean"], rows["std"], strict=True)), (paper, label)
    assert set(table[(table["space"] == "nb201") & (table["paper"] == "tse")]["protocol"]) == {"nats"}
    assert set(table["std_over"]) == {"", "searches", "retrainings", "not stated"}
    assert all(table["place"])


def test_a_deviation_that_the_printed_seeds_give_is_over_searches():
    """Amended-DARTS' Table 5 prints three seeds and their mean: the deviation of the mean is theirs."""
    table, found = targets.load(), {}
    for key, rows in table[table["metric"] == "test_error"].groupby(["paper", "place", "label", "space", "dataset"]):
        seeds = rows[rows["selection"].str.startswith("seed ")]["mean"]
        mean = rows[rows["selection"] == "mean"]
        if len(seeds) > 1 and len(mean) == 1 and not math.isnan(mean["std"].iloc[0]):
            assert seeds.mean() == pytest.approx(mean["mean"].iloc[0], abs=0.0051), key
            found[key[2]] = seeds.std(), mean["std"].iloc[0], mean["std_over"].iloc[0]
    assert set(found) == {"Amended pruned", "Amended searched", *(f"R-DARTS DP=0.{i}" for i in (0, 2, 4, 6))}
    for label, (own, printed, over) in found.items():
        assert own == pytest.approx(printed, abs=0.0051), label
        assert over == "searches", label


def test_ours_stand_below_the_printed_row_with_n_and_what_the_deviation_is_over(make):
    for seed, valid in enumerate((89.0, 90.0)):
        make("idarts", seed=seed, valid=valid)
    sheets, numbers = published.compare(summary(collect(make.root), reference=False), "idarts")
    (sheet,) = sheets
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
    assert "better: +1.00 (p < 0.001)" in cli_table.main(ask)
    told = cli_table.main({**ask, "error": True})
    assert "better: −1.00 (p < 0.001)" in told
    assert "(test_error, lower is better)" in told
    ask["format"] = "csv"
    rows = list(csv.DictReader(io.StringIO(cli_table.main({**ask, "error": True, "sort": "-test_error"}))))
    assert [row["method"] for row in rows] == ["random", "darts"]
    assert float(rows[1]["test_error_mean"]) == pytest.approx(2.9)
    assert float(rows[1]["test_error_std"]) == pytest.approx(0.1)
    assert rows[1]["versus"].startswith("better: −1.00")
    assert "test_accuracy_mean" not in rows[0]
    rows = list(csv.DictReader(io.StringIO(cli_table.main({**ask, "sort": "test_error"}))))
    assert [row["method"] for row in rows] == ["darts", "random"]
    assert "test_error_mean" not in rows[0]


@pytest.mark.parametrize("paper", sorted(targets.PAPERS))
def test_without_runs_a_paper_is_shown_as_printed(paper, tmp_path):
    for form in ("markdown", "latex", "csv", "console"):
        text = cli_table.main({"runs": str(tmp_path), "paper": paper, "format": form, "out_file": str(tmp_path / "t")})
        assert len(text) > 1000
        assert "↳ nasx" not in text


def test_a_paper_table_refuses_to_mix_protocols(make):
    make("idarts")
    make("idarts", seed=1, protocol="nats")
    with pytest.raises(
        UserError,
        match=r"used the protocol nb201-v1, but your runs used nats, nb201-v1; select the matching runs with "
        r"filter=protocol=nb201-v1,",
    ):
        cli_table.main({"runs": str(make.root), "paper": "idarts", "format": "csv"})
    text = cli_table.main(
        {"runs": str(make.root), "paper": "idarts", "format": "markdown", "filter": ["protocol:nb201-v1"]}
    )
    assert "↳ nasx idarts" in text
    make("tse", seed=1)
    with pytest.raises(UserError, match="used the protocol nats, but your runs used nb201-v1"):
        cli_table.main({"runs": str(make.root), "paper": "tse", "format": "csv"})


def test_the_order_of_darts_decides_its_printed_row(make):
    folder = make(protocol="nats", lookup={"benchmark": "nb201", "cifar10": {"valid": 1.0, "test": 60.0}})
    (folder / "config.yaml").write_text("method: {order: 1}\n")
    make(
        seed=1,
        protocol="nats",
        overrides=["method.order=2"],
        lookup={"benchmark": "nb201", "cifar10": {"valid": 1.0, "test": 65.0}},
    )
    sheets, _ = published.compare(summary(collect(make.root), reference=False), "tse")
    rows = [row for sheet in sheets if "Table 3" in sheet.title for row in sheet.rows]
    below = {rows[i][0]: rows[i + 1] for i in range(len(rows) - 1) if rows[i + 1][1] == "nasx"}
    assert set(below) == {"DARTS (1st)", "DARTS (2nd)"}
    assert "60.00" in below["DARTS (1st)"]
    assert "65.00" in below["DARTS (2nd)"]


def test_errors_and_best_of_four_are_compared_only_with_the_same_quantity(make):
    make(
        "lambda",
        name="p",
        lookup=None,
        choices={"space": "s2"},
        protocol="robust",
        overrides=["method.alignment=cosine"],
    )
    folder = retrained(make, "p", 0.975)
    (folder / "config.yaml").write_text("method: {alignment: cosine}\n")
    ours = summary(collect(make.root), reference=False)
    assert not any("↳" in row[0] for sheet in published.compare(ours, "lambda")[0] for row in sheet.rows)
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | {"labels": ["best_of_4"]}))
    ours = summary(collect(make.root), reference=False)
    (sheet,) = published.compare(ours, "lambda")[0]
    row = next(row for row in sheet.rows if row[1] == "nasx")
    assert row[sheet.header.index("CIFAR-10 test error %")] == "2.50"


def test_a_chosen_cell_stands_next_to_no_mean_over_searches_and_is_marked(make):
    setting = {
        "choices": {"space": "darts_no_none", "experiment": "lambda/darts_c10", "retrain": "darts_cifar"},
        "overrides": ["experiment=lambda/darts_c10"],
    }
    for seed in range(4):
        make("lambda", seed, lookup=None, name=f"s{seed}", **setting)
    trained = make(
        "lambda", lookup=None, name="r0", kind="retrain", parent="s2", test_accuracy=0.979, params=3_300_000, **setting
    )

    def beside():
        sheets, numbers = published.compare(summary(collect(make.root), reference=False), "lambda")
        ours = numbers[(numbers["source"] == "nasx") & (numbers["metric"] == "test_accuracy")]
        return {row[0] for sheet in sheets for row in sheet.rows if "↳" in row[0]}, ours.set_index("label")["selection"]

    assert beside()[1]["Lambda-DARTS Λ (avg)"] == "mean"
    study = make(
        "lambda",
        kind="study",
        name="st",
        study="best",
        rank="full",
        std_over="retrainings of the best of 4 cells by test accuracy",
        searches=["s0", "s1", "s2", "s3"],
        ranking=[],
        retrains=[trained.name],
    )
    assert not len(beside()[1])
    row = {**summary(collect(make.root), reference=False).set_index("kind").loc["retrain"]}
    assert table_columns.name(row) == "lambda (best of 4, chosen on the test set)"
    line = {"selection": "", "row": "a row that does not say how its cell was chosen"}
    assert published._same_selection(line, row)
    assert not published._same_selection({**line, "selection": "best of 2"}, row)
    record = json.loads((study / "result.json").read_text())
    (study / "result.json").write_text(json.dumps(record | {"rank": "none"}))
    assert beside()[1]["Lambda-DARTS Λ (avg)"] == "mean"


# ------------------------------------------------------------------------------------------------------- LaTeX
def test_a_paper_gives_latex_tables_its_caption_and_label(make, capsys):
    make()
    ask = {"runs": str(make.root), "format": "latex"}
    plain = cli_table.main(ask)
    tables = plain.count(r"\begin{table}")
    labels = re.findall(r"\\label\{(tab:[a-z0-9-]+)\}", plain)
    assert len(set(labels)) == tables > 0
    text = cli_table.main({**ask, "caption": "50 % of_it", "label": "tab:x"})
    captions = re.findall(r"\\caption\{(.*)\}", text)
    assert captions[0] == r"50 \% of\_it."
    assert all(each.startswith(r"50 \% of\_it. ") for each in captions[1:])
    assert re.findall(r"\\label\{(.*)\}", text) == [f"tab:x{f'-{i}' if i > 1 else ''}" for i in range(1, tables + 1)]
    rows = [[line for line in each.splitlines() if line.endswith(r" \\")] for each in (plain, text)]
    assert rows[0] == rows[1]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"format": "markdown", "caption": "x"}, "caption=x: is used only in LaTeX tables; add format=latex"),
        ({"format": "latex", "label": "a}b"}, "label=a}b: is not a LaTeX label; use only letters"),
    ],
)
def test_a_wrong_caption_or_label_is_refused_before_runs_are_read(more, fault, tmp_path):
    with pytest.raises(UserError, match=re.escape(fault)):
        cli_table.main({"runs": str(tmp_path / "none"), **more})
