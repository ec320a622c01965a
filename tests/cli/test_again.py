"""Checks of an existing run folder before torch is imported: finished, another configuration, no parent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from composing import faults
from finished_search import CELL, WORDS, asked, drawn, made

from nasx.data import images
from nasx.errors import UserError
from nasx.report import run_summary


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made(tmp_path)


def test_a_finished_run_is_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_summary.again(*asked(run.parent), "search")
    assert done is not None
    assert done["genotype"] == CELL
    assert "one  finished today" in capsys.readouterr().out


@pytest.mark.slow
def test_where_something_is_to_be_done_nothing_is_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_summary.again(*asked(run.parent, "draw=epochs"), "search") is None
    assert run_summary.again(*asked(run.parent, "name=two"), "search") is None
    (run / "metrics.jsonl").write_text('{"epoch": 1}\n')
    assert run_summary.again(*asked(run.parent), "search") is None, "the curves are not drawn"
    drawn(run, "search")
    assert run_summary.again(*asked(run.parent), "search") is not None
    capsys.readouterr()
    whole = (run / "cell.png").read_bytes()
    for torn in (b"\0" * len(whole), whole[:-1], b"", whole[:-1] + b"x"):
        (run / "cell.png").write_bytes(torn)
        assert run_summary.again(*asked(run.parent), "search") is None, "a torn picture is drawn again"
    (run / "cell.png").unlink()
    assert run_summary.again(*asked(run.parent), "search") is None
    (run / "genotype.txt").unlink()
    assert run_summary.again(*asked(run.parent), "search") is None
    assert capsys.readouterr().out == ""


def test_another_configuration_under_the_name(run: Path) -> None:
    with pytest.raises(UserError, match=r"search\.lr: 0\.025 in the folder, 0\.5 requested"):
        run_summary.again(*asked(run.parent, "search.lr=0.5"), "search")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run_summary.again(*asked(tmp_path / "new" / "one"), "search") is None
    assert [path.name for path in tmp_path.rglob("*")] == ["file"], "nothing is made by the look"
    with pytest.raises(UserError, match=r"cannot be written .*; choose a writable folder with out=FOLDER"):
        run_summary.again(*asked(tmp_path / "file" / "x"), "search")


def nasx(tmp_path: Path, *words: str) -> str:
    code = (
        "import sys; from nasx.cli import main as cli\ntry: cli.main(sys.argv[1:])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("search", *WORDS), "one  finished today"),
        (("search", *WORDS, "search.lr=0.5"), "search.lr: 0.025 in the folder, 0.5 requested"),
        (("run", *WORDS, "search.lr=0.5"), "search.lr: 0.025 in the folder, 0.5 requested"),
        (("search", *WORDS, "out=/dev/null/x"), "cannot be written"),
        (("evaluate", "nope"), "nope: is neither an export nor a finished run of nasx retrain"),
    ],
)
def test_none_of_it_imports_torch(run: Path, words: tuple[str, ...], told: str) -> None:
    out = [] if any(word.startswith("out=") for word in words) or words[0] == "evaluate" else ["out=."]
    said = nasx(run.parent, *words, *out)
    assert told in said
    assert ("0 False\n" if "finished today" in told else "2 False\n") in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_parent_that_is_not_a_finished_search(run: Path) -> None:
    out = f"out={run.parent}"
    assert faults("from=one", out, "dataset=digits", command="retrain") == []
    record = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**record, "kind": "retrain", "parent": "first"}))
    for command in (("retrain",), ("study", "study=transfer")):
        found = faults("from=one", out, "dataset=digits", *command[1:], command=command[0])
        assert found == ["from=one: is a run of nasx retrain, not a search; use from=first"]
    (run / "result.json").unlink()
    found = faults("from=one", out, "dataset=digits", command="retrain")
    assert len(found) == 1
    assert "contains no finished run (no readable result.json); run that search's command again" in found[0]


def test_what_a_set_says_of_its_classes_is_so() -> None:
    assert images.Digits().number_of_classes() == len(images.Digits().load().classes)
    assert (images.Cifar10().number_of_classes(), images.Cifar100().number_of_classes()) == (10, 100)
    assert images.ImageNet16(classes=7).number_of_classes() == 7
    assert images.Folder().number_of_classes() is None
