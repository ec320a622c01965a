"""The commands of README.md and of the pages in docs/ run, and their lists match `conf/`.

Tested are the ```bash blocks, and the ```python and ```yaml blocks whose first line is a path, which are written to
that path. Commands in ```sh blocks are not run: they take hours, a cluster or a GPU, or another page runs them.

The commands of a section of the README, or of a whole page in docs/, run in one temporary folder: those of the first
section by bash, with `uv run X` as X of this environment; the others in processes that have imported torch before.
`<!-- ci: a=1 b=2 -->` above a block gives the overrides that make each of its searches and retrainings short (`|`
separates those of successive lines); `<!-- note: ... -->` states what else differs. .ci/run runs `uv run pytest`.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jobs
import numpy as np
import pytest

from nasx.benchmarks.isomorphism import CELLS, cell_text
from nasx.benchmarks.nb201 import Nb201
from nasx.spaces.nb201.genotype import Nb201Genotype

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(
    r"(?P<comments>(?:^<!--.*?-->\n)*)^```(?P<language>bash|python|yaml)\n(?P<text>.*?)^```", re.M | re.S
)
FILE = re.compile(r"# ([\w/]+\.(?:py|yaml))")
HEAVY = re.compile(r"(?:uv run )?nasx (?:quickstart|search|retrain)\b(?!.*--help$)")


class Command(NamedTuple):
    """A line of a block, and the overrides that CI appends to it."""

    line: str
    overrides: str


class Section(NamedTuple):
    """The commands and files of a section or a page, in order."""

    title: str
    commands: list[Command]
    files: dict[str, str]


def sections() -> Iterator[Section]:
    parts = [(part.splitlines()[0].lstrip("# "), part) for part in re.split(r"^(?=## )", README, flags=re.M)]
    parts += [(str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")) for page in PAGES]
    for title, part in parts:
        commands: list[Command] = []
        files: dict[str, str] = {}
        for block in BLOCK.finditer(part):
            lines = block["text"].replace("\\\n", "").splitlines()
            if block["language"] != "bash":
                if named := FILE.fullmatch(lines[0]):
                    files[named[1]] = block["text"]
                continue
            found = re.search(r"<!-- ci: (.*?) -->", block["comments"])
            each = found[1].split(" | ") if found else [""]
            heavy = [line for line in lines if HEAVY.match(line)]
            assert len(each) in (1, len(heavy)), lines
            given = dict(zip(heavy, each * len(heavy) if len(each) == 1 else each, strict=False))
            commands += [Command(line, given.get(line, "")) for line in lines if not line.startswith("uv run pytest")]
        if commands:
            yield Section(title, commands, files)


SECTIONS = list(sections())


def cifar10() -> Path | None:
    """The folder of CIFAR-10's files on this machine, if there is one."""
    root = Path(os.environ.get("NASX_DATA") or "~/.cache/nasx").expanduser()
    found = [root / name for name in ("cifar-10-batches-py", "cifar-10-batches-bin")]
    return next((folder for folder in found if folder.is_dir()), None)


def outside(here: Path) -> dict[str, str]:
    """Variables by which nothing is written outside: the data root is a new folder that links to the real CIFAR-10."""
    data = here.parent / "data"
    data.mkdir(exist_ok=True)
    images = cifar10()
    if images is not None and not (data / images.name).exists():
        (data / images.name).symlink_to(images.resolve())
    return {
        "XDG_CACHE_HOME": str(here.parent / "cache"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
        "NASX_DATA": str(data),
    }


def shell(here: Path, line: str) -> str:
    """Run a line as bash does, `uv run` meaning this environment; returns what it printed."""
    tools = here.parent / "tools"
    tools.mkdir(exist_ok=True)
    run = f'shift; tool=$1; shift; exec "{Path(sys.executable).parent}/$tool" "$@"'
    (tools / "uv").write_text(f"#!/bin/sh\n{run}\n")
    (tools / "uv").chmod(stat.S_IRWXU)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **outside(here)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # as on a user's machine, where imports are compiled once
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def nasx(here: Path, line: str, pictures: bool) -> str:
    """Run a line that starts with `nasx` in a process of its own; returns what it printed."""
    done = jobs.nasx(here, *shlex.split(line)[1:], env=outside(here), pictures=pictures)
    assert done.code == 0, f"{line}\n{done}"
    assert "Traceback" not in done.err, done
    return done.out


def images(folder: Path) -> None:
    """Twelve pictures of two classes, for training and for testing."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind in ("cats", "dogs"):
            (folder / part / kind).mkdir(parents=True)
            for i in range(12):
                Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(folder / part / kind / f"{i}.png")


def table(path: Path) -> None:
    """The embedded numbers as a CSV; their validation accuracies stand in for the test accuracies."""
    benchmark, names = Nb201(), ("cifar10", "cifar100", "imagenet16")
    rows = ["arch_str," + ",".join(f"{name}_{part}" for name in names for part in ("valid", "test"))]
    for code in range(CELLS):
        text = cell_text(code)
        score = benchmark.query(Nb201Genotype.parse(text))
        assert score is not None
        values = [score.as_record()[name]["valid"] for name in names]
        rows.append(f"{text}," + ",".join(f"{value},{value}" for value in values))
    path.write_text("\n".join(rows) + "\n")


def tier(title: str) -> list[pytest.MarkDecorator]:
    """The quickstart and the tutorial on adding a method are in every run; the others are slow."""
    return [] if title == "Quickstart" or title.endswith("add-a-method.md") else [pytest.mark.slow]


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize("section", [pytest.param(own, id=own.title, marks=tier(own.title)) for own in SECTIONS])
def test_every_command_runs(section: Section, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name, text in section.files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    pictures = not section.title.startswith("docs/tutorials/")  # the README's searches draw the same ones
    lines = " ".join(command.line for command in section.commands)
    if "dataset.path=my_images" in lines:
        images(here / "my_images")
    if "nb201.csv" in lines:
        table(here / "nb201.csv")
    for command in section.commands:
        words = command.overrides.split()
        real = "dataset=" not in f"{command.line} {command.overrides}" and "retrain" not in command.line
        if words and real and "quickstart" not in command.line and cifar10() is None:
            words.append("dataset=digits")
        line = " ".join([command.line, *words])
        printed = shell(here, line) if section is SECTIONS[0] else nasx(here, line.removeprefix("uv run "), pictures)
        assert printed.strip(), command.line
        if command.line.removeprefix("uv run ").startswith("nasx table"):
            assert "tse_drnas" in printed or "darts" in printed
            if "seed=0,1,2,3" in lines:
                first, _, second = printed.partition("Ranks of these cells in nb201")
                rows = [[cell.strip() for cell in row.split("|")] for row in first.splitlines() if "|" in row]
                count = rows[0].index("n")
                assert sorted(row[1] for row in rows if row[count] == "4") == ["darts", "random"], printed
                assert "CIFAR-10 valid rank" in second


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert len(re.findall(r"^uv run pytest", README, re.M)) == 1
    assert "grep -m 1 '^uv run pytest' README.md" in (ROOT / ".ci" / "run").read_text()


def test_the_matrix_has_every_method_and_every_space() -> None:
    page = (ROOT / "docs" / "methods" / "matrix.md").read_text(encoding="utf-8")
    rows = page.split("<!-- matrix -->\n", 1)[1].split("\n\n", 1)[0].splitlines()
    cells = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]
    images = {path.stem for path in (ROOT / "conf" / "space").glob("*.yaml")} - {"darts_rnn"}  # which reads text
    assert sorted(cells[0][1:]) == sorted(images)
    assert [row[0] for row in cells[2:]] == sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
    assert {len(row) for row in cells} == {len(cells[0])}


def test_every_link_leads_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", *(str(page.relative_to(ROOT)) for page in PAGES)):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            assert "://" in target or ((ROOT / name).parent / target).exists(), f"{name}: {target}"
