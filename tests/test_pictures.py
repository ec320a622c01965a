"""Cells and curves: input, content, and bytes that depend only on the data."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from nasx.core import quantities
from nasx.errors import UserError
from nasx.report import cells, curves, heat_maps, style
from nasx.spaces import families
from nasx.spaces.edges import genotype_edges

NB201 = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"
DARTS = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('sep_conv_3x3', 0)], "
    "normal_concat=range(2, 4), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 1)], reduce_concat=[2, 3])"
)
NORMAL = [
    ("c_{k-2}", "0", "sep_conv_3x3"),
    ("c_{k-1}", "0", "skip_connect"),
    ("0", "1", "dil_conv_5x5"),
    ("c_{k-2}", "1", "sep_conv_3x3"),
    ("0", "c_{k}", ""),
    ("1", "c_{k}", ""),
]
PNG = b"\x89PNG\r\n\x1a\n"


def words(svg):
    """All text of an SVG file, which must be well-formed."""
    return [" ".join("".join(node.itertext()).split()) for node in ET.parse(svg).iter() if node.tag.endswith("}text")]


@pytest.fixture
def search(tmp_path):
    """A synthetic search: its folder holds metrics.jsonl, config.yaml and genotype.txt."""

    def write(name="run", epochs=4, seed=0, space="nb201", lookup=True):
        folder = tmp_path / name
        folder.mkdir()
        gen = np.random.default_rng(seed)
        shapes = {"cell": (6, 5)} if space == "nb201" else {"normal": (14, 8), "reduce": (14, 8)}
        rows = []
        for epoch in range(1, epochs + 1):
            mix = {k: gen.dirichlet(np.ones(shape[1]), shape[0]).tolist() for k, shape in shapes.items()}
            rows.append(
                {
                    "epoch": epoch,
                    "train_loss": 2.0 / epoch + seed,
                    "train_accuracy": 0.1 * epoch,
                    "mix": mix,
                    "val_loss": 2.5 / epoch,
                    "val_accuracy": 0.09 * epoch,
                    "lookup": {"cifar10": {"valid": 80.0 + epoch + seed, "test": None}} if lookup else None,
                }
            )
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "config.yaml").write_text(f"space: {{}}\nchoices: {{space: {space}}}\n")
        (folder / "genotype.txt").write_text((NB201 if space == "nb201" else DARTS) + "\n")
        return folder

    return write


# -------------------------------------------------------------------------------------------------------- cells
def test_edges_of_a_nas_bench_201_cell():
    assert genotype_edges(NB201) == {
        "cell": [
            ("input", "1", "nor_conv_3x3"),
            ("input", "2", "none"),
            ("1", "2", "skip_connect"),
            ("input", "output", "avg_pool_3x3"),
            ("1", "output", "nor_conv_1x1"),
            ("2", "output", "nor_conv_3x3"),
        ]
    }


@pytest.mark.parametrize(
    "text",
    [
        DARTS,
        DARTS.replace("Genotype", "genotypes.DARTSGenotype"),
        DARTS.replace("range(2, 4)", "list(range(2, 4))"),
        DARTS.replace(
            "[('sep_conv_3x3', 0), ('skip_connect', 1), ", "[[('sep_conv_3x3', 0), ('skip_connect', 1)], ["
        ).replace("3', 0)], n", "3', 0)]], n"),
    ],
)
def test_edges_of_darts_cells_in_every_dialect(text):
    found = genotype_edges(text)
    assert list(found) == ["normal", "reduce"]
    assert found["normal"] == NORMAL


def test_edges_of_a_recurrent_cell():
    text = "Genotype(recurrent=[('sigmoid', 0), ('relu', 1)], concat=range(1, 3))"
    assert genotype_edges(text) == {
        "recurrent": [("x, h", "0", "sigmoid"), ("0", "1", "relu"), ("0", "h", ""), ("1", "h", "")]
    }


def test_edges_of_a_nas_bench_101_graph():
    text = json.dumps({"matrix": [[0, 1, 1], [0, 0, 1], [0, 0, 0]], "ops": ["input", "conv3x3-bn-relu", "output"]})
    assert genotype_edges(text) == {
        "cell": [("input", "1\nconv3x3-bn-relu", ""), ("input", "output", ""), ("1\nconv3x3-bn-relu", "output", "")]
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "__import__('os').system('true')",
        "Genotype()",
        "Genotype(normal=[('a', 0)] * 10**9)",
        "Genotype(normal=open('x'))",
        "Genotype(normal=[('a', 9), ('b', 0)])",
        "Genotype(normal=[('a', 'b')])",
        "Genotype(normal=[('a', 0)], normal_concat=range(10**9))",
        "|a~1|",
        "|a~0|+|a~0|a~2|",
        "|a~0",
        "{",
        "{}",
        '{"matrix": [[0, 1], [1, 0]], "ops": ["input", "output"]}',
        '{"matrix": [[0]], "ops": []}',
        "(" * 5000,
        "Genotype(" + "-" * 50_000 + "1)",
        "|a~0|" * 50_000,
    ],
)
def test_foreign_text_is_refused_and_never_run(text):
    with pytest.raises(UserError, match=r"^genotype"):
        genotype_edges(text)


def test_a_cell_is_drawn_twice_with_the_same_bytes(tmp_path):
    pytest.importorskip("pygraphviz")
    first, again = (cells.draw_cell(NORMAL, tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == ["a.svg", "a.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert first[1].read_bytes().startswith(PNG)
    text = words(first[0])
    assert sorted(t for t in text if "_" in t) == ["dil_conv_5x5", "sep_conv_3x3", "sep_conv_3x3", "skip_connect"]
    assert {"0", "1"} <= set(text)
    drawing = first[0].read_text()
    assert drawing.count('class="edge"') == 6
    assert (
        drawing.count('fill="#b4eeb4"'),
        drawing.count('fill="lightblue"'),
        drawing.count('fill="palegoldenrod"'),
    ) == (2, 2, 1)


def test_all_pictures_have_one_typeface_and_labels_fit_their_boxes(tmp_path):
    """Each letter of a node lies within its box, measured in the typeface and sizes that the file names."""
    pytest.importorskip("pygraphviz")
    import matplotlib
    from PIL import ImageFont

    file = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    cells.draw_cell(NORMAL, tmp_path / "a.svg")
    root, seen = ET.parse(tmp_path / "a.svg").getroot(), 0
    texts = [node for node in root.iter() if node.tag.endswith("}text")]
    assert {node.get("font-family").partition(",")[0] for node in texts} == {style.FONT} == {"DejaVu Sans"}
    for node in (group for group in root.iter() if group.get("class") == "node"):
        [box] = [child for child in node if child.tag.endswith("}polygon")]
        across = [float(point.partition(",")[0]) for point in box.get("points").split()]
        for text in (child for child in node if child.tag.endswith("}text")):
            width = ImageFont.truetype(file, 100).getlength(text.text) * float(text.get("font-size")) / 100
            left = float(text.get("x")) - (width / 2 if text.get("text-anchor") == "middle" else 0)
            assert min(across) <= left
            assert left + width <= max(across) - 1, text.text
            seen += 1
    assert seen == 2 + 2 * 3, "two nodes; c and its subscript of two inputs and the output"


@pytest.mark.parametrize(
    "text",
    [
        NB201,
        "Genotype(normal={0}, normal_concat=range(2, 6), reduce={0}, reduce_concat=range(2, 6))".format(
            [("skip_connect", j) for i in range(4) for j in (0, i + 1)]
        ),
        f"Genotype(recurrent={[('tanh', j) for j in range(8)]}, concat=range(1, 9))",
    ],
)
def test_a_heat_map_names_edges_as_the_drawing_names_nodes(text):
    shown = {"c_{k-2}": "cₖ₋₂", "c_{k-1}": "cₖ₋₁"}
    edges = [
        (shown.get(source, source), target)
        for source, target, operation in next(iter(genotype_edges(text).values()))
        if operation
    ]
    count = {"|": 6, "G": 14}[text[0]] if "recurrent" not in text else 36
    named = [tuple(edge.split("→")) for edge in heat_maps.EDGES[count]]
    assert len(named) == count
    assert set(edges) <= set(named)
    if count == 6:
        assert edges == named


def test_every_cell_of_a_run_is_drawn_beside_it(search):
    pytest.importorskip("pygraphviz")
    assert [path.name for path in cells.draw(search("a"))] == ["cell.svg", "cell.png"]
    assert [path.name for path in cells.draw(search("b", space="darts"))] == [
        "cell-normal.svg",
        "cell-normal.png",
        "cell-reduce.svg",
        "cell-reduce.png",
    ]


def test_the_cells_of_each_epoch_are_drawn_once(tmp_path, monkeypatch):
    pytest.importorskip("pygraphviz")
    other = NB201.replace("none", "skip_connect")
    cells.draw_epochs({1: NB201, 2: other, 10: NB201}, tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(files) == [f"epoch-{epoch}.{kind}" for epoch in ("001", "002", "010") for kind in ("png", "svg")]
    assert files["epoch-001.png"] == files["epoch-010.png"] != files["epoch-002.png"]
    (tmp_path / "epoch-002.svg").unlink()
    monkeypatch.setattr(
        cells,
        "draw_cell",
        lambda edges, place, draw=cells.draw_cell: (
            draw(edges, place) if "002" in place.name else pytest.fail("drawn again")
        ),
    )
    cells.draw_epochs({1: NB201, 2: other, 10: NB201}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    monkeypatch.undo()
    cells.draw_epochs({3: DARTS}, tmp_path / "darts")
    assert len(list((tmp_path / "darts").glob("epoch-003-*.svg"))) == 2


def test_without_pygraphviz_the_message_says_what_would_do(tmp_path, monkeypatch):
    cells._graphviz.cache_clear()
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(UserError, match="pygraphviz is not installed; in a clone of nasx run"):
        cells.draw_cell(NORMAL, tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())


def test_a_library_that_pygraphviz_lacks_is_named(tmp_path, monkeypatch):
    """As in a bare container."""
    (tmp_path / "pygraphviz.py").write_text("raise ImportError('libgobject-2.0.so.0: cannot open shared object file')")
    cells._graphviz.cache_clear()
    monkeypatch.delitem(sys.modules, "pygraphviz", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot be loaded \(libgobject.*install that library.*libglib"):
        cells.draw_cell(NORMAL, tmp_path / "a.svg")


def test_the_first_picture_on_a_machine_logs_nothing(tmp_path):
    code = (
        "import logging; logging.basicConfig(level=logging.INFO); from nasx.report import style as pictures\n"
        "with pictures.style(): pictures.save(pictures.figure(1, 1), 'empty.png')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "MPLCONFIGDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert list(tmp_path.glob("fontlist*")), "the fonts were known before"
    assert done.stderr == ""


def test_another_format_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gif is not a supported image format; use \.svg or \.png"):
        style.write(tmp_path / "a.gif", {"svg": None, "png": None})


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("sep_conv_3x3", "conv"),
        ("skip_connect", "skip"),
        ("none", "none"),
        ("avg_pool_3x3", "pool"),
        ("maxpool3x3", "pool"),
        ("noise", "noise"),
    ],
)
def test_an_operation_belongs_to_one_family(operation, kind):
    assert families.family(operation) == kind


# ------------------------------------------------------------------------------------------------------- curves
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
    with style.style():
        axes = style.figure(3, 3).subplots()
        assert curves.line(axes, runs, quantities.Quantity("x", "X", unit), "a", "red")
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    assert band.max() == pytest.approx(min(mean + std, high))
    assert band.min() == pytest.approx(max(mean - std, low))


def test_no_band_passes_the_optimum():
    runs = [[{"epoch": e, "lookup": {"cifar10": {"valid": value}}} for e in (1, 2)] for value in (91.0, 60.0)]
    with style.style():
        axes = style.figure(3, 3).subplots()
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


def test_panels_without_data_are_left_out(search):
    folder = search(space="darts", lookup=False, epochs=1)
    text = set(words(curves.search_picture(folder)))
    assert {"Mixture weights, normal cell", "Mixture weights, reduce cell", "sep_conv_5x5", "2→3", "cₖ₋₂→0"} <= text
    assert not any(t.startswith("Found cell") for t in text)


def test_groups_are_told_apart_and_single_runs_have_no_band(search, tmp_path):
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
