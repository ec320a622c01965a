"""Diagnostics from checkpoints equal those of the search."""

from __future__ import annotations

import json
from pathlib import Path

import jobs
import pytest

from nasx.cli import diagnose as later
from nasx.errors import UserError

WORDS = (*jobs.TINY_NB201, "search.batch=4")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that diagnosed every epoch, and the same one without."""
    root = tmp_path_factory.mktemp("later")
    for name, every in (("told", 1), ("silent", 0)):
        done = jobs.nasx(root, *WORDS, f"search.diagnose_every={every}", f"name={name}")
        assert done.code == 0, done
        assert ("the diagnostics took 6 forward" in done.out) is bool(every)
        assert "rank of" in done.out
    return root


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_checkpoint_gives_the_report_of_the_search_at_that_point(runs: Path) -> None:
    told, silent = rows(runs / "runs" / "told"), rows(runs / "runs" / "silent")
    assert "eigenvalue" in told[0]
    assert "eigenvalue" not in silent[0]
    done = jobs.nasx(runs, "diagnose", "silent", "out=runs", "threads=1")
    assert done.code == 0, done
    found = json.loads((runs / "runs" / "silent" / "diagnose.json").read_text())
    assert [row["epoch"] for row in found] == [1, 2]
    for got, expected in zip(found, told, strict=True):
        for name in got.keys() - {"diagnostics"}:
            assert got[name] == expected[name], name
        assert (got["diagnostics"]["forward"], got["diagnostics"]["backward"]) == (
            expected["diagnostics"]["forward"],
            expected["diagnostics"]["backward"],
        )
    assert rows(runs / "runs" / "silent") == silent
    assert "eigenvalue" in done.out
    assert f"{found[1]['eigenvalue']:.4g}" in done.out


def test_what_cannot_be_diagnosed_says_why(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the folder of a search"):
        list(later.diagnose(tmp_path))
    random = jobs.nasx(runs, *WORDS, "method=random", "name=random")
    assert random.code == 0, random
    with pytest.raises(UserError, match="no checkpoint"):
        list(later.diagnose(runs / "runs" / "random"))
    for path in (runs / "runs" / "told" / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="has no readable checkpoint"):
        list(later.diagnose(runs / "runs" / "told"))
    path = runs / "runs" / "silent" / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("diagnose_steps: 0\n", "other_key: 0\n"))
    with pytest.raises(UserError, match=r"is not compatible with this version of nasx \(search\..*; use the version"):
        list(later.diagnose(runs / "runs" / "silent"))
    path.write_text(text)
