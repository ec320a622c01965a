"""Rules of the code base: import direction, file size, generic loops, sources of YAML values, words."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "nasx").rglob("*.py"))
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in FILES}
LOOPS = (
    "searcher/loop.py",
    "searcher/job.py",
    "train/trainer.py",
    "train/job.py",
    "train/recipe.py",
    "jobs/search.py",
    "jobs/retrain.py",
    "jobs/run.py",
    "tracking/session.py",
)
CONCRETE = (
    "nasx.methods.",
    "nasx.benchmarks.",
    "nasx.spaces.darts.",
    "nasx.spaces.nb201.",
    "nasx.spaces.nb1shot1.",
    "nasx.spaces.recurrent.",
)


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


def test_imports_keep_their_contracts_and_make_no_circle() -> None:
    """[tool.importlinter] of pyproject.toml: layers, lazy imports and those for types included."""
    done = subprocess.run(
        [sys.executable, "-m", "importlinter.cli", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_over_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("folder", ["tests", "scripts"])
def test_no_other_file_over_400_lines(folder: str) -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert [path for path, count in lines.items() if count > 400] == []


@pytest.mark.parametrize("file", LOOPS)
def test_loops_name_no_method_and_no_space(file: str) -> None:
    path = ROOT / "nasx" / file
    concrete = [m for m in imports(path, types=True) if m.startswith(CONCRETE)]
    assert not concrete
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "isinstance"]
    assert not calls, f"{file} asks isinstance in lines {calls}"
    names = {p.stem for group in ("method", "space") for p in (ROOT / "conf" / group).glob("*.yaml")} - {"random"}
    words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not words & names, f"{file} names {words & names}"


def test_no_module_is_a_drawer() -> None:
    assert not [name(p) for p in FILES if p.stem in ("utils", "helpers", "manager", "misc", "common")]


AVOIDED = re.compile(
    r"\b(told|besides?|anew|alike|lest|of which|of whom|by itself|by themselves|somebody|nobody|anybody|whoever|hereby"
    r"|thereof|handed (on|over)|in vain|percent points|at night)\b",
    re.IGNORECASE,
)
"""Words without a place in plain technical English."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the docstrings, messages and comments of a module."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize("path", FILES, ids=name)
def test_texts_avoid_foreign_words(path: Path) -> None:
    assert not [
        (line, found[0]) for line, text in texts(path) if (found := AVOIDED.search(re.sub("`[^`]*`", "", text)))
    ]


def test_comments_and_descriptions_of_conf_avoid_foreign_words() -> None:
    said = re.compile(r"#.*|^  (?:summary|unpublished|cost):(?: .*|\n(?:    .*\n)*)", re.M)
    comments = {file: said.findall(file.read_text(encoding="utf-8")) for file in (ROOT / "conf").rglob("*.yaml")}
    assert not [(file.name, text) for file, found in comments.items() for text in found if AVOIDED.search(text)]


def test_pages_avoid_foreign_words() -> None:
    pages = [
        *(ROOT / "docs").glob("*.md"),
        *(path for room in ("api", "howto", "methods", "tutorials") for path in (ROOT / "docs" / room).rglob("*.md")),
        *(ROOT / "nasx").rglob("*.j2"),
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    ]
    assert len(pages) > 60
    prose = {page: re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.S) for page in pages}
    assert not [(page.name, found[0]) for page, text in prose.items() if (found := AVOIDED.search(text))]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_names_avoid_foreign_words(path: Path) -> None:
    """Names of variables, arguments, attributes and functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {getattr(node, key, None) for node in ast.walk(tree) for key in ("id", "arg", "attr", "name")}
    assert not [name for name in names if isinstance(name, str) and AVOIDED.search(name.replace("_", " "))]


def test_light_modules_import_nothing_heavy() -> None:
    light = [
        file.relative_to(ROOT / "nasx").with_suffix("").as_posix()
        for room in ("cli", "config")
        for file in sorted((ROOT / "nasx" / room).glob("*.py"))
    ]
    light += [
        "errors",
        "core/files",
        "core/spelling",
        "core/versions",
        "core/constraints",
        "tracking/records",
        "tracking/checkpoints",
        "tracking/lock",
        "tracking/sweep_log",
        "tracking/lineage",
        "results/collect",
    ]
    for module in light:
        tree = ast.parse((ROOT / "nasx" / f"{module}.py").read_text(encoding="utf-8"))
        top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        heavy = [ast.unparse(n) for n in top if re.search(r"\b(torch|torchvision|scipy|matplotlib)\b", ast.unparse(n))]
        assert not heavy, f"{module}: {heavy}"


CONF = sorted(p for p in (ROOT / "conf").rglob("*.yaml"))
VALUE = re.compile(r"^\s*[\w.]+:\s*[^#\s][^#]*$")


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in CONF
        if p.relative_to(ROOT / "conf").parts[0]
        in (
            "space",
            "method",
            "search",
            "retrain",
            "pair",
            "dataset",
            "benchmark",
            "engine",
            "launch",
            "experiment",
            "stages",
            "stop",
            "budget",
            "study",
            "logger",
            "debug",
        )
    ],
    ids=lambda p: str(p.relative_to(ROOT / "conf").with_suffix("")),
)
def test_every_value_says_where_it_comes_from(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    yaml.safe_load(text)
    lines = re.sub(r"^meta:\n(?: .*\n)*", "", text, flags=re.M).splitlines()  # no settings
    bare = []
    for number, line in enumerate(lines):
        above = lines[number - 1].lstrip() if number else ""
        if VALUE.match(line) and not above.startswith("#") and "_target_" not in line:
            bare.append(line.strip())
    assert not bare, f"without a source: {bare}"
