"""Retrainings on several processes that are killed or stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

WORDS = (
    "retrain",
    "space=darts",
    "dataset=digits",
    "genotype=DARTS_V2",
    "dataset.size=16",
    "retrain.layers=3",
    "retrain.channels=4",
    "retrain.batch=15",
    "retrain.epochs=2",
    "retrain.updates_per_epoch=15",
    "retrain.auxiliary=0",
    "retrain.drop_path=0.2",
    "device=cpu",
    "out=runs",
    "checkpoint_s=0.2",
)


def nasx(here: Path, *words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "nasx", *words],
        cwd=here,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(started: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str, str]:
    out, err = started.communicate(timeout=seconds)
    return started.returncode, out, err


def ranks(starter: int, owner: int) -> list[int]:
    """Return the processes of a job, the owner first."""
    found = []
    for child in map(int, Path(f"/proc/{starter}/task/{starter}/children").read_text().split()):
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(child)
    return sorted(found, key=lambda child: child != owner)


def disturbed(
    here: Path, whom: int | None, number: int, count: int = 2, words: Sequence[str] = WORDS
) -> tuple[int, str]:
    """Return the exit code and messages of a run that receives a signal after its first checkpoint; `whom` is a rank,
    or None for the starter."""
    folder, started = here / "runs" / "torn", nasx(here, *words, "name=torn", f"devices={count}", "quiet=true")
    end = time.monotonic() + 200
    while not list(folder.glob("checkpoints/0*.ckpt")):
        assert time.monotonic() < end
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.05)
    owner = int((folder / "lock").read_text().split()[1])
    os.kill(started.pid if whom is None else ranks(started.pid, owner)[whom], number)
    code, _, err = ended(started, 60)
    assert not Path(f"/proc/{owner}").exists() or whom is None  # a killed starter's processes notice it later
    assert not (folder / "result.json").exists()
    return code, err
