"""Pictures of curves and mixtures: input, content, and bytes that depend only on the data."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from drawings import PNG, words, writer

from nasx.core import quantities
from nasx.errors import UserError
from nasx.report import cells, curves, figure_style


@pytest.fixture
def search(tmp_path):
    return writer(tmp_path)


def test_metrics_survive_torn_and_repeated_rows(search):
    folder = search(epochs=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"epoch": 2, "train_loss": 9.0}\n{"epoch": 4, "train_l')
    rows = curves.read_metrics(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[1]["train_loss"] == 9.0


def test_a_band_is_the_mean_and_the_sample_deviation_of_what_is_there():
    runs = [
        [{"epoch": 1, "a": {"b": 1.0}}, {"epoch": 2, "a": {"b": 2.0}}],
        [{"epoch": 1, "a": {"b": 4.0}}],
        [{"epoch": 2, "a": None}, {"epoch": 3, "a": {"b": True}}],
    ]
    epochs, mean, std, n = curves.band(runs, "a.b", scale=10.0)
    assert epochs.tolist() == [1.0, 2.0]
    assert mean.tolist() == [25.0, 20.0]
    assert std[0] == pytest.approx(math.sqrt(2) * 15, abs=1e-12)
    assert math.isnan(std[1])
    assert n.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("unit", "values", "low", "high"),
    [
        (quantities.PERCENT, (99.0, 60.0), 0.0, 100.0),
        (quantities.NATS, (0.1, 2.0), 0.0, math.inf),
        (quantities.COSINE, (0.9, -0.2), -1.0, 1.0),
        (quantities.PERPLEXITY, (1.5, 90.0), 1.0, math.inf),
        (quantities.REAL, (0.1, 0.9), -math.inf, math.inf),
    ],
)
def test_a_band_ends_where_values_do(unit, values, low, high):
    runs = [[{"epoch": e, "x": value} for e in (1, 2)] for value in values]
    assert (unit.low, unit.high) == (low, high)
    with figure_style.style():
        axes = figure_style.figure(3, 3).subplots()
        assert curves.line(axes, runs, quantities.Quantity("x", "X", unit), "a", "red")
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    assert band.max() == pytest.approx(min(mean + std, high))
    assert band.min() == pytest.approx(max(mean - std, low))


def test_no_band_passes_the_optimum():
    runs = [[{"epoch": e, "lookup": {"cifar10": {"valid": value}}} for e in (1, 2)] for value in (91.0, 60.0)]
    with figure_style.style():
        axes = figure_style.figure(3, 3).subplots()
        assert curves.trajectory(axes, {"a": runs}, "cifar10", "valid", {"optimum": 91.61, "random": 83.69})
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == 91.61
    labels = [text for text in axes.texts if text.get_text().startswith(("optimum", "random"))]
    assert [text.xy[0] for text in labels] == [1.0, 1.0], "beside the panel, where no curve is"
    assert all(text.get_horizontalalignment() == "left" for text in labels)


def test_the_lines_of_a_restricted_space_are_its_own(search):
    folder = search()
    own = {"cifar10": {"valid": {"optimum": 77.5, "mean": 66.5, "median": 1.0}, "test": {"optimum": None}}}
    (folder / "result.json").write_text(json.dumps({"reference": own}))
    assert curves.recorded([folder, folder], "cifar10", "valid") == {"optimum": 77.5, "random": 66.5}
    assert curves.recorded([folder, folder.parent], "cifar10", "valid") == {}
    assert curves.recorded([folder], "cifar10", "test") == {}
    assert {"77.50", "66.50"} <= set(words(curves.search_picture(folder)))


def test_the_picture_of_a_search_has_every_panel(search):
    folder = search()
    path = curves.search_picture(folder, {"cifar10": {"optimum": 91.61, "random": 83.69}})
    assert path == folder / "search.svg"
    text = words(path)
    assert {
        "Supernet loss",
        "Supernet accuracy",
        "Found cell, CIFAR-10 valid",
        "optimum",
        "91.61",
        "random mean",
        "83.69",
        "Mixture weights",
        "nor_conv_3x3",
        "2→output",
        "training",
    } <= set(text)
    before = path.read_bytes(), (folder / "search.png").read_bytes()
    curves.search_picture(folder, {"cifar10": {"optimum": 91.61, "random": 83.69}})
    assert (path.read_bytes(), (folder / "search.png").read_bytes()) == before
    assert before[1].startswith(PNG)
    assert not list(folder.glob(".*.part"))


@pytest.mark.slow
def test_what_went_on_inside_is_drawn_where_rows_know_it(search):
    folder = search()
    rows = curves.read_metrics(folder)
    for row in rows:
        cell = {"parametric": row["epoch"], "skip": 2, "pool": 0, "none": 1}
        row |= {"cells": {"normal": cell, "reduce": {**cell, "skip": 99}}, "entropy": 1.0, "eigenvalue": 0.1}
    assert curves.derived(rows)[2]["found"] == {"parametric": 3, "skip": 2, "pool": 0, "none": 1}
    outputs = [{"nor_conv_3x3": 0.2, "skip_connect": 0.9}, {"nor_conv_1x1": 0.4}]
    more = {"node_cosine": [0.1, 0.3], "output_cosine": outputs}
    assert curves.derived([{**rows[0], **more}])[0]["cosine"] == pytest.approx({"node": 0.2, "output": 0.3})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = words(curves.search_picture(folder))
    assert {"Found operations", "learned", "skip", "Entropy of the mixture", "Hessian eigenvalue"} <= set(text)
    assert not {"pooling", "Layer alignment"} & set(text)


@pytest.mark.slow
def test_panels_without_data_are_left_out(search):
    folder = search(space="darts", lookup=False, epochs=1)
    text = set(words(curves.search_picture(folder)))
    assert {"Mixture weights, normal cell", "Mixture weights, reduce cell", "sep_conv_5x5", "2→3", "cₖ₋₂→0"} <= text
    assert not any(t.startswith("Found cell") for t in text)


def test_groups_are_distinguished_and_single_runs_have_no_band(search, tmp_path):
    groups = {"first": [search("a"), search("b", seed=1)], "second": [search("c", seed=2)]}
    svg, png = curves.training(groups, tmp_path / "training")
    assert png.read_bytes().startswith(PNG)
    assert {"first", "second", "training", "validation batches"} <= set(words(svg))
    bands = len(re.findall('id="(?:FillBetween)?PolyCollection', svg.read_text()))
    assert bands == 4  # training and validation, loss and accuracy, of the group with two runs
    (line,) = curves.anytime(groups, tmp_path / "anytime.svg", split="valid", reference={"optimum": 91.0})
    assert {"optimum", "91.00", "first", "second"} <= set(words(line))


def test_mixture_by_the_names_of_the_configuration(search, tmp_path):
    folder = search()
    (folder / "config.yaml").write_text("space: {operations: [a1, b1, c1, d1, e1]}\n")
    (path,) = curves.mixture(folder, tmp_path / "mix.svg")
    assert {"a1", "b1", "c1", "d1", "e1"} <= set(words(path))


def test_missing_data_is_said(search, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(UserError, match="no benchmark accuracy on cifar10 test"):
        curves.anytime({"a": [search()]}, tmp_path / "a.svg")
    with pytest.raises(UserError, match="no losses"):
        curves.training({"a": [empty]}, tmp_path / "a.svg")
    with pytest.raises(UserError, match="no mixture weights"):
        curves.mixture(empty, tmp_path / "a.svg")
    with pytest.raises(UserError, match="cannot be read"):
        curves.search_picture(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be read"):
        cells.draw(tmp_path / "nowhere")
