"""Processes started by tests do not depend on how the suite was started; `sample(n)` leaves n cases of a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import conftest
import pytest

CHILD = "import signal; print([n.name for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN])"
SUITE = f"import conftest, subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_commands_get_default_signals_where_the_suite_ignores_them() -> None:
    here = Path(__file__).resolve().parents[1]
    line = 'trap "" INT HUP QUIT TERM USR1 USR2; exec "$0" -c "$1"'
    ignored = {
        code: subprocess.check_output(["bash", "-c", line, sys.executable, code], cwd=here, text=True)
        for code in (SUITE, CHILD)
    }
    assert "SIGINT" in ignored[CHILD], "inherited where nothing is done"
    assert not any(f"SIG{name}" in ignored[SUITE] for name in ("INT", "HUP", "QUIT", "TERM", "USR1", "USR2"))


class Case:
    """A collected case of a test with these markers."""

    def __init__(self, nodeid: str, *markers: pytest.MarkDecorator) -> None:
        self.nodeid, self.name, self.markers = nodeid, nodeid.partition("::")[2], [each.mark for each in markers]

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return next((mark for mark in self.markers if mark.name == name), None)

    def add_marker(self, marker: pytest.MarkDecorator) -> None:
        self.markers.append(marker.mark)


def test_a_sampled_test_runs_n_of_its_cases_and_the_others_are_slow() -> None:
    def selected(ids: list[int]) -> tuple[set[str], int]:
        sampled: Any = [Case(f"a.py::one[{i}]", pytest.mark.sample(3)) for i in ids]
        whole: Any = [Case(f"a.py::two[{i}]") for i in ids]
        conftest.pytest_collection_modifyitems([*sampled, *whole])
        assert not any(case.get_closest_marker("slow") for case in whole)
        return {case.name for case in sampled if not case.get_closest_marker("slow")}, len(sampled)

    found, count = selected(list(range(20)))
    assert (len(found), count) == (3, 20)
    assert selected(list(reversed(range(20))))[0] == found, "the order of the cases has no influence"
    assert selected([7])[0] == {"one[7]"}, "a case that is named alone runs"
