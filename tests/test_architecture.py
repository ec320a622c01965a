"""The rules of the house, as tests: import direction, file size, loops that name nobody, YAML that says its sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "nasx").rglob("*.py"))
EVERYWHERE = {"nasx.errors", "nasx.trees"}
LOOPS = ("search.py", "retrain.py", "run.py", "session.py", "recipe.py")
CONCRETE = ("nasx.methods.", "nasx.spaces.", "nasx.benchmarks.")


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, types: bool = False) -> Iterator[str]:
    """Modules of nasx that a file imports when it runs (or also those for type checking)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    if not types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nasx":
            if node.module in ("nasx", "nasx.data", "nasx.spaces", "nasx.benchmarks"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "nasx")


def allowed(module: str) -> tuple[str, ...] | None:
    """Prefixes that a module may import, None where there is no rule."""
    if module in ("nasx.bilevel", "nasx.files", "nasx.errors"):
        return ()
    if module in ("nasx.records", "nasx.checkpoints", "nasx.lock"):
        return ("nasx.checkpoints", "nasx.files", "nasx.lock")
    if module.startswith("nasx.data"):
        return ("nasx.data.",)
    if module.startswith("nasx.spaces"):
        return ("nasx.spaces.",)
    if module.startswith("nasx.methods"):
        return ("nasx.bilevel", "nasx.around")
    if module.startswith("nasx.benchmarks"):
        return ("nasx.benchmarks.", "nasx.spaces.base", "nasx.records")
    return None


@pytest.mark.parametrize("path", FILES, ids=name)
def test_import_direction(path: Path) -> None:
    prefixes = allowed(name(path))
    if prefixes is None:
        return
    wrong = [m for m in imports(path) if m not in EVERYWHERE and not m.startswith(prefixes or ("-",))]
    assert not wrong, f"{name(path)} imports {wrong}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_over_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("file", LOOPS)
def test_loops_name_no_method_and_no_space(file: str) -> None:
    path = ROOT / "nasx" / file
    if not path.exists():
        pytest.skip(f"{file} is not there")
    concrete = [m for m in imports(path, types=True) if m.startswith(CONCRETE) and m != "nasx.spaces.base"]
    assert not [m for m in concrete if m not in ("nasx.spaces.network",)], concrete
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "isinstance"]
    assert not calls, f"{file} asks isinstance in lines {calls}"
    names = {p.stem for group in ("method", "space") for p in (ROOT / "conf" / group).glob("*.yaml")} - {"random"}
    words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not words & names, f"{file} names {words & names}"


def test_no_module_is_a_drawer() -> None:
    assert not [name(p) for p in FILES if p.stem in ("utils", "helpers", "manager", "misc", "common")]


def test_light_modules_import_nothing_heavy() -> None:
    light = ["cli", "config", "schema", "settings", "records", "files", "checkpoints", "lock", "listing", "preflight",
             "help", "completion", "collect", "status", "sweeps", "trust", "experiments"]
    for module in light:
        tree = ast.parse((ROOT / "nasx" / f"{module}.py").read_text(encoding="utf-8"))
        top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        heavy = [ast.unparse(n) for n in top if re.search(r"\b(torch|torchvision|scipy|matplotlib)\b", ast.unparse(n))]
        assert not heavy, f"{module}: {heavy}"


CONF = sorted(p for p in (ROOT / "conf").rglob("*.yaml"))
VALUE = re.compile(r"^\s*[\w.]+:\s*[^#\s][^#]*$")


@pytest.mark.parametrize("path", [p for p in CONF if p.parent.name in
                                  ("space", "method", "search", "retrain", "pair", "dataset", "benchmark", "engine",
                                   "launch", "experiment", "consistency", "stages", "stop")],
                         ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_value_says_where_it_comes_from(path: Path) -> None:
    yaml.safe_load(path.read_text(encoding="utf-8"))
    lines = path.read_text(encoding="utf-8").splitlines()
    bare = []
    for number, line in enumerate(lines):
        above = lines[number - 1].lstrip() if number else ""
        if VALUE.match(line) and not above.startswith("#") and "_target_" not in line:
            bare.append(line.strip())
    assert not bare, f"without a source: {bare}"
