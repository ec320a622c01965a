"""Welch's test against known values and scipy, the comparison of two groups as text, and refused comparisons."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from nasx.cli import compare
from nasx.errors import UserError
from nasx.results import compare as results_compare
from nasx.results import differences
from nasx.results.aggregate import summary
from nasx.results.collect import collect
from nasx.results.significance import p_text, welch


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Write one finished run below runs/; keywords replace its fields, `settings` goes into config.yaml."""
    monkeypatch.chdir(tmp_path)
    count = iter(range(1000))

    def write(method="darts", seed=0, valid=90.0, settings=None, **fields):
        number = next(count)
        choices = {"method": method, "space": "nb201", "dataset": "cifar10"} | fields.pop("choices", {})
        record = {
            "kind": "search",
            "name": f"{method}{number}",
            "status": "finished",
            "choices": choices,
            "protocol": "nb201-v1",
            "seed": seed,
            "identity": f"{number:08x}",
            "family": method,
            "overrides": [],
            "supernet": {"valid_accuracy": 0.5},
            "lookup": {"benchmark": "nb201", "cifar10": {"valid": valid, "test": None}},
            **fields,
        }
        folder = tmp_path / "outputs" / record["name"]
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(record))
        (folder / "config.yaml").write_text(yaml.safe_dump({"choices": choices, "seed": seed, **(settings or {})}))
        return folder

    return write


# ------------------------------------------------------------------------------------------------------ the test
def test_welch_is_scipys_on_unequal_groups():
    rng = np.random.default_rng(0)
    for n, m, scale in ((2, 2, 1.0), (3, 9, 5.0), (20, 4, 0.1)):
        a, b = rng.normal(0, 1, n), rng.normal(1, scale, m)
        found, known = welch(a, b), stats.ttest_ind(b, a, equal_var=False)
        low, high = known.confidence_interval(0.95)
        assert found[:5] == pytest.approx((b.mean() - a.mean(), low, high, known.pvalue, known.df), rel=1e-9)


def test_the_quantile_is_that_of_the_printed_table():
    """Two groups of five with variance 5/2: df = 8, standard error 1, so the half width is t(8, 0.975) = 2.306."""
    found = welch([0, 1, 2, 3, 4], [10, 11, 12, 13, 14])
    assert found.df == pytest.approx(8)
    assert found.high - found.mean == pytest.approx(2.306, abs=5e-4)


def test_groups_without_spread_and_too_small_ones():
    assert welch([1.0], [2.0, 3.0]) is None
    assert welch([2.0, 2.0], [2.0, 2.0]).p == 1
    found = welch([2.0, 2.0], [3.0, 3.0])
    assert (found.low, found.high, found.p, found.df) == (1, 1, 0, math.inf)
    assert "Neither group has any spread" in results_compare.sentence(found, "%")


def test_p_in_words():
    assert [p_text(p) for p in (1e-9, 0.0123, 0.5)] == ["p < 0.001", "p = 0.012", "p = 0.50"]


# ------------------------------------------------------------------------------------------------------- compare
ROOT = Path(__file__).resolve().parents[2]


def test_the_documented_comparison_works_next_to_other_runs(make, capsys):
    """Retrainings and a search on the DARTS space inherit method=darts too."""
    [line] = re.findall(
        "^nasx (compare .*)", (ROOT / "docs" / "tutorials" / "compare.md").read_text(encoding="utf-8"), re.M
    )
    quick = {"choices": {"dataset": "digits", "experiment": "quickstart"}}
    make("darts", 0, 80.0, {"search": {"diagnose_every": 0}}, **quick, family="other")
    for method in ("darts", "random", "single"):
        for seed in range(4):
            make(method, seed, 80.0 + seed, {"search": {"diagnose_every": 2}}, **quick)
    make("darts", 0, 85.0)
    make("darts", 0, None, choices={"space": "darts"}, name="mine", protocol="darts", lookup=None)
    make(
        None,
        0,
        kind="retrain",
        choices={"space": None},
        name="again",
        protocol="darts-cifar",
        lookup=None,
        parent="mine",
        test_accuracy=0.9,
    )
    assert compare.main(line.split()[1:]) == 0
    assert "B - A" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"restrict both groups to one of them, for example with kind=search"):
        compare.main(["method=darts", "method=random"])


def test_a_comparison_in_words(make, capsys):
    for seed, (one, other) in enumerate(((80, 90), (81, 92), (82, 91))):
        make("darts", seed, one, {"search": {"lr": 0.025, "epochs": 50}})
        make("random", seed, other, {"search": {"lr": 0.01, "epochs": 50}})
    compare.main(["method=darts", "method=random"])
    said = capsys.readouterr().out
    assert "81.00 ± 1.00   n = 3" in said
    assert "B is 10.00 points above A; 95 % interval of B - A: +7.73 to +12.27; p < 0.001" in said
    rows = [line.split() for line in said.splitlines()]
    assert ["search.lr", "0.025", "0.01"] in rows
    assert ["method", "darts", "random"] in rows
    assert "epochs" not in said


def test_folders_globs_and_several_conditions(make, capsys):
    for seed in (0, 1):
        make("darts", seed, 80 + seed)
        make("random", seed, 90 + seed, {"search": {"lr": 1}})
    compare.main(["outputs/darts*", "method=random,space=nb201", "metric=cifar10.valid"])
    assert "B is 10.00 points above A" in capsys.readouterr().out


def test_groups_by_a_setting(make, capsys):
    for seed in (0, 1):
        make("darts", seed, 80 + seed, settings={"search": {"arch_lr": 0.1}}, family="a")
        make("darts", seed, 90 + seed, settings={"search": {"arch_lr": 1.0}}, family="b")
    compare.main(["search.arch_lr=0.1", "search.arch_lr=1.0"])
    said = capsys.readouterr().out
    assert "B is 10.00 points above A" in said
    assert "search.arch_lr  0.1" in said
    with pytest.raises(UserError, match=r"is not a setting of these runs; did you mean search\.arch_lr"):
        compare.main(["search.arch_l=0.1", "search.arch_lr=1.0"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"protocol": "nats"}, "different protocols"),
        ({"kind": "retrain", "test_accuracy": 0.9}, "different commands"),
        ({"lookup": {"benchmark": "other", "cifar10": {"valid": 1.0}}}, "different benchmarks"),
    ],
)
def test_what_does_not_belong_together_is_refused(make, fields, said):
    for seed in (0, 1):
        make("darts", seed)
        make("random", seed, **fields)
    other = "kind=retrain" if "kind" in fields else "method=random"  # a retraining has its search's method, if any
    with pytest.raises(UserError, match=said):
        compare.main(["method=darts", other])


def test_too_few_shared_and_missing_runs_are_refused(make):
    for seed in (0, 1):
        make("darts", seed)
    make("random")
    with pytest.raises(UserError, match="has 1 run: a standard deviation"):
        compare.main(["method=darts", "method=random"])
    with pytest.raises(UserError, match="share 2 runs"):
        compare.main(["method=darts", "outputs"])
    with pytest.raises(UserError, match=r"matches no finished run \(3 runs"):
        compare.main(["method=darts", "method=gdas"])
    Path("nothing").mkdir()
    with pytest.raises(UserError, match="contains no finished run"):
        compare.main(["method=darts", "nothing"])
    with pytest.raises(UserError, match="needs two groups of runs, 1 given"):
        compare.main(["method=darts"])
    with pytest.raises(UserError, match="did you mean"):
        compare.main(["method=darts", "method=random", "metrc=x"])


def test_a_copy_is_a_shared_run_and_a_run_done_again_is_none(make, tmp_path, capsys):
    for seed in (0, 1):
        make("darts", seed, 90 + seed, identity=f"id{seed}", finished=f"2026-01-0{seed + 1}")
    shutil.copytree(tmp_path / "outputs", tmp_path / "copy")
    with pytest.raises(UserError, match=r"share 2 runs \(darts0, darts1\)"):
        compare.main(["outputs", "copy"])
    for seed in (0, 1):
        path = tmp_path / "copy" / f"darts{seed}" / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": "2026-02-01"}))
    compare.main(["outputs", "copy"])
    assert "no setting differs except the seed" in capsys.readouterr().out


def test_missing_configurations_are_not_called_equal(make, capsys):
    for seed in (0, 1):
        make("darts", seed)
        folder = make("random", seed)
    (folder / "config.yaml").unlink()
    compare.main(["method=darts", "method=random"])
    assert "settings that differ (B: config.yaml of 1 of 2 runs cannot be read)" in capsys.readouterr().out
    differences._configuration.cache_clear()
    for path in folder.parent.glob("*/config.yaml"):
        path.unlink()
    compare.main(["method=darts", "method=random"])
    said = capsys.readouterr().out
    assert "differing settings are unknown (A: config.yaml of 2 of 2 runs cannot be read; B: " in said
    assert "no setting differs" not in said


def test_a_group_of_several_configurations_is_named_first_with_a_remedy(make, capsys):
    for seed, epochs in ((0, 12), (1, 2)):
        make("darts", seed, settings={"search": {"epochs": epochs}}, family=f"f{epochs}")
        make("random", seed)
    compare.main(["method=darts", "method=random"])
    said = capsys.readouterr().out
    assert said.startswith("warning: method=darts contains runs of 2 configurations, and its mean is over all of them.")
    assert "search.epochs (12, 2)" in said
    assert "for example method=darts,search.epochs=12" in said


def test_a_word_that_is_neither_a_folder_nor_a_condition(make):
    make()
    with pytest.raises(UserError, match="is neither a folder of runs nor a condition"):
        compare.main(["darts", "method=darts"])


def test_metrics_that_are_not_there_and_data_sets_that_differ(make):
    for seed in (0, 1):
        make("darts", seed)
        make("random", seed, choices={"dataset": "digits"})
    with pytest.raises(UserError, match=r"is not a metric of these runs.*did you mean cifar10.valid"):
        compare.main(["method=darts", "method=random", "metric=cifar10.vald"])
    with pytest.raises(UserError, match="different datasets"):
        compare.main(["method=darts", "method=random", "metric=supernet_valid"])


def test_searches_without_a_look_up_ask_for_a_metric(make, capsys):
    groups = ["method=darts", "method=random"]
    [make(method, s, lookup=None, wall_s=w + s) for s in (0, 1) for method, w in (("darts", 10.0), ("random", 1.0))]
    with pytest.raises(UserError, match="no benchmark accuracy in common"):
        compare.main(groups)
    compare.main([*groups, "metric=cost_s"])
    assert "B is 9.00 s below A" in capsys.readouterr().out


def test_differences_are_reported_only_where_groups_differ(make):
    one = [str(make(settings={"search": {"lr": lr}, "a": 1, "out": None})) for lr in (1, 2)]
    other = [str(make(settings={"search": {"lr": 1}, "a": 1}))]
    assert differences.rows([one, other]) == [("out", ("null", "(none)")), ("search.lr", ("1 / 2", "1"))]


def retrained(make, parent, accuracy, seed=0, **fields):
    return make(
        fields.pop("method", "darts"),
        seed,
        kind="retrain",
        parent=parent.name,
        test_accuracy=accuracy,
        lookup=None,
        protocol="darts-cifar",
        genotype=f"cell of {parent.name}",
        **fields,
    )


def searched(make, method, cells, each, first, **fields):
    """`cells` searches without a look-up, each retrained `each` times; the cells differ by 0.4 %, seeds by 0.03 %."""
    for cell in range(cells):
        parent = make(method, cell, lookup=None)
        for k in range(each):
            retrained(make, parent, first + 0.004 * cell + 0.0003 * k, k, method=method, **fields)


def test_retrainings_of_one_search_are_one_value(make, capsys):
    searched(make, "random", 2, 5, 0.968)
    searched(make, "darts", 2, 5, 0.970)
    compare.main(["kind=retrain,method=random", "kind=retrain,method=darts"])
    said = capsys.readouterr().out
    means = [[96.86, 97.26], [97.06, 97.46]]
    known = stats.ttest_ind(*means, equal_var=False)
    assert "n = 2 searches (10 runs, each search's mean is one value)" in said
    assert f"{p_text(known.pvalue)} (Welch's t test, 2 and 2 searches)" in said
    row = summary(collect("outputs"), reference=False).set_index(["kind", "method"]).loc[("retrain", "darts")]
    assert row["versus_p"] == pytest.approx(known.pvalue)
    assert row["n"] == 10


def test_one_cell_against_one_cell_compares_only_these(make, capsys):
    searched(make, "darts", 1, 3, 0.968)
    searched(make, "random", 1, 3, 0.970)
    compare.main(["kind=retrain,method=random", "kind=retrain,method=darts"])
    said = capsys.readouterr().out
    assert "3 and 3 retrainings" in said
    assert "the comparison is of these cells, not of methods" in said
    searched(make, "gdas", 2, 3, 0.970)
    with pytest.raises(UserError, match="has 3 runs of only one search: a standard deviation"):
        compare.main(["kind=retrain,method=gdas", "kind=retrain,method=darts"])


def test_a_run_of_two_studies_counts_once(make, capsys):
    searched(make, "darts", 3, 1, 0.97)
    searched(make, "random", 3, 1, 0.96)
    names = [name for name, kind in collect("outputs")[["run", "kind"]].values if kind == "retrain" and "darts" in name]
    for study in ("one", "two"):
        make(
            kind="study",
            name=study,
            study=study,
            std_over="searches",
            searches=[],
            rank="none",
            ranking=[],
            retrains=names,
        )
    compare.main(["kind=retrain,method=darts", "kind=retrain,method=random"])
    assert "3 and 3 searches" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ beside random
def test_a_table_sets_searches_next_to_random_ones(make):
    for seed in (0, 1, 2):
        make("darts", seed, 80 + seed, verdict={"collapsed": seed == 0, "not_converged": True})
        make("random", seed, 90 + seed)
    table = summary(collect("outputs"), reference=False).set_index("method")
    known = stats.ttest_ind([80, 81, 82], [90, 91, 92], equal_var=False).pvalue
    assert table.loc["darts", "versus_p"] == pytest.approx(known)
    assert table.loc["darts", "versus"] == "worse: −10.00 (p < 0.001)"
    assert table.loc["darts", "verdicts"] == "1 of 3 collapsed, 3 not converged"
    assert table.loc["random", "versus"] == ""
    assert any("Welch" in note for note in table.attrs["notes"])


def test_random_runs_of_another_space_or_the_best_of_several_draws_are_no_baseline(make):
    for seed in (0, 1):
        make("darts", seed)
        make("random", seed, choices={"space": "other"})
        make("random", seed, overrides=["method.samples=10"], family="best")
    table = summary(collect("outputs"), reference=False).set_index("method")
    assert table.loc["darts", "versus"] == ""


def test_random_runs_that_choose_by_their_files_are_no_baseline(make):
    for seed in (0, 1):
        make("darts", seed)
        make("random", seed, settings={"method": {"samples": 100}}, choices={"experiment": "mine"})
    assert set(summary(collect("outputs"), reference=False)["versus"]) == {""}


@pytest.mark.parametrize(
    "other",
    [
        {"reduced": True},
        {"overrides": ["retrain.epochs=2"]},
        {"labels": ["best_of_4"]},
        {"settings": {"retrain": {"epochs": 2}}},
        {"choices": {"retrain": "other"}},
    ],
)
def test_a_retraining_stands_next_to_random_ones_of_the_same_recipe_only(make, other):
    searched(make, "random", 3, 1, 0.96, settings={"retrain": {"epochs": 600}} if "settings" in other else None)
    searched(make, "darts", 3, 1, 0.97, settings={"retrain": {"epochs": 600}} if "settings" in other else None)
    searched(make, "gdas", 3, 1, 0.60, **other)
    table = summary(collect("outputs"), reference=False)
    told = table[table["kind"] == "retrain"].set_index("method")["versus"]
    assert told["darts"].startswith("better: +1.00")
    assert told["gdas"] == ("chosen cell" if "labels" in other else "")


def test_one_cell_is_not_tested_and_a_missing_metric_is_not_a_lack_of_runs(make):
    searched(make, "random", 3, 1, 0.96)
    searched(make, "darts", 1, 4, 0.97)
    table = summary(collect("outputs"), reference=False).set_index(["kind", "method"])
    assert table.loc[("retrain", "darts"), "versus"] == "one cell"
    assert table.loc[("search", "darts"), "versus"] == ""
    assert any("one cell: not tested" in note for note in table.attrs["notes"])


def test_less_perplexity_is_better(make):
    for method, first in (("random", 60), ("darts", 55)):
        for seed in (0, 1, 2):
            parent = make(method, seed, lookup=None)
            make(method, seed, kind="retrain", lookup=None, test_perplexity=first + seed, parent=parent.name)
    table = summary(collect("outputs"), reference=False).set_index(["kind", "method"])
    assert table.loc[("retrain", "darts"), "versus"].startswith("better: −5.00")


def test_one_random_run_is_too_few(make):
    for seed in (0, 1):
        make("darts", seed)
    make("random")
    assert summary(collect("outputs"), reference=False).set_index("method").loc["darts", "versus"] == "n < 2"
