"""`nasx retrain from=RUN epoch=E`: the cell that a search had after an epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folders
import jobs
import pytest

SEARCH = (*jobs.TINY_NB201, "search.epochs=4", "search.arch_lr=1", "name=found")
RETRAIN = ("retrain", "from=found", "out=runs", "debug=tiny", "dataset.size=16", "threads=1")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished search, whose cell changes from epoch to epoch."""
    here = tmp_path_factory.mktemp("epochs")
    done = jobs.nasx(here, *SEARCH)
    assert done.code == 0, done
    return here


def trained(here: Path) -> dict[int | None, dict[str, Any]]:
    """Epoch -> record of its retraining; None: that of the cell found."""
    found = {}
    for path in (here / "runs").glob("retrain-*/result.json"):
        record = json.loads(path.read_text())
        given = [word.removeprefix("epoch=") for word in record["overrides"] if word.startswith("epoch=")]
        found[int(given[0]) if given else None] = record
    return found


@pytest.mark.slow
def test_a_sweep_trains_the_cell_of_each_epoch_in_a_run_of_its_own(here: Path) -> None:
    rows = {row["epoch"]: row for row in folders.rows(here / "runs" / "found")}
    cells = {epoch: row["genotype"] for epoch, row in rows.items()}
    assert list(cells) == [1, 2, 3, 4]
    assert cells[1] != cells[4], "the search of this test must change its cell"
    done = jobs.nasx(here, *RETRAIN, "--multirun", "epoch=range(1,5,3)")
    assert done.code == 0, done
    found = trained(here)
    assert {epoch: record["genotype"] for epoch, record in found.items()} == {1: cells[1], 4: cells[4]}
    assert found[1]["parent_lookup"] == rows[1]["lookup"] != found[4]["parent_lookup"]
    assert found[1]["searched"]["genotype"] == cells[4]  # the search itself is the same
    assert found[1]["family"] != found[4]["family"]  # two rows of a table, not two seeds of one


def test_without_epoch_nothing_changes(here: Path) -> None:
    """The identity of a retraining is that of versions without the key."""
    from nasx.config import identity

    cfg = {"from": "runs/found", "seed": 0, "retrain": {"epochs": 1}}
    assert identity.identity(cfg, "retrain") == identity.identity({**cfg, "epoch": None}, "retrain")
    assert identity.identity(cfg, "retrain") != identity.identity({**cfg, "epoch": 4}, "retrain")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("from=found", "epoch=5"), "epoch=5: runs/found has no cell for this epoch; it has epochs 1 to 4"),
        (("from=found", "epoch=0"), "epoch=0"),
        (("space=nb201", "epoch=1"), "chooses a cell of a search, but no search is given; add from=RUN"),
        (("from=found", "epoch=1", "genotype=all_3x3"), "from= and genotype= are mutually exclusive"),
    ],
)
def test_what_has_no_cell_is_refused_at_once(words: Sequence[str], said: str, here: Path) -> None:
    done = jobs.nasx(here, "retrain", "out=runs", "debug=tiny", *words)
    assert done.code == 2, done
    assert said in " ".join(done.err.split()), done
