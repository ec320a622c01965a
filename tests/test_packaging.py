"""The package carries what it needs: configurations and tables, in a wheel and in a working copy."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nasx.config import paths

ROOT = Path(__file__).resolve().parent.parent


def test_a_working_copy_finds_its_configurations() -> None:
    assert paths.conf_dir() == ROOT / "conf"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this working copy."""
    folder = tmp_path_factory.mktemp("wheel")
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    source = folder / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(
            ".git", ".venv", "outputs", "__pycache__", ".*_cache", "dist", "build", "uv.lock"
        ),
    )
    done = subprocess.run(
        ["uv", "build", "--wheel", "--out-dir", str(folder), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_holds_configurations_and_tables(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    confs = {f"nasx/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    data = {str(path.relative_to(ROOT)) for pattern in ("*.npz", "*.csv") for path in (ROOT / "nasx").rglob(pattern)}
    assert "nasx/conf/search.yaml" in names
    assert confs <= names
    assert any(name.startswith("nasx/benchmarks/data/") for name in data)
    assert "nasx/data/digits.npz" in data
    assert data <= names
    assert not any(name.startswith(("tests", "conf", "scripts")) for name in names)


def test_the_command_works_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(home)
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from nasx.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(home), "search", "--info", "searchpath"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert str(home / "nasx" / "conf") in done.stdout
