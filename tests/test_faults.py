"""Faults of the machine around a run: what is told, what is kept, and that the same command goes on afterwards."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jobs
import pytest
from hydra.types import RunMode

from nasx import checkpoints, preflight, run
from nasx.errors import UserError
from nasx.search import Loop

CRAMPED = """
import resource, sys
from pathlib import Path
import torch
from nasx import cli, run
torch.set_num_threads(1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20, -1))
cli.main(sys.argv[1:])
"""
"""nasx with 400 MB more than what it has taken to begin."""


def composed(*overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(configuration, info) of a search, as the command gives them to nasx.run."""
    cfg, choices = preflight.plain(preflight.make_loader().load_configuration("search", list(overrides), RunMode.RUN))
    return cfg, {"choices": choices, "overrides": list(overrides), "command": "nasx search"}


# ------------------------------------------------------------------------------------------------------- NaN
def test_a_weight_that_is_not_finite_is_in_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss was finite when the update was made: only the weights tell."""
    step = Loop._step

    def burst(self: Loop, left: int) -> None:
        step(self, left)
        if self.search.updates == 4:
            next(iter(self.search.w.values())).data.view(-1)[0] = math.inf

    monkeypatch.setattr(Loop, "_step", burst)
    words = [*jobs.TINY_NB201[1:-1], f"out={tmp_path}", "name=run", "device=cpu", "quiet=true", "checkpoint_s=1e-9"]
    with pytest.raises(UserError, match=r"search, update 4: a weight became NaN or infinite; lower search\.lr=0\.025"):
        run.search(*composed(*words))
    last = checkpoints.last(tmp_path / "run")
    assert last is not None
    assert last["updates"] == 3
    assert all(bool(x.isfinite().all()) for x in last["w"].values())


# ---------------------------------------------------------------------------------------------------- memory
@pytest.mark.parametrize(("words", "said"), [
    ((*jobs.TINY_NB201, "search.batch=4096", "dataset.size=32"),
     r"search\.batch=4096: does not fit into the memory of cpu; set engine\.checkpoint=true .*, lower search\.batch"),
    (("retrain", "space=nb201", "genotype=" + "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
      "dataset=digits", "retrain.batch=1400", "threads=1", "out=runs", "device=cpu"),
     r"retrain\.batch=1400: does not fit into the memory of cpu; set retrain\.accumulate=2 .*, lower retrain\.batch"),
])
def test_memory_that_runs_out_names_what_to_lower(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CRAMPED, *words], cwd=tmp_path, capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert re.search(said, (jobs.folder(tmp_path) / "fault.txt").read_text())
