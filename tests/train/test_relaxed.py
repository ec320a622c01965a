"""`nasx retrain from=RUN relaxed=true`: the supernet of a search, its architecture fixed."""

from __future__ import annotations

import json
from pathlib import Path

import agree
import folders
import jobs
import pytest
import torch

from nasx.config import process_rules
from nasx.errors import UserError
from nasx.spaces.darts.space import Darts
from nasx.train import relaxed

import small

SEARCH = (*jobs.TINY_NB201, "search.epochs=2", "search.arch_lr=1", "name=found")
RETRAIN = (
    "retrain",
    "from=found",
    "out=runs",
    "debug=tiny",
    "dataset.size=16",
    "threads=1",
    "relaxed=true",
    "name=again",
)


@pytest.mark.parametrize("name", agree.SPACES)
def test_the_network_is_the_supernet_at_the_mixture_of_the_row(name: str) -> None:
    """The same scores and the same gradients of the weights as the supernet, given the mixture, in float64."""
    space = agree.SPACES[name]
    mix = space.relax({k: x.detach() for k, x in small.search(space, seed=3).a.items()}, small.softmax)
    row = {"mix": {key: x.mean(0).tolist() for key, x in mix.items()}}
    found = relaxed.network(space, row, 10, "run").double()
    with torch.no_grad():
        for i, x in enumerate(mix.values()):
            found.get_buffer(f"mix{i}").copy_(x)  # rows are read in single precision
    x = small.batch(1, size=8).x
    scores, expected = found(x).main, found.supernet(x, mix).main
    assert torch.equal(scores, expected)
    single = relaxed.network(space, row, 10, "run")
    for i, own in enumerate(mix.values()):
        torch.testing.assert_close(single.get_buffer(f"mix{i}"), own.float(), rtol=1e-6, atol=1e-7)


def test_cells_with_an_architecture_of_their_own_and_other_spaces_are_refused() -> None:
    space = agree.SPACES["darts"]
    row = {"mix": {key: x.mean(0).tolist() for key, x in small.mixture(space).items()}}
    with pytest.raises(UserError, match="another space"):
        relaxed.network(agree.SPACES["nb201"], row, 10, "run")
    untied = Darts(layers=3, channels=4, untied=True)
    with pytest.raises(UserError, match="for each cell"):
        relaxed.network(untied, row, 10, "run")


@pytest.mark.slow
def test_a_supernet_is_trained_killed_resumed_and_not_exported(tmp_path: Path) -> None:
    assert jobs.nasx(tmp_path, *SEARCH).code == 0
    done = jobs.nasx(tmp_path, *RETRAIN)
    assert done.code == 0, done
    record = json.loads((tmp_path / "runs" / "again" / "result.json").read_text())
    row = folders.rows(tmp_path / "runs" / "found")[-1]
    state = folders.state(tmp_path / "runs" / "again")
    held = next(x for key, x in state["network"].items() if key.endswith("mix0"))
    assert torch.equal(held[0], torch.tensor(row["mix"]["cell"]))
    assert 0 <= record["test_accuracy"] <= 1
    assert record["relaxed"] is True
    job = jobs.Job(tmp_path, *RETRAIN[:-1], "name=killed", "retrain.epochs=3", "checkpoint_s=0.001")
    job.until(lambda: any((tmp_path / "runs" / "killed").glob("checkpoints/*")))
    job.kill()
    assert jobs.nasx(tmp_path, *RETRAIN[:-1], "name=killed", "retrain.epochs=3", "checkpoint_s=0.001").code == 0
    assert jobs.nasx(tmp_path, *RETRAIN[:-1], "name=whole", "retrain.epochs=3", "checkpoint_s=0.001").code == 0
    folders.equal(tmp_path / "runs" / "killed", tmp_path / "runs" / "whole")
    for words in (("export", "from=runs/again", "out=model"), ("info", "from=runs/again")):
        refused = jobs.nasx(tmp_path, *words)
        assert refused.code == 2, refused
        assert "contains a supernet" in refused.err


def test_what_has_no_supernet_is_refused(tmp_path: Path) -> None:
    words = ("relaxed=true", "debug=tiny", "dataset=digits", "space=nb201", "genotype=all_skip")
    done = jobs.nasx(tmp_path, "retrain", *words)
    assert done.code == 2, done
    assert "relaxed=true: trains the supernet of a search, but none is given" in " ".join(done.err.split()), done


def test_several_processes_are_refused() -> None:
    (fault,) = process_rules.faults({"devices": 2, "relaxed": True}, "retrain")
    assert str(fault).startswith("devices=2: jobs with relaxed=true run in only one process")
    assert not list(process_rules.faults({"devices": 2, "relaxed": False}, "retrain"))
