"""`nasx doctor`: a healthy machine, faults that stop every search, notes that stop none, no path of the home folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import torch

from nasx.cli import doctor
from nasx.core import bilevel, system
from nasx.errors import UserError
from nasx.report import cells


def pairs(lines: doctor.Lines) -> dict[str, str]:
    return {name.strip(): text for name, text in lines}


def test_a_healthy_machine(tmp_path: Path) -> None:
    done = jobs.nasx(tmp_path, "doctor", env={"HOME": str(tmp_path)})
    assert done.code == 0, done
    lines = {line[:14].strip(): line[14:] for line in done.out.splitlines()}
    assert {
        "nasx",
        "versions",
        "system",
        "environment",
        "device",
        "threads",
        "data",
        "digits",
        "nb201",
        "onnx",
        "free space",
        "runs",
        "hypergradient",
        "search step",
    } <= lines.keys()
    assert f"torch {torch.__version__.partition('+')[0]}" in lines["versions"]
    assert (lines["digits"], lines["nb201"]) == ("found", "15,625 cells, inside the package")
    assert lines["cifar10"].startswith("not found"), "a note, no fault"
    assert lines["data"] == "~/no-data (does not exist yet)"
    assert lines["runs"] == "can be written to outputs (does not exist yet)"
    assert done.out.splitlines()[-1] == "no problems found"
    assert str(tmp_path) not in done.out + done.err
    assert list(tmp_path.iterdir()) == [], "nothing is made"


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["device=cuda:99"], "device=cuda:99: is not available: torch"),
        (["device=nonsense"], "device=nonsense: is not a device; use auto, cpu"),
        (
            ["out=file/runs"],
            "out=file/runs: ~/file is not a folder; choose a writable folder with out=FOLDER",
        ),
    ],
)
def test_what_every_search_needs_is_a_fault_with_its_remedy(words: list[str], fault: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = jobs.nasx(tmp_path, "doctor", *words, env={"HOME": str(tmp_path)})
    assert done.code == 1, done
    assert f"problem       {fault}" in done.out
    assert re.search(r"^(1 problem|\d problems) found$", done.out.splitlines()[-1])
    assert re.search(r"^  nb201 +15,625 cells", done.out, re.M), "the rest is still told"
    assert "Traceback" not in done.err


# --------------------------------------------------------------------------------------------- where runs go
def test_a_folder_that_cannot_be_written_or_locked_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    assert "runs" in pairs(doctor.writes(tmp_path))
    monkeypatch.setattr(system, "lock_file", refuses)
    with pytest.raises(
        UserError, match=r"is not writable, or does not support file locking \(No locks available\); choose"
    ):
        pairs(doctor.writes(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="is not writable"):
        pairs(doctor.writes(tmp_path / "locked" / "runs"))


def test_little_space_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: whole._replace(free=50 * 2**20))
    with pytest.raises(UserError, match="only 50 MiB are free; free some space"):
        pairs(doctor.writes(tmp_path))


# ------------------------------------------------------------------------------------------------ the checks
def test_the_hypergradient_is_the_one_that_autograd_finds() -> None:
    """`closed_form`'s exact value, by unrolling the step."""
    gen = torch.Generator().manual_seed(0)
    w, a, d = (torch.randn(5, generator=gen, dtype=torch.float64) for _ in range(3))
    a.requires_grad_()
    moved = w - 0.1 * (w - d * a)
    [unrolled] = torch.autograd.grad((moved**2).sum() / 2, a)
    assert torch.allclose(unrolled, 0.1 * d * moved.detach(), rtol=1e-12)
    assert doctor.hypergradient_error(w, a.detach(), d, lr=0.1) < 1e-9


def test_a_wrong_hypergradient_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bilevel.directional
    monkeypatch.setattr(bilevel, "directional", lambda *values: {k: 1.001 * x for k, x in right(*values).items()})
    with pytest.raises(UserError, match=r"device=cpu: a hypergradient differs from its closed form by 1e-03"):
        pairs(doctor.closed_form("cpu"))


def test_a_bug_in_a_part_is_reported_with_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object) -> None:
        raise ValueError(f"in {Path.home()}/somewhere")

    for name in ("versions", "computes", "data", "drawing", "extras", "closed_form", "step"):
        monkeypatch.setattr(doctor, name, lambda *_: iter(()))
    monkeypatch.setattr(doctor, "tables", breaks)
    assert doctor.main([f"out={tmp_path}"]) == 1
    printed = capsys.readouterr().out
    assert "runs          can be written to" in printed
    assert "nasx doctor, breaks: ValueError: in ~/somewhere; in a clone of nasx, run `uv sync`" in printed
    assert printed.endswith("\n1 problem found\n")


# ------------------------------------------------------------------------------------------------- what is found
def test_data_sets_are_found_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASX_DATA", str(tmp_path))
    assert pairs(doctor.data())["svhn"] == "not found (downloaded on first use)"
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (tmp_path / name).write_bytes(b"not read")
    found = pairs(doctor.data())
    assert (found["svhn"], found["digits"], found["imagenet16"]) == ("found", "found", "not found")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_32x32.mat", "train_32x32.mat"]


def test_a_damaged_table_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASX_DATA", str(tmp_path))
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "nb201.npz").write_bytes(b"half a table")
    assert "cannot be read" in pairs(doctor.tables())["tables"]


def test_pictures_that_cannot_be_drawn_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygraphviz")
    assert pairs(doctor.drawing()) == {"pictures": "cells can be drawn"}
    cells._graphviz.cache_clear()
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    assert "not drawn: pygraphviz is not installed" in pairs(doctor.drawing())["pictures"]
    monkeypatch.undo()
    cells._graphviz.cache_clear()


def test_extras_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor.metadata,
        "requires",
        lambda name: [
            "torch>=2",
            "numpy>=1; extra == 'half'",
            'no-such-package>=1 ; extra == "half"',
            "pyyaml; extra == 'whole'",
        ],
    )
    assert pairs(doctor.extras()) == {
        "extras": "optional: uv sync --extra NAME",
        "half": "lacks no-such-package",
        "whole": "installed",
    }


@pytest.mark.parametrize(
    ("home", "text", "shown"),
    [
        ("/home/ada", "/home/ada/data and /home/ada", "~/data and ~"),
        ("/home/ada", "/home/adam/data /home/ada.old", "/home/adam/data /home/ada.old"),
        ("/", "/data", "/data"),
    ],
)
def test_the_home_folder_is_a_tilde(home: str, text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    assert doctor.tilde(text) == shown


def test_help_and_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no option dvice; did you mean device\?"):
        doctor.main(["dvice=cpu"])
    done = subprocess.run(
        [sys.executable, "-m", "nasx", "doctor", "--help"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "Exit code 1 if" in done.stdout
