"""The report page: one file without network access, correct numbers, escaped names, and omitted pictures."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET

import pytest
from finished import CELL
from report_page import writer, written

from nasx.cli import report
from nasx.errors import UserError
from nasx.report import cells, charts, figure_style, html
from nasx.results import table_columns
from nasx.results.aggregate import summary
from nasx.results.collect import collect, rows_of

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>$\\frac{_"


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return writer(tmp_path)


@pytest.mark.slow
def test_a_page_holds_what_the_runs_say(make, capsys):
    for seed in (0, 1, 2):
        make("darts", seed, 80.0 + seed, settings={"search": {"lr": 0.025, "epochs": 3}})
        make("random", seed, 90.0 + seed, settings={"search": {"lr": 0.01, "epochs": 3}})
    _, page = written("title=My runs")
    words = " ".join(" ".join(page.texts).split())
    for said in (
        "My runs",
        "6 searches in 2 settings",
        "random with 91.00 ± 1.00 %",
        "81.00 ± 1.00",
        "darts does worse than random search",
        "−10.00 (p < 0.001)",
        "91.61",
        "Training loss",
        "Dominant eigenvalue",
        "Mixture weights",
        "3 of 3 runs",
        "search.lr",
        "0.025",
        "A CPU",
        "torch=2",
        "None of 6 searches collapsed, 6 had not converged",
        "Is random search a baseline?",
    ):
        assert said in words, said
    assert "search.epochs" not in words
    assert "report.html: 6 runs" in capsys.readouterr().out


OTHER = CELL.replace("skip_connect", "none")


@pytest.mark.slow
def test_cells_are_shown_with_seeds_and_accuracy_the_best_first(make):
    pytest.importorskip("pygraphviz")
    for seed, valid, cell in ((0, 80.0, CELL), (1, 91.5, OTHER), (2, 80.0, CELL)):
        make("darts", seed, valid, genotype=cell)
    make("random", 0, 70.0, epochs=0)
    make("darts", 7, kind="retrain", test_accuracy=0.9, lookup=None, verdict=None, epochs=0)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", written()[0])
    assert [text for text in captions if re.search(r" of \d runs? ", text)] == [
        "darts · 1 of 3 runs · seed 1 · CIFAR-10 validation 91.50 %",
        "darts · 2 of 3 runs · seeds 0, 2 · CIFAR-10 validation 80.00 %",
        "random · 1 of 1 run · seed 0 · CIFAR-10 validation 70.00 %",
        "– · 1 of 1 run · seed 7 · test accuracy 90.00 %",
    ]


@pytest.mark.slow
def test_long_settings_break_on_a_phone(make):
    for method in ("darts", "random"):
        make(method, settings={"search": {"arch_weight_decay": len(method)}})
    text, page = written()
    phone = text.partition("@media (max-width: 560px)")[2].partition("\n")[0]
    assert ".sheet td:first-child code { white-space: normal }" in phone
    assert "<code>search.<wbr>arch_<wbr>weight_<wbr>decay</code>" in text
    assert "search.arch_weight_decay" in page.texts


def test_nothing_is_fetched_and_both_schemes_are_there(make):
    make()
    text, page = written()
    assert not [
        value
        for name, value in page.attributes
        if name in ("src", "href", "xlink:href") and not value.startswith(("#", "data:image/png;base64,"))
    ]
    assert not {"link", "iframe", "object", "embed"} & set(page.tags)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert not re.search(r"https?://|@import|url\((?!#)", text)


@pytest.mark.slow
def test_parts_of_pictures_have_names_of_their_own(make):
    make()
    make("random", 1)
    _, page = written()
    names = [value for name, value in page.attributes if name == "id"]
    assert len(names) == len(set(names))
    used = {value[1:] for name, value in page.attributes if name == "href" and value[0] == "#"}
    assert used <= set(names)


@pytest.mark.slow
def test_hostile_names_stay_text(make):
    for seed in (0, 1):
        make(
            HOSTILE,
            seed,
            settings={HOSTILE: HOSTILE + str(seed)},
            versions={HOSTILE: HOSTILE},
            commit=HOSTILE,
            overrides=[f"a={HOSTILE}"],
            hardware={"device": "cpu", "name": HOSTILE},
            protocol=HOSTILE,
        )
        make("random", seed, choices={"dataset": HOSTILE, "space": HOSTILE}, genotype=HOSTILE, name=HOSTILE)
    make("darts", 0, genotype=f"Genotype(normal=[('{HOSTILE[:25]}', 0), ('</svg>', 1)], normal_concat=[2])")
    _, page = written(f"title={HOSTILE}")
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert HOSTILE in "".join(page.texts)


def test_a_picture_keeps_nothing_but_what_draws():
    svg = (
        '<!DOCTYPE svg><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        ' width="9pt" onload="x()"><script>x()</script><a xlink:href="javascript:x()"><path d="M0 0"/></a>'
        "<foreignObject/>"
        '<g id="a"><path d="M 1.23456 2" style="fill: #0072b2; clip-path: url(#a)"/><use xlink:href="#a"/>'
        '<image xlink:href="http://x/y.png"/></g></svg>'
    )
    made = charts.inline(svg, "f1-", 'a "label"')
    assert not re.search(r"script|onload|javascript|foreign|http|<a", made)
    for part in ('d="M 1.23 2"', "var(--c0)", "url(#f1-a)", 'href="#f1-a"', 'id="f1-a"', "&quot;label&quot;"):
        assert part in made, part
    ET.fromstring(made)


@pytest.mark.slow
def test_what_is_drawn_is_limited_and_said(make, monkeypatch):
    monkeypatch.setattr(html, "LINES", 2)
    for i in range(4):
        make(f"m{i}", 0)
    _, page = written()
    assert "Drawn: 2 of 4 settings" in " ".join(page.texts)
    monkeypatch.setattr(html, "BUDGET", 0)
    text, page = written()
    assert "pictures are omitted to keep the page small" in " ".join(page.texts)
    assert text.count("<svg") == 1


def test_settings_are_called_by_the_fewest_words_that_tell_them_apart(make):
    long = "x" * 60
    for i, given in enumerate(
        (
            ["search.lr=1", "search.batch=8", f"space.name={long}a"],
            ["search.lr=2", "search.batch=8"],
            ["search.lr=3", "search.batch=16"],
            [],
        )
    ):
        make(family=f"f{i}", overrides=["search.epochs=3", *given])
    make(family="one", method="random", overrides=["search.lr=1"])
    groups = rows_of(summary(collect("outputs"), reference=False))
    assert sorted(html.labels(groups)) == ["darts", "darts lr=1", "darts lr=2", "darts lr=3", "random"]
    assert html._distinguishing([[f"space.name={long}a", "a=1"], [f"space.name={long}b", "a=1"]]) == [
        f"name={long}a",
        f"name={long}b",
    ]
    groups = [g | {"settings": (f"space.name={long}{i}",)} for i, g in enumerate(groups) if g["method"] == "darts"]
    assert len(set(html.labels(groups))) == len(groups) == 4  # not cut where only the end tells


def test_many_epochs_are_thinned_and_the_last_stays(make, tmp_path):
    make(epochs=500)
    rows = charts.read(str(tmp_path / "outputs" / "run0"), most=100)
    assert len(rows) == 100
    assert rows[-1]["epoch"] == 500
    assert charts.read("nowhere") == []


def test_a_page_without_cells_says_why_they_are_not_drawn(make, monkeypatch, tmp_path):
    for seed in range(2):
        make(seed=seed)
    cells._graphviz.cache_clear()
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    assert report.main(["out=page.html"]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("pygraphviz is not installed") == 1
    assert "<svg" in page, "curves are drawn all the same"


def test_runs_without_rows_and_retrainings_have_a_page(make):
    make(epochs=0, lookup=None, verdict=None)
    make("random", epochs=2, kind="retrain", test_accuracy=0.9, protocol="darts-cifar", lookup=None)
    _, page = written()
    words = " ".join(" ".join(page.texts).split())
    assert "1 search and 1 retraining" in words
    assert "Retrained networks" in words


@pytest.mark.slow
def test_times_are_sorted_by_their_seconds(make):
    make(wall_s=100_000.0)
    make("idarts", 1, wall_s=90.0)
    text, page = written()
    found = [float(value) for name, value in page.attributes if name == "data-sort"]
    assert found == [100_224.0, 90.0, 100_000.0, 90.0]  # 1.16 days and 1.5 min on a CPU, then the records' own
    assert "dataset.sort" in text
    assert table_columns.seconds("1.50 ± 0.10 (n=3) GPU-hours") == 5400
    assert table_columns.seconds("1.50 ± 0.10 (n=3) hours on CPU") == 5400
    assert table_columns.seconds("1.50 hours") is None


@pytest.mark.slow
def test_curves_are_written_for_a_paper(make, tmp_path, capsys):
    for seed in (0, 1):
        make("darts", seed)
        make("random", seed, epochs=0)
    assert report.main([f"out={tmp_path / 'r.html'}", f"figures={tmp_path / 'figures'}"]) == 0
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    for suffix in ("pdf", "svg", "png"):
        assert {f"searches-on-nb201-cifar10-{end}.{suffix}" for end in ("training", "cifar10-valid", "runs")} <= written
    assert (tmp_path / "figures" / "searches-on-nb201-cifar10-training.pdf").read_bytes().startswith(b"%PDF-")
    assert "cifar10-valid.pdf" in capsys.readouterr().out


@pytest.mark.slow
def test_the_result_of_each_run_is_a_dot(make, tmp_path):
    for seed, valid in enumerate((40.0, 91.0, 90.0)):
        make("darts", seed, valid)
        make("random", seed, 90.0, epochs=0)
    frame = collect([str(tmp_path / "outputs")])
    groups, runs = html.labelled(summary(frame)), {run["folder"]: run for run in rows_of(frame)}
    axes = html.each_run(groups, runs, ["darts"]).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["darts", "random"]
    assert [sorted(line.get_xdata()) for line in dots] == [[40.0, 90.0, 91.0], [90.0, 90.0, 90.0]]
    assert [line.get_color() for line in dots] == [figure_style.CYCLE[0], figure_style.SOFT]
    assert all(len(set(line.get_ydata())) == 3 for line in dots)  # equal results stay visible
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|"]
    assert means == pytest.approx([221 / 3, 90.0])
    text = charts.drawn(lambda: html.each_run(groups, runs, [*"abcdef", "darts"]), "f-", "runs")
    assert (
        len(re.findall(r"fill: *var\(--c6\)", text)) == 4
    )  # three dots, the bar: the darkest colour too follows the scheme of the page
    assert html.each_run(groups, {run["folder"]: run for run in rows_of(frame) if run["seed"] == 0}, []) is None
    assert "Result of each run" in " ".join(written()[1].texts)


@pytest.mark.slow
def test_settings_with_curves_are_drawn_first(make, tmp_path, monkeypatch):
    monkeypatch.setattr(html, "LINES", 1)
    for seed in (0, 1):
        make("a_random", seed, epochs=0)
        (tmp_path / "outputs" / f"run{seed}" / "metrics.jsonl").touch()
    make("darts", 0)
    _, page = written()
    assert "Training loss" in " ".join(page.texts)


@pytest.mark.slow
def test_a_place_where_no_figure_can_be_written_is_named(make, tmp_path):
    make("darts", 0, lookup=None)
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"taken.*training"):
        report.main([f"figures={tmp_path / 'taken'}"])


def test_the_same_runs_give_the_same_bytes(make):
    make()
    assert written()[0] == written()[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nowhere"], "contains no finished run"),
        (["outputs", "out=a.pdf"], "is not the name of an HTML file"),
        (["outputs", "out=no/folder/a.html"], "folder no/folder does not exist"),
        (["outputs", "titel=x"], "did you mean title"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(make, given, said):
    make()
    with pytest.raises(UserError, match=said):
        report.main(given)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"choices": {"dataset": "svhn"}}, "SVHN"),
        ({"protocol": "nats"}, "nats"),
        ({"reduced": True}, "reduced"),
        ({"choices": {"space": "other"}}, "other"),
    ],
)
@pytest.mark.sample(1)
def test_no_mean_is_the_best_of_settings_that_are_not_to_be_compared(make, other, words):
    for seed in (0, 1):
        make("darts", seed, 80.0 + seed)
        make("idarts", seed, 90.0 + seed, **other)
    text = " ".join(" ".join(written()[1].texts).split())
    assert re.search(rf"Highest mean \([^)]*{words}[^)]*\): idarts with 90.50", text)
    assert re.search(r"Highest mean( \([^)]*\))?: darts with 80.50", text)
    assert "best mean" not in text


@pytest.mark.slow
def test_a_lone_retraining_is_not_the_highest_mean(make):
    """12.22 % of one small retraining on other data, and nine searches that were looked up."""
    for method, valid in (("darts", 80.0), ("idarts", 90.0), ("random", 70.0)):
        for seed in range(3):
            make(method, seed, valid + seed)
    make(
        "darts",
        0,
        kind="retrain",
        test_accuracy=0.1222,
        lookup=None,
        verdict=None,
        protocol="nb201",
        reduced=True,
        choices={"dataset": "digits"},
    )
    text = " ".join(" ".join(written()[1].texts).split())
    assert "Highest mean: idarts with 91.00 ± 1.00 % (look-up, CIFAR-10 validation, n = 3)." in text
    assert "best mean · idarts 91.00 ± 1.00" in text
    assert "1 run without comparable runs is listed in the tables." in text
    assert "with 12.22" not in text
    assert "12.22" in text, "it stands in its table"


@pytest.mark.slow
def test_retrained_networks_come_first_where_they_are_as_many(make):
    for seed in range(2):
        make("darts", seed, 80.0 + seed)
        make("darts", seed, kind="retrain", test_accuracy=0.95 + seed / 100, lookup=None, verdict=None)
    text = " ".join(" ".join(written()[1].texts).split())
    assert "Highest mean (retrained, " in text
    assert text.index("Highest mean (retrained") < text.index("Highest mean (benchmark accuracy")
    assert "best mean" not in text


@pytest.mark.slow
def test_one_run_alone_is_called_so(make):
    make("darts", 0, kind="retrain", test_accuracy=0.9, lookup=None, verdict=None)
    text = " ".join(" ".join(written()[1].texts).split())
    assert "Single run: darts with 90.00 % (test accuracy, n = 1)." in text or "Single run:" in text
    assert "Highest" not in text
    make("idarts", 0, kind="retrain", test_accuracy=0.8, lookup=None, verdict=None)
    text = " ".join(" ".join(written()[1].texts).split())
    assert "Highest: " in text
    assert "mean" not in text.partition("Highest: ")[2].partition(".")[0]


@pytest.mark.slow
def test_a_run_of_two_studies_is_counted_once_on_a_page(make):
    make(kind="retrain", name="run0", test_accuracy=0.9, lookup=None, verdict=None)
    for study in ("one", "two"):
        make(
            kind="study",
            name=study,
            study=study,
            std_over="searches",
            searches=[],
            rank="none",
            ranking=[],
            retrains=["run0"],
        )
    words = " ".join(" ".join(written()[1].texts).split())
    assert "1 retraining in 2 settings" in words
    assert "spent 1.0 min on CPU" in words
    assert "from 1 finished runs" in words
