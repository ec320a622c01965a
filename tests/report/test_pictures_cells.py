"""Pictures of cells: edges, drawings, and bytes that depend only on the data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from drawings import DARTS, NB201, PNG, words, writer

from nasx.errors import UserError
from nasx.report import cells, figure_style, heat_maps
from nasx.spaces import families
from nasx.spaces.edges import genotype_edges

NORMAL = [
    ("c_{k-2}", "0", "sep_conv_3x3"),
    ("c_{k-1}", "0", "skip_connect"),
    ("0", "1", "dil_conv_5x5"),
    ("c_{k-2}", "1", "sep_conv_3x3"),
    ("0", "c_{k}", ""),
    ("1", "c_{k}", ""),
]


@pytest.fixture
def search(tmp_path):
    return writer(tmp_path)


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
    assert {node.get("font-family").partition(",")[0] for node in texts} == {figure_style.FONT} == {"DejaVu Sans"}
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


def test_every_cell_of_a_run_is_drawn_next_to_it(search):
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
    with pytest.raises(UserError, match="pygraphviz is not installed; in a clone of nasx, run"):
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
        "import logging; logging.basicConfig(level=logging.INFO); from nasx.report import figure_style as pictures\n"
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
        figure_style.write(tmp_path / "a.gif", {"svg": None, "png": None})


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
