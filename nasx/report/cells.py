"""Pictures of cells in the style of the DARTS papers: left to right, with green inputs, blue nodes and yellow output.

An edge is a triple (source, target, operation), as in spaces/edges.py; edges with `none` are grey and dotted.

Drawing needs pygraphviz, whose wheel includes Graphviz; the `dot` program is not called. The font is included in
matplotlib, so that the same cell gives the same bytes on every machine.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from nasx.core import extras
from nasx.core.files import no_link
from nasx.errors import UserError
from nasx.report.figure_style import FAMILIES, FONT, FORMATS, INK, whole, write
from nasx.spaces.edges import Edge, genotype_edges
from nasx.spaces.families import family

if TYPE_CHECKING:
    from pygraphviz import AGraph

FILL = {"input": "darkseagreen2", "node": "lightblue", "output": "palegoldenrod"}
_INDEXED = re.compile(r"c_\{k(-\d)?\}")


# -------------------------------------------------------------------------------------------------------- draw
def draw_cell(edges: Sequence[Edge], path: str | Path) -> list[Path]:
    """Draw one cell to `path` (.svg or .png; both if it has no suffix), and return the written paths.

    Raises UserError if pygraphviz is missing. The same edges give the same bytes.
    """
    graph = _laid_out(edges)
    return write(path, {"svg": lambda: graph.draw(format="svg"), "png": lambda: _sharp(graph)})


def svg(edges: Sequence[Edge]) -> str:
    """Return the picture of one cell as the text of an SVG file. Raises UserError if pygraphviz is missing."""
    return str(_laid_out(edges).draw(format="svg").decode())


def _laid_out(edges: Sequence[Edge]) -> AGraph:
    """Return the cell as a Graphviz graph with its layout computed."""
    graph = _graphviz()(directed=True, strict=False)
    type_ = {"fontname": f"{FONT}, Verdana, sans-serif", "fontcolor": INK}
    graph.graph_attr.update(rankdir="LR", bgcolor="white", pad="0.15", nodesep="0.22", ranksep="0.55", dpi="72")
    graph.node_attr.update(style="filled", shape="rect", align="center", fontsize="17", height="0.5", width="0.5")
    graph.node_attr.update(penwidth="1.6", color=INK, **type_)
    graph.edge_attr.update(fontsize="15", arrowsize="0.8", penwidth="1.4", color=INK, **type_)
    nodes = list(dict.fromkeys(name for edge in edges for name in edge[:2]))
    sources, targets = {edge[0] for edge in edges}, {edge[1] for edge in edges}
    for name in nodes:
        kind = "input" if name not in targets else "output" if name not in sources else "node"
        kind = "node" if name.isdigit() else kind
        graph.add_node(name, label=_label(name), fillcolor=FILL[kind])
    for i, (source, target, operation) in enumerate(edges):
        colour = FAMILIES[family(operation)] if operation else INK
        faint = {"style": "dotted", "arrowsize": "0.6", "fontsize": "12"} if operation == "none" else {}
        lines = "<br/>".join(f" {escape(line)} " for line in operation.split("\n"))
        label = f'<{lines}<br/><font point-size="4"> </font>>' if operation else ""  # space between label and edge
        graph.add_edge(source, target, key=str(i), label=label, color=colour, **{"fontcolor": colour, **faint})
    graph.layout("dot")
    return graph


def draw(run_folder: str | Path) -> list[Path]:
    """Draw the cell found by a run to cell.svg and cell.png in its folder, or each of several cells to cell-<name>.*.

    Returns the written paths. Raises UserError if the genotype cannot be read.
    """
    folder = Path(run_folder)
    try:
        text = (folder / "genotype.txt").read_text(encoding="utf-8")
    except OSError as fault:
        said = f"cannot be read ({fault.strerror})"
        raise UserError(str(folder / "genotype.txt"), said, "use the folder of a finished search") from fault
    return draw_cells(genotype_edges(text), folder / "cell")


def names(run_folder: str | Path) -> list[str]:
    """Return the names, without suffix, of the pictures that `draw` writes for a run."""
    text = (Path(run_folder) / "genotype.txt").read_text(encoding="utf-8")
    return [path.name for path, _ in _placed(genotype_edges(text), Path(run_folder) / "cell")]


def draw_cells(cells: Mapping[str, Sequence[Edge]], path: str | Path) -> list[Path]:
    """Draw a single cell to `path`, or several cells with -<name> before the suffix; return the written paths."""
    return [written for place, edges in _placed(cells, Path(path)) for written in draw_cell(edges, place)]


def draw_epochs(genotypes: Mapping[int, str], folder: Path) -> None:
    """Draw the cells of each epoch into `folder` (epoch-001.svg, epoch-001.png, ...), except complete pictures.

    `genotypes` maps an epoch to its genotype as text.
    """
    no_link(folder)
    drawn: dict[tuple[Edge, ...], list[bytes]] = {}
    for epoch, text in genotypes.items():
        for place, edges in _placed(genotype_edges(text), folder / f"epoch-{epoch:03d}"):
            if all(whole(place.with_name(f"{place.name}.{kind}")) for kind in FORMATS):
                continue
            if (same := drawn.get(tuple(edges))) is None:
                drawn[tuple(edges)] = [file.read_bytes() for file in draw_cell(edges, place)]
            else:
                write(place, {kind: partial(bytes, data) for kind, data in zip(FORMATS, same, strict=True)})


def _placed(cells: Mapping[str, Sequence[Edge]], path: Path) -> Iterator[tuple[Path, Sequence[Edge]]]:
    """Yield the picture path and the edges of each cell."""
    for name, edges in cells.items():
        plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
        yield path if len(cells) == 1 else path.with_name(f"{path.stem}-{plain}{path.suffix}"), edges


def _label(name: str) -> str:
    """Convert `c_{k-2}` to HTML whose subscript has an explicit font size, which Graphviz needs to size the box."""
    head, _, tail = name.partition("_{")
    if not _INDEXED.fullmatch(name):  # user-defined names are not interpreted as markup
        return name.replace("\n", "\\n")
    return f'<{head}<font point-size="12"><sub>{tail.rstrip("}").replace("-", "−")}</sub></font>>'


def _sharp(graph: AGraph) -> bytes:
    """Render the graph as a high-resolution PNG without computing a new layout."""
    graph.graph_attr.update(dpi="160")
    try:
        return bytes(graph.draw(format="png"))
    finally:
        graph.graph_attr.update(dpi="72")


@lru_cache(maxsize=1)
def _graphviz() -> type[AGraph]:
    """Return pygraphviz's graph class, set up to use matplotlib's font so that pictures are the same on all machines.

    During the first layout, the font library also reads the system's configuration templates and warns about newer
    ones; these warnings are suppressed. A FONTCONFIG_FILE set by the user is respected. Raises UserError if pygraphviz
    cannot be imported.
    """
    try:
        import pygraphviz
    except ModuleNotFoundError as fault:
        raise UserError("cell pictures", "pygraphviz is not installed", extras.install()) from fault
    except ImportError as fault:  # a system library is missing, as in a minimal container
        remedy = "install that library; on Debian and Ubuntu, run `apt install libglib2.0-0 libxrender1 libxext6`"
        raise UserError("cell pictures", f"pygraphviz cannot be loaded ({fault})", remedy) from fault
    with tempfile.TemporaryDirectory(prefix="nasx-fonts-") as folder, _variable("FONTCONFIG_FILE", folder), _hushed():
        first = pygraphviz.AGraph(directed=True)
        first.add_node("a")
        first.layout("dot")
    graphs: type[AGraph] = pygraphviz.AGraph
    return graphs


@contextmanager
def _variable(name: str, folder: str) -> Iterator[None]:
    """Set the environment variable `name` to a font configuration file in `folder`, unless the user has set it."""
    import matplotlib

    if name in os.environ:
        yield
        return
    file = Path(folder, "fonts.conf")
    file.write_text(
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
        f"<dir>{escape(matplotlib.get_data_path())}/fonts/ttf</dir><cachedir>{escape(folder)}</cachedir>"
        "<config><rescan><int>0</int></rescan></config></fontconfig>",
        encoding="utf-8",
    )
    os.environ[name] = str(file)
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def _hushed() -> Iterator[None]:
    """Suppress output to stderr, including that of C libraries."""
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
