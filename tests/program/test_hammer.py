"""tests/stress/hammer.py for some seconds: no file is lost or incomplete; planted faults are detected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "stress"
HAMMER = """
import sys
sys.path.insert(0, {scripts!r})
import hammer
hammer.LONG = 0.2
from nasx.tracking import checkpoints, lock; from nasx.core import files
from nasx.tracking import records, run_folder
{without}
sys.exit(hammer.main())
"""
SLOW_DISK = """
import os, time
fsync = os.fsync
def slow(handle):
    time.sleep(0.05)
    fsync(handle)
os.fsync = slow
"""
TORN = """
import time
def torn(path, data):
    path.write_text(data[:len(data) // 2])
    time.sleep(0.05)
    path.write_text(data)
run_folder.write_atomic = torn
"""
CASES = {
    "": "",
    "slow disk": SLOW_DISK,
    "two writers are in run-": "lock.flock = lambda handle: None",
    "the table lacks": TORN,
}
"""What the hammer must find -> the protection taken out for that. Nothing where all are there, whatever the disk."""


@pytest.mark.parametrize("found", CASES)
@pytest.mark.slow
def test_nothing_is_lost_or_torn_but_without_its_protection(found: str, tmp_path: Path) -> None:
    """A fault that only chance brings about is waited for longer, under a few seeds."""
    sound = CASES[found] in ("", SLOW_DISK)
    code = HAMMER.format(scripts=str(SCRIPTS), without=CASES[found])
    for seed in range(1 if sound else 6):
        words = [str(tmp_path / str(seed)), "--seconds", "4", "--seed", str(seed)]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120, check=False
        )
        told: dict[str, Any] = json.loads(done.stdout)
        assert told["looked"] > 0
        assert told["finished"] > 0
        assert told["kills"] > 0
        if any(found in fault for fault in told["faults"]):
            break
    if not sound:
        assert any(found in fault for fault in told["faults"]), told
        assert done.returncode == 1
    else:
        assert told["faults"] == [], done.stderr
        assert told["refused"] > 0, "the writers never met"
        assert done.returncode == 0
