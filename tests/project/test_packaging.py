"""The package carries what it needs: built, checked, installed and run outside the clone; its metadata agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import nasx
from nasx.config import paths

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TINY = (
    "space=nb201",
    "method=darts",
    "dataset=digits",
    "dataset.size=8",
    "space.channels=4",
    "space.layers=1",
    "search.batch=4",
    "search.epochs=1",
    "search.updates_per_epoch=1",
    "search.evaluate_images=4",
    "device=cpu",
)


def test_a_working_copy_finds_its_configurations() -> None:
    assert paths.conf_dir() == ROOT / "conf"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist, built from this working copy, and of the wheel, built from the sdist."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    skipped = (".git", ".venv", "outputs", "__pycache__", ".*_cache", "dist", "build", "site", "uv.lock", ".hypothesis")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*skipped))
    done = subprocess.run(["uv", "build", "--out-dir", str(folder), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [found] = built.glob("*.whl")
    return found


def test_the_wheel_holds_configurations_and_tables(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    confs = {f"nasx/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    inside = (path.relative_to(ROOT) for path in (ROOT / "nasx").rglob("*") if path.is_file())
    files = {path.as_posix() for path in inside if "__pycache__" not in path.parts}
    assert "nasx/conf/search.yaml" in confs
    assert {"nasx/data/digits.npz", "nasx/py.typed", "nasx/benchmarks/data/nb201.npz"} <= files
    assert names - {name for name in names if ".dist-info/" in name} == confs | files


def test_the_sdist_holds_what_is_tracked(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert {name for name in tracked if name and not name.startswith("outputs/")} <= names


def test_an_index_would_take_the_files(built: Path) -> None:
    files = [str(path) for path in built.iterdir() if path.suffix in (".whl", ".gz")]
    line = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_installed_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    """The wheel alone is installed; what it depends on is seen in the environment of the tests."""
    home = tmp_path / "home"
    for line in (
        ["uv", "venv", "-q", "-p", sys.executable, home],
        ["uv", "pip", "install", "-q", "--no-deps", "-p", home, wheel],
    ):
        subprocess.run(line, check=True)
    [site] = home.glob("lib/*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def runs(*line: str) -> str:
        done = subprocess.run([str(home / "bin" / line[0]), *line[1:]], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert runs("nasx", "--version") == f"nasx {nasx.__version__}\n"
    assert f"{site}/nasx/conf" in runs("nasx", "search", "--info", "searchpath")
    code = (
        "import sys, nasx; from importlib import metadata\n"
        "run = nasx.search(*sys.argv[1:]); print(nasx.__file__, metadata.version('nasx'), run.genotype)"
    )
    file, version, genotype = runs("python", "-c", code, *TINY).splitlines()[-1].split(" ", 2)
    assert Path(file).is_relative_to(site)
    assert version == nasx.__version__
    assert genotype == (next((tmp_path / "outputs").glob("*/genotype.txt")).read_text().strip())


# --------------------------------------------------------------------------------------------------- what is said
def test_one_version_everywhere() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == nasx.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert newest[1] == nasx.__version__


def test_the_python_versions_agree() -> None:
    low, high = re.findall(r"\d+\.(\d+)", PROJECT["project"]["requires-python"])
    named = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert [int(minor) for minor in named] == list(range(int(low), int(high)))
    assert f"Python 3.{low} to 3.{int(high) - 1}" in (ROOT / "docs" / "start.md").read_text(encoding="utf-8")


def test_no_error_advises_a_package_by_its_name() -> None:
    """A name on an index may be anybody's, and its newest version untested: what is missing comes from a clone."""
    found = [
        f"{path.relative_to(ROOT)}: {hit}"
        for path in (ROOT / "nasx").rglob("*.py")
        for hit in re.findall(r"pip install (?!\.|'\.)\S+", path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_nobody_elses_address_is_ours() -> None:
    """Until nasx has a public address, its addresses are under .example (RFC 2606)."""
    assert all(url.startswith("https://nasx.example/") for url in PROJECT["project"]["urls"].values())
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]
