"""Completion of commands, keys and values in shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call, created

from nasx.cli import completion, listing


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("nasx ", ["search", "retrain", "--help"], []),
        ("nasx sea", ["search"], []),
        ("nasx search ", ["method=", "space=", "seed="], ["from="]),
        ("nasx search method=", ["method=darts", "method=random"], []),
        ("nasx search experi", ["experiment="], ["experiment/"]),
        ("nasx search experiment=", ["experiment=quickstart", "experiment=idarts/nb201"], []),
        ("nasx search experiment=idarts/n", ["experiment=idarts/nb201"], ["experiment=idarts/darts"]),
        ("nasx search seed=0 space=nb", ["space=nb201"], ["space=darts"]),
        ("nasx search search.e", ["search.epochs="], []),
        ("nasx list ", ["methods", "spaces"], ["seed="]),
        ("nasx completion ", ["bash", "zsh", "fish"], []),
        ("nasx nonsense ", [], ["seed="]),
    ],
)
@pytest.mark.sample(4)
def test_completion(line: str, some: list[str], none: list[str], tmp_path: Path) -> None:
    done = call(tmp_path, "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.returncode == 0
    assert "HEAVY []" in done.stderr
    words = done.stdout.split()
    assert all(any(word.startswith(want) for word in words) for want in some), words
    assert not any(word.startswith(bad) for word in words for bad in none), words
    assert created(tmp_path) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.slow
def test_the_bash_script_completes(tmp_path: Path) -> None:
    (tmp_path / "nasx").write_text(f'#!/bin/sh\nexec {sys.executable} -m nasx "$@"\n')
    (tmp_path / "nasx").chmod(0o755)
    for line, want in (("nasx sea", "search"), ("nasx search method=dar", "method=darts")):
        script = (
            f'eval "$(nasx completion bash)"; COMP_LINE="{line}"; COMP_POINT={len(line)}; _nasx; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", script],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )
        assert want in done.stdout.split(), done.stderr


def test_every_shell_has_a_script() -> None:
    assert set(completion.SCRIPTS) == set(completion.HOW)
    assert set(completion.FIXED["list"]) == {"all", *listing.KINDS}
