"""One thread per test process (the problems are tiny, and a fixed thread count fixes the order of sums), and default
signal handlers, independent of how the suite was started.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nasx.core.system import UNIX, signals

torch.set_num_threads(1)
for number in signals("SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
    if signal.getsignal(number) is signal.SIG_IGN:  # nohup, a script's background: what tests start would inherit it
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
HOLD = """
import sys
from pathlib import Path
from nasx.tracking import records, run_folder
with run_folder.Run(Path(sys.argv[1]), {"seed": 0}, {"kind": "search", "search": {"epochs": 50}}):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.hookimpl(tryfirst=True)  # before the cases are selected by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow all cases of a test but the n of its marker `sample(n)`, which are the first by the hash of their
    names: an even selection that stays the same and that no order of parameters biases. `early` tests come first."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for own in cases.values():
        marker = own[0].get_closest_marker("sample")
        assert marker is not None
        for item in sorted(own, key=lambda item: hashlib.sha1(item.name.encode()).digest())[marker.args[0] :]:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not UNIX and item.get_closest_marker("unix"):
        pytest.skip("this system is not Unix")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path/run, a search of 50 epochs."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()
