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
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in FILES}
EVERYWHERE = {"nasx.errors", "nasx.core.trees", "nasx.core.batch", "nasx.core.draws", "nasx.core.versions"}
LOOPS = ("search.py", "retrain.py", "run.py", "session.py", "recipe.py")
CONCRETE = ("nasx.methods.", "nasx.spaces.", "nasx.benchmarks.")


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, types: bool = False, inside: bool = True) -> Iterator[str]:
    """Modules of nasx that a file imports when it runs (`types`: or for type checking; `inside`: functions too)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    if not inside:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                skipped |= {id(child) for child in ast.walk(node)}
    if not types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nasx":
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from whole & MODULES
            if not whole <= MODULES:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "nasx")


def allowed(module: str) -> tuple[str, ...] | None:
    """Prefixes that a module may import, None where there is no rule."""
    if module in ("nasx.core.bilevel", "nasx.core.batch", "nasx.core.files", "nasx.errors"):
        return ()
    if module in ("nasx.runs.records", "nasx.runs.checkpoints", "nasx.runs.lock"):
        return ("nasx.runs.checkpoints", "nasx.core.files", "nasx.runs.lock")
    if module.startswith("nasx.data"):
        return ("nasx.data.", "nasx.core.files")
    if module.startswith("nasx.spaces"):
        return ("nasx.spaces.",)
    if module.startswith("nasx.methods"):
        return ("nasx.core.bilevel", "nasx.methods.wrapper", "nasx.methods.zero_cost")
    if module.startswith("nasx.benchmarks"):
        return ("nasx.benchmarks.", "nasx.spaces.base", "nasx.runs.records", "nasx.core.files")
    if module.startswith("nasx.runs"):
        return ("nasx.runs.",)
    if module.startswith("nasx.diagnostics"):
        return ("nasx.diagnostics.", "nasx.core.bilevel", "nasx.spaces.mixed_cell", "nasx.report.style")
    return None


@pytest.mark.parametrize("path", FILES, ids=name)
def test_import_direction(path: Path) -> None:
    prefixes = allowed(name(path))
    if prefixes is None:
        return
    wrong = [m for m in imports(path) if m not in EVERYWHERE and not m.startswith(prefixes or ("-",))]
    assert not wrong, f"{name(path)} imports {wrong}"


def test_no_circle_of_imports_and_results_start_nothing() -> None:
    """What runs while modules load has no circles; pages and tables are made of what runs left, and start none."""
    known = {name(path): path for path in FILES}
    reached: dict[str, set[str]] = {}
    for module, path in known.items():
        found = {m for m in imports(path, inside=False) if m in known} - {module}
        reached[module] = found
    order: list[str] = []
    while rest := [m for m in known if m not in order]:
        ready = [m for m in rest if reached[m] <= set(order)]
        assert ready, f"a circle among {rest}"
        order += ready
    loops = {f"nasx.{file.removesuffix('.py')}" for file in LOOPS}
    for module, path in known.items():
        if module.startswith(("nasx.results", "nasx.config", "nasx.runs")):
            assert not loops & set(imports(path)), f"{module} imports a loop"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_over_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("file", LOOPS)
def test_loops_name_no_method_and_no_space(file: str) -> None:
    path = ROOT / "nasx" / file
    if not path.exists():
        pytest.skip(f"{file} is not there")
    concrete = [m for m in imports(path, types=True) if m.startswith(CONCRETE) and m != "nasx.spaces.base"]
    assert not [m for m in concrete if m not in ("nasx.spaces.darts.network",)], concrete
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "isinstance"]
    assert not calls, f"{file} asks isinstance in lines {calls}"
    names = {p.stem for group in ("method", "space") for p in (ROOT / "conf" / group).glob("*.yaml")} - {"random"}
    words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not words & names, f"{file} names {words & names}"


def test_no_module_is_a_drawer() -> None:
    assert not [name(p) for p in FILES if p.stem in ("utils", "helpers", "manager", "misc", "common")]


def test_light_modules_import_nothing_heavy() -> None:
    light = ["cli", "config", "settings", "records", "sweeps", "experiments", "folders/files", "folders/checkpoints",
             "folders/lock", "folders/notes", "checks/schema", "preflight", "origins", "checks/trust",
             "commands/listing", "commands/help", "commands/completion", "commands/status", "results/collect"]
    for module in light:
        tree = ast.parse((ROOT / "nasx" / f"{module}.py").read_text(encoding="utf-8"))
        top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        heavy = [ast.unparse(n) for n in top if re.search(r"\b(torch|torchvision|scipy|matplotlib)\b", ast.unparse(n))]
        assert not heavy, f"{module}: {heavy}"


CONF = sorted(p for p in (ROOT / "conf").rglob("*.yaml"))
VALUE = re.compile(r"^\s*[\w.]+:\s*[^#\s][^#]*$")


@pytest.mark.parametrize("path", [p for p in CONF if p.parent.name in
                                  ("space", "method", "search", "retrain", "pair", "dataset", "benchmark", "engine",
                                   "launch", "experiment", "stages", "stop", "study", "logger")],
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
