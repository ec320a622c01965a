"""Charts of an HTML report: single panels as inline SVG, in the colours of the page.

A panel is drawn by `curves` and then filtered: only drawing elements and attributes are kept (no scripts, no links),
ids get a prefix, numbers are rounded to two decimals, and the project's colours become CSS variables of the page, so
that charts are readable in light and dark mode. Shapes: `groups` maps a label to the rows of each run.
"""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasx.core.plain import Row
from nasx.core.quantities import QUANTITIES, Quantity
from nasx.errors import UserError
from nasx.report import cells, curves, figure_style
from nasx.spaces.edges import Edge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Row]
Groups = Mapping[str, Sequence[Rows]]
COLOURS = {
    **{colour.lower(): f"--c{i}" for i, colour in enumerate(figure_style.CYCLE)},
    **{colour.lower(): f"--op-{name}" for name, colour in figure_style.FAMILIES.items()},
    figure_style.INK: "--ink",
    figure_style.SOFT: "--soft",
    figure_style.FAINT: "--line",
    "#eaeef2": "--grid",
}
"""Colour in pictures -> CSS variable of the page."""
_ELEMENTS = frozenset({
    "svg", "g", "path", "defs", "use", "text", "tspan", "rect", "clipPath", "image", "polygon", "ellipse", "line",
    "polyline", "circle",
})  # fmt: skip
_ATTRIBUTES = frozenset({
    "d", "style", "id", "transform", "x", "y", "width", "height", "clip-path", "viewBox", "points", "fill", "stroke",
    "stroke-width", "stroke-dasharray", "cx", "cy", "rx", "ry", "text-anchor", "font-size", "font-style",
    "baseline-shift", "class", "href", "opacity", "fill-opacity",
})  # fmt: skip
_SVG = "http://www.w3.org/2000/svg"
_USED = re.compile(r"(?:^|url\()#([^)]+)")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


# -------------------------------------------------------------------------------------------------------- inline
def inline(text: str, prefix: str, label: str) -> str:
    """Convert the text of an SVG file to an element of an HTML page.

    `prefix` makes its ids unique on the page, and `label` describes it to screen readers.
    """
    root = ET.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", text))
    used = {name for node in root.iter() for value in node.attrib.values() for name in _USED.findall(value)}
    for node in root.iter():
        if node.attrib.get("id") not in used:
            node.attrib.pop("id", None)
    _strip(root, prefix)
    width = re.match(r"[\d.]+", root.attrib.get("width", ""))
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": label}
    if width:
        root.attrib["style"] = f"--width:{float(width[0]) * 4 / 3:.0f}px"
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode").replace(f' xmlns="{_SVG}"', "").replace(f"{{{_SVG}}}", "")


def _strip(node: ET.Element, prefix: str) -> None:
    """Remove everything but drawing elements and attributes in place; prefix ids, round numbers and replace colours."""
    kept = {}
    for key, value in node.attrib.items():
        name = key.rpartition("}")[2]
        if name not in _ATTRIBUTES or (name == "href" and not value.startswith(("#", "data:image/png;base64,"))):
            continue
        if name == "id":
            value = prefix + value
        elif name == "href" and value.startswith("#"):
            value = f"#{prefix}{value[1:]}"
        elif name != "href":
            value = re.sub(r"url\(#", f"url(#{prefix}", value)
            value = _NUMBER.sub(lambda found: f"{float(found[0]):.2f}", value)
        if name == "style":
            value = value.replace("'DejaVu Sans'", "var(--sans)")
            value = re.sub(r"#[0-9a-f]{6}", lambda c: f"var({COLOURS[c[0]]})" if c[0] in COLOURS else c[0], value)
        kept[name] = value
    node.attrib.clear()
    node.attrib.update(kept)
    for child in list(node):
        if not isinstance(child.tag, str) or child.tag.rpartition("}")[2] not in _ELEMENTS:
            node.remove(child)
        else:
            child.tag = f"{{{_SVG}}}{child.tag.rpartition('}')[2]}"
            _strip(child, prefix)
    if node.tail and not node.tail.strip():
        node.tail = None
    if node.text and not node.text.strip():
        node.text = None


def drawn(make: Callable[[], Figure | None], prefix: str, label: str) -> str:
    """Draw the figure that `make` returns as inline SVG with a transparent background; return "" if it is None."""
    with figure_style.style():
        made = make()
        return "" if made is None else inline(figure_style.svg(made, transparent=True), prefix, label)


# -------------------------------------------------------------------------------------------------------- panels
def panels(section: str) -> list[Quantity]:
    """Return the quantities that a section of the report plots over the epochs."""
    return [quantity for quantity in QUANTITIES if quantity.chart == section]


def panel(groups: Groups, quantity: Quantity) -> Figure | None:
    """Plot a quantity over the epochs with one line per group; return None if no row contains it."""
    made, colours = figure_style.figure(4.1, 2.7), itertools.cycle(figure_style.CYCLE)
    axes = made.subplots()
    found = [curves.line(axes, runs, quantity, label, next(colours)) for label, runs in groups.items()]
    curves.finish(axes, quantity.title, quantity.unit, curves.last_epoch(groups))
    return made if any(found) else None


def anytime(groups: Groups, dataset: str, split: str, reference: Mapping[str, float]) -> Figure | None:
    """Plot the benchmark accuracy of the cell at each epoch, and the optimum and the random mean as lines.

    Returns None if no row contains the accuracy.
    """
    made = figure_style.figure(4.1, 2.7)
    return made if curves.trajectory(made.subplots(), groups, dataset, split, reference) else None


def cell(edges: Sequence[Edge], prefix: str, label: str) -> str:
    """Draw one cell as inline SVG."""
    return inline(cells.svg(edges), prefix, label)


def read(folder: str, most: int = 120) -> list[Row]:
    """Read the rows of a run, thinned to at most `most` epochs including the last; empty if there are none."""
    try:
        rows = curves.derived(curves.read_metrics(Path(folder)))
    except UserError:
        return []
    step = -(-len(rows) // most)
    return [row for i, row in enumerate(rows) if (len(rows) - 1 - i) % step == 0] if step > 1 else rows
